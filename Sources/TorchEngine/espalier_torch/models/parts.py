"""What the model families share: conditioning, embeddings, the block with two operator slots, the output layer."""

from __future__ import annotations

import dataclasses
import math
from typing import Callable

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from ..operators import Operator
from ..shape import ModelShape


@dataclasses.dataclass
class Condition:
    """What a model is conditioned on besides the time: labels (batch), or captions (batch, length, channels)."""

    labels: torch.Tensor | None = None
    captions: torch.Tensor | None = None
    mask: torch.Tensor | None = None
    """(batch, length): 1 for tokens of the caption, 0 for padding."""
    features: torch.Tensor | None = None
    """Sinusoids of the times (batch, 256) that replace the computed ones."""

    def __getitem__(self, rows: slice) -> "Condition":
        return self._map(lambda x: x[rows])

    def joined(self, other: "Condition") -> "Condition":
        """The rows of both, which have the same kinds and lengths."""
        pairs = [(getattr(self, f.name), getattr(other, f.name)) for f in dataclasses.fields(self)]
        return Condition(*(None if x is None else torch.cat([x, y]) for x, y in pairs))

    def to(self, device: torch.device) -> "Condition":
        """Moves all tensors to a device."""
        return self._map(lambda x: x.to(device))

    def _map(self, body: Callable[[torch.Tensor], torch.Tensor]) -> "Condition":
        fields = (self.labels, self.captions, self.mask, self.features)
        return Condition(*(None if x is None else body(x) for x in fields))


