"""AdamW, Muon, learning-rate schedules and averages of weights, equal to those of the native engine."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Callable, Sequence

import numpy as np
import torch

Named = Sequence[tuple[str, torch.nn.Parameter]]


def local(tensor: torch.Tensor) -> torch.Tensor:
    """This rank's part of a sharded tensor; the tensor itself if it is not sharded."""
    to_local = getattr(tensor, "to_local", None)
    return to_local() if callable(to_local) else tensor


def whole(parameter: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """The whole of a tensor of which every rank has the part that it has of a parameter; collective if it is sharded."""
    if not hasattr(parameter, "full_tensor"):
        return own
    from torch.distributed.tensor import DTensor

    return DTensor.from_local(
        own, parameter.device_mesh, parameter.placements, shape=parameter.shape, stride=parameter.stride()
    ).full_tensor()


def part(parameter: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """This rank's part of a whole tensor, divided as a parameter is."""
    if not hasattr(parameter, "full_tensor"):
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value, parameter.device_mesh, parameter.placements).to_local()


class AdamW:
    """AdamW with decoupled weight decay and bias correction, float32, element-wise on this rank's part."""

    def __init__(
        self,
        named: Named,
        weight_decay: float = 0.0,
        *,
        factors: Sequence[float] | None = None,
        betas: tuple[float, float] = (0.9, 0.999),
        epsilon: float = 1e-8,
    ):
        self.names = [name for name, _ in named]
        self.parameters = [parameter for _, parameter in named]
        self.factors = list(factors) if factors is not None else [1.0] * len(named)
        """Factor of the rate of each parameter."""
        self.weight_decay, self.betas, self.epsilon = weight_decay, betas, epsilon
        self.first = [torch.zeros_like(local(p.detach())) for p in self.parameters]
        self.second = [torch.zeros_like(local(p.detach())) for p in self.parameters]
        self.steps = 0
        self.sum_over_ranks: Callable[[torch.Tensor], torch.Tensor] | None = None
        """Adds the squares of sharded gradients over ranks; None if every rank has whole gradients."""

    def gradient_norm(self) -> float:
        """Global L2 norm of all gradients."""
        squares = [
            torch.linalg.vector_norm(local(p.grad), dtype=torch.float64).square()
            for p in self.parameters
            if p.grad is not None
        ]
        if not squares:
            return 0.0
        total = torch.stack(squares).sum()
        if self.sum_over_ranks is not None:
            total = self.sum_over_ranks(total)
        return math.sqrt(total.item()) if math.isfinite(total.item()) else float(total)

    def clear(self) -> None:
        """Forgets the gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self, rate: float, clip_norm: float | None = None) -> float:
        """Takes a step if the gradient norm is finite, clears the gradients, and returns the norm before clipping."""
        norm = self.gradient_norm()
        if not math.isfinite(norm):
            self.clear()
            return norm
        f = np.float32
        self._update(rate, f(1) if clip_norm is None else min(f(1), f(clip_norm) / (f(norm) + f(1e-6))))
        self.clear()
        return norm

    def _update(self, rate: float, scale: np.float32) -> None:
        """Moves the parameters that have gradients, which are multiplied by `scale`."""
        f = np.float32
        self.steps += 1
        beta1, beta2 = f(self.betas[0]), f(self.betas[1])
        correction1 = f(1) - f(float(beta1) ** self.steps)
        correction2 = f(1) - f(float(beta2) ** self.steps)
        root = f(1) / np.sqrt(correction2)
        for factor in sorted(set(self.factors)):
            rate32 = f(rate) * f(factor)
            step = rate32 / correction1
            active = [
                i for i, p in enumerate(self.parameters) if p.grad is not None and self.factors[i] == factor
            ]
            if not active:
                continue
            values = [local(self.parameters[i].data) for i in active]
            gradients = [local(self.parameters[i].grad) for i in active]
            first, second = [self.first[i] for i in active], [self.second[i] for i in active]
            if scale != 1:
                torch._foreach_mul_(gradients, float(scale))
            torch._foreach_mul_(first, float(beta1))
            torch._foreach_add_(first, gradients, alpha=float(f(1) - beta1))
            torch._foreach_mul_(second, float(beta2))
            torch._foreach_addcmul_(second, gradients, gradients, value=float(f(1) - beta2))
            divisors = torch._foreach_sqrt(second)
            torch._foreach_mul_(divisors, float(root))
            torch._foreach_add_(divisors, float(f(self.epsilon)))
            if self.weight_decay:
                torch._foreach_mul_(values, float(f(1) - rate32 * f(self.weight_decay)))
            torch._foreach_addcdiv_(values, first, divisors, value=-float(step))


FUSED = ("qkv", "Wqkv", "in_proj", "w12")


def stacked(name: str, shape: Sequence[int]) -> int | None:
    """Number of matrices in a weight of attention or MLP of a block, and None for any other parameter.

    Fused projections count as square matrices where their rows are a multiple of their columns.
    """
    path = name.split(".")
    if len(shape) != 2 or len(path) < 4 or path[0] != "blocks" or path[-1] != "weight":
        return None
    if path[2] not in ("attn", "cross_attn", "mlp"):
        return None
    rows, columns = shape
    return rows // columns if path[-2] in FUSED and rows % columns == 0 else 1


def orthogonalized(matrix: torch.Tensor) -> torch.Tensor:
    """Approximates the nearest semi-orthogonal matrices (..., rows, columns) by five quintic Newton-Schulz iterations."""
    x = matrix / (torch.linalg.vector_norm(matrix, dim=(-2, -1), keepdim=True) + 1e-7)
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.mT if tall else x


class Muon(AdamW):
    """Nesterov momentum with orthogonalised updates of the matrices, scaled by 0.2 sqrt(max(rows, columns)); AdamW for
    all other parameters (Jordan 2024, "Muon"; arXiv 2502.16982).
    """

    MOMENTUM = 0.95

    def __init__(self, named: Named, weight_decay: float = 0.0, *, factors: Sequence[float] | None = None):
        super().__init__(named, weight_decay, factors=factors)
        counts = [stacked(name, parameter.shape) for name, parameter in named]
        self.matrices = [(index, count) for index, count in enumerate(counts) if count is not None]

    def _update(self, rate: float, scale: np.float32) -> None:
        f = np.float32
        for index, count in self.matrices:
            parameter, buffer = self.parameters[index], self.first[index]
            if parameter.grad is None:
                continue
            gradient = local(parameter.grad) * float(scale)
            buffer.mul_(self.MOMENTUM).add_(gradient)
            ahead = whole(parameter, gradient.add_(buffer, alpha=self.MOMENTUM))
            rows, columns = ahead.shape[0] // count, ahead.shape[1]
            direction = part(parameter, orthogonalized(ahead.view(count, rows, columns)).reshape(ahead.shape))
            rate32 = f(rate) * f(self.factors[index])
            value = local(parameter.data)
            if self.weight_decay:
                value.mul_(float(f(1) - rate32 * f(self.weight_decay)))
            value.add_(direction, alpha=-float(rate32 * f(0.2) * np.sqrt(f(max(rows, columns)))))
            parameter.grad = None
        super()._update(rate, scale)


class Averages:
    """Exponential moving averages of parameters, which start as copies."""

    def __init__(self, parameters: Sequence[torch.nn.Parameter]):
        self.parameters = list(parameters)
        self.values = [local(p.detach()).clone() for p in self.parameters]

    @torch.no_grad()
    def update(self, decay: float) -> None:
        """average = decay * average + (1 - decay) * parameter, in float32."""
        d = np.float32(decay)
        torch._foreach_mul_(self.values, float(d))
        torch._foreach_add_(self.values, [local(p.data) for p in self.parameters], alpha=float(np.float32(1) - d))

    @torch.no_grad()
    def swap(self) -> None:
        """Exchanges averages and parameters; twice is nothing."""
        for parameter, value in zip(self.parameters, self.values):
            own = local(parameter.data)
            kept = own.clone()
            own.copy_(value)
            value.copy_(kept)


def swift_round(x: float) -> int:
    """Rounding to the nearest integer, halves away from zero."""
    return int(math.floor(x + 0.5)) if x >= 0 else -int(math.floor(-x + 0.5))


def learning_rate(settings: Any, total: int, step: int) -> float:
    """The rate of a step counted from 0: linear warm-up, then the schedule of the settings."""
    base, warmup = settings.learning_rate, settings.warmup_steps
    warm = (step + 1) / warmup if step < warmup else 1.0
    schedule = getattr(settings, "schedule", "multi_step")
    if schedule == "exponential":
        span = float(max(1, total - 1 - warmup))
        progress = min(1.0, max(0.0, (step - warmup) / span))
        return base * warm * math.pow(settings.min_learning_rate / base, progress)
    if schedule == "plateau":
        return base * warm
    passed = sum(1 for m in settings.milestones if swift_round(m * total) <= step)
    return base * warm * math.pow(settings.gamma, passed)


@dataclasses.dataclass
class Plateau:
    """Learning-rate factor reduced on a loss plateau: patience 1, relative threshold 1e-4."""

    factor: float = 1.0
    best: float | None = None
    failures: int = 0

    def observe(self, loss: float, gamma: float) -> None:
        """Records a held-out loss."""
        if self.best is not None and loss >= self.best * (1 - 1e-4):
            self.failures += 1
        else:
            self.best, self.failures = loss, 0
        if self.failures > 1:
            self.factor, self.failures = self.factor * gamma, 0

    def json(self) -> dict[str, Any]:
        """The state in checkpoints."""
        values: dict[str, Any] = {"factor": self.factor, "failures": self.failures}
        if self.best is not None:
            values["best"] = self.best
        return values
