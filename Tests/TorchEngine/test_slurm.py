"""A real SLURM of one node: `apt-get install slurm-wlm`, then as root
`ESPALIER_LONG_TESTS=1 bash Tests/TorchEngine/run test_slurm.py`; some five minutes, most of them in the queue.
"""

from __future__ import annotations

import os
import pathlib
import shutil
import socket
import subprocess
import time
from typing import Iterator

import pytest

import support
from hosts import free_port
from support import events, wait_for_step
from test_links import Site
from test_registry import OTHER_OPERATORS

DAEMONS = ("munged", "slurmctld", "slurmd")

pytestmark = pytest.mark.skipif(
    not os.environ.get("ESPALIER_LONG_TESTS") or os.geteuid() != 0
    or not all(shutil.which(name, path="/usr/sbin:/usr/bin") for name in DAEMONS),
    reason="ESPALIER_LONG_TESTS=1 as root, with slurm-wlm installed, runs a SLURM of one node",
)


@pytest.fixture
def node(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A controller and a node with daemons, ports, keys and state of their own."""
    name, folder = socket.gethostname().split(".")[0], tmp_path / "slurm"
    for part in ("state", "spool", "munge"):
        (folder / part).mkdir(parents=True)
    folder.chmod(0o755)
    (folder / "munge").chmod(0o700)
    key = folder / "munge/key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    settings = {
        "ClusterName": "espalier", "SlurmctldHost": f"{name}(127.0.0.1)", "SlurmctldPort": free_port(),
        "SlurmdPort": free_port(), "AuthInfo": f"socket={folder}/munge/socket", "SlurmUser": "root", "SlurmdUser": "root",
        "StateSaveLocation": folder / "state", "SlurmdSpoolDir": folder / "spool", "SlurmctldPidFile": folder / "ctld.pid",
        "SlurmdPidFile": folder / "d.pid", "SlurmctldLogFile": folder / "ctld.log", "SlurmdLogFile": folder / "d.log",
        "ProctrackType": "proctrack/pgid", "TaskPlugin": "task/none", "JobAcctGatherType": "jobacct_gather/none",
        "SelectType": "select/cons_tres", "SelectTypeParameters": "CR_Core", "ReturnToService": 2, "MpiDefault": "none",
    }
    lines = [f"{key}={value}" for key, value in settings.items()]
    lines += [f"NodeName={name} NodeAddr=127.0.0.1 CPUs={os.cpu_count()} State=UNKNOWN"]
    lines += [f"PartitionName=all Nodes={name} Default=YES MaxTime=INFINITE State=UP"]
    (folder / "slurm.conf").write_text("\n".join(lines) + "\n")
    monkeypatch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
    munged = [
        "/usr/sbin/munged", "--foreground", "--force", f"--key-file={key}", f"--socket={folder}/munge/socket",
        f"--pid-file={folder}/munge/pid", f"--log-file={folder}/munge/log", f"--seed-file={folder}/munge/seed",
    ]
    commands = [munged, ["/usr/sbin/slurmctld", "-D", "-i"], ["/usr/sbin/slurmd", "-D", "-N", name]]
    started = []
    for command in commands:
        started.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        time.sleep(1)
    end = time.monotonic() + 60
    while time.monotonic() < end:
        found = subprocess.run(["sinfo", "-h", "-o", "%T"], capture_output=True, text=True)
        if found.stdout.strip() == "idle":
            break
        time.sleep(0.5)
    else:
        raise AssertionError(found.stdout + found.stderr + "".join(p.read_text()[-2000:] for p in folder.glob("*.log")))
    yield
    subprocess.run(["scancel", "--signal=KILL", "--full", "--user=root"], check=False)
    end = time.monotonic() + 30
    while time.monotonic() < end and subprocess.run(["squeue", "-h"], capture_output=True, text=True).stdout.strip():
        time.sleep(0.5)
    for process in reversed(started):
        process.terminate()
        process.wait(30)


def test_a_job_is_warned_requeued_and_ends(
    node: None, program: str, folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    site = Site(program, folder, tmp_path)
    # The job's environment is that of sbatch.
    site.own.update(ESPALIER_SLURM_SECONDS="1", SLURM_CONF=os.environ["SLURM_CONF"])
    site.name(ranks=2, slurm={"tasks_per_node": 2, "signal": 100, "options": ["--time=3", "--overcommit"]})
    settings = {"steps": 100_000, "held_out_every": 100_000, "checkpoint_every": 20, "keep_last": 2}
    run = site.begin(support.write_plan(folder, OTHER_OPERATORS, stage1=settings, name="endless.json"))
    wait_for_step(run, 3)
    assert site.wait_for_state(run, "running") and events(run, "ranks")[-1]["count"] == 2
    # SLURM signals the step 100 s before the three minutes are over; the job saves a checkpoint and queues again.
    row = site.wait_for_state(run, "pending", seconds=240)
    saved = events(run, "checkpointed")[-1]["step"]
    assert row["state_reason"].startswith("BeginTime (job")
    job = row["state_reason"].split()[-1].rstrip(")")
    subprocess.run(["scontrol", "update", f"JobId={job}", "StartTime=now"], check=True)
    wait_for_step(run, saved + 2)
    texts = [e["text"] for e in events(run, "message")]
    assert f"resumed at step {saved} from its last checkpoint" in texts
    site.call("runs", "cancel", str(run))
    site.wait_for_state(run, "cancelled")
    site.assert_whole(run, starts=2)
    # A second job of the same run is killed while it runs.
    site.call("runs", "retry", str(run))
    wait_for_step(run, events(run, "checkpointed")[-1]["step"] + 2)
    site.call("runs", "cancel", "--hard", str(run))
    assert site.wait_for_state(run, "cancelled")["ending"].startswith("killed at step")
    assert subprocess.run(["squeue", "-h"], capture_output=True, text=True).stdout.strip() == ""
