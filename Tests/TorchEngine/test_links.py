"""Runs whose engine works elsewhere: over a real sshd on loopback, and as jobs of (stand-ins for) SLURM."""

from __future__ import annotations

import json
import os
import pathlib
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
from typing import Any, Iterator

import pytest

import support
from hosts import SSHD, Server, Slurm
from support import events, tensors, wait_for_step
from test_engines import call
from test_registry import OTHER_OPERATORS


class Site:
    """A user with engines on another host."""

    def __init__(self, program: str, folder: pathlib.Path, tmp_path: pathlib.Path):
        self.program, self.folder, self.tmp = program, folder, tmp_path
        self.host = tmp_path / "host's folder"
        self.root = tmp_path / "runs"
        self.own = {
            **support.environment(), "XDG_CONFIG_HOME": str(tmp_path), "XDG_CACHE_HOME": str(folder / "cache"),
        }
        (tmp_path / "espalier").mkdir(exist_ok=True)

    def name(self, **entries: Any) -> None:
        """Writes engines.yaml."""
        own: dict[str, Any] = {"python": sys.executable, "device": "cpu", "runs": str(self.host), **entries}
        (self.tmp / "espalier/engines.yaml").write_text(json.dumps({"far": own}))

    def call(self, *words: str, code: int = 0) -> str:
        """The output of the program."""
        return call(self.program, self.own, *words, code=code)

    def begin(self, plan: pathlib.Path, kind: str = "distill", *options: str) -> pathlib.Path:
        """Starts a run."""
        words = (kind, str(plan), "--runs", str(self.root), "--precision", "fp32", "--engine", "far", "--detach")
        return pathlib.Path(self.call(*words, *options).strip().splitlines()[-1])

    def far(self, run: pathlib.Path) -> pathlib.Path:
        """The run directory at the host."""
        return self.host / run.name

    def row(self, run: pathlib.Path) -> dict[str, Any]:
        """The run's line in the list."""
        rows = json.loads(self.call("runs", "list", "--runs", str(self.root), "--json"))
        return next(row for row in rows if row["id"] == run.name)

    def wait_for_state(self, run: pathlib.Path, *states: str, seconds: float = 180) -> dict[str, Any]:
        """Waits until the run is in a state."""
        end = time.monotonic() + seconds
        row: dict[str, Any] = {}
        while time.monotonic() < end:
            row = self.row(run)
            if row["state"] in states:
                return row
            time.sleep(0.1)
        log = (run / "log.txt").read_text()
        raise AssertionError(f"{row.get('state')} instead of {states}: {log[-2000:]}")

    def fetch(self, run: pathlib.Path) -> None:
        """Fetches the checkpoint of a run."""
        self.call("runs", "fetch", str(run))
        end = time.monotonic() + 60
        while not (run / "checkpoints/latest.safetensors").exists() and time.monotonic() < end:
            time.sleep(0.1)
        assert (run / "checkpoints/latest.safetensors").exists()

    def assert_whole(self, run: pathlib.Path, starts: int = 1) -> None:
        """Both logs are equal, and the run was started as often as it should."""
        assert (run / "events.jsonl").read_bytes() == (self.far(run) / "events.jsonl").read_bytes()
        assert len(events(run, "started")) == starts


@pytest.fixture
def ssh(program: str, folder: pathlib.Path, tmp_path: pathlib.Path) -> Iterator[tuple[Site, Server]]:
    """A user, and a host that only ssh reaches."""
    if not os.path.exists(SSHD):
        pytest.skip("there is no sshd; '.ci/setup' installs openssh-server")
    site = Site(program, folder, tmp_path)
    server = Server(
        tmp_path / "sshd", XDG_CACHE_HOME=str(tmp_path / "far-cache"), OMP_NUM_THREADS="1", ESPALIER_LOG_EVERY_STEP="1"
    )
    site.name(ssh=server.destination, ssh_options=server.options)
    site.call("engines", "install", "far")
    try:
        yield site, server
    finally:
        server.close()


