"""y = w3(SiLU(a) b), a and b being the halves of w12(x) (LightningDiT `SwiGLUFFN`): `w12`, `w3`."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import silu

from ..shape import ModelShape
from . import transfers
from .base import Config, Context, Definition, Field, Operator


class GatedMLP(Operator):
    """x (batch, tokens, dim) -> (batch, tokens, dim)."""

    def __init__(self, dim: int, hidden: int, bias: bool):
        super().__init__()
        self.w12 = nn.Linear(dim, 2 * hidden, bias=bias)
        self.w3 = nn.Linear(hidden, dim, bias=bias)

    def forward(self, x: torch.Tensor, grid: tuple[int, int] | None = None) -> torch.Tensor:
        gate, value = self.w12(x).chunk(2, dim=-1)
        return self.w3(silu(gate) * value)


def _width(config: Config, dim: int) -> int:
    """Inner width: ratio times hidden size, truncated."""
    return int(config.get("expansion_ratio", 8 / 3) * dim)


def _refusal(config: Config, shape: ModelShape) -> str | None:
    if _width(config, shape.hidden_size) >= 1:
        return None
    return (
        f"expansion_ratio {config['expansion_ratio']:g} of {shape.hidden_size} channels leaves no inner channel;"
        " choose a larger ratio"
    )


def _build(config: Config, context: Context) -> Operator:
    return GatedMLP(
        context.hidden_size, _width(config, context.hidden_size), config.get("bias", 1) == 1
    )


OPERATOR = Definition(
    "swiglu", ("mlp",),
    (Field("expansion_ratio", 8 / 3, 0.25, 16, integer=False), Field("bias", 1, 0, 1, implied=True)),
    _build, _refusal, lambda config: transfers.hidden_units("w12", "w3", 2),
    lambda config, shape: None if shape.swiglu else "the model's MLPs are not gated, so their weights do not fit",
)
