"""Fits of output layers to the teacher in closed form, from Gram matrices in float64.

The features H before an operator's last layer and the teacher's output Y give (H^T H + lambda I) W^T = H^T Y with a bias.
Where the loss of a slot is gate-scaled, the rows of a sample are weighted by the mean square of its gate.
"""

from __future__ import annotations

import dataclasses
from contextlib import AbstractContextManager
from typing import Callable, Sequence

import torch
from torch import nn

from .data import Batch, Dataset, Draws
from .errors import EngineError
from .graft import Graft
from .ranks import Ranks
from .plan import SLOTS, Site
from .teacher import SiteActivations, TeacherPass, process_of

Progress = Callable[[int, int], None]
"""Called with the numbers of samples done and of all."""
Visit = Callable[[SiteActivations], None]


@dataclasses.dataclass
class Layer:
    """The last layer of a site: weight (outputs, inputs), or none, and bias (outputs), or none."""

    weight: nn.Parameter | None
    bias: nn.Parameter | None


class NormalEquations:
    """Weighted least squares of targets (rows, outputs) by features (rows, inputs); rows are added and not kept."""

    def __init__(self, inputs: int, outputs: int, device: torch.device):
        def zeros(*shape: int) -> torch.Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=device)

        self.inputs = inputs
        self.gram, self.cross = zeros(inputs, inputs), zeros(inputs, outputs)
        self.features, self.targets = zeros(inputs), zeros(outputs)
        self.weight, self.squares = zeros(1), zeros(1)

    def add(self, features: torch.Tensor | None, targets: torch.Tensor, weights: torch.Tensor | None = None) -> None:
        """Adds features (..., inputs) and targets (..., outputs) with a weight for each row."""
        y = targets.reshape(-1, targets.shape[-1]).double()
        h = y.new_zeros(len(y), 0) if features is None else features.reshape(len(y), -1).double()
        w = torch.ones_like(y[:, 0]) if weights is None else weights.double()
        weighted = h * w[:, None]
        self.gram += weighted.T @ h
        self.cross += weighted.T @ y
        self.features += weighted.sum(0)
        self.targets += (y * w[:, None]).sum(0)
        self.weight += w.sum()
        self.squares += (y.square() * w[:, None]).sum()

    def sums(self) -> list[torch.Tensor]:
        """Everything that grows."""
        return [self.gram, self.cross, self.features, self.targets, self.weight, self.squares]

    def solve(self, penalty: float, has_bias: bool) -> tuple[torch.Tensor, torch.Tensor | None, float] | None:
        """Weight (outputs, inputs), bias and the share of the variance left unexplained; None without a solution.

        penalty: relative to the mean of the diagonal of H^T H; it does not shrink the bias.
        """
        scale = 1 / self.weight if has_bias and self.weight > 0 else torch.zeros_like(self.weight)
        matrix = self.gram - scale * torch.outer(self.features, self.features)
        right = self.cross - scale * torch.outer(self.features, self.targets)
        diagonal = matrix.diagonal().sum()
        # Features that never vary explain nothing, whatever is added to their zeros.
        added = penalty * diagonal / self.inputs if self.inputs and diagonal > 0 else torch.ones_like(scale)
        solution = right.new_zeros(right.shape)
        if self.inputs:
            factor, status = torch.linalg.cholesky_ex(matrix + added * torch.eye(self.inputs).to(matrix))
            if status.item() != 0:
                return None
            solution = torch.cholesky_solve(right, factor)
        total = self.squares - scale * self.targets.square().sum()
        explained = (solution * (right + added * solution)).sum()
        bias = (scale * (self.targets - solution.T @ self.features)).float() if has_bias else None
        weight = solution.T.float().contiguous()
        finite = torch.isfinite(weight).all() and torch.isfinite(total).all() and (
            bias is None or torch.isfinite(bias).all()
        )
        if not finite:
            return None
        return weight, bias, max(0.0, 1 - (explained / total).item()) if total > 0 else 0.0


