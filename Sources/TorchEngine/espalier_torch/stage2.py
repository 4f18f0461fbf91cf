"""Stage 2: end-to-end finetuning of the grafted model with the diffusion loss (section 4 of arXiv 2506.05340).

Every rank computes its rows of each batch; losses are weighted by rows over batch and gradients are summed, so the
trajectory does not depend on the number of ranks. DDP by default; `shard` distributes weights and moments (FSDP2).
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Callable

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from . import checkpoints, lora
from .data import Batch, Dataset, Draws
from .errors import EngineError
from .files import Item, TensorFile, item, write_tensors
from .graft import Graft
from .modelfile import PLAN_KEY
from .models import Backbone
from .optim import AdamW, Averages, Muon, learning_rate, local, part, whole
from .plan import Plan
from .ranks import Ranks
from .teacher import process_of

KIND = "stage 2 checkpoint"


@dataclasses.dataclass(frozen=True)
class Execution:
    """How the model is run; no influence on what is computed besides rounding."""

    shard: bool = False
    compiles: bool = False
    micro_batch: int | None = None
    """In place of the plan's."""


def choose(model: Backbone, plan: Plan) -> None:
    """Freezes what the plan does not train, and attaches low-rank additions."""
    settings = plan.stage2
    if settings.trained == "lora":
        lora.attach(model, plan)
        return
    grafts = tuple(prefix for site in plan.sites for prefix in site.prefixes)
    first = plan.shape.depth - settings.last_n_blocks
    tail = (*(f"blocks.{b}." for b in range(first, plan.shape.depth)), "final_layer.")

    def trains(name: str) -> bool:
        if name == "pos_embed":
            return False
        if settings.trained == "all":
            return True
        if settings.trained == "last_n_blocks":
            return name.startswith(tail)
        own = bool(grafts) and name.startswith(grafts)
        return own or (settings.trained == "grafts_and_norms" and "adaLN_modulation." in name)

    for name, parameter in model.named_parameters():
        parameter.requires_grad_(trains(name))


def features(plan: Plan) -> dict[str, str]:
    """Block outputs that the term of features compares: names in the teacher by those in the graft.

    Blocks that keep both operators or, if none does, all blocks and pairs.
    """
    paired = {b for first in plan.parallel for b in (first, first + 1)}
    blocks = [b for b in range(plan.shape.depth) if b not in paired]
    kept = [b for b in blocks if not any((b, slot) in plan.edits for slot in ("attention", "mlp"))]
    names = {f"blocks.{b}.out": f"blocks.{b}.out" for b in kept or blocks}
    if not kept:
        names |= {f"blocks.{first}.merge.out": f"blocks.{first + 1}.out" for first in plan.parallel}
    return names


def relative_distance(found: torch.Tensor, wanted: torch.Tensor, outliers: float) -> torch.Tensor:
    """Squared distance of features (samples, tokens, dim) relative to the teacher's squares (samples), float64.

    Teacher values further than `outliers` standard deviations from the mean of their sample are left out; 0 keeps all.
    """
    found, wanted = found.double().flatten(1), wanted.double().flatten(1)
    kept = torch.ones_like(wanted)
    if outliers > 0:
        mean, deviation = wanted.mean(1, keepdim=True), wanted.std(1, correction=0, keepdim=True)
        kept = ((wanted - mean).abs() <= outliers * deviation).double()
    scale = (kept * wanted.square()).sum(1).clamp_min(1e-12)
    return (kept * (found - wanted).square()).sum(1) / scale


