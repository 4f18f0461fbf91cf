"""Stage 1: regression of the output of every site onto that of the teacher (section 3 of arXiv 2506.05340)."""

from __future__ import annotations

import json
import math
from typing import Any, Callable

import torch
from torch.nn.functional import huber_loss, l1_loss, mse_loss

from . import checkpoints
from .cache import ActivationCache
from .data import Batch, Dataset, Draws
from .errors import EngineError
from .files import Item, TensorFile, item, write_tensors
from .graft import Graft
from .optim import AdamW, Plateau, learning_rate
from .philox import Stream
from .plan import Plan, Site
from .ranks import Ranks
from .ridge import RidgeFit
from .sweep import StudentForcedSweep
from .teacher import SiteActivations, TeacherPass, process_of

Losses = dict[Site, float]
KIND = "stage 1 checkpoint"


def regression(kind: str, delta: float, found: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean absolute, squared or Huber error."""
    if kind == "l1":
        return l1_loss(found, target)
    return mse_loss(found, target) if kind == "l2" else huber_loss(found, target, delta=delta)


class SiteTrainer:
    """Optimizer, schedule and best weights of one site."""

    def __init__(self, plan: Plan, site: Site, named: list[tuple[str, torch.nn.Parameter]]):
        self.settings = plan.site_settings(site)
        self.total = plan.total_steps(self.settings)
        self.optimizer = AdamW(named, self.settings.weight_decay)
        self.plateau = Plateau()
        self.best: tuple[float, list[torch.Tensor]] | None = None

    def rate(self, step: int) -> float:
        """The learning rate of a step; 0 after the site's last one."""
        if step >= self.total:
            return 0.0
        rate = learning_rate(self.settings, self.total, step)
        if self.settings.schedule != "plateau" or self.plateau.factor >= 1:
            return rate
        return max(self.settings.min_learning_rate, rate * self.plateau.factor)

    def step(self, step: int) -> float:
        """Takes an optimizer step unless the site has done all of its own; returns the gradient norm before clipping."""
        if step >= self.total:
            self.optimizer.clear()
            return 0.0
        return self.optimizer.step(self.rate(step), self.settings.clip_norm)

    def observe(self, loss: float) -> None:
        """Records a held-out loss."""
        if self.settings.schedule == "plateau":
            self.plateau.observe(loss, self.settings.gamma)
        if self.settings.keep_best and loss < (math.inf if self.best is None else self.best[0]):
            self.best = (loss, [p.detach().clone() for p in self.optimizer.parameters])

    def tensors(self) -> list[torch.Tensor]:
        """Everything that changes: parameters, moments and best weights."""
        o = self.optimizer
        return [p.data for p in o.parameters] + o.first + o.second + (self.best[1] if self.best else [])


class Stage1:
    """Trains all sites, each with its own optimizer, schedule and clipping."""

    def __init__(
        self, graft: Graft, dataset: Dataset, held_out: Dataset, ranks: Ranks, autocast: Callable[[], Any],
        precision: str, micro_batch: int, progress: Callable[[int, int], None],
    ):
        plan = graft.plan
        self.graft, self.plan, self.dataset, self.held_out_data, self.ranks = graft, plan, dataset, held_out, ranks
        self.autocast, self.micro_batch = autocast, micro_batch
        self.draws = Draws(
            plan.shape, plan.seed, plan.stage1.label_dropout, ranks.device, graft.file.null_caption
        )
        self.sites = plan.sites
        self.teacher = TeacherPass(graft.teacher, self.sites, process_of(plan.shape), autocast)
        self.trainers = {
            site: SiteTrainer(plan, site, named) for site in self.sites if (named := graft.parameters(site))
        }
        self.deals = plan.stage1.mode == "cached"
        """Whether every site is trained by one rank alone."""
        self.owner = {site: i % ranks.world if self.deals else -1 for i, site in enumerate(self.sites)}
        self.mine = [s for s in self.sites if self.owner[s] in (-1, ranks.rank)]
        self.cache: ActivationCache | None = None
        if self.deals:
            self.cache = ActivationCache(
                plan, self.sites, self.mine, dataset, self.draws, self.teacher, ranks, precision, progress
            )
        self.order: tuple[int, list[int]] = (-1, [])
        self.step = 0
        self.gradient_norm = 0.0
        """Norm of the gradient of all sites in the last step, before clipping."""
        self.losses: Losses = {}
        self.last_batch: Batch | None = None
        self.last_rows: list[int] = []

    # Steps

    @property
    def samples(self) -> int:
        """Number of samples of the last step, on all ranks."""
        return len(self.last_rows) if self.deals else self.plan.stage1.batch_size

    def take_step(self) -> Losses:
        """Takes a step of every site and returns the losses before it; NaN where a step was skipped."""
        losses = self._cached_step() if self.deals else self._streaming_step()
        summed = self.ranks.sum([losses.get(site, 0.0) for site in self.sites])
        result = dict(zip(self.sites, summed))
        norms = {s: self.trainers[s].step(self.step) for s in self.mine if s in self.trainers}
        for site, flag in zip(self.sites, self.ranks.any([not math.isfinite(norms.get(s, 0.0)) for s in self.sites])):
            if flag:
                result[site] = math.nan
        squares = sum(norm * norm for norm in norms.values())
        self.gradient_norm = math.sqrt(self.ranks.sum([squares])[0] if self.deals else squares)
        self.step += 1
        self.losses = result
        return result

    def _streaming_step(self) -> Losses:
        """This rank's share of the losses; gradients are summed over ranks while the teacher goes on."""
        size = self.plan.stage1.batch_size
        rows = self.ranks.rows(size)
        batch = self.draws.step(self.dataset, rows, size, "stage1", self.step)
        self.last_batch = batch
        losses: Losses = {}
        waiting: list[tuple[Any, torch.Tensor, list[torch.nn.Parameter]]] = []

        def reduce(site: Site) -> None:
            if self.ranks.world == 1 or site not in self.trainers:
                return
            parameters = self.trainers[site].optimizer.parameters
            flat = torch.cat([
                (torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters
            ])
            work = torch.distributed.all_reduce(flat, async_op=True)
            waiting.append((work, flat, parameters))

        starts = list(range(0, len(batch), self.micro_batch))
        for start in starts:
            part = batch[start : start + self.micro_batch]
            share, last = len(part) / size, start == starts[-1]

            def visit(seen: SiteActivations) -> None:
                loss = self._loss(seen)
                losses[seen.site] = losses.get(seen.site, 0.0) + loss.item() * share
                if loss.requires_grad:
                    loss.backward(torch.full_like(loss, share))
                if last:
                    reduce(seen.site)

            self.teacher(part, visit)
        if not starts:
            for site in self._visited():
                reduce(site)
        for work, flat, parameters in waiting:
            work.wait()
            for parameter, part in zip(parameters, flat.split([p.numel() for p in parameters])):
                parameter.grad = part.view_as(parameter)
        return losses

    def _visited(self) -> list[Site]:
        """The sites in the order in which a teacher pass shows them."""
        order: list[Site] = []
        for index in range(self.plan.shape.depth):
            order += [s for s in self.sites if s.slot is None and s.block == index - 1]
            order += [s for slot in ("attention", "mlp") for s in self.sites if (s.block, s.slot) == (index, slot)]
        return order

    def _cached_step(self) -> Losses:
        """The losses of this rank's sites on the whole batch."""
        assert self.cache is not None
        settings, per_epoch = self.plan.stage1, self.plan.steps_per_epoch
        epoch = self.step // per_epoch
        if self.order[0] != epoch:
            self.order = (epoch, Stream(self.plan.seed, f"stage1/epoch/{epoch}").permutation(self.cache.samples))
        first = self.step % per_epoch * settings.batch_size
        rows = self.order[1][first : first + settings.batch_size]
        self.last_rows = rows
        losses: Losses = {}
        for site in self.mine:
            for start in range(0, len(rows), self.micro_batch):
                part = rows[start : start + self.micro_batch]
                loss = self._loss(self.cache.read(site, part, self.ranks.device)) * (len(part) / len(rows))
                losses[site] = losses.get(site, 0.0) + loss.item()
                if loss.requires_grad:
                    loss.backward()
        return losses

    def _loss(self, seen: SiteActivations, trains: bool = True) -> torch.Tensor:
        """The mean loss of a site on some samples, with its graph if it trains."""
        with torch.set_grad_enabled(trains):
            return self._site_loss(seen)

    def _site_loss(self, seen: SiteActivations) -> torch.Tensor:
        site, model = seen.site, self.graft.model
        settings = self.plan.site_settings(site)
        with self.autocast():
            if site.slot is None:
                output = model.pair_output(site.block, seen.input, seen.side, seen.context)
            else:
                output = model.blocks[site.block].operator(site.slot)(seen.input, None)
        output, target = output.float(), seen.target.float()
        if settings.gate_scaled and site.slot is not None:
            gate = seen.side.float()[:, None]
            output, target = output * gate, target * gate
        return regression(self.plan.loss(site), settings.huber_delta, output, target)

    # Measuring

    def rates(self) -> dict[Site, float]:
        """Learning rates of the last step, or of the first before any."""
        return {site: trainer.rate(max(0, self.step - 1)) for site, trainer in self.trainers.items()}

    @torch.no_grad()
    def held_out(self, gathers: bool = True) -> Losses:
        """Losses of all sites on the fixed held-out samples; gathers: whether ranks may have different weights."""
        if gathers:
            self._gather()
        count = self.plan.stage1.held_out_samples
        batch = self.draws.batch(self.held_out_data, self.ranks.rows(count), "held-out")
        losses: Losses = {}
        for start in range(0, len(batch), self.micro_batch):
            part = batch[start : start + self.micro_batch]

            def visit(seen: SiteActivations) -> None:
                loss = self._loss(seen, trains=False).item()
                losses[seen.site] = losses.get(seen.site, 0.0) + loss * len(part) / count

            self.teacher(part, visit)
        return dict(zip(self.sites, self.ranks.sum([losses.get(s, 0.0) for s in self.sites])))

    def validate(self, folder: str, write: Callable[[Callable[[], None]], None]) -> Losses:
        """Measures the held-out losses, lowers rates on a plateau, keeps the best weights."""
        losses = self.held_out()
        for site, trainer in self.trainers.items():
            trainer.observe(losses[site])
        return losses

    def restore_best(self) -> int:
        """Goes back to the best weights of the sites that keep them; returns how many do."""
        kept = [t for t in self.trainers.values() if t.best is not None]
        for trainer in kept:
            assert trainer.best is not None
            for parameter, value in zip(trainer.optimizer.parameters, trainer.best[1]):
                parameter.data.copy_(value)
        return len(kept)

    def ridge_finish(self, fit: RidgeFit, progress: Callable[[int, int], None]) -> tuple[int, int]:
        """Fits the output layers of the sites whose settings ask for it, and keeps those that lower the held-out loss.

        Returns how many were fitted and how many kept.
        """
        sites = [s for s in self.sites if self.plan.site_settings(s).ridge_finish and fit.layer(s) is not None]
        if not sites:
            return 0, 0
        before = self.held_out()
        kept = {s: [p.detach().clone() for _, p in self.graft.parameters(s)] for s in sites}
        fit(sites, progress)
        after = self.held_out(gathers=False)
        worse = [s for s in sites if not after[s] < before[s]]
        for site in worse:
            for (_, parameter), value in zip(self.graft.parameters(site), kept[site]):
                parameter.data.copy_(value)
        return len(sites), len(sites) - len(worse)

    def sweep(self, fit: RidgeFit, progress: Callable[[int, int], None]) -> tuple[int, float, float] | None:
        """Fits the output layers of the sites whose settings ask for it from front to back on the graft's activations.

        If that does not bring the graft's output on held-out samples closer to the teacher's, all stay as they were.
        Returns the number of sites and the relative error of the output before and after; None without sites.
        """
        sites = [s for s in self.sites if self.plan.site_settings(s).sweep and fit.layer(s) is not None]
        if not sites:
            return None
        self._gather()
        sweep = StudentForcedSweep(fit)
        measured = fit.draw("held-out", self.held_out_data, self.plan.stage1.held_out_samples)
        before = sweep.output_error(measured)
        kept = {s: [p.detach().clone() for _, p in self.graft.parameters(s)] for s in sites}
        sweep(sites, progress)
        after = sweep.output_error(measured)
        if not after < before:
            for site in sites:
                for (_, parameter), value in zip(self.graft.parameters(site), kept[site]):
                    parameter.data.copy_(value)
        return len(sites), before, after

    def is_sound(self) -> bool:
        """Whether losses and gradients of all sites are finite on a held-out sample."""
        self._gather()
        batch = self.draws.batch(self.held_out_data, range(1), "witness")
        finite = [True]

        def visit(seen: SiteActivations) -> None:
            loss = self._loss(seen)
            finite[0] &= math.isfinite(loss.item())
            if loss.requires_grad:
                loss.backward()

        self.teacher(batch, visit)
        for trainer in self.trainers.values():
            finite[0] &= math.isfinite(trainer.optimizer.gradient_norm())
            trainer.optimizer.clear()
        return not self.ranks.any([not finite[0]])[0]

    def fault_in_data(self) -> str | None:
        """A sentence about samples of the last step, or of a held-out one, that are not finite."""
        fault = self.dataset.fault(self.last_batch) if self.last_batch is not None else None
        if fault is None and self.cache is not None:
            fault = self.cache.fault(self.last_rows)
        if fault is None:
            witness = self.draws.batch(self.held_out_data, range(1), "witness")
            fault = self.held_out_data.fault(witness, "held-out")
        return next((f for f in self.ranks.collect(fault) if f), None)

    def place_of_failure(self) -> str | None:
        """The first site whose loss or gradient is not finite."""
        return next((s.phrase for s in self.sites if not math.isfinite(self.losses.get(s, 0.0))), None)

    # Checkpoints

    def _gather(self) -> None:
        """Gives all ranks the state of the sites that one of them trains."""
        if not self.deals:
            return
        for site, trainer in self.trainers.items():
            self.ranks.broadcast(trainer.tensors(), self.owner[site])

    def save_results(self, folder: str, write: Callable[[Callable[[], None]], None]) -> None:
        """Nothing besides the checkpoint."""

    def prepare_checkpoint(self) -> Callable[[str], None]:
        """Gathers the state on all ranks; the result writes it, and may be repeated."""
        self._gather()
        items: list[Item] = []
        states: dict[str, Any] = {}
        for site, trainer in self.trainers.items():
            states[str(site)] = {"plateau": trainer.plateau.json()}
            if trainer.best is not None:
                states[str(site)]["best"] = trainer.best[0]
            o = trainer.optimizer
            for index, name in enumerate(o.names):
                items += [
                    item(name, o.parameters[index]), item(f"first.{name}", o.first[index]),
                    item(f"second.{name}", o.second[index]),
                ]
                if trainer.best is not None:
                    items.append(item(f"best.{name}", trainer.best[1][index]))
        metadata = checkpoints.metadata(KIND, self.plan, self.step, self.dataset, self.held_out_data)
        metadata["sites"] = json.dumps(states, sort_keys=True)
        return lambda path: write_tensors(path, items, metadata)

    def resume(self, path: str) -> None:
        """Goes on from a checkpoint of this plan, of either engine."""
        file = TensorFile(path)
        if "sites" not in file.metadata:
            raise EngineError(f"{path}: no step and sites in the metadata; expected a {KIND}")
        saved = checkpoints.count(file, "step", self.plan.total_steps())
        checkpoints.require_continuation(file, self.plan, self.dataset, self.held_out_data)
        states = json.loads(file.metadata["sites"])
        for site, trainer in self.trainers.items():
            o, state = trainer.optimizer, states.get(str(site), {})
            o.steps = saved
            for index, (name, parameter) in enumerate(zip(o.names, o.parameters)):
                parameter.data.copy_(file.tensor(name, parameter.shape))
                o.first[index].copy_(file.tensor(f"first.{name}", parameter.shape))
                o.second[index].copy_(file.tensor(f"second.{name}", parameter.shape))
            trainer.plateau = Plateau(**state.get("plateau", {}))
            if state.get("best") is not None:
                best = [
                    file.tensor(f"best.{n}", p.shape).to(p.device) for n, p in zip(o.names, o.parameters)
                ]
                trainer.best = (state["best"], best)
        self.step = saved

