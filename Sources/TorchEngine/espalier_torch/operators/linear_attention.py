"""Linear attention over all tokens with the feature map elu + 1 (arXiv 2006.16236): `qkv`, `proj`."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import elu

from . import transfers
from .base import Config, Context, Definition, Operator, heads, heads_field, heads_refusal, join_heads, split_heads


class LinearAttention(Operator):
    """phi(q) (phi(k)^T v) / (phi(q) . sum phi(k) + 1e-6), in float32."""

    def __init__(self, dim: int, count: int):
        super().__init__()
        self.heads = count
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: torch.Tensor, grid: tuple[int, int] | None = None) -> torch.Tensor:
        projected = self.qkv(x)
        with torch.autocast(x.device.type, enabled=False):
            q, k, v = split_heads(projected.float(), self.heads)
            q, k = elu(q) + 1, elu(k) + 1
            total = q @ k.sum(-2, keepdim=True).transpose(-1, -2)
            mixed = q @ (k.transpose(-1, -2) @ v) / (total + 1e-6)
        return self.proj(join_heads(mixed))


def _build(config: Config, context: Context) -> Operator:
    return LinearAttention(context.hidden_size, heads(config, context.num_heads))


OPERATOR = Definition(
    "linear_attention", ("attention",), (heads_field(),), _build, heads_refusal, transfers.values
)
