"""Softmax attention over all tokens (timm `Attention`): `qkv`, `proj`."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from . import transfers
from .base import Attention, Config, Context, Definition, Field, Operator, heads, heads_field, heads_refusal
from .base import join_heads


class MultiHeadAttention(Attention):
    """x (batch, tokens, dim) -> (batch, tokens, dim)."""

    def __init__(self, context: Context, count: int, qkv_bias: bool = True):
        super().__init__(context, count)
        dim = context.hidden_size
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: torch.Tensor, grid: tuple[int, int] | None = None) -> torch.Tensor:
        q, k, v = self.split(self.qkv(x), grid)
        return self.proj(join_heads(scaled_dot_product_attention(q, k, v)))

    def map(self, x: torch.Tensor) -> torch.Tensor:
        """The softmax weights (batch, heads, tokens, tokens)."""
        q, k, _ = self.split(self.qkv(x), None)
        return (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)


def _build(config: Config, context: Context) -> Operator:
    return MultiHeadAttention(context, heads(config, context.num_heads), config.get("qkv_bias", 1) == 1)


OPERATOR = Definition(
    "mha", ("attention",), (heads_field(), Field("qkv_bias", 1, 0, 1, implied=True)), _build, heads_refusal,
    lambda config: transfers.attention("qkv", "proj"),
)
