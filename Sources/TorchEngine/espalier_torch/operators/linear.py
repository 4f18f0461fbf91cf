"""y = W x + b for each token: `linear`."""

from __future__ import annotations

import torch
from torch import nn

from .base import Definition, Operator


class Linear(Operator):
    """x (batch, tokens, dim) -> (batch, tokens, dim)."""

    def __init__(self, dim: int):
        super().__init__()
        self.linear = nn.Linear(dim, dim)

    def forward(self, x: torch.Tensor, grid: tuple[int, int] | None = None) -> torch.Tensor:
        return self.linear(x)


OPERATOR = Definition("linear", ("attention", "mlp"), (), lambda config, context: Linear(context.hidden_size))
