"""The sequence mixer of the Hyena operators (keshik6/grafting): y = out_proj(q * inner(k * v))."""

from __future__ import annotations

import torch
from torch import nn

from .. import initializers as init
from .base import Field, Operator, causal, depthwise, identity_filter


class HyenaMixer(Operator):
    """q, k and v are thirds of short(in_proj(x)); both causal depthwise convolutions are optional."""

    def __init__(self, dim: int, short_taps: int | None, inner_taps: int | None):
        super().__init__()
        self.in_proj = nn.Linear(dim, 3 * dim)
        self.short_filter = depthwise(3 * dim, short_taps) if short_taps else None
        self.inner_filter = depthwise(dim, inner_taps) if inner_taps else None
        self.out_proj = nn.Linear(dim, dim)

    def forward(self, x: torch.Tensor, grid: tuple[int, int] | None = None) -> torch.Tensor:
        projected = self.in_proj(x).transpose(1, 2)
        if self.short_filter is not None:
            projected = causal(self.short_filter, projected)
        q, k, v = projected.chunk(3, dim=1)
        gated = k * v
        if self.inner_filter is not None:
            gated = causal(self.inner_filter, gated)
        return self.out_proj((q * gated).transpose(1, 2))

    def own_initializers(self) -> dict[str, init.Initializer]:
        if self.inner_filter is None:
            return {}
        channels, taps = self.inner_filter.in_channels, self.inner_filter.kernel_size[0]
        return {"inner_filter.weight": identity_filter(channels, taps), "inner_filter.bias": init.zeros}


def taps_field(key: str, implied: bool = False) -> Field:
    """The number of taps of a convolution."""
    return Field(key, 4, 1, 64, implied=implied)


ORDER = Field("order", 2, 2, 2, implied=True)
"""Depth of the recurrence; the official classes split the projection into q, k and v."""
