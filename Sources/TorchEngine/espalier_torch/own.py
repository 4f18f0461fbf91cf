"""Samples that a class-conditional teacher draws itself, for training without data.

The same as the native engine's `TeacherLatents`: a trajectory follows from seed, stream and its number; a step of a
training takes members of a pool, each of which is then denoised by one step.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Callable

import torch

from .data import Batch, Dataset, Part
from .diffusion import TIMESTEPS
from .interpolant import LinearInterpolant
from .models import Backbone, Condition
from .philox import Stream
from .plan import OWN, Plan
from .teacher import process_of


@dataclasses.dataclass
class Prediction:
    """Clean latents and noise (1, channels, height, width) that the guided teacher predicts at a use of a member."""

    use: int
    data: torch.Tensor
    noise: torch.Tensor


class TeacherLatents:
    """A source of samples; its teacher is set when it is loaded."""

    def __init__(self, plan: Plan, device: torch.device, autocast: Callable[[], Any]):
        assert plan.data is not None
        self.shape, self.settings, self.hash = plan.shape, plan.data, plan.content_hash
        self.device, self.autocast = device, autocast
        self.process = process_of(plan.shape)
        self.teacher: Backbone | None = None
        self.members: dict[tuple[int, str, int], Prediction] = {}
        self.finished: dict[tuple[int, int], torch.Tensor] = {}
        self.size = (1, plan.shape.in_channels, plan.shape.input_size, plan.shape.input_size)

    def batch(
        self, rows: range, size: int, seed: int, stage: str, step: int, null_class: int | None, label_dropout: float
    ) -> Batch:
        """Some rows of a step of `size` rows, before they are denoised; latents and noise are predictions."""
        steps = self.settings.pool_steps
        groups = max(1, self.settings.pool // size)
        group, use = step % groups, step // groups
        stream, pool = f"{stage}/{OWN}", groups * size
        dropped = (Stream(seed, f"{stage}/{step}/label").uniform(rows.start, len(rows)) < label_dropout).tolist()
        data, noise, times, labels = [], [], [], []
        for row, drop in zip(rows, dropped):
            member = group * size + row
            uses = use + (row * groups + group) * steps // pool
            trajectory, place = member + uses // steps * pool, uses % steps
            key = (seed, stage, member)
            known = self.members.get(key)
            if known is None or known.use != uses:
                start = uses - place
                last = known if known is not None and start <= known.use < uses else None
                for u in range(start if last is None else last.use + 1, uses + 1):
                    last = Prediction(u, *self._advance(trajectory, u - start, last, seed, stream))
                assert last is not None
                self.members[key] = known = last
            data.append(known.data)
            noise.append(known.noise)
            times.append(self._time(trajectory, place, seed, stream))
            own = self._label(trajectory, seed, stream)
            labels.append(null_class if drop and null_class is not None else own)
        if not data:
            empty = torch.zeros(0, *self.size[1:], device=self.device)
            none = torch.zeros(0, dtype=torch.int64, device=self.device)
            return Batch(empty, empty, none, Condition(labels=none), [])
        return Batch(
            torch.cat(data), torch.cat(noise), torch.cat(times),
            Condition(labels=torch.tensor(labels, dtype=torch.int64)).to(self.device), [],
        )

    def dataset(self, count: int, seed: int, is_pool: bool) -> Dataset:
        """Finished samples as a data set; a sample is drawn when it is first asked for."""
        labels = [self._label(i, seed, OWN) for i in range(count)]
        s = self.settings
        identity = f"{OWN} {self.hash} {seed} {count} {s.pool} {s.pool_steps} {s.guidance:g}"
        part = Part(OWN, self.size[1:], labels, lambda row: self._clean(row, seed))
        result = Dataset([part], identity, OWN)
        result.pool = self if is_pool else None
        return result

    def _clean(self, trajectory: int, seed: int) -> torch.Tensor:
        if (seed, trajectory) not in self.finished:
            last = None
            for step in range(self.settings.pool_steps):
                last = Prediction(step, *self._advance(trajectory, step, last, seed, OWN))
            assert last is not None
            self.finished[seed, trajectory] = last.data[0].cpu()
        return self.finished[seed, trajectory]

    def _label(self, trajectory: int, seed: int, stream: str) -> int:
        return Stream(seed, f"{stream}/label").integers(self.shape.num_classes, trajectory, 1)[0]

    def _time(self, trajectory: int, step: int, seed: int, stream: str) -> torch.Tensor:
        """The time of a step of a trajectory (1), from noise to data."""
        shift = float(Stream(seed, f"{stream}/timestep").uniform(trajectory, 1)[0])
        place = (step + shift) / self.settings.pool_steps
        if isinstance(self.process, LinearInterpolant):
            return torch.tensor([place], dtype=torch.float32, device=self.device)
        return torch.tensor([min(TIMESTEPS - 1, max(0, int(TIMESTEPS * (1 - place))))], device=self.device)

    @torch.no_grad()
    def _advance(
        self, trajectory: int, step: int, last: Prediction | None, seed: int, stream: str
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The guided prediction at a step of a trajectory, from that of the step before."""
        assert self.teacher is not None
        width = self.size[1] * self.size[2] * self.size[3]
        time = self._time(trajectory, step, seed, stream)
        if last is None:
            latents = Stream(seed, f"{stream}/noise").normal(self.size, trajectory * width, self.device)
        else:
            latents = self.process.noisy(last.data, last.noise, time)
        label, null, scale = self._label(trajectory, seed, stream), self.shape.null_class, self.settings.guidance
        is_guided = null is not None and scale != 1 and float(time[0]) >= self.shape.guidance_start
        labels = torch.tensor([label, null] if is_guided else [label], dtype=torch.int64, device=self.device)
        times = self.process.times(time)
        with self.autocast():
            output = self.teacher(
                latents.expand(len(labels), -1, -1, -1), times.expand(len(labels)), Condition(labels=labels)
            ).float()
        prediction = output[:1].clone()
        if is_guided:
            channels = self.shape.guided_channels
            other = output[1:, :channels]
            prediction[:, :channels] = other + scale * (prediction[:, :channels] - other)
        return self.process.decomposed(prediction, latents, time)
