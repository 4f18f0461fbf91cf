"""y = fc2(GELU_tanh(fc1(x))) with any hidden size (timm `Mlp`): `fc1`, `fc2`."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import gelu

from . import transfers
from .base import Definition, Operator, inner_width, ratio_field, ratio_refusal


class MLP(Operator):
    """x (batch, tokens, dim) -> (batch, tokens, dim)."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: torch.Tensor, grid: tuple[int, int] | None = None) -> torch.Tensor:
        return self.fc2(gelu(self.fc1(x), approximate="tanh"))


OPERATOR = Definition(
    "mlp", ("mlp",), (ratio_field(4),),
    lambda config, context: MLP(context.hidden_size, inner_width(config, context.hidden_size)),
    ratio_refusal, lambda config: transfers.hidden_units("fc1", "fc2"),
    lambda config, shape: "the model's MLPs are gated, so their weights do not fit" if shape.swiglu else None,
)
