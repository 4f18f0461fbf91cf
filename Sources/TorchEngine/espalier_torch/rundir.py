"""Run directories: the request, events, requests to the run, its lock and its worker (docs/ARCHITECTURE.md)."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import math
import os
import re
import socket
import subprocess
import threading
import time
from typing import Any, Callable, Mapping

from .errors import EngineError
from .files import DiskFull, link, read_json, remove_abandoned, write_json, writing
from .plan import Site

LATEST = "checkpoints/latest.safetensors"


def _number(value: float) -> float | str:
    if math.isfinite(value):
        return value
    return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"


def _sites(values: Mapping[Site, float]) -> dict[str, float | str]:
    return {str(site): _number(value) for site, value in values.items()}


class RunDirectory:
    """The files of a run."""

    def __init__(self, path: str):
        self.path = os.path.abspath(path)
        self.id = os.path.basename(self.path)
        self.request_path = os.path.join(self.path, "run.json")
        if not os.path.exists(self.request_path):
            raise EngineError(f"{self.path}: holds no run.json, so it is no run; see 'espalier runs'")
        self.events_path = os.path.join(self.path, "events.jsonl")
        self.control_path = os.path.join(self.path, "control.jsonl")
        self.checkpoints = os.path.join(self.path, "checkpoints")
        self.samples = os.path.join(self.path, "samples")
        self.latest = os.path.join(self.path, LATEST)
        self._lock: int | None = None

    def request(self) -> dict[str, Any]:
        """The content of run.json."""
        request = read_json(self.request_path)
        if not isinstance(request, dict) or request.get("espalier_run") != 1 or "job" not in request:
            raise EngineError(f"{self.request_path}: is not the request of a run of this version; the run is damaged")
        return request

    def resolve(self, name: str) -> str:
        """A path of the request, relative to the run or absolute."""
        return os.path.join(self.path, name)

    def weights_path(self, name: str) -> str:
        """An entry of a job's weights: a path, or the id of a run in the same root."""
        if "/" in name:
            return name
        other = RunDirectory(os.path.join(os.path.dirname(self.path), name))
        kind = other.request()["job"].get("kind")
        files = {"distill": ["operators.safetensors", "latest.safetensors"], "finetune": ["model.safetensors"]}
        for file in files.get(kind, []):
            path = os.path.join(other.checkpoints, file)
            if os.path.exists(path):
                return path
        raise EngineError(f"{other.path}: has no weights of a training; name a run of 'espalier distill' or 'finetune'")

    # Events

    def append(self, path: str, record: Mapping[str, Any]) -> None:
        """Appends a record to a log with a single write; a torn last line is ended first."""
        line = json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                size = os.fstat(descriptor).st_size
                if size and os.pread(descriptor, 1, size - 1) != b"\n":
                    line = b"\n" + line
                if os.write(descriptor, line) != len(line):
                    raise OSError(errno.ENOSPC, "")
            finally:
                os.close(descriptor)
        except OSError as error:
            raise writing(path, error) from error

    def event(self, kind: str, **fields: Any) -> None:
        """Appends an event."""
        self.append(self.events_path, {"v": 1, "t": time.time(), "kind": kind, **fields})

    def controls(self, offset: int) -> tuple[list[str], int]:
        """The requests after an offset, and the offset of the next."""
        try:
            with open(self.control_path, "rb") as source:
                source.seek(offset)
                data = source.read(1 << 20)
        except OSError:
            return [], offset
        whole = data[: data.rfind(b"\n") + 1]
        found = []
        for line in whole.splitlines():
            with contextlib.suppress(ValueError, AttributeError):
                record = json.loads(line)
                if record.get("v") == 1:
                    found.append(str(record.get("request")))
        return found, offset + len(whole)

    def checkpoint_step(self) -> int:
        """The step of the last checkpoint of the log; 0 without one."""
        step = 0
        with contextlib.suppress(OSError):
            with open(self.events_path, "rb") as source:
                for line in source:
                    if b'"checkpointed"' in line:
                        with contextlib.suppress(ValueError):
                            step = int(json.loads(line).get("step", step))
        return step

    # Ownership

    def claim(self) -> None:
        """Makes this process the worker of the run, unless the program that started it already is.

        Then it only waits until processes of an earlier, killed worker have ended.
        """
        claimed = os.environ.get("ESPALIER_RUN_CLAIMED") == self.path
        lock = os.path.join(self.path, "engine.lock" if claimed else "worker.lock")
        try:
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise writing(lock, error) from error
        for _ in range(1200 if claimed else 20):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                time.sleep(0.05)
        else:
            os.close(descriptor)
            raise EngineError(
                f"{self.path}: another process works on this run; wait until it has ended, or cancel the run"
            )
        self._lock = descriptor
        if claimed:
            return
        # Requests that come over a link are kept by its other end.
        if os.path.exists(os.path.join(self.path, "worker.json")) and not os.environ.get("ESPALIER_FOLLOWED"):
            with open(self.control_path, "wb"):
                pass
        write_json(os.path.join(self.path, "worker.json"), identity(os.getpid()))

    def release(self) -> None:
        """Gives the lock back."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def sweep(self) -> None:
        """Removes drafts of killed processes."""
        for folder in (self.path, self.checkpoints, self.samples):
            os.makedirs(folder, exist_ok=True)
            remove_abandoned(folder)

    def kept_steps(self) -> list[int]:
        """Steps of the kept checkpoints, ascending."""
        names = os.listdir(self.checkpoints)
        found = (re.fullmatch(r"step-(0|[1-9]\d*)\.safetensors", name) for name in names)
        return sorted(int(match[1]) for match in found if match)

    def checkpoint_path(self, step: int) -> str:
        """Path of the kept checkpoint of an earlier step."""
        return os.path.join(self.checkpoints, f"step-{step}.safetensors")

    def perform_hook(self, outcome: str) -> None:
        """Runs the command for the run's end, unless the program that started this one does."""
        if os.environ.get("ESPALIER_RUN_CLAIMED") == self.path:
            return
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(self.path, "environment.json"))
        command = self.request().get("on_done")
        if not command:
            return
        environment = {**os.environ, "ESPALIER_RUN": self.path, "ESPALIER_OUTCOME": outcome}
        with open(os.path.join(self.path, "log.txt"), "ab") as log:
            done = subprocess.run(["/bin/sh", "-c", command], env=environment, stdout=log, stderr=log, check=False)
        text = f"signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
        with contextlib.suppress(EngineError):
            self.event("message", text=f"the command for the run's end has ended: {text}")


