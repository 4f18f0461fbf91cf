"""y = w3(SiLU(a) b), a and b being the halves of w12(x) (LightningDiT `SwiGLUFFN`): `w12`, `w3`."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import silu

from . import transfers
from .base import Config, Context, Definition, Field, Operator, inner_width, ratio_field, ratio_refusal


class GatedMLP(Operator):
    """x (batch, tokens, dim) -> (batch, tokens, dim)."""

    def __init__(self, dim: int, hidden: int, bias: bool):
        super().__init__()
        self.w12 = nn.Linear(dim, 2 * hidden, bias=bias)
        self.w3 = nn.Linear(hidden, dim, bias=bias)

    def forward(self, x: torch.Tensor, grid: tuple[int, int] | None = None) -> torch.Tensor:
        gate, value = self.w12(x).chunk(2, dim=-1)
        return self.w3(silu(gate) * value)


def _build(config: Config, context: Context) -> Operator:
    return GatedMLP(
        context.hidden_size, inner_width(config, context.hidden_size), config.get("bias", 1) == 1
    )


OPERATOR = Definition(
    "swiglu", ("mlp",),
    (ratio_field(8 / 3), Field("bias", 1, 0, 1, implied=True)),
    _build, ratio_refusal, lambda config: transfers.hidden_units("w12", "w3", 2),
    lambda config, shape: None if shape.swiglu else "the model's MLPs are not gated, so their weights do not fit",
)
