"""Fits the output layers of a graft from front to back on the graft's own activations.

In stage 1 every operator sees the teacher's input. Here it sees what the graft, with the operators before it, gives it,
and is fitted to the teacher's residual stream behind the slot minus the graft's stream without the operator. A pair's
projection is fitted to the output of the teacher's second block.
"""

from __future__ import annotations

from typing import Sequence

import torch

from .data import Batch
from .models import Activations, Backbone
from .models.parts import BlockObserver
from .plan import Site
from .ridge import Progress, RidgeFit, Visit
from .teacher import SiteActivations

_GATE_FLOOR = 0.1
"""Share of the mean squared gate below which a channel's gate is not divided by: such a channel makes up for little."""


def _stream(seen: Activations, slot: str) -> torch.Tensor:
    """The residual stream behind a slot (samples, tokens, dim): of attention before what follows it."""
    if slot == "mlp":
        return seen.output.float()
    return seen.input.float() + seen.of(slot)[2].float()[:, None] * seen.attention_output.float()


def _target(goal: torch.Tensor, seen: Activations, slot: str) -> torch.Tensor:
    """What the operator should give: what it gives now plus the stream's error divided by the gate."""
    _, own, gate = seen.of(slot)
    g = gate.double()[:, None]
    divisor = g.square() + _GATE_FLOOR * g.square().mean(-1, keepdim=True)
    error = (goal.double() - _stream(seen, slot).double()) * g / divisor
    return own.float() + torch.where(divisor > 0, error, 0).float()


class StudentForcedSweep:
    """Fits sites one after another, on all ranks alike."""

    def __init__(self, fit: RidgeFit):
        self.fit, self.graft = fit, fit.graft

    @torch.no_grad()
    def __call__(self, sites: Sequence[Site], progress: Progress) -> None:
        """Fits sites with an output layer, in the order of the model."""
        count = self.graft.plan.stage1.ridge_samples
        batch = self.fit.draw("sweep", self.fit.dataset, count)
        for index, site in enumerate(sites):

            def show(visit: Visit) -> None:
                for start in range(0, len(batch), self.fit.micro_batch):
                    done = min(count, start * self.fit.ranks.world)
                    progress(index * count + done, len(sites) * count)
                    self._show(batch[start : start + self.fit.micro_batch], site, visit)

            self.fit.fit([site], show, weighs_by_gate=True)

    def _show(self, batch: Batch, site: Site, visit: Visit) -> None:
        """Shows what the operator of a site gets in the graft, and what it should give."""
        goals: list[torch.Tensor] = []

        def of_teacher(index: int, seen: Activations) -> None:
            if site.slot is None and index == site.block + 1:
                goals.append(seen.output)
            if site.slot is not None and index == site.block:
                goals.append(_stream(seen, site.slot))

        def of_graft(index: int, seen: Activations) -> None:
            if index != site.block:
                return
            if site.slot is not None:
                input, _, gate = seen.of(site.slot)
                visit(SiteActivations(site, input, _target(goals[0], seen, site.slot), gate))
                return
            condition = self.graft.model.condition(self.fit.process.times(batch.steps), batch.condition)
            context = self.graft.model.context(batch.condition)
            visit(SiteActivations(site, seen.input, goals[0], condition, context))

        self._predict(self.graft.teacher, batch, of_teacher)
        self._predict(self.graft.model, batch, of_graft)

    def _predict(self, model: Backbone, batch: Batch, observe: BlockObserver | None = None) -> torch.Tensor:
        process = self.fit.process
        noisy = process.noisy(batch.latents, batch.noise, batch.steps)
        with self.fit.autocast():
            return model(noisy, process.times(batch.steps), batch.condition, None, observe)

    @torch.no_grad()
    def output_error(self, batch: Batch) -> float:
        """Squared distance of the graft's output from the teacher's, relative to the square of the teacher's."""
        sums = torch.zeros(2, dtype=torch.float64)
        channels = batch.latents.shape[1]
        for start in range(0, len(batch), self.fit.micro_batch):
            part = batch[start : start + self.fit.micro_batch]
            # The variance, behind the channels of the latents, is left out.
            wanted, found = (
                self._predict(m, part)[:, :channels].double() for m in (self.graft.teacher, self.graft.model)
            )
            sums += torch.stack([(found - wanted).square().sum(), wanted.square().sum()]).cpu()
        distance, square = self.fit.ranks.sum(sums.tolist())
        return distance / max(1e-30, square)
