"""How a run is started where it shall run: as processes of this host or as a job of SLURM."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from typing import Any

from .errors import AGAIN, EngineError
from .files import write_bytes
from .rundir import RunDirectory, identity

FRESHNESS = 120.0
"""Seconds for which the log shows that a process that cannot be seen from here is alive."""


@dataclasses.dataclass(frozen=True)
class Status:
    """Where a started run stands."""

    state: str
    """`pending`, `starting`, `running` or `ended`."""
    reason: str = ""
    """Why it waits, or how it ended."""


def _own_command() -> list[str]:
    return [sys.executable, "-m", "espalier_torch"]


class Processes:
    """The launcher of a run as a process in a session of its own."""

    @staticmethod
    def start(run: RunDirectory, words: list[str], environment: dict[str, str]) -> dict[str, Any]:
        """Starts `espalier_torch launch --detached WORDS RUN`; returns what `status` and `kill` need."""
        with open(os.path.join(run.path, "log.txt"), "ab") as log:
            process = subprocess.Popen(
                [*_own_command(), "launch", "--detached", *words, run.path], stdin=subprocess.DEVNULL, stdout=log,
                stderr=log, start_new_session=True, env={**os.environ, **environment},
            )
        return {"process": identity(process.pid)}

    @staticmethod
    def status(run: RunDirectory, started: dict[str, Any]) -> Status:
        """Whether the launcher is alive; that of another host is judged by the age of the log."""
        noted = started["process"]
        if noted["host"] != socket.gethostname():
            age = time.time() - os.stat(run.events_path).st_mtime
            return Status("running" if age < FRESHNESS else "ended", "its host says nothing")
        with contextlib.suppress(ChildProcessError):
            os.waitpid(noted["pid"], os.WNOHANG)
        try:
            found = identity(noted["pid"])
        except OSError:
            return Status("ended", "its launcher has ended")
        same = all(found[key] == noted[key] for key in ("boot_id", "start_time"))
        return Status("running") if same else Status("ended", "its launcher has ended")

    @staticmethod
    def kill(started: dict[str, Any]) -> None:
        """Kills the launcher and all its descendants."""
        noted = started["process"]
        if noted["host"] != socket.gethostname():
            raise EngineError(f"process {noted['pid']}: belongs to host {noted['host']}; kill it there")
        launcher = int(noted["pid"])
        with contextlib.suppress(OSError):
            # So that it starts nothing again meanwhile.
            os.kill(launcher, signal.SIGSTOP)
        children: dict[int, list[int]] = {}
        for name in os.listdir("/proc"):
            with contextlib.suppress(OSError, IndexError, ValueError):
                with open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as source:
                    parent = int(source.read().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(name))
        doomed = [launcher]
        for process in doomed:
            doomed += children.get(process, [])
        for process in reversed(doomed):
            with contextlib.suppress(OSError):
                os.kill(process, signal.SIGKILL)


def _call(*words: str) -> str:
    """The output of a command of SLURM."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EngineError(f"{words[0]}: cannot be run ({error}); check that SLURM's commands are on the PATH") from None
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise EngineError(f"{' '.join(words[:2])}: {last[0]}")
    return done.stdout


class Slurm:
    """A job of SLURM."""

    QUEUED = {"PENDING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD", "REQUEUE_FED"}
    BEGINNING = {"CONFIGURING", "STAGE_OUT"}
    RUNNING = {"RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "RESIZING", "SIGNALING"}

    @staticmethod
    def script(run: RunDirectory, settings: dict[str, Any], options: list[str], environment: dict[str, str]) -> str:
        """The batch script: plain srun, a signal before the time is up, and another turn in the queue after it."""
        for value in (run.path, *settings["options"]):
            if "\n" in value or "\0" in value:
                raise EngineError(f"{value!r}: a line of a batch script cannot hold a line end; rename or correct it")
        head = [
            f"--job-name=espalier-{run.id}", f"--output={run.path.replace('%', '%%')}/log.txt", "--open-mode=append",
            f"--nodes={settings['nodes']}", f"--ntasks-per-node={settings['tasks_per_node']}", "--requeue",
            f"--signal=USR1@{settings['signal']}", *settings["options"],
        ]
        exports = {**environment, "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
        command = ["srun", *_own_command(), "run", "--requeue", *options, run.path]
        return "\n".join([
            "#!/bin/bash", *(f"#SBATCH {shlex.quote(word)}" for word in head),
            *(f"export {key}={shlex.quote(value)}" for key, value in sorted(exports.items())),
            *settings["setup"], shlex.join(command), "code=$?",
            "# A run that the signal has stopped with a checkpoint goes on in its next turn.",
            f'if [ $code = {AGAIN} ]; then scontrol requeue "$SLURM_JOB_ID"; fi', "exit $code", "",
        ])

    @staticmethod
    def start(
        run: RunDirectory, settings: dict[str, Any], options: list[str], environment: dict[str, str]
    ) -> dict[str, Any]:
        """Submits the run, unless a job of its name is in the queue already."""
        path = os.path.join(run.path, "job.sh")
        write_bytes(path, Slurm.script(run, settings, options, environment).encode())
        known = _call("squeue", "-h", "-n", f"espalier-{run.id}", "-o", "%i").split()
        job = known[0] if known else _call("sbatch", "--parsable", path).strip().partition(";")[0]
        if not job.isdigit():
            raise EngineError(f"sbatch: printed '{job[:80]}' instead of a job's number; look at squeue")
        return {"job": job}

    @staticmethod
    def status(run: RunDirectory, started: dict[str, Any]) -> Status:
        """The job's state by squeue, and after its end by sacct; EngineError while SLURM does not answer."""
        job = started["job"]
        try:
            line = _call("squeue", "-h", "-j", job, "-o", "%T|%r").strip()
        except EngineError as error:
            # Jobs that ended some minutes ago are unknown to squeue.
            if "Invalid job id" not in str(error):
                raise
            line = ""
        state, _, reason = line.partition("|")
        if state in Slurm.QUEUED:
            return Status("pending", f"{reason or state} (job {job})")
        if state in Slurm.BEGINNING:
            return Status("starting", f"job {job}")
        if state in Slurm.RUNNING:
            return Status("running", f"job {job}")
        if not state:
            try:
                lines = _call("sacct", "-n", "-X", "-P", "-j", job, "-o", "State,ExitCode").strip().splitlines()
            except EngineError:
                # A cluster without accounting.
                return Status("ended", f"job {job} has left the queue")
            if not lines:
                return Status("starting", f"job {job} is not accounted for yet")
            state, _, code = lines[-1].partition("|")
            word = state.split()[0] if state.split() else ""
            if word in Slurm.QUEUED:
                return Status("pending", f"{word} (job {job})")
            if word in Slurm.RUNNING | Slurm.BEGINNING:
                return Status("running", f"job {job}")
            return Status("ended", f"job {job} is {state} with exit code {code}")
        return Status("ended", f"job {job} is {state}")

    @staticmethod
    def cancel(started: dict[str, Any], hard: bool = False) -> None:
        """Removes the job from the queue, or kills it."""
        _call("scancel", *(["--signal=KILL", "--full"] if hard else []), started["job"])
