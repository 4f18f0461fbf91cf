"""Softmax attention inside a window along the raster sequence (flash-attn `MHA` with window_size): `Wqkv`, `out_proj`."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from . import transfers
from .base import Attention, Config, Context, Definition, Field, Operator, heads, heads_field, heads_refusal
from .base import join_heads


class SlidingWindowAttention(Attention):
    """Each query attends to `left` keys before and `right` keys after its own."""

    def __init__(self, context: Context, count: int, left: int, right: int):
        super().__init__(context, count)
        dim, self.left, self.right = context.hidden_size, left, right
        self.Wqkv = nn.Linear(dim, 3 * dim)
        self.out_proj = nn.Linear(dim, dim)

    def forward(self, x: torch.Tensor, grid: tuple[int, int] | None = None) -> torch.Tensor:
        q, k, v = self.split(self.Wqkv(x), grid)
        place = torch.arange(x.shape[1], device=x.device)
        distance = place[None, :] - place[:, None]
        window = (distance >= -self.left) & (distance <= self.right)
        return self.out_proj(join_heads(scaled_dot_product_attention(q, k, v, attn_mask=window)))


def _build(config: Config, context: Context) -> Operator:
    return SlidingWindowAttention(
        context, heads(config, context.num_heads), int(config["window_left"]), int(config["window_right"])
    )


OPERATOR = Definition(
    "swa", ("attention",),
    (Field("window_left", 4, 0, 65536), Field("window_right", 4, 0, 65536), heads_field()),
    _build, heads_refusal, lambda config: transfers.attention("Wqkv", "out_proj"),
)