class Stage2:
    """Trains the grafted model."""

    def __init__(
        self, graft: Graft, dataset: Dataset, held_out: Dataset, ranks: Ranks, autocast: Callable[[], Any],
        execution: Execution,
    ):
        plan = graft.plan
        self.plan, self.file, self.dataset, self.held_out_data = plan, graft.file, dataset, held_out
        self.ranks, self.autocast, self.execution = ranks, autocast, execution
        self.settings = plan.stage2
        self.micro_batch = execution.micro_batch or self.settings.micro_batch
        self.process = process_of(plan.shape)
        self.draws = Draws(
            plan.shape, plan.seed, self.settings.label_dropout, ranks.device, graft.file.null_caption,
            self.settings.timestep_density,
        )
        self.model = graft.model
        choose(self.model, plan)
        for parameter in self.model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.clone()
        if not any(p.requires_grad for p in self.model.parameters()):
            raise EngineError(
                f'stage2.trained: "{self.settings.trained}" leaves nothing to train in this plan; replace an operator or'
                ' choose "all"'
            )
        self.model.recompute = self.settings.recompute
        s = self.settings
        if s.distill_null and plan.shape.family == "pixart" and self.draws.null_caption is None:
            raise EngineError(
                "stage2.distill_null: the model's file has no 'y_embedder.y_embedding' for no caption; set it to false"
            )
        self.teacher = graft.teacher if s.distillation_weight > 0 or s.feature_weight > 0 else None
        self.features = features(plan) if s.feature_weight > 0 else {}
        self.net: nn.Module = self._wrap()
        named = [(n, p) for n, p in self.model.named_parameters() if p.requires_grad]
        new = tuple(prefix for site in plan.sites for prefix in site.prefixes)
        factors = [
            1.0 if (new and name.startswith(new)) or ".lora_" in name else s.inherited_rate for name, _ in named
        ]
        make = Muon if s.optimizer == "muon" else AdamW
        self.optimizer = make(named, s.weight_decay, factors=factors)
        if self.sharded:
            self.optimizer.sum_over_ranks = ranks.sum_tensor
        self.averages = Averages([p for _, p in named])
        self.step = 0
        self.gradient_norm = 0.0
        """Norm of the gradient of the last step, before clipping."""
        self.repeated = max(1, s.teacher_samples // s.batch_size) if s.teacher_samples > 0 else None
        """Number of batches that come again and again; None if every step draws new samples."""
        self.outputs: dict[tuple[int, int], torch.Tensor] = {}
        """The teacher's outputs on batches that come again, by batch and first row."""
        self.lowest: float | None = None
        self.last_batch: Batch | None = None

    @property
    def sharded(self) -> bool:
        """Whether weights are distributed over ranks."""
        return self.execution.shard and self.ranks.world > 1

    def _wrap(self) -> nn.Module:
        model, ranks = self.model, self.ranks
        if self.execution.compiles:
            for block in model.blocks:
                block.compile()
        if ranks.world == 1:
            return model
        if not self.execution.shard:
            net = DistributedDataParallel(
                model, device_ids=[ranks.device.index] if ranks.kind == "cuda" else None, broadcast_buffers=False,
                gradient_as_bucket_view=True,
            )
            net.register_comm_hook(None, _sum_hook)
            return net
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh(ranks.kind, (ranks.world,))
        for index, block in enumerate(model.blocks):
            merge = model.merge(index)
            # A merge is called on its own, after its block.
            if merge is not None and any(True for _ in merge.parameters()):
                fully_shard(merge, mesh=mesh, reshard_after_forward=True)
            fully_shard(block, mesh=mesh, reshard_after_forward=True)
        fully_shard(model, mesh=mesh, reshard_after_forward=True)
        for module in model.modules():
            _sum_when_sharded(module)
        return model

    # Steps

    def _parts(self, count: int) -> list[tuple[range, float]]:
        """Rows of this rank's forward passes and their weights; all ranks have equally many passes.

        A rank without rows for a pass runs a row of another with weight 0, because passes are collective.
        """
        rows, most = self.ranks.rows(count), self.ranks.most_rows(count)
        passes = max(1, -(-most // self.micro_batch))
        parts = []
        for index in range(passes):
            start = rows.start + index * self.micro_batch
            part = range(start, min(rows.stop, start + self.micro_batch))
            parts.append((part, 1.0) if len(part) > 0 else (range(0, 1), 0.0))
        return parts

    @property
    def samples(self) -> int:
        """Number of samples of a step, on all ranks."""
        return self.settings.batch_size

    def take_step(self) -> float:
        """Takes an optimizer step and returns the loss before it; NaN if the step was skipped."""
        settings = self.settings
        size, sums = settings.batch_size, torch.zeros(5, dtype=torch.float64, device=self.ranks.device)
        rows = self.ranks.rows(size)
        number = self.step % self.repeated if self.repeated else self.step

        def draw(rows: range) -> tuple[Batch, Batch | None]:
            return self._drawn(self.teacher is not None, lambda d: d.step(self.dataset, rows, size, "stage2", number))

        whole, null = draw(rows)
        self.last_batch = whole
        feature_weight = settings.feature_weight * (1 - self.step / settings.steps)
        parts = self._parts(size)
        for index, (part, weight) in enumerate(parts):
            if weight > 0:
                place = slice(part.start - rows.start, part.stop - rows.start)
                batch, other = whole[place], null[place] if null is not None else None
            else:
                batch, other = draw(part)
            self._synchronizes(index == len(parts) - 1)
            place = (number, part.start) if self.repeated and weight > 0 else None
            loss, terms = self._loss(self.net, batch, other, feature_weight, place=place)
            (loss * (weight / size)).backward()
            sums += weight * terms
        self._synchronizes(True)
        losses = [x / size for x in self.ranks.sum(sums.tolist())]
        if not math.isfinite(losses[0]):
            self.optimizer.clear()
            self.step += 1
            return math.nan
        norm = self.gradient_norm = self.optimizer.step(self.rate(self.step), settings.clip_norm)
        if math.isfinite(norm):
            decay = np.float32(settings.ema_decay)
            if settings.ema_warmup:
                decay = min(decay, np.float32(self.step + 1) / np.float32(self.step + 10))
            self.averages.update(float(decay))
        self.step += 1
        return losses[0] if math.isfinite(norm) else math.nan

    def _synchronizes(self, last: bool) -> None:
        """Whether the next backward pass exchanges gradients."""
        if isinstance(self.net, DistributedDataParallel):
            self.net.require_backward_grad_sync = last
        elif self.sharded:
            self.net.set_requires_gradient_sync(last)  # type: ignore[operator]

    def _drawn(
        self, is_compared: bool, draw: Callable[[Draws], Batch]
    ) -> tuple[Batch, Batch | None]:
        """A batch and, where the teacher's terms compare them, the same samples without their condition."""
        if not is_compared or not self.settings.distill_null:
            return draw(self.draws), None
        return draw(self.draws), draw(dataclasses.replace(self.draws, label_dropout=1.0))

    def _loss(
        self, net: nn.Module, batch: Batch, null: Batch | None = None, feature_weight: float = 0.0, distils: bool = True,
        place: tuple[int, int] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss summed over rows, and loss, mse, vb, distillation and features as numbers (5).

        place: batch and first row of rows that come again.
        """
        settings, rows = self.settings, len(batch)
        noisy = self.process.noisy(batch.latents, batch.noise, batch.steps)
        times, condition = self.process.times(batch.steps), batch.condition
        inputs = noisy
        if null is not None:
            inputs, times = torch.cat([noisy, noisy]), torch.cat([times, times])
            condition = condition.joined(null.condition)
        self.model.kept = dict.fromkeys(self.features if feature_weight > 0 else ())
        with self.autocast():
            output = net(inputs, times, condition)
        kept, self.model.kept = self.model.kept, {}
        terms = self.process.losses(output[:rows], batch.latents, noisy, batch.noise, batch.steps)
        none = terms.loss.new_zeros(())
        loss, distillation, apart = terms.loss.sum(), none, none
        if distils:
            loss = settings.diffusion_weight * loss if settings.diffusion_weight > 0 else none
        if self.teacher is not None and distils:
            copies = len(inputs) / rows if rows else 1.0
            target = self.outputs.get(place) if place is not None and not kept else None
            wanted: dict[str, torch.Tensor | None] = {}
            if target is None:
                self.teacher.kept = dict.fromkeys(self.features[name] for name in kept)
                with torch.no_grad(), self.autocast():
                    target = self.teacher(inputs, times, condition)
                wanted, self.teacher.kept = self.teacher.kept, {}
                if place is not None and not kept:
                    self.outputs[place] = target
            squares = (output.double() - target.double()).square()
            if settings.variance_weight != 1:
                squares[:, noisy.shape[1] :] *= settings.variance_weight
            distillation = squares.flatten(1).mean(1).sum() / copies
            for name, found in kept.items():
                goal = wanted[self.features[name]]
                assert found is not None and goal is not None
                apart = apart + relative_distance(found, goal, settings.feature_outliers).sum() / copies / len(kept)
            loss = loss + settings.distillation_weight * distillation + feature_weight * apart
        with torch.no_grad():
            numbers = torch.stack(
                [loss.detach(), terms.mse.sum(), terms.vb.sum(), distillation.detach(), apart.detach()]
            )
        return loss, numbers

    def rate(self, step: int) -> float:
        """The learning rate of a step."""
        return learning_rate(self.settings, self.settings.steps, step)

    def rates(self) -> float:
        """The learning rate of the last step, or of the first before any."""
        return self.rate(max(0, self.step - 1))

    # Measuring

    @torch.no_grad()
    def held_out(self) -> float:
        """Loss of the averaged weights on the held-out samples; the teacher's term if the diffusion loss has no weight."""
        count, total = self.settings.held_out_samples, 0.0
        is_compared = self.settings.diffusion_weight == 0
        net = self.net if self.sharded else self.model
        self.averages.swap()
        try:
            for part, weight in self._parts(count):
                batch, null = self._drawn(is_compared, lambda d: d.batch(self.held_out_data, part, "held-out"))
                _, terms = self._loss(net, batch, null, distils=is_compared)
                total += weight * terms[3 if is_compared else 0].item()
        finally:
            self.averages.swap()
        return self.ranks.sum([total])[0] / count

    def validate(self, folder: str, write: Callable[[Callable[[], None]], None]) -> float:
        """Measures the held-out loss, and keeps the model with the lowest if the plan says so."""
        loss = self.held_out()
        if self.settings.keep_best and loss < (math.inf if self.lowest is None else self.lowest):
            save = self.prepare_model()
            write(lambda: save(f"{folder}/best.safetensors"))
            self.lowest = loss
        return loss

    def is_sound(self) -> bool:
        """Whether forward and backward pass of a held-out sample are finite."""
        batch = Draws(
            self.plan.shape, self.plan.seed, 0.0, self.ranks.device, self.draws.null_caption
        ).batch(self.held_out_data, range(1), "witness")
        self._synchronizes(True)
        loss, _ = self._loss(self.net, batch, distils=False)
        (loss / self.ranks.world).backward()
        finite = math.isfinite(loss.item()) and math.isfinite(self.optimizer.gradient_norm())
        self.optimizer.clear()
        return not self.ranks.any([not finite])[0]

    def fault_in_data(self) -> str | None:
        """A sentence about samples of the last step, or of a held-out one, that are not finite."""
        fault = self.dataset.fault(self.last_batch) if self.last_batch is not None else None
        if fault is None:
            witness = self.draws.batch(self.held_out_data, range(1), "witness")
            fault = self.held_out_data.fault(witness, "held-out")
        return next((f for f in self.ranks.collect(fault) if f), None)

    def place_of_failure(self) -> str | None:
        """The first module of a pass over the last batch, or else the first gradient, that is not finite."""
        if self.sharded:
            return None
        found: list[str] = []

        def observe(name: str, tensor: torch.Tensor) -> None:
            if not found and not torch.isfinite(tensor).all():
                found.append(name)

        batch = self.last_batch
        if batch is not None and len(batch):
            noisy = self.process.noisy(batch.latents, batch.noise, batch.steps)
            with torch.no_grad(), self.autocast():
                self.model(noisy, self.process.times(batch.steps), batch.condition, observe)
        return next((name for names in self.ranks.collect(found) for name in names), None)

    # Files

    def _whole(self, parameter: torch.Tensor, own: torch.Tensor | None = None) -> torch.Tensor:
        """A parameter, or a tensor that is distributed like it, as a whole; collective if it is distributed."""
        own = local(parameter.detach()) if own is None else own
        return whole(parameter, own).cpu() if hasattr(parameter, "full_tensor") else own

    def prepare_model(self) -> Callable[[str], None]:
        """The averaged model with merged additions; the result writes it on rank 0, and may be repeated."""
        metadata = {
            **self.file.result_metadata(), PLAN_KEY: self.plan.text, "finetuning_steps": str(self.step),
        }
        averaged = dict(zip(self.optimizer.names, self.averages.values))
        values = {n: self._whole(p, averaged.get(n)) for n, p in self.model.named_parameters()}
        adapters = {}
        for name, module in self.model.named_modules():
            if isinstance(module, lora.LoRALinear):
                adapters[f"{name}.weight"] = (
                    values.pop(f"{name}.lora_A.weight"), values.pop(f"{name}.lora_B.weight"), module.scale
                )
        items: list[Item] = [
            (n, tuple(v.shape), lambda n=n, v=v: lora.merged(n, v, adapters)) for n, v in values.items()
        ]
        return lambda path: write_tensors(path, items, metadata)

    def save_results(self, folder: str, write: Callable[[Callable[[], None]], None]) -> None:
        """Writes the model of the current step."""
        save = self.prepare_model()
        write(lambda: save(f"{folder}/model.safetensors"))

    def prepare_checkpoint(self) -> Callable[[str], None]:
        """Gathers the state; the result writes it on rank 0, and may be repeated."""
        metadata = checkpoints.metadata(KIND, self.plan, self.step, self.dataset, self.held_out_data)
        metadata["optimizer_steps"] = str(self.optimizer.steps)
        if self.lowest is not None:
            metadata["lowest_held_out_loss"] = repr(self.lowest)
        items: list[Item] = []
        o = self.optimizer
        for index, (name, parameter) in enumerate(zip(o.names, o.parameters)):
            for prefix, part in (
                ("model.", None), ("ema.", self.averages.values[index]), ("first.", o.first[index]),
                ("second.", o.second[index]),
            ):
                items.append(item(prefix + name, self._whole(parameter, part)))
        trained = set(o.names)
        items += [
            item(f"model.{n}", self._whole(p)) for n, p in self.model.named_parameters() if n not in trained
        ]
        return lambda path: write_tensors(path, items, metadata)

    def resume(self, path: str) -> None:
        """Goes on from a checkpoint of this plan, of either engine."""
        file = TensorFile(path)
        if file.metadata.get("espalier_file") != KIND:
            raise EngineError(f"{path}: is no {KIND}; remove it to start anew")
        saved = checkpoints.count(file, "step", self.settings.steps)
        checkpoints.require_continuation(file, self.plan, self.dataset, self.held_out_data)
        self.optimizer.steps = checkpoints.count(file, "optimizer_steps", self.settings.steps)
        o = self.optimizer
        for index, (name, parameter) in enumerate(zip(o.names, o.parameters)):
            for prefix, target in (
                ("model.", local(parameter.data)), ("ema.", self.averages.values[index]),
                ("first.", o.first[index]), ("second.", o.second[index]),
            ):
                target.copy_(self._part(file.tensor(prefix + name, tuple(parameter.shape)), parameter))
        trained = set(o.names)
        for name, parameter in self.model.named_parameters():
            if name not in trained:
                value = self._part(file.tensor(f"model.{name}", tuple(parameter.shape)), parameter)
                target = local(parameter.data)
                # Frozen tensors may be those of the teacher, so they are replaced instead of overwritten.
                if target is parameter.data and not self.sharded:
                    parameter.data = value.to(target.device)
                else:
                    target.copy_(value)
        self.step = saved
        lowest = file.metadata.get("lowest_held_out_loss")
        self.lowest = float(lowest) if lowest else None

    def _part(self, value: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
        """This rank's part of a whole tensor."""
        return part(parameter, value.to(self.ranks.device) if hasattr(parameter, "full_tensor") else value)


def _sum_hook(state, bucket):  # type: ignore[no-untyped-def]
    """Sums gradients over ranks; DDP's own hook takes the mean. DDP refuses annotations that are strings."""
    work = dist.all_reduce(bucket.buffer(), async_op=True)
    return work.get_future().then(lambda future: future.value()[0])


def _sum_when_sharded(module: nn.Module) -> None:
    """Lets FSDP2 sum a module's gradients over ranks instead of taking their mean."""
    force = getattr(module, "set_force_sum_reduction_for_comms", None)
    if force is not None:
        force(True)
    # The name of before PyTorch 2.8.
    for name in ("set_gradient_divide_factor", "set_reduce_scatter_divide_factor"):
        setter = getattr(module, name, None)
        if setter is not None:
            setter(1.0)
            return
