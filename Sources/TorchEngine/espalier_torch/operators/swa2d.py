"""Softmax attention to a square window of the token grid (neighborhood attention, arXiv 2204.07143): `qkv`, `proj`."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from . import transfers
from .base import Attention, Context, Definition, heads, heads_field, join_heads, sides
from .base import window_field, window_mask, window_refusal


class SlidingWindow2D(Attention):
    """Each query attends to `window` x `window` tokens of the grid."""

    def __init__(self, context: Context, count: int, window: int):
        super().__init__(context, count)
        dim, self.window = context.hidden_size, window
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x: torch.Tensor, grid: tuple[int, int] | None = None) -> torch.Tensor:
        q, k, v = self.split(self.qkv(x), grid)
        mask = window_mask(*sides(x, grid), (self.window, self.window), x.device)
        return self.proj(join_heads(scaled_dot_product_attention(q, k, v, attn_mask=mask)))


OPERATOR = Definition(
    "swa2d", ("attention",), (window_field(), heads_field()),
    lambda config, context: SlidingWindow2D(context, heads(config, context.num_heads), int(config["window"])),
    window_refusal, lambda config: transfers.attention("qkv", "proj"),
)
