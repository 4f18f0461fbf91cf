"""y = 0 without parameters, which prunes the slot, or a trained constant for all tokens: `bias`."""

from __future__ import annotations

import torch
from torch import nn

from .. import initializers as init
from .base import Definition, Field, Operator


class Skip(Operator):
    """x (batch, tokens, dim) -> zeros of the same shape."""

    def forward(self, x: torch.Tensor, grid: tuple[int, int] | None = None) -> torch.Tensor:
        return torch.zeros_like(x)


class Constant(Operator):
    """x (batch, tokens, dim) -> the bias for every token."""

    def __init__(self, dim: int):
        super().__init__()
        self.bias = nn.Parameter(torch.empty(dim))

    def forward(self, x: torch.Tensor, grid: tuple[int, int] | None = None) -> torch.Tensor:
        return self.bias.expand_as(x)

    def output_bias(self) -> nn.Parameter | None:
        return self.bias

    def own_initializers(self) -> dict[str, init.Initializer]:
        return {"bias": init.zeros}


OPERATOR = Definition(
    "skip", ("attention", "mlp"), (Field("constant", 0, 0, 1),),
    lambda config, context: Constant(context.hidden_size) if config["constant"] == 1 else Skip(),
)
