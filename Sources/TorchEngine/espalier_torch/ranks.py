"""The processes of a run: who they are, which rows they compute, what they agree on."""

from __future__ import annotations

import contextlib
import datetime
import os
import socket
import subprocess
import sys
import threading
import time
from typing import Any, Callable, Iterator, Sequence

import torch
import torch.distributed as dist

from .errors import EngineError

_FOREVER = datetime.timedelta(days=3650)
"""Rank 0 may wait for a full disk or a pause for long; nobody gives up on it."""


@contextlib.contextmanager
def _time_limit() -> Iterator[None]:
    """Ends this process if the ranks have not found each other in time, so that the launcher starts all again."""
    seconds = float(os.environ.get("ESPALIER_CONNECT_SECONDS", 600))

    def give_up() -> None:
        print(f"espalier_torch: the ranks have not found each other in {seconds:g} s", file=sys.stderr, flush=True)
        os._exit(1)

    timer = threading.Timer(seconds, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _slurm_address() -> tuple[str, str]:
    """Host of the first rank and a port, from SLURM's variables."""
    nodes = os.environ.get("SLURM_STEP_NODELIST") or os.environ.get("SLURM_JOB_NODELIST", "")
    host = nodes
    if "[" in nodes or "," in nodes:
        try:
            listed = subprocess.run(["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=True)
            host = listed.stdout.split()[0]
        except (OSError, subprocess.CalledProcessError, IndexError):
            raise EngineError(
                f"SLURM_JOB_NODELIST: 'scontrol show hostnames {nodes}' names no host; set MASTER_ADDR"
            ) from None
    return host or "127.0.0.1", str(20000 + int(os.environ.get("SLURM_JOB_ID", "0")) % 40000)


class Ranks:
    """This process among those of the run."""

    def __init__(self, device: str | None = None):
        environment = os.environ
        if "RANK" not in environment and "SLURM_PROCID" in environment and "SLURM_STEP_ID" in environment:
            environment["RANK"] = environment["SLURM_PROCID"]
            environment["WORLD_SIZE"] = environment.get("SLURM_STEP_NUM_TASKS", environment.get("SLURM_NTASKS", "1"))
            environment["LOCAL_RANK"] = environment.get("SLURM_LOCALID", "0")
            host, port = _slurm_address()
            environment.setdefault("MASTER_ADDR", host)
            environment.setdefault("MASTER_PORT", port)
        try:
            self.rank, self.world, self.local = (
                int(environment.get(key, other)) for key, other in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0))
            )
        except ValueError:
            raise EngineError("RANK, WORLD_SIZE and LOCAL_RANK: expected whole numbers; start by torchrun") from None
        self.restarts = int(environment.get("TORCHELASTIC_RESTART_COUNT", 0) or 0)
        if device is None:
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.kind = torch.device(device).type
        if self.kind == "cuda":
            if not torch.cuda.is_available():
                raise EngineError("--device cuda: PyTorch sees no GPU; choose cpu or check the driver")
            self.device = torch.device("cuda", self.local % torch.cuda.device_count())
            torch.cuda.set_device(self.device)
        else:
            self.device = torch.device(device)
        self.backend = "nccl" if self.kind == "cuda" else "gloo"
        self.control: Any = None
        self._waited, self._since = 0.0, time.monotonic()
        self._beats, self._heard = 0, dict[int, tuple[bytes, float]]()
        if self.world > 1:
            with _time_limit():
                dist.init_process_group(
                    self.backend, store=self._store(), rank=self.rank, world_size=self.world
                )
                # Short messages between hosts, apart from the gradients and without a time limit.
                self.control = dist.new_group(backend="gloo", timeout=_FOREVER)
                dist.barrier(group=self.control)
                # A connection of its own, because those of the process group may wait in it.
                self._pulse = self._store(serves=False, patient=False)

    def _store(self, serves: bool = True, patient: bool = True) -> dist.Store:
        """Where the ranks find each other: the launcher's, else one that rank 0 serves at MASTER_ADDR, MASTER_PORT.

        torchrun keeps its store when it starts the ranks again; without a prefix they would find those of before.
        """
        try:
            host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        except (KeyError, ValueError):
            raise EngineError(
                "MASTER_ADDR and MASTER_PORT: expected the host and port where the ranks find each other; start by"
                " torchrun, or set them"
            ) from None
        serves = serves and self.first and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
        limit = datetime.timedelta(seconds=300 if patient else 10)
        store = dist.TCPStore(host, port, is_master=serves, wait_for_workers=False, multi_tenant=True, timeout=limit)
        return dist.PrefixStore(f"espalier/{self.restarts}", store)

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which alone writes."""
        return self.rank == 0

    def waiting_share(self) -> float:
        """Share of the time since the last call in which this rank has waited for others to agree."""
        now = time.monotonic()
        share = self._waited / max(now - self._since, 1e-9)
        self._waited, self._since = 0.0, now
        return min(1.0, share)

    def silent(self) -> list[int]:
        """Says that this rank is alive; on rank 0 returns those that have not said so for some seconds.

        Called about every second by a thread that no collective operation holds up.
        """
        if self.world == 1:
            return []
        self._beats += 1
        self._pulse.set(f"alive/{self.rank}", str(self._beats))
        if not self.first:
            return []
        limit, now = float(os.environ.get("ESPALIER_SILENCE_SECONDS", 15)), time.monotonic()
        found = []
        for rank in range(1, self.world):
            key = f"alive/{rank}"
            value = self._pulse.get(key) if self._pulse.check([key]) else b""
            before, since = self._heard.get(rank, (b"", now))
            self._heard[rank] = (value, since if value == before else now)
            if now - self._heard[rank][1] > limit:
                found.append(rank)
        return found

    def _exchange(self, work: Callable[[], Any]) -> None:
        """Does a collective operation and counts its time."""
        begun = time.monotonic()
        work()
        self._waited += time.monotonic() - begun

    def close(self) -> None:
        """Leaves the group."""
        if self.world > 1:
            dist.destroy_process_group()

    def rows(self, count: int) -> range:
        """The rows of a batch of `count` rows that this rank computes; they differ by at most one between ranks."""
        return range(self.rank * count // self.world, (self.rank + 1) * count // self.world)

    def most_rows(self, count: int) -> int:
        """The largest number of rows that any rank computes."""
        return -(-count // self.world)

    def sum(self, values: Sequence[float]) -> list[float]:
        """Sums of numbers over all ranks, float64."""
        if self.world == 1:
            return list(values)
        total = torch.tensor(list(values), dtype=torch.float64)
        self._exchange(lambda: dist.all_reduce(total, group=self.control))
        return total.tolist()

    def any(self, flags: Sequence[bool]) -> list[bool]:
        """Whether each flag is set on any rank."""
        if self.world == 1:
            return list(flags)
        total = torch.tensor([int(f) for f in flags])
        self._exchange(lambda: dist.all_reduce(total, dist.ReduceOp.MAX, group=self.control))
        return [bool(x) for x in total.tolist()]

    def collect(self, value: Any) -> list[Any]:
        """The values of all ranks, in order."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value, group=self.control)
        return values

    def share(self, value: Any) -> Any:
        """The value of rank 0."""
        if self.world == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self.control)
        return box[0]

    def broadcast(self, tensors: Sequence[torch.Tensor], source: int) -> None:
        """Gives all ranks the tensors of one."""
        if self.world == 1:
            return
        for tensor in tensors:
            dist.broadcast(tensor, src=source)

    def sum_tensor(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum of a tensor over all ranks, in place."""
        if self.world > 1:
            dist.all_reduce(tensor)
        return tensor

    def describe(self) -> dict[str, Any]:
        """The content of the event `ranks`."""
        hosts = self.collect(socket.gethostname())
        name = torch.cuda.get_device_name(self.device) if self.kind == "cuda" else "cpu"
        return {
            "count": self.world, "backend": self.backend if self.world > 1 else "none", "device": name,
            "hosts": sorted(set(hosts)), "restarts": self.restarts, "engine": f"torch {torch.__version__}",
        }

    def memory(self) -> int:
        """Bytes of device memory, on a CPU of resident memory, that this process has used at most."""
        if self.kind == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
