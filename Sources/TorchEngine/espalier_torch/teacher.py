"""The teacher's activations at the sites of a plan."""

from __future__ import annotations

import dataclasses
from typing import Any, Callable

import torch

from .data import Batch
from .diffusion import GaussianDiffusion
from .interpolant import LinearInterpolant
from .models import Activations, Backbone
from .plan import Site
from .shape import ModelShape

Process = GaussianDiffusion | LinearInterpolant


def process_of(shape: ModelShape) -> Process:
    """What a model is trained with."""
    return LinearInterpolant() if shape.predicts_velocity else GaussianDiffusion()


@dataclasses.dataclass
class SiteActivations:
    """Input and output (samples, tokens, dim) of what a site replaces, and its gate or conditioning (samples, width)."""

    site: Site
    input: torch.Tensor
    target: torch.Tensor
    side: torch.Tensor
    context: tuple[torch.Tensor | None, ...] = ()
    """What blocks see besides the modulation, for pairs."""


class TeacherPass:
    """Runs the teacher on noisy latents and shows its activations at some sites, in order."""

    def __init__(self, model: Backbone, sites: list[Site], process: Process, autocast: Callable[[], Any]):
        self.model, self.process, self.autocast = model, process, autocast
        self.slots = {(s.block, s.slot) for s in sites if s.slot is not None}
        self.pairs = {s.block for s in sites if s.slot is None}

    def __call__(self, batch: Batch, visit: Callable[[SiteActivations], None]) -> None:
        """Adds noise to a batch, runs the teacher, and calls `visit` with every site while it runs."""
        process = self.process
        noisy = process.noisy(batch.latents, batch.noise, batch.steps)
        times = process.times(batch.steps)
        pair_input: list[torch.Tensor] = []

        def block(index: int, seen: Activations) -> None:
            if index - 1 in self.pairs:
                condition = self.model.condition(times, batch.condition)
                context = self.model.context(batch.condition)
                visit(SiteActivations(Site(index - 1, None), pair_input.pop(), seen.output, condition, context))
            if index in self.pairs:
                pair_input.append(seen.input)
            for slot in ("attention", "mlp"):
                if (index, slot) in self.slots:
                    visit(SiteActivations(Site(index, slot), *seen.of(slot)))

        with torch.no_grad(), self.autocast():
            self.model(noisy, times, batch.condition, None, block)