class RidgeFit:
    """Fits the output layers of a graft's operators and projections, in place, on all ranks alike."""

    def __init__(
        self, graft: Graft, dataset: Dataset, ranks: Ranks, autocast: Callable[[], AbstractContextManager[object]],
        micro_batch: int,
    ):
        self.graft, self.dataset, self.ranks, self.autocast = graft, dataset, ranks, autocast
        self.micro_batch = micro_batch
        self.process = process_of(graft.plan.shape)
        plan = graft.plan
        self.draws = Draws(
            plan.shape, plan.seed, plan.stage1.label_dropout, ranks.device, graft.file.null_caption
        )

    def layer(self, site: Site) -> Layer | None:
        """The output layer of a site; None if it has none."""
        if site.slot is None:
            merge = self.graft.model.merge(site.block)
            return Layer(merge.weight, merge.bias) if merge is not None and merge.kind == "projection" else None
        if (site.block, site.slot) not in self.graft.plan.edits:
            return None
        return self._operator_layer(site)[0]

    def _operator_layer(self, site: Site) -> tuple[Layer | None, nn.Module | None]:
        operator = self.graft.model.blocks[site.block].operator(site.slot or "")
        module = operator.output_layer()
        if module is not None:
            return Layer(module.weight, module.bias), module
        bias = operator.output_bias()
        return (None if bias is None else Layer(None, bias)), None

    def initial_targets(self, sites: Sequence[Site]) -> list[Site]:
        """Slots and pairs below some sites that start from a fit; slots of parallel blocks stand beside their pair."""
        found: list[Site] = []
        for site in sites:
            if site.slot is None:
                found += [Site(b, slot) for b in (site.block, site.block + 1) for slot in SLOTS]
            found.append(site)
        overrides = self.graft.plan.overrides
        return [
            site for site in found
            if "ridge" in overrides.get(site, {}).get("init", "") and self.layer(site) is not None
        ]

    def draw(self, name: str, dataset: Dataset, count: int) -> Batch:
        """This rank's rows of `count` samples that are drawn under a name."""
        batch = self.draws.batch(dataset, self.ranks.rows(count), name)
        fault = next((f for f in self.ranks.collect(dataset.fault(batch)) if f), None)
        if fault:
            raise EngineError(fault)
        return batch

    @torch.no_grad()
    def __call__(self, targets: Sequence[Site], progress: Progress) -> dict[Site, float]:
        """Fits layers to the teacher's outputs; returns what each leaves unexplained.

        Pairs come after the slots of their blocks.
        """
        count = self.graft.plan.stage1.ridge_samples
        batch = self.draw("ridge", self.dataset, count)
        result: dict[Site, float] = {}
        for pairs in (False, True):
            sites = [site for site in targets if (site.slot is None) == pairs]
            if not sites:
                continue
            teacher = TeacherPass(self.graft.teacher, sites, self.process, self.autocast)

            def show(visit: Visit) -> None:
                for start in range(0, len(batch), self.micro_batch):
                    progress(min(count, start * self.ranks.world), count)
                    teacher(batch[start : start + self.micro_batch], visit)

            result |= self.fit(sites, show)
        return result

    @torch.no_grad()
    def fit(self, sites: Sequence[Site], show: Callable[[Visit], None], weighs_by_gate: bool = False) -> dict[Site, float]:
        """Fits layers to the targets that `show` shows of this rank's samples; returns what each leaves unexplained.

        weighs_by_gate: whether slots are weighted by their gates whatever their loss.
        """
        plan, ranks = self.graft.plan, self.ranks
        layers = {site: layer for site in sites if (layer := self.layer(site)) is not None}
        dim = plan.shape.hidden_size
        sums = {
            site: NormalEquations(0 if l.weight is None else l.weight.shape[1], dim, ranks.device)
            for site, l in layers.items()
        }

        def visit(seen: SiteActivations) -> None:
            with self.autocast():
                features = self._features(seen) if layers[seen.site].weight is not None else None
            weights = None
            if seen.site.slot is not None and (weighs_by_gate or plan.site_settings(seen.site).gate_scaled):
                squares = seen.side.double().square().mean(1)
                weights = squares.repeat_interleave(seen.target.shape[1])
            sums[seen.site].add(features, seen.target.float(), weights)

        show(visit)
        result: dict[Site, float] = {}
        for site, layer in layers.items():
            for total in sums[site].sums():
                ranks.sum_tensor(total)
            penalty = plan.site_settings(site).ridge_lambda
            found = sums[site].solve(penalty, layer.bias is not None)
            if found is None:
                raise EngineError(
                    f"stage1.ridge_lambda: the fit of {site.phrase} has no solution; its features are not finite, or"
                    f' {penalty:g} is too small for them: raise it, or let the operator start from "own" weights'
                )
            weight, bias, result[site] = found
            if layer.weight is not None:
                # Replaced, because transferred weights may be those of the teacher.
                layer.weight.data = weight.to(layer.weight.device)
            if layer.bias is not None and bias is not None:
                layer.bias.data = bias.to(layer.bias.device)
        return result

    def _features(self, seen: SiteActivations) -> torch.Tensor:
        """What the last layer of a site reads (samples, tokens, features)."""
        model, site = self.graft.model, seen.site
        if site.slot is None:
            outputs = model.block_outputs(site.block, seen.input, seen.side, seen.context)
            return torch.cat(outputs, dim=-1)
        _, module = self._operator_layer(site)
        assert module is not None
        read: list[torch.Tensor] = []
        hook = module.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
        try:
            model.blocks[site.block].operator(site.slot)(seen.input, None)
        finally:
            hook.remove()
        return read[0]
