"""The far end of a link: keeps a run here in step with a run directory elsewhere, over one pair of streams.

Both directions carry frames: a line of JSON, and as many bytes as its `size` says. The near end asks by frames with `do`:

- `have`: which of some files are here, and how much of those that are on their way
- `put`: a piece of a file of models or of the cache, by the digest of its content
- `create`: makes the run directory, once
- `start`: starts the run; an attempt that was started before is not started again
- `control`: a piece of the requests to the run
- `get`: a file of the run, from an offset
- `alive`: nothing; silence for a minute means that the near end is gone

This end answers by frames with `kind`: `hello`, `have`, `stored`, `created`, `started`, `controlled`, `events` (the log from an offset),
`state`, `files` (what the run has written, when that changes), `data` (a piece of a file), `error`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import queue
import shutil
import sys
import threading
import time
from typing import Any, BinaryIO, Iterator

from .errors import EngineError
from .files import cache_folder, link, read_json, sha256, write_bytes, write_json, writing
from .hosts import Processes, Slurm, Status
from .rundir import LATEST, RunDirectory

PROTOCOL = 1
PIECE = 1 << 20
HEADER_LIMIT = 16 << 20
SILENCE = 60.0
"""Seconds after which a near end that says nothing is gone; it says something every few seconds."""
GRACE = 10.0
"""Seconds for which a run without a launcher, or a launcher without a run, is given time to become whole."""


class Channel:
    """Frames over two streams."""

    def __init__(self, source: BinaryIO, sink: BinaryIO):
        self.sink = sink
        self.frames: queue.Queue[tuple[dict[str, Any], bytes] | None] = queue.Queue(maxsize=8)
        threading.Thread(target=self._read, args=(source,), daemon=True).start()

    def _read(self, source: BinaryIO) -> None:
        """Hands whole frames on; ends with None when the stream ends or is none of ours."""
        with contextlib.suppress(OSError, ValueError, AttributeError):
            while line := source.readline(HEADER_LIMIT):
                header = json.loads(line)
                size = int(header.get("size", 0))
                payload = source.read(size) if 0 < size <= PIECE else b""
                if len(payload) != size:
                    break
                self.frames.put((header, payload))
        self.frames.put(None)

    def send(self, kind: str, payload: bytes = b"", **fields: Any) -> None:
        """Sends a frame."""
        header = {"kind": kind, **fields, **({"size": len(payload)} if payload else {})}
        self.sink.write(json.dumps(header, separators=(",", ":")).encode() + b"\n" + payload)
        self.sink.flush()


@dataclasses.dataclass
class Transfer:
    """A file that is being sent."""

    path: str
    source: BinaryIO
    stamp: str
    total: int


def stamp_of(path: str) -> str:
    """What tells a version of a file from every other one."""
    status = os.stat(path)
    return f"{status.st_size}-{status.st_mtime_ns}-{status.st_ino}"


class Follower:
    """Serves one near end."""

    def __init__(self, path: str, offset: int, models: str, channel: Channel):
        self.path, self.models, self.channel = os.path.abspath(os.path.expanduser(path)), models, channel
        self.offset = offset
        self.transfers: list[Transfer] = []
        self.files: dict[str, str] = {}
        self.status: Status | None = None
        self.lacking_since: float | None = None
        self.run: RunDirectory | None = None
        self.interval = 0.5
        """Seconds between two looks at the run's state."""
        self._looked = {"status": 0.0, "files": 0.0}
        if os.path.exists(os.path.join(self.path, "run.json")):
            self.run = RunDirectory(self.path)

    # Files of this end

    def _place(self, name: str) -> str:
        """Where a file of the store lies: `models/…` or `cache/…`."""
        kind, _, rest = name.partition("/")
        parts = rest.split("/")
        if kind not in ("models", "cache") or not rest or any(p in ("", ".", "..") for p in parts):
            raise EngineError(f"{name!r}: is no name of a file of models or of the cache")
        root = os.path.abspath(os.path.expanduser(self.models)) if kind == "models" else cache_folder()
        return os.path.join(root, rest)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Holds the right to start and steer the run, which one near end at a time has."""
        with open(os.path.join(self.path, "link.lock"), "ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @property
    def _engine_path(self) -> str:
        return os.path.join(self.path, "engine.json")

    def _started(self) -> dict[str, Any]:
        """The last attempt, with what it was started as."""
        return read_json(self._engine_path) if os.path.exists(self._engine_path) else {"attempt": 0}

    def _controls(self) -> int:
        return os.path.getsize(self.run.control_path) if self.run and os.path.exists(self.run.control_path) else 0

    # What the near end asks for

    def answer(self, header: dict[str, Any], payload: bytes) -> None:
        """Does what a frame asks for."""
        do = header.get("do")
        if do == "have":
            self._have(header["sizes"], header["paths"])
        elif do == "put":
            self._put(header, payload)
        elif do == "create":
            self._create(header)
        elif do == "start":
            self._start(header)
        elif do == "control":
            self._control(header, payload)
        elif do == "get":
            self._get(header["path"], header["from"], header["stamp"])
        elif do != "alive":
            raise EngineError(f"the near end asks for {do!r}, which this engine does not know; install it anew")

    def _have(self, sizes: dict[str, int], paths: list[str]) -> None:
        present, parts = [], {}
        for name, size in sizes.items():
            place = self._place(name)
            if os.path.exists(place) and os.path.getsize(place) == size:
                present.append(name)
            elif os.path.exists(f"{place}.part"):
                parts[name] = os.path.getsize(f"{place}.part")
        missing = [p for p in paths if not os.path.exists(os.path.expanduser(p))]
        self.channel.send(
            "have", present=present, parts=parts, missing=missing,
            places={name: self._place(name) for name in sizes},
        )

    def _put(self, header: dict[str, Any], payload: bytes) -> None:
        place = self._place(header["name"])
        os.makedirs(os.path.dirname(place), exist_ok=True)
        part = f"{place}.part"
        try:
            with open(part, "ab") as sink:
                if sink.tell() != header["from"]:
                    sink.truncate(header["from"])
                sink.write(payload)
                size = sink.tell()
        except OSError as error:
            raise writing(part, error) from error
        if size < header["total"]:
            return
        found = sha256(part)
        if found != header["digest"]:
            os.unlink(part)
            raise EngineError(f"{place}: arrived with hash {found[:12]} instead of {header['digest'][:12]}; start again")
        os.replace(part, place)
        self.channel.send("stored", name=header["name"])

    def _create(self, header: dict[str, Any]) -> None:
        """Makes the run directory in one piece, unless it is there."""
        if self.run is None:
            root = os.path.dirname(self.path)
            draft = os.path.join(root, f".{os.path.basename(self.path)}.tmp")
            shutil.rmtree(draft, ignore_errors=True)
            for folder in ("checkpoints", "samples"):
                os.makedirs(os.path.join(draft, folder))
            for name, text in header["files"].items():
                if os.path.basename(name) != name:
                    raise EngineError(f"{name!r}: is no name of a file of a run")
                write_bytes(os.path.join(draft, name), text.encode())
            write_bytes(os.path.join(draft, "control.jsonl"), b"")
            for path, name in header["copies"].items():
                place = os.path.normpath(os.path.join(draft, path))
                if not place.startswith(draft + os.sep):
                    raise EngineError(f"{path!r}: is no file of a run")
                shutil.copyfile(self._place(name), place)
            os.rename(draft, self.path)
            self.run = RunDirectory(self.path)
            self.offset = os.path.getsize(self.run.events_path)
        self.channel.send("created")

    def _start(self, header: dict[str, Any]) -> None:
        run = self._require_run()
        with self._locked():
            known = self._started()
            if known["attempt"] < header["attempt"]:
                if known["attempt"] and self._status(known).state != "ended":
                    raise EngineError(f"{self.path}: is still at work here; cancel it before it is started again")
                for name, text in header["files"].items():
                    write_bytes(os.path.join(self.path, os.path.basename(name)), text.encode())
                write_bytes(run.control_path, b"")
                if header.get("step") is not None:
                    self._go_back(run, int(header["step"]))
                for text in header["messages"]:
                    run.event("message", text=text)
                if known["attempt"]:
                    run.event("resumed", step=run.checkpoint_step())
                # Noted before the start, so that no cut of the link starts it twice.
                write_json(self._engine_path, {"attempt": header["attempt"], "begun": time.time()})
                try:
                    started = self._launch(run, header)
                except (EngineError, OSError) as error:
                    run.event("finished", outcome="failed", text=f"{self.path}: cannot be started: {error}")
                    started = {"process": None}
                write_json(self._engine_path, {"attempt": header["attempt"], "begun": time.time(), **started})
        self._send_events()
        self.channel.send("started", attempt=header["attempt"], controls=self._controls())

    def _launch(self, run: RunDirectory, header: dict[str, Any]) -> dict[str, Any]:
        environment = {"ESPALIER_FOLLOWED": "1"}
        if header.get("slurm"):
            return Slurm.start(run, header["slurm"], header["options"], environment)
        words = [*header["launch"], "--", *header["options"]]
        return Processes.start(run, words, environment)

    def _go_back(self, run: RunDirectory, step: int) -> None:
        kept = run.checkpoint_path(step)
        if not os.path.exists(kept):
            raise EngineError(f"{kept}: there is no such checkpoint here; omit --step to go on from the latest")
        link(kept, run.latest)
        run.event("message", text=f"goes back to the checkpoint of step {step}")
        run.event("checkpointed", step=step, path=LATEST)

    def _control(self, header: dict[str, Any], payload: bytes) -> None:
        """Appends requests that are not here yet, and does those that the run itself cannot."""
        run = self._require_run()
        with self._locked():
            if self._controls() == header["from"]:
                with open(run.control_path, "ab") as sink:
                    sink.write(payload)
            self.channel.send("controlled", controls=self._controls())
            requests, _ = run.controls(0)
            known = self._started()
            status = self._status(known)
            if "kill" in requests and status.state != "ended":
                self._kill(known)
                self._end(run, "cancelled", f"killed at step {run.checkpoint_step()}")
            elif "cancel" in requests and status.state == "pending":
                Slurm.cancel(known)
                self._end(run, "cancelled", "cancelled before it began")

    def _kill(self, known: dict[str, Any]) -> None:
        if known.get("job"):
            Slurm.cancel(known, hard=True)
        elif known.get("process"):
            Processes.kill(known)

    def _get(self, path: str, offset: int, stamp: str) -> None:
        """Begins to send a file of the run, unless it has been replaced by now."""
        place = os.path.normpath(os.path.join(self.path, path))
        if not place.startswith(self.path + os.sep):
            raise EngineError(f"{path!r}: is no file of the run")
        with contextlib.suppress(FileNotFoundError):
            source = open(place, "rb")
            if stamp_of(place) == stamp:
                source.seek(offset)
                self.transfers.append(Transfer(path, source, stamp, os.fstat(source.fileno()).st_size))
                return
            source.close()
        self.files = {}

    def _require_run(self) -> RunDirectory:
        if self.run is None:
            raise EngineError(f"{self.path}: there is no such run here; it was removed")
        return self.run

    # What this end says by itself

    def _ending(self) -> bool:
        """Whether the last event of the log ends the run."""
        assert self.run is not None
        with open(self.run.events_path, "rb") as source:
            size = os.fstat(source.fileno()).st_size
            source.seek(max(0, size - (1 << 16)))
            lines = source.read().splitlines()
        for line in reversed(lines):
            with contextlib.suppress(ValueError, AttributeError):
                kind = json.loads(line).get("kind")
                if kind != "message":
                    return kind == "finished"
        return False

    def _end(self, run: RunDirectory, outcome: str, text: str) -> None:
        if not self._ending():
            run.event("finished", outcome=outcome, text=text)

    def _status(self, known: dict[str, Any]) -> Status:
        assert self.run is not None
        if known.get("job"):
            # A cluster's scheduler is not asked too often.
            self.interval = float(os.environ.get("ESPALIER_SLURM_SECONDS", 5))
            return Slurm.status(self.run, known)
        if known.get("process"):
            return Processes.status(self.run, known)
        return Status("starting" if time.time() - known.get("begun", 0) < GRACE else "ended", "it was never started")

    def _watch(self) -> None:
        """Tells the state when it changes; ends a run whose launcher has died without an end."""
        run, known = self.run, self._started()
        if run is None or not known["attempt"]:
            return
        try:
            status = self._status(known)
        except EngineError as error:
            # A scheduler that does not answer now is asked again.
            status = dataclasses.replace(self.status or Status("starting"), reason=str(error))
        is_over = self._ending()
        if status.state == "ended" and not is_over:
            # A last event may be on its way, on a shared file system for seconds.
            self.lacking_since = self.lacking_since or time.monotonic()
            if time.monotonic() - self.lacking_since < (GRACE if known.get("job") else 0.5):
                return
            with self._locked():
                lines = _tail(os.path.join(self.path, "log.txt"))
                last = f" ({lines[-1][:200]})" if lines else ""
                self._end(
                    run, "failed", f"{self.path}: the engine is gone without a last word: {status.reason}{last}; 'espalier"
                    " runs retry' goes on from the last checkpoint",
                )
        elif status.state == "ended" or is_over:
            status = Status("ended", status.reason)
        self.lacking_since = None
        if status != self.status:
            self._send_events()
            self._send_files()
            self.channel.send("state", state=status.state, reason=status.reason, attempt=known["attempt"])
            self.status = status

    def _send_events(self) -> None:
        """Sends what the log has grown by."""
        if self.run is None:
            return
        with open(self.run.events_path, "rb") as source:
            source.seek(self.offset)
            while piece := source.read(PIECE):
                self.channel.send("events", piece, **{"from": self.offset})
                self.offset += len(piece)

    def _send_files(self) -> None:
        """Tells which files the run has written, when that changes."""
        if self.run is None:
            return
        found: dict[str, str] = {}
        for folder in ("checkpoints", "samples"):
            for place, _, names in os.walk(os.path.join(self.path, folder)):
                for name in names:
                    if not name.startswith("."):
                        path = os.path.join(place, name)
                        with contextlib.suppress(OSError):
                            found[os.path.relpath(path, self.path)] = stamp_of(path)
        with contextlib.suppress(OSError):
            found["log.txt"] = stamp_of(os.path.join(self.path, "log.txt"))
        if found != self.files:
            self.files = found
            self.channel.send("files", files=found)

    def _send_piece(self) -> None:
        """Sends a piece of the file that is on its way."""
        transfer = self.transfers[0]
        start = transfer.source.tell()
        piece = transfer.source.read(PIECE)
        self.channel.send(
            "data", piece, path=transfer.path, stamp=transfer.stamp, total=transfer.total, **{"from": start}
        )
        if transfer.source.tell() >= transfer.total or not piece:
            transfer.source.close()
            self.transfers.pop(0)

    def _is_due(self, what: str, seconds: float) -> bool:
        now = time.monotonic()
        if now - self._looked[what] < seconds:
            return False
        self._looked[what] = now
        return True

    def serve(self) -> None:
        """Serves until the near end is gone or silent."""
        size = os.path.getsize(self.run.events_path) if self.run else 0
        if self.offset > size:
            raise EngineError(
                f"{self.path}: the log here has {size} bytes and the one there {self.offset}, so they are not of one run"
            )
        self.channel.send(
            "hello", protocol=PROTOCOL, exists=self.run is not None, attempt=self._started()["attempt"],
            controls=self._controls(), path=self.path,
        )
        heard = time.monotonic()
        while True:
            try:
                wait = 0.0 if self.transfers else 0.1
                frame = self.channel.frames.get(block=wait > 0, timeout=wait or None)
                if frame is None:
                    return
                heard = time.monotonic()
                self.answer(*frame)
                continue
            except queue.Empty:
                if time.monotonic() - heard > SILENCE:
                    return
            self._send_events()
            if self._is_due("status", self.interval):
                self._watch()
            if self._is_due("files", 1.0):
                self._send_files()
            if self.transfers:
                self._send_piece()


def _tail(path: str) -> list[str]:
    with contextlib.suppress(OSError):
        with open(path, "rb") as source:
            source.seek(max(0, os.fstat(source.fileno()).st_size - 4096))
            return [line for line in source.read().decode(errors="replace").splitlines() if line.strip()]
    return []


def follow(path: str, offset: int, models: str) -> int:
    """Serves a near end over standard input and output; returns the exit code."""
    channel = Channel(sys.stdin.buffer, sys.stdout.buffer)
    try:
        Follower(path, offset, models, channel).serve()
    except (BrokenPipeError, ConnectionError):
        return 0
    except (EngineError, OSError, KeyError, TypeError) as error:
        text = str(error) if isinstance(error, EngineError) else f"{type(error).__name__}: {error}"
        with contextlib.suppress(OSError):
            channel.send("error", text=text)
        return 1
    return 0
