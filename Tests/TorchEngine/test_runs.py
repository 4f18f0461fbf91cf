"""Runs end properly, whatever happens to their processes, their data and their disk."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import pathlib
import random
import signal
import subprocess
import time

import pytest
import torch

import support
from espalier_torch.__main__ import main
from support import curve, events, largest_difference, wait_for, wait_for_step
from test_registry import OTHER_OPERATORS

LONG = bool(os.environ.get("ESPALIER_LONG_TESTS"))


def started(run: pathlib.Path, ranks: int = 1, *options: str, launcher: tuple[str, ...] = ()) -> subprocess.Popen[bytes]:
    """A run in processes of its own."""
    log = open(run / "log.txt", "ab")
    return subprocess.Popen(
        support.command(run, ranks, *options, launcher=launcher), env=support.environment(), stdout=log, stderr=log
    )


def ask(run: pathlib.Path, request: str) -> None:
    """Appends a request to the run."""
    with open(run / "control.jsonl", "a") as log:
        log.write(json.dumps({"request": request, "t": time.time(), "v": 1}) + "\n")


def children(process: subprocess.Popen[bytes]) -> list[int]:
    """The ranks of a launcher, in order."""
    found = []
    for place in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            parent = int((place / "stat").read_text().rpartition(")")[2].split()[1])
            words = (place / "environ").read_bytes().split(b"\0")
        except (OSError, IndexError):
            continue
        if parent == process.pid:
            rank = next((w for w in words if w.startswith(b"RANK=")), None)
            if rank:
                found.append((int(rank[5:]), int(place.name)))
    return [pid for _, pid in sorted(found)]


def endless(folder: pathlib.Path, name: str, kind: str = "distill", **settings: object) -> pathlib.Path:
    """A run of very many steps."""
    own = {"steps": 100_000, "held_out_every": 50_000, **settings}
    plan = support.write_plan(folder, OTHER_OPERATORS, stage1=own, stage2=own, name=f"{name}.json")
    return support.make_run(folder, plan, kind, name=name)


def is_free(run: pathlib.Path) -> bool:
    """Whether nobody holds the lock of a run."""
    with open(run / "worker.lock", "rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return False
    return True


def test_pause_resume_and_cancel_reach_all_ranks(folder: pathlib.Path, program: str) -> None:
    run = endless(folder, "steered")
    process = started(run, 2)
    wait_for_step(run, 2)
    listed = subprocess.run(
        [program, "runs", "list", "--runs", str(folder), "--json"], capture_output=True, text=True, check=True
    )
    assert any(row["id"] == "steered" and row["state"] == "running" for row in json.loads(listed.stdout))
    assert not is_free(run)
    ask(run, "pause")
    paused = wait_for(run, "paused")["step"]
    seen = len(events(run, "step"))
    time.sleep(1.5)
    assert len(events(run, "step")) == seen
    assert events(run)[-1]["kind"] in ("heartbeat", "paused")
    ask(run, "resume")
    wait_for(run, "resumed")
    wait_for_step(run, paused + 2)
    ask(run, "cancel")
    assert process.wait(60) == 0
    end = events(run)[-1]
    assert end["kind"] == "finished" and end["outcome"] == "cancelled"
    saved = events(run, "checkpointed")[-1]["step"]
    assert end["text"] == f"cancelled at step {saved}" and is_free(run)


def test_a_signal_to_one_rank_stops_all_at_the_same_step(folder: pathlib.Path) -> None:
    run = endless(folder, "signalled", "finetune")
    process = started(run, 2)
    wait_for_step(run, 2)
    ranks = children(process)
    assert len(ranks) == 2
    os.kill(ranks[1], signal.SIGTERM)
    assert process.wait(60) == 0, (run / "log.txt").read_text()[-2000:]
    end, saved = events(run)[-1], events(run, "checkpointed")[-1]["step"]
    assert end["outcome"] == "cancelled" and end["text"] == f"cancelled at step {saved}"
    assert events(run, "step")[-1]["step"] == saved


def test_a_warning_before_the_first_step_queues_the_job_again(folder: pathlib.Path) -> None:
    run = endless(folder, "warned")
    process = subprocess.Popen(support.command(run, 1, "--requeue"), env=support.environment())
    end, caught = time.monotonic() + 60, 0
    while not caught >> (signal.SIGUSR1 - 1) & 1 and time.monotonic() < end:
        status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
        caught = int(status.partition("SigCgt:")[2].split()[0], 16)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(60) == 75 and not events(run, "finished")


def test_a_silent_rank_is_named(folder: pathlib.Path) -> None:
    run = endless(folder, "silent")
    log = open(run / "log.txt", "ab")
    process = subprocess.Popen(
        support.command(run, 2), env=support.environment(ESPALIER_SILENCE_SECONDS="2"), stdout=log, stderr=log
    )
    wait_for_step(run, 2)
    rank = children(process)[1]
    os.kill(rank, signal.SIGSTOP)

    def wait_for_silence(expected: list[int]) -> None:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            found = [e.get("silent", []) for e in events(run, "resources")]
            if found and found[-1] == expected:
                return
            time.sleep(0.1)
        raise AssertionError(events(run, "resources")[-2:])

    wait_for_silence([1])
    os.kill(rank, signal.SIGCONT)
    wait_for_silence([])
    ask(run, "cancel")
    assert process.wait(60) == 0


def test_a_killed_launcher_takes_its_ranks_with_it(folder: pathlib.Path) -> None:
    run = endless(folder, "orphaned")
    process = started(run, 2)
    wait_for_step(run, 2)
    ranks = children(process)
    process.kill()
    process.wait()
    end = time.monotonic() + 60
    while any(os.path.exists(f"/proc/{pid}") for pid in ranks) and time.monotonic() < end:
        time.sleep(0.1)
    assert not any(os.path.exists(f"/proc/{pid}") for pid in ranks)
    assert events(run)[-1]["kind"] == "finished" and is_free(run)


@pytest.mark.parametrize("victim", [0, 1])
def test_a_lost_rank_restarts_all_from_the_last_checkpoint(folder: pathlib.Path, victim: int) -> None:
    settings = {"steps": 60, "checkpoint_every": 5, "held_out_every": 20}
    plan = support.write_plan(folder, OTHER_OPERATORS, stage1=settings, name="lost.json")
    straight = folder / "lost-straight"
    if not straight.exists():
        support.make_run(folder, plan, name="lost-straight")
        assert main(["run", "--device", "cpu", str(straight)]) == 0
    run = support.make_run(folder, plan, name=f"lost-{victim}")
    process = started(run, 2, launcher=("--max-restarts=3",))
    wait_for_step(run, 8)
    os.kill(children(process)[victim], signal.SIGKILL)
    assert process.wait(180) == 0, (run / "log.txt").read_text()[-3000:]
    assert events(run)[-1]["outcome"] == "done"
    # Ranks that do not find each other are started again too.
    assert [e["restarts"] for e in events(run, "ranks")][0] == 0 < events(run, "ranks")[-1]["restarts"]
    assert largest_difference(curve(run), curve(straight)) <= 1e-5


def test_a_run_killed_at_any_time_ends_in_the_same_bytes(folder: pathlib.Path) -> None:
    settings = {"steps": 25, "checkpoint_every": 1, "keep_last": 3, "held_out_every": 5}
    plan = support.write_plan(folder, OTHER_OPERATORS, stage2=settings, name="killed.json")
    straight = support.make_run(folder, plan, "finetune", name="killed-straight")
    support.execute(straight)
    run = support.make_run(folder, plan, "finetune", name="killed")
    draw = random.Random(1)
    for _ in range(8 if LONG else 3):
        process = started(run)
        begun = len(events(run, "checkpointed"))
        end = time.monotonic() + 60
        while len(events(run, "checkpointed")) < begun + 2 and process.poll() is None and time.monotonic() < end:
            time.sleep(0.01)
        time.sleep(draw.random() * 0.15)
        process.kill()
        process.wait()
        for file in (run / "checkpoints").glob("*.safetensors"):
            support.tensors(file)
    support.execute(run)
    assert events(run)[-1]["outcome"] == "done"
    for file in ("latest", "model"):
        one, two = (support.tensors(r / f"checkpoints/{file}.safetensors") for r in (run, straight))
        assert all(torch.equal(one[k], two[k]) for k in two) and one.keys() == two.keys()
    assert not list((run / "checkpoints").glob(".*.tmp"))
    assert {p.name for p in (run / "checkpoints").glob("step-*")} == {"step-23.safetensors", "step-24.safetensors"}


def test_data_that_are_not_finite_are_named(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    support.write_model(tmp_path / "model.safetensors")
    support.write_data(tmp_path / "data.safetensors")
    values = support.tensors(tmp_path / "data.safetensors")
    for row in range(3, 40, 7):
        values["latents"][row, 0, 0, 0] = float("nan")
    support.write_tensors(
        str(tmp_path / "data.safetensors"), [support.item(k, v) for k, v in values.items()], {}
    )
    for kind in ("distill", "finetune"):
        plan = support.write_plan(tmp_path, OTHER_OPERATORS, stage1={"batch_size": 20}, stage2={"batch_size": 20})
        run = support.make_run(tmp_path, plan, kind, name=f"nan-{kind}")
        output = support.execute(run, 2, code=1)
        end = events(run)[-1]
        assert end["outcome"] == "failed" and "step 1: the loss is not finite: sample" in end["text"]
        assert "data.safetensors of the training data holds values that are not finite" in end["text"]
        assert end["text"] in output and not (run / "checkpoints/latest.safetensors").exists()


def test_a_diverged_training_says_where_and_how_to_go_on(folder: pathlib.Path) -> None:
    plan = support.write_plan(
        folder, OTHER_OPERATORS, stage2={"learning_rate": 1.0, "warmup_steps": 0, "steps": 400, "clip_norm": 1e9,
                                         "held_out_every": 1000, "checkpoint_every": 1000, "weight_decay": 1.0},
        name="diverged.json",
    )
    run = support.make_run(folder, plan, "finetune", name="diverged")
    weights = json.loads(plan.read_text())
    weights["stage2"]["learning_rate"] = 1.0
    code = main(["run", "--device", "cpu", str(run)])
    end = events(run)[-1]
    # A rate of 1 need not diverge on every machine; if it does, the sentence has all parts.
    if code:
        assert "is not finite" in end["text"] and f"'espalier runs retry {run.name} --rate-factor 0.5'" in end["text"]


def test_time_limit_and_hook(folder: pathlib.Path) -> None:
    run = endless(folder, "limited")
    request = json.loads((run / "run.json").read_text())
    request.update(timeout=0.5, on_done=f'echo "$ESPALIER_OUTCOME" > "{run}/hook"')
    (run / "run.json").write_text(json.dumps(request))
    assert main(["run", "--device", "cpu", str(run)]) == 1
    end = events(run, "finished")[-1]
    assert end["outcome"] == "failed" and "its time was up at step" in end["text"]
    assert (run / "hook").read_text() == "failed\n"
    assert events(run)[-1]["text"].endswith("exit code 0")
    assert events(run, "checkpointed")


def test_a_full_disk_pauses_the_run(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = support.write_plan(folder, OTHER_OPERATORS, stage1={"steps": 4}, name="full.json")
    run = support.make_run(folder, plan, name="full")
    import espalier_torch.files as files

    real, failures = os.fsync, [2]

    def fsync(descriptor: int) -> None:
        if failures[0] and "checkpoints" in os.readlink(f"/proc/self/fd/{descriptor}"):
            failures[0] -= 1
            raise OSError(errno.ENOSPC, "full")
        real(descriptor)

    monkeypatch.setattr(files.os, "fsync", fsync)
    assert main(["run", "--device", "cpu", str(run)]) == 0
    assert failures == [0]
    assert [e.get("reason") for e in events(run, "paused")] == ["disk full"]
    kinds = [e["kind"] for e in events(run)]
    assert kinds.index("resumed") > kinds.index("paused") and kinds[-1] == "finished"
    assert not list((run / "checkpoints").glob(".*.tmp"))


def test_two_processes_never_work_on_one_run(folder: pathlib.Path) -> None:
    run = endless(folder, "claimed")
    process = started(run)
    wait_for_step(run, 1)
    try:
        output = support.execute(run, code=1)
        assert "another process works on this run" in output
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    worker = json.loads((run / "worker.json").read_text())
    assert worker["pid"] == process.pid and worker["command"][-1] == str(run)
