"""MLP-Hyena-X: a gated causal convolution along the features with one filter per token (keshik6/grafting)."""

from __future__ import annotations

import torch
from torch import nn

from ..shape import ModelShape
from .base import Config, Definition, Field, Operator, causal, depthwise
from .hyena import ORDER, taps_field


class MLPHyenaX(Operator):
    """`in_proj`, `short_filter` (tokens, 1, taps), `out_proj`; the filters fix the number of tokens."""

    def __init__(self, dim: int, tokens: int, ratio: int, taps: int):
        super().__init__()
        self.in_proj = nn.Linear(dim, 3 * ratio * dim)
        self.short_filter = depthwise(tokens, taps)
        self.out_proj = nn.Linear(ratio * dim, dim)

    def forward(self, x: torch.Tensor, grid: tuple[int, int] | None = None) -> torch.Tensor:
        q, k, v = causal(self.short_filter, self.in_proj(x)).chunk(3, dim=-1)
        return self.out_proj(q * (k * v))


def _refusal(config: Config, shape: ModelShape) -> str | None:
    length = config.get("l_max")
    if length is None or length == shape.tokens:
        return None
    return (
        f"l_max {length:g} differs from the {shape.tokens} tokens of the model, and every token has a filter of its"
        f" own; set it to {shape.tokens} or remove the setting"
    )


OPERATOR = Definition(
    "mlp_hyena_x", ("mlp",),
    (
        Field("expansion_ratio", 2, 1, 16), taps_field("short_filter_order"),
        Field("l_max", 256, 1, 1 << 24, implied=True), ORDER,
    ),
    lambda config, context: MLPHyenaX(
        context.hidden_size, context.tokens, int(config["expansion_ratio"]), int(config["short_filter_order"])
    ),
    _refusal,
)
