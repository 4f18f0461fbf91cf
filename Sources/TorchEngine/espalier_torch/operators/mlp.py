"""y = fc2(GELU_tanh(fc1(x))) with any hidden size (timm `Mlp`): `fc1`, `fc2`."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import gelu

from ..shape import ModelShape
from . import transfers
from .base import Config, Definition, Field, Operator


class MLP(Operator):
    """x (batch, tokens, dim) -> (batch, tokens, dim)."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: torch.Tensor, grid: tuple[int, int] | None = None) -> torch.Tensor:
        return self.fc2(gelu(self.fc1(x), approximate="tanh"))


def _width(config: Config, dim: int) -> int:
    """Inner width: ratio times hidden size, truncated as in timm."""
    return int(config.get("expansion_ratio", 4) * dim)


def _refusal(config: Config, shape: ModelShape) -> str | None:
    if _width(config, shape.hidden_size) >= 1:
        return None
    return (
        f"expansion_ratio {config['expansion_ratio']:g} of {shape.hidden_size} channels leaves no inner channel;"
        " choose a larger ratio"
    )


OPERATOR = Definition(
    "mlp", ("mlp",), (Field("expansion_ratio", 4, 0.25, 16, integer=False),),
    lambda config, context: MLP(context.hidden_size, _width(config, context.hidden_size)),
    _refusal, lambda config: transfers.hidden_units("fc1", "fc2"),
    lambda config, shape: "the model's MLPs are gated, so their weights do not fit" if shape.swiglu else None,
)
