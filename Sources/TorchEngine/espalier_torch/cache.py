"""Recorded activations of fixed samples in bfloat16, one file per site, shared by all runs and both engines."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import time
from typing import Callable

import torch

from . import GENERATOR
from .data import Dataset, Draws
from .errors import EngineError
from .files import TensorFile, cache_folder, remove_abandoned, sha256, write_bytes, write_tensors
from .plan import Plan, Site
from .ranks import Ranks
from .teacher import SiteActivations, TeacherPass

_TOGETHER = 16
"""Samples that are recorded together."""


def number_text(value: float) -> str:
    """A double as the native engine writes it into identities."""
    return repr(float(value)) if value != int(value) or abs(value) >= 2**53 else f"{value:.1f}"


class ActivationCache:
    """The recordings of the sites that a rank trains."""

    def __init__(
        self, plan: Plan, sites: list[Site], own: list[Site], dataset: Dataset, draws: Draws, teacher: TeacherPass,
        ranks: Ranks, precision: str, progress: Callable[[int, int], None],
    ):
        """sites: all sites, which are recorded together; own: those that are read here."""
        settings, shape = plan.stage1, plan.shape
        self.samples, self.tokens, self.dim = settings.samples, shape.tokens, shape.hidden_size
        size = 2.0 * self.samples * (2 * self.tokens * self.dim + self.dim)
        budget = settings.cache_gb * 1e9
        if len(sites) * size > budget:
            raise EngineError(
                f"stage1.cache_gb: the activations of {len(sites)} sites and {self.samples} samples take"
                f" {len(sites) * size / 1e9:.3g} GB, the budget is {settings.cache_gb:.3g} GB; raise it, lower"
                ' "samples", or set "mode" to "streaming"'
            )
        parts = [
            "activations 2", GENERATOR, plan.content_hash, dataset.identity, str(plan.seed), str(self.samples),
            number_text(settings.label_dropout),
        ]
        if precision != "fp32":
            parts.append(precision)
        identity = hashlib.sha256("\n".join(parts).encode()).hexdigest()
        self.path = os.path.join(cache_folder(), f"activations-{identity[:24]}")
        os.makedirs(self.path, exist_ok=True)
        os.utime(self.path)
        missing = ranks.share([s for s in sites if not self._intact(s, identity)] if ranks.first else None)
        if missing:
            if ranks.first:
                self._make_room(len(missing) * size, budget)
            self._record(missing, plan, dataset, draws, teacher, ranks, identity, progress)
        self.files = {site: TensorFile(self._file(site)) for site in own}

    def _file(self, site: Site) -> str:
        return os.path.join(self.path, f"{site}.safetensors")

    def _shapes(self, site: Site) -> dict[str, tuple[int, ...]]:
        whole = (self.samples, self.tokens, self.dim)
        return {"input": whole, "target": whole, site.side: (self.samples, self.dim)}

    def _intact(self, site: Site, identity: str) -> bool:
        path = self._file(site)
        try:
            file = TensorFile(path)
            with open(path + ".sha256", encoding="ascii") as source:
                digest = source.read(64)
        except (EngineError, OSError, ValueError):
            return False
        fits = all(name in file and file.shape(name) == shape for name, shape in self._shapes(site).items())
        return fits and file.metadata.get("identity") == identity and digest == sha256(path)

    def _make_room(self, size: float, budget: float) -> None:
        """Deletes other recordings, least recently used first, until the new ones fit."""
        folder = os.path.dirname(self.path)
        others = []
        for name in os.listdir(folder):
            path = os.path.join(folder, name)
            if name.startswith("activations-") and os.path.isdir(path):
                remove_abandoned(path)
                bytes_ = sum(os.path.getsize(os.path.join(path, n)) for n in os.listdir(path))
                others.append((os.path.getmtime(path), path, bytes_))
        total = size + sum(entry[2] for entry in others)
        for used, path, bytes_ in sorted(others):
            if total <= budget:
                return
            busy = any(n.endswith(".tmp") for n in os.listdir(path)) or used > time.time() - 60
            if path != self.path and not busy:
                shutil.rmtree(path, ignore_errors=True)
                total -= bytes_

    def _record(
        self, sites: list[Site], plan: Plan, dataset: Dataset, draws: Draws, teacher: TeacherPass, ranks: Ranks,
        identity: str, progress: Callable[[int, int], None],
    ) -> None:
        """Runs the teacher over all samples, every rank over its rows; each writes a part, rank 0 joins them."""
        rows = ranks.rows(self.samples)
        pass_ = TeacherPass(teacher.model, sites, teacher.process, teacher.autocast)
        store = {
            site: {
                name: torch.empty(len(rows), *shape[1:], dtype=torch.bfloat16)
                for name, shape in self._shapes(site).items()
            }
            for site in sites
        }
        for start in range(rows.start, rows.stop, _TOGETHER):
            progress(start - rows.start, len(rows))
            batch = draws.batch(dataset, range(start, min(rows.stop, start + _TOGETHER)), "recording")
            fault = dataset.fault(batch)
            if fault:
                raise EngineError(fault)
            part = slice(start - rows.start, start - rows.start + len(batch))

            def keep(seen: SiteActivations) -> None:
                own = store[seen.site]
                for name, value in (("input", seen.input), ("target", seen.target), (seen.site.side, seen.side)):
                    own[name][part] = value.to("cpu", torch.bfloat16)

            pass_(batch, keep)
        for site in sites:
            for name, values in store[site].items():
                write_tensors(self._piece(site, name, ranks.rank), [("rows", tuple(values.shape), lambda v=values: v)],
                              {}, torch.bfloat16)
        store.clear()
        ranks.collect(None)
        if ranks.first:
            for site in sites:
                def joined(name: str) -> torch.Tensor:
                    pieces = [TensorFile(self._piece(site, name, r)).raw("rows") for r in range(ranks.world)]
                    return torch.cat(pieces)

                items = [(n, shape, lambda n=n: joined(n)) for n, shape in self._shapes(site).items()]
                write_tensors(self._file(site), items, {"identity": identity}, torch.bfloat16)
                write_bytes(self._file(site) + ".sha256", sha256(self._file(site)).encode())
                for name in self._shapes(site):
                    for r in range(ranks.world):
                        with contextlib.suppress(OSError):
                            os.unlink(self._piece(site, name, r))
        ranks.collect(None)

    def _piece(self, site: Site, name: str, rank: int) -> str:
        return os.path.join(self.path, f".{site}.{name}.{rank}.piece")

    def read(self, site: Site, rows: list[int], device: torch.device) -> SiteActivations:
        """The activations of some samples at a site."""
        file = self.files[site]

        def gather(name: str) -> torch.Tensor:
            return torch.cat([file.rows(name, row, row + 1) for row in rows]).to(device).float()

        return SiteActivations(site, gather("input"), gather("target"), gather(site.side))

    def fault(self, rows: list[int]) -> str | None:
        """A sentence about the first recording that is not finite for some samples."""
        for site in self.files:
            seen = self.read(site, rows, torch.device("cpu"))
            if not all(torch.isfinite(x).all() for x in (seen.input, seen.target, seen.side)):
                return (
                    f"{self._file(site)}: holds values that are not finite; remove it, it is made anew when the run is"
                    " taken up again"
                )
        return None