def test_a_job_of_slurm_on_a_cluster_that_only_ssh_reaches(
    program: str, folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    if not os.path.exists(SSHD):
        pytest.skip("there is no sshd; '.ci/setup' installs openssh-server")
    site, cluster = Site(program, folder, tmp_path), Slurm(tmp_path / "slurm")
    server = Server(
        tmp_path / "sshd", PATH=cluster.path, XDG_CACHE_HOME=str(tmp_path / "far-cache"), ESPALIER_SLURM_SECONDS="0.5"
    )
    site.name(ssh=server.destination, ssh_options=server.options, ranks=2, slurm={"tasks_per_node": 2})
    try:
        site.call("engines", "install", "far")
        run = site.begin(support.write_plan(folder, OTHER_OPERATORS, stage1={"steps": 60}, name="cluster.json"))
        row = site.wait_for_state(run, "pending")
        assert row["state_reason"] == "Priority (job 4711)"
        # The cable is out when the job begins, which it does without this machine.
        server.proxy.cut()
        site.wait_for_state(run, "unreachable")
        cluster.run(2)
        wait_for_step(site.far(run), 3)
        server.proxy.restore()
        assert cluster.wait() == 0
        site.wait_for_state(run, "done")
        site.assert_whole(run)
        assert events(run, "ranks")[-1]["count"] == 2
        assert (run / "checkpoints/model.safetensors").exists()
    finally:
        server.close()


def test_a_run_over_ssh_with_the_link_cut_at_random_times(ssh: tuple[Site, Server], folder: pathlib.Path) -> None:
    site, server = ssh
    assert "torch 2." in site.call("engines", "check", "far")
    plan = support.write_plan(folder, OTHER_OPERATORS, stage1={"steps": 260, "held_out_every": 20}, name="cut.json")
    run = site.begin(plan)
    random.seed(int(os.environ.get("ESPALIER_SEED", "7")))
    for _ in range(50 if os.environ.get("ESPALIER_LONG_TESTS") else 6):
        time.sleep(random.uniform(0.05, 1.5))
        if site.row(run)["state"] in ("done", "failed"):
            break
        server.proxy.cut()
        time.sleep(random.uniform(0.0, 0.6))
        server.proxy.restore()
    site.wait_for_state(run, "done")
    site.assert_whole(run)
    assert [e["step"] for e in events(run, "step")] == list(range(1, 261))
    for name in ("operators", "model"):
        path = f"checkpoints/{name}.safetensors"
        assert (run / path).read_bytes() == (site.far(run) / path).read_bytes()
    # A checkpoint is fetched when it is asked for.
    assert not (run / "checkpoints/latest.safetensors").exists()
    site.fetch(run)
    assert tensors(run / "checkpoints/latest.safetensors").keys()
    assert list((run / "tensorboard").iterdir())
    # The model went there once, by its content.
    digest = support.sha256(str(folder / "model.safetensors"))
    sent = site.host / "models" / digest / "model.safetensors"
    first = sent.stat().st_mtime_ns
    site.wait_for_state(run, "done")
    again = site.begin(support.write_plan(folder, OTHER_OPERATORS, stage2={"steps": 2}, name="again.json"), "finetune",
                       "--from", str(run))
    site.wait_for_state(again, "done")
    site.assert_whole(again)
    assert sent.stat().st_mtime_ns == first


def test_a_run_without_its_local_worker_is_detached_and_followed_again(
    ssh: tuple[Site, Server], folder: pathlib.Path
) -> None:
    site, server = ssh
    settings = {"steps": 100_000, "held_out_every": 50_000, "checkpoint_every": 20}
    run = site.begin(support.write_plan(folder, OTHER_OPERATORS, stage1=settings, name="alone.json"))
    wait_for_step(run, 2)
    worker = json.loads((run / "worker.json").read_text())["pid"]
    os.kill(worker, signal.SIGKILL)
    row = site.wait_for_state(run, "detached")
    assert "resume" in row["state_reason"]
    for words in (("retry",), ("pause",), ("cancel",)):
        assert "detached" in site.call("runs", *words, str(run), code=1)
    assert "detached" in site.call("runs", "remove", str(run), code=1)
    # It goes on there meanwhile.
    reached = events(run, "step")[-1]["step"]
    wait_for_step(site.far(run), reached + 5)
    site.call("runs", "resume", str(run))
    wait_for_step(run, reached + 5)
    site.wait_for_state(run, "running")
    assert "is running" in site.call("runs", "retry", str(run), code=1)
    # Without a cable it is unreachable, and what is asked for reaches it later.
    server.proxy.cut()
    row = site.wait_for_state(run, "unreachable")
    assert row["state_reason"]
    site.call("runs", "pause", str(run))
    server.proxy.restore()
    site.wait_for_state(run, "paused")
    site.call("runs", "resume", str(run))
    site.wait_for_state(run, "running")
    site.call("runs", "cancel", str(run))
    site.wait_for_state(run, "cancelled")
    site.assert_whole(run)
    # A second start goes on from the checkpoint; the native engine needs that checkpoint here.
    assert "runs fetch" in site.call("runs", "retry", str(run), "--engine", "native", code=1)
    saved = events(run, "checkpointed")[-1]["step"]
    site.call("runs", "retry", str(run), "--rate-factor", "0.5")
    wait_for_step(run, saved + 2)
    texts = [e["text"] for e in events(run, "message")]
    assert f"resumed at step {saved} from its last checkpoint" in texts
    assert any(text.startswith("retried with stage1.learning_rate") for text in texts)
    site.call("runs", "cancel", "--hard", str(run))
    site.wait_for_state(run, "cancelled")
    site.assert_whole(run, starts=2)
    assert events(run)[-1]["text"].startswith("killed at step")
    site.fetch(run)
    site.wait_for_state(run, "cancelled")
    site.call("runs", "retry", str(run), "--engine", "native")
    end = time.monotonic() + 60
    while time.monotonic() < end and not any("resumed at step" in e["text"] for e in events(run, "message")[len(texts):]):
        time.sleep(0.1)
    site.call("runs", "cancel", str(run))
    site.wait_for_state(run, "cancelled")


def test_time_limits_hold_and_strange_hosts_and_lacking_files_are_refused(
    ssh: tuple[Site, Server], folder: pathlib.Path
) -> None:
    site, server = ssh
    settings = {"steps": 100_000, "held_out_every": 50_000}
    plan = support.write_plan(folder, OTHER_OPERATORS, stage1=settings, name="limited.json")
    run = site.begin(plan, "distill", "--timeout", "3s")
    assert "its time was up" in site.wait_for_state(run, "failed")["ending"]
    site.assert_whole(run)
    site.name(ssh=server.destination, ssh_options=server.options, paths={str(folder): "/nowhere"})
    run = site.begin(plan)
    ending = site.wait_for_state(run, "failed")["ending"]
    assert "/nowhere/" in ending and "far.paths" in ending
    known = (server.folder / "known").read_text()
    (server.folder / "known").write_text(known.replace("AAAA", "AAAB", 1))
    assert "verification failed" in site.call(
        "distill", str(plan), "--runs", str(site.tmp / "none"), "--engine", "far", code=1
    )
    assert not (site.tmp / "none").exists()


@pytest.fixture
def slurm(program: str, folder: pathlib.Path, tmp_path: pathlib.Path) -> tuple[Site, Slurm]:
    """A user on a cluster."""
    site, cluster = Site(program, folder, tmp_path), Slurm(tmp_path / "slurm")
    site.own.update(PATH=cluster.path, ESPALIER_SLURM_SECONDS="0.5")
    site.name(
        ranks=2, options=["--micro-batch", "3"],
        slurm={"signal": 90, "options": ["--partition=gpu", "--time=60"], "setup": ["export SEEN=yes"]},
    )
    return site, cluster


def test_a_job_of_slurm_waits_runs_is_requeued_and_ends(slurm: tuple[Site, Slurm], folder: pathlib.Path) -> None:
    site, cluster = slurm
    settings = {"steps": 60, "held_out_every": 50_000}
    run = site.begin(support.write_plan(folder, OTHER_OPERATORS, stage1=settings, name="queued.json"))
    row = site.wait_for_state(run, "pending")
    assert row["state_reason"] == "Priority (job 4711)"
    head = [shlex.split(line)[1] for line in cluster.script.splitlines() if line.startswith("#SBATCH")]
    assert {
        "--nodes=1", "--ntasks-per-node=2", "--requeue", "--signal=USR1@90", "--partition=gpu", "--time=60",
        "--open-mode=append",
    } <= set(head)
    assert (site.far(run) / "job.sh").read_text() == cluster.script
    assert "\nexport SEEN=yes\n" in cluster.script and "\nsrun " in cluster.script
    # SLURM's controller is away for a while.
    (cluster.folder / "deaf").touch()
    end = time.monotonic() + 60
    while "Unable to contact" not in row["state_reason"] and time.monotonic() < end:
        row = site.wait_for_state(run, "pending")
    assert "Unable to contact slurm controller" in row["state_reason"]
    cluster.run(2)
    (cluster.folder / "deaf").unlink()
    site.wait_for_state(run, "running")
    wait_for_step(run, 3)
    assert events(run, "ranks")[-1]["count"] == 2
    cluster.warn()
    cluster.wait()
    row = site.wait_for_state(run, "pending")
    assert (cluster.folder / "requeued").exists() and row["state_reason"] == "BeginTime (job 4711)"
    saved = events(run, "checkpointed")[-1]["step"]
    (cluster.folder / "requeued").unlink()
    cluster.run(2)
    assert cluster.wait() == 0
    site.wait_for_state(run, "done")
    site.assert_whole(run, starts=2)
    assert any(e["text"] == f"resumed at step {saved} from its last checkpoint" for e in events(run, "message"))
    submitted = [w for w in (cluster.folder / "calls").read_text().splitlines() if json.loads(w)[0] == "sbatch"]
    assert len(submitted) == 1


def test_a_job_of_slurm_is_cancelled_before_it_begins_or_dies(slurm: tuple[Site, Slurm], folder: pathlib.Path) -> None:
    site, cluster = slurm
    plan = support.write_plan(folder, OTHER_OPERATORS, stage1={"steps": 60}, name="doomed.json")
    run = site.begin(plan)
    site.wait_for_state(run, "pending")
    site.call("runs", "cancel", str(run))
    assert site.wait_for_state(run, "cancelled")["ending"] == "cancelled before it began"
    site.assert_whole(run, starts=0)
    for accounted, reason in ((True, "job 4711 is NODE_FAIL with exit code 0:1"), (False, "job 4711 has left the queue")):
        run = site.begin(plan)
        site.wait_for_state(run, "pending")
        if not accounted:
            (cluster.folder / "unaccounted").touch()
        cluster.say("NODE_FAIL|0:1")
        assert reason in site.wait_for_state(run, "failed")["ending"]
    shutil.rmtree(cluster.folder / "bin")
    run = site.begin(plan)
    assert "cannot be started: squeue" in site.wait_for_state(run, "failed")["ending"]