def identity(pid: int) -> dict[str, Any]:
    """What tells a process of this host from every other one; raises OSError if it has ended."""
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as source:
        fields = source.read().rpartition(")")[2].split()
    if fields[0] in "ZX":
        raise ProcessLookupError(pid)
    with open(f"/proc/{pid}/cmdline", "rb") as source:
        command = [word.decode(errors="replace") for word in source.read().split(b"\0")[:-1]]
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as source:
        boot = source.read().strip()
    return {
        "host": socket.gethostname(), "boot_id": boot, "pid_namespace": os.readlink("/proc/self/ns/pid"),
        "pid": pid, "start_time": int(fields[19]), "owner": os.geteuid(), "command": command,
    }


class Interruption(Exception):
    """Why a job stops before its last step: `cancelled` or `timed out`."""

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


class Reporter:
    """Writes a run's events and reads its requests; on ranks other than 0 it does nothing."""

    def __init__(self, run: RunDirectory, writes: bool):
        self.run, self.writes = run, writes
        self.step = 0
        self.stopping = False
        """Set by a signal or a cancel request."""
        self.paused = False
        self.offset = 0
        self.deadline = math.inf
        self.resources: dict[str, Any] = {}
        """The last report of what the ranks use."""
        self._spoken = False
        self._lacks_room = False
        self._heart: threading.Event | None = None
        self._beating: threading.Thread | None = None

    def begin_heartbeat(self, silent: Callable[[], list[int]]) -> None:
        """Writes a heartbeat in every second in which nothing else is written; tells when ranks fall silent or speak.

        silent: called every second on every rank; what rank 0 gets are the ranks that have been silent for a while.
        """
        stop = self._heart = threading.Event()
        known: list[int] = []

        def beat() -> None:
            nonlocal known
            while not stop.wait(1.0):
                with contextlib.suppress(Exception):
                    found = silent()
                    if self.writes and found != known:
                        known = found
                        report = {"step": self.step, "memory": 0, **self.resources}
                        self.run.event("resources", **report, **({"silent": found} if found else {}))
                if not self.writes:
                    continue
                spoken, self._spoken = self._spoken, False
                if self._lacks_room:
                    with contextlib.suppress(OSError):
                        os.utime(self.run.events_path)
                elif not spoken:
                    with contextlib.suppress(EngineError):
                        self.run.event("heartbeat", step=self.step)

        self._beating = threading.Thread(target=beat, daemon=True)
        self._beating.start()

    def end_heartbeat(self) -> None:
        """Stops the heartbeat."""
        if self._heart is not None and self._beating is not None:
            self._heart.set()
            # A thread inside a store's call would abort the process at its end.
            self._beating.join(30)

    def emit(self, kind: str, **fields: Any) -> None:
        """Appends an event; waits while the disk is full."""
        if not self.writes:
            return
        self.when_room(lambda: self.run.event(kind, **fields))
        self._spoken = True

    def when_room(self, body: Any) -> None:
        """Calls `body`, which writes files; while the disk is full, pauses the run and tries again."""
        if not self.writes:
            return
        announced = False
        while True:
            try:
                body()
                break
            except DiskFull:
                self._lacks_room = True
                if not announced:
                    with contextlib.suppress(EngineError):
                        self.run.event("paused", step=self.step, reason="disk full")
                    announced = True
                end = time.monotonic() + 3
                while time.monotonic() < end:
                    self.poll()
                    if self.stopping:
                        raise Interruption("cancelled") from None
                    if time.monotonic() > self.deadline:
                        raise Interruption("timed out") from None
                    time.sleep(0.05)
        if announced:
            self._lacks_room = False
            with contextlib.suppress(EngineError):
                self.run.event("resumed", step=self.step)

    def poll(self) -> None:
        """Reads new requests."""
        if not self.writes:
            return
        requests, self.offset = self.run.controls(self.offset)
        for request in requests:
            if request == "pause":
                self.paused = True
            elif request == "resume":
                self.paused = False
            elif request in ("cancel", "kill"):
                self.stopping = True


def keep(run: RunDirectory, before: int | None, step: int, keep_last: int) -> None:
    """Links the checkpoint of an earlier step under its own name before a newer one takes its place."""
    if before is not None and before < step and keep_last > 1:
        link(run.latest, run.checkpoint_path(before))


def remove_surplus(run: RunDirectory, step: int, keep_last: int) -> None:
    """Removes kept checkpoints beyond the limit, and those of later steps."""
    steps = run.kept_steps()
    earlier = [s for s in steps if s < step]
    surplus = [s for s in steps if s >= step] + earlier[: max(0, len(earlier) - (keep_last - 1))]
    for old in surplus:
        with contextlib.suppress(OSError):
            os.unlink(run.checkpoint_path(old))