@dataclasses.dataclass
class Activations:
    """Inputs and outputs of a block and its operators, (batch, tokens, dim); outputs are before the gates."""

    input: torch.Tensor
    attention_input: torch.Tensor
    attention_output: torch.Tensor
    mlp_input: torch.Tensor
    mlp_output: torch.Tensor
    output: torch.Tensor
    modulation: torch.Tensor
    """Shift, scale and gate of attention, then of the MLP (batch, 6 dim)."""

    def of(self, slot: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Input, output and gate (batch, dim) of the operator of a slot."""
        gates = self.modulation.chunk(6, dim=1)
        if slot == "attention":
            return self.attention_input, self.attention_output, gates[2]
        return self.mlp_input, self.mlp_output, gates[5]


Observer = Callable[[str, torch.Tensor], None]
"""Receives intermediate tensors by upstream module name."""
BlockObserver = Callable[[int, Activations], None]


def timestep_features(times: torch.Tensor, shift: int = 0) -> torch.Tensor:
    """Sinusoids (batch, 256) of times (batch): cosines, then sines, with float32 angles."""
    places = torch.arange(128, dtype=torch.float32, device=times.device)
    frequencies = torch.exp(-math.log(10000) * places / (128 - shift))
    angles = times.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class TimestepEmbedder(nn.Module):
    """Two linear layers on the sinusoids: (batch, 256) -> (batch, dim)."""

    def __init__(self, dim: int):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(256, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.mlp(features)


class PatchEmbed(nn.Module):
    """(batch, channels, height, width) -> (batch, tokens, dim), tokens in raster order."""

    def __init__(self, shape: ModelShape):
        super().__init__()
        self.proj = nn.Conv2d(shape.in_channels, shape.hidden_size, shape.patch_size, stride=shape.patch_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)


def norm(dim: int, epsilon: float, is_rms: bool = False) -> nn.Module:
    """A layer norm without weights, or a root mean square norm with."""
    return nn.RMSNorm(dim, eps=epsilon) if is_rms else nn.LayerNorm(dim, eps=epsilon, elementwise_affine=False)


def modulate(x: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """x (batch, tokens, dim), scaled and shifted by (batch, dim) each."""
    return x * (1 + scale[:, None]) + shift[:, None]


def unpatchify(x: torch.Tensor, patch: int, grid: tuple[int, int]) -> torch.Tensor:
    """(batch, tokens, patch^2 channels) -> (batch, channels, height, width)."""
    rows, columns = grid
    x = x.reshape(x.shape[0], rows, columns, patch, patch, -1)
    return torch.einsum("nhwpqc->nchpwq", x).reshape(x.shape[0], x.shape[-1], rows * patch, columns * patch)


class AdaLNBlock(nn.Module):
    """x += gate * attention(modulate(norm(x))), a step in between, x += gate * MLP(modulate(norm(x)))."""

    def __init__(self, attention: Operator, mlp: Operator, norm1: nn.Module, norm2: nn.Module):
        super().__init__()
        self.attn, self.mlp, self.norm1, self.norm2 = attention, mlp, norm1, norm2

    def between(self, x: torch.Tensor, context: tuple[torch.Tensor | None, ...]) -> torch.Tensor:
        """What happens to the tokens between the two slots."""
        return x

    def modulation(self, condition: torch.Tensor) -> torch.Tensor:
        """Shift, scale and gate of attention, then of the MLP (batch, 6 dim)."""
        raise NotImplementedError

    def operator(self, slot: str) -> Operator:
        """The operator of a slot."""
        return self.attn if slot == "attention" else self.mlp

    def forward(
        self, x: torch.Tensor, condition: torch.Tensor, grid: tuple[int, int],
        context: tuple[torch.Tensor | None, ...] = (), observe: Callable[[Activations], None] | None = None,
    ) -> torch.Tensor:
        modulation = self.modulation(condition)
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation.chunk(6, dim=1)
        attention_input = modulate(self.norm1(x), shift1, scale1)
        attention_output = self.attn(attention_input, grid)
        middle = self.between(x + gate1[:, None] * attention_output, context)
        mlp_input = modulate(self.norm2(middle), shift2, scale2)
        mlp_output = self.mlp(mlp_input, grid)
        output = middle + gate2[:, None] * mlp_output
        if observe is not None:
            observe(
                Activations(
                    x, attention_input, attention_output, mlp_input, mlp_output, output, modulation
                )
            )
        return output


class Merge(nn.Module):
    """Merge of the outputs of two parallel blocks: a learned projection, the mean, or the sum of what both add."""

    def __init__(self, kind: str, dim: int):
        super().__init__()
        self.kind = kind
        if kind == "projection":
            self.weight = nn.Parameter(torch.empty(dim, 2 * dim))
            self.bias = nn.Parameter(torch.empty(dim))

    def forward(self, x: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """x: input of both blocks; first, second: their outputs; all (batch, tokens, dim)."""
        if self.kind == "projection":
            return nn.functional.linear(torch.cat([first, second], dim=-1), self.weight, self.bias)
        if self.kind == "mean":
            return 0.5 * first + 0.5 * second
        return first + second - x

    @staticmethod
    def start(dim: int) -> dict[str, torch.Tensor]:
        """Initial weight and bias of a projection: the mean."""
        half = 0.5 * torch.eye(dim)
        return {"weight": torch.cat([half, half], dim=1), "bias": torch.zeros(dim)}


class Backbone(nn.Module):
    """What stages 1 and 2 need of a model: its blocks, their pairs, and running them."""

    shape: ModelShape
    blocks: nn.ModuleList
    recompute: bool = False
    """Whether blocks run again on the way back instead of keeping their activations."""
    kept: dict[str, torch.Tensor | None] = {}
    """Outputs of blocks and merges by upstream module name; a pass fills in, with their graphs, those that are asked for."""

    def _keep(self, name: str, x: torch.Tensor) -> None:
        if name in self.kept:
            self.kept[name] = x

    def _join(self, parallel: dict[int, str]) -> None:
        """Puts the merges of pairs of parallel blocks below their first blocks."""
        for first, kind in parallel.items():
            self.blocks[first].merge = Merge(kind, self.shape.hidden_size)

    def merge(self, first: int) -> Merge | None:
        """The merge of the pair that begins with a block; None if it is sequential."""
        merge = getattr(self.blocks[first], "merge", None)
        return merge if isinstance(merge, Merge) else None

    def _run(
        self, index: int, x: torch.Tensor, condition: torch.Tensor, grid: tuple[int, int],
        context: tuple[torch.Tensor | None, ...], observe: Observer | None, observe_block: BlockObserver | None,
    ) -> torch.Tensor:
        block = self.blocks[index]
        if observe_block is not None or observe is not None:

            def report(seen: Activations) -> None:
                if observe is not None:
                    observe(f"blocks.{index}.in", seen.input)
                    observe(f"blocks.{index}.adaLN.out", seen.modulation)
                    observe(f"blocks.{index}.out", seen.output)
                if observe_block is not None:
                    observe_block(index, seen)

            return block(x, condition, grid, context, report)
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(block, x, condition, grid, context, use_reentrant=False)
        return block(x, condition, grid, context)

    def run_blocks(
        self, x: torch.Tensor, condition: torch.Tensor, grid: tuple[int, int],
        context: tuple[torch.Tensor | None, ...] = (), observe: Observer | None = None,
        observe_block: BlockObserver | None = None,
    ) -> torch.Tensor:
        """Applies all blocks, sequential and parallel, to x (batch, tokens, dim)."""
        index = 0
        while index < len(self.blocks):
            merge = self.merge(index)
            first = self._run(index, x, condition, grid, context, observe, observe_block)
            if merge is None:
                x = first
                self._keep(f"blocks.{index}.out", x)
                index += 1
                continue
            second = self._run(index + 1, x, condition, grid, context, observe, observe_block)
            x = merge(x, first, second)
            if observe is not None:
                observe(f"blocks.{index}.merge.out", x)
            self._keep(f"blocks.{index}.merge.out", x)
            index += 2
        return x

    def pair_output(
        self, first: int, x: torch.Tensor, condition: torch.Tensor, context: tuple[torch.Tensor | None, ...] = ()
    ) -> torch.Tensor:
        """Applies two parallel blocks and their merge to x (batch, tokens, dim) on the grid of the model."""
        merge = self.merge(first)
        assert merge is not None, f"{first} begins no pair"
        return merge(x, *self.block_outputs(first, x, condition, context))

    def block_outputs(
        self, first: int, x: torch.Tensor, condition: torch.Tensor, context: tuple[torch.Tensor | None, ...] = ()
    ) -> list[torch.Tensor]:
        """What the two blocks of a pair make of x (batch, tokens, dim) before they are merged."""
        grid = (self.shape.grid, self.shape.grid)
        return [self.blocks[index](x, condition, grid, context) for index in (first, first + 1)]

    def condition(
        self, times: torch.Tensor, condition: Condition, observe: Observer | None = None
    ) -> torch.Tensor:
        """What modulates every block, computed once (batch, width)."""
        raise NotImplementedError

    def context(self, condition: Condition) -> tuple[torch.Tensor | None, ...]:
        """What blocks see besides the modulation."""
        return ()
