"""Fresh weights: each parameter is drawn from the stream named by its key (docs/random.md)."""

from __future__ import annotations

import math
from typing import Callable

import numpy as np
import torch

from .philox import Stream

Initializer = Callable[[tuple[int, ...], Stream], torch.Tensor]
"""Makes a tensor of a shape from a parameter's stream; element i uses number i."""


def _sqrt32(x: float) -> float:
    """The square root in float32."""
    return float(np.sqrt(np.float32(x), dtype=np.float32))


def zeros(shape: tuple[int, ...], stream: Stream) -> torch.Tensor:
    """All zeros."""
    return torch.zeros(shape)


def ones(shape: tuple[int, ...], stream: Stream) -> torch.Tensor:
    """All ones."""
    return torch.ones(shape)


def uniform(bound: float) -> Initializer:
    """U(-bound, bound), bound rounded to float32."""

    def make(shape: tuple[int, ...], stream: Stream) -> torch.Tensor:
        values = stream.uniform(0, math.prod(shape)).mul_(2).sub_(1).float()
        return values.mul_(torch.tensor(bound, dtype=torch.float32)).reshape(shape)

    return make


def fan_in(count: int) -> Initializer:
    """PyTorch's default of linear and convolution layers: U(-1/sqrt(fan_in), 1/sqrt(fan_in))."""
    return uniform(float(np.float32(1) / np.float32(_sqrt32(count))))


def normal(std: float) -> Initializer:
    """N(0, std^2), std rounded to float32."""
    return lambda shape, stream: stream.normal(shape).mul_(torch.tensor(std, dtype=torch.float32))


def xavier(shape: tuple[int, ...], stream: Stream) -> torch.Tensor:
    """Xavier uniform of a matrix (out, in...)."""
    fan = math.prod(shape[1:]) + shape[0]
    return uniform(_sqrt32(float(np.float32(6) / np.float32(fan))))(shape, stream)


def drawn(rule: Callable[[float], float]) -> Initializer:
    """A function of one uniform number per element, computed in double precision."""

    def make(shape: tuple[int, ...], stream: Stream) -> torch.Tensor:
        values = [rule(u) for u in stream.uniform(0, math.prod(shape)).tolist()]
        return torch.tensor(values, dtype=torch.float64).float().reshape(shape)

    return make


def table(values: torch.Tensor) -> Initializer:
    """A fixed table."""
    return lambda shape, stream: values.reshape(shape).clone()
