"""Softmax attention to near tokens and linear attention to all others, normalised together: `qkv`, `mix`, `proj`.

A near token weighs m exp(q . k head_dim^-1/2), a far one (1 - m) phi(q) . phi(k) / head_dim with phi = elu + 1 and
m = sigmoid(mix) of the head (after LoLCATs, arXiv 2410.10254).
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import elu

from .. import initializers as init
from . import transfers
from .base import Attention, Context, Definition, Field, heads, heads_field, join_heads, sides
from .base import window_field, window_mask, window_refusal


class HybridAttention(Attention):
    """Near is a window of the token grid (`axes` 2) or of the raster sequence (`axes` 1)."""

    def __init__(self, context: Context, count: int, window: int, axes: int):
        super().__init__(context, count)
        dim, self.window, self.axes = context.hidden_size, window, axes
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mix = nn.Parameter(torch.empty(count))

    def forward(self, x: torch.Tensor, grid: tuple[int, int] | None = None) -> torch.Tensor:
        projected = self.qkv(x)
        rows, columns = sides(x, grid)
        with torch.autocast(x.device.type, enabled=False):
            q, k, v = self.split(projected.float(), grid)
            extents = (rows * columns,) if self.axes == 1 else (rows, columns)
            if self.axes == 1:
                near = window_mask(1, rows * columns, (1, self.window), x.device)
            else:
                near = window_mask(rows, columns, (self.window, self.window), x.device)
            scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
            share = self.mix.sigmoid()[:, None, None]
            if self.window >= max(extents):
                # No token is far; the mix has no influence, but a gradient of zero.
                mixed = scores.softmax(-1) @ v + 0 * self.mix.sum()
            else:
                # Both kinds of weights are divided by the exponential of the same number.
                top = scores.masked_fill(~near, 0).amax(-1, keepdim=True).clamp(min=0).detach()
                far = (elu(q) + 1) @ (elu(k) + 1).transpose(-1, -2) / q.shape[-1]
                weights = torch.where(
                    near, share * torch.exp(scores.masked_fill(~near, 0) - top), (1 - share) * far * torch.exp(-top)
                )
                mixed = weights @ v / weights.sum(-1, keepdim=True)
        return self.proj(join_heads(mixed))

    def own_initializers(self) -> dict[str, init.Initializer]:
        return {"mix": init.zeros}


OPERATOR = Definition(
    "hybrid", ("attention",), (window_field(), Field("axes", 2, 1, 2), heads_field()),
    lambda config, context: HybridAttention(
        context, heads(config, context.num_heads), int(config["window"]), int(config["axes"])
    ),
    window_refusal, lambda config: transfers.attention("qkv", "proj"),
)
