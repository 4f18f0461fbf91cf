"""y = 0 without parameters: prunes the slot, so that only the residual connection remains."""

from __future__ import annotations

import torch

from .base import Definition, Operator


class Skip(Operator):
    """x (batch, tokens, dim) -> zeros of the same shape."""

    def forward(self, x: torch.Tensor, grid: tuple[int, int] | None = None) -> torch.Tensor:
        return torch.zeros_like(x)


OPERATOR = Definition("skip", ("attention", "mlp"), (), lambda config, context: Skip())
