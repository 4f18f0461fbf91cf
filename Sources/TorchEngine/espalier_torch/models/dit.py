"""The class-conditional transformers DiT (facebookresearch/DiT), SiT (willisma/SiT) and LightningDiT, key by key."""

from __future__ import annotations

from typing import Mapping

import torch
from torch import nn
from torch.nn.functional import silu

from ..errors import EngineError
from ..operators import Context, Operator, build
from ..operators.mha import MultiHeadAttention
from ..operators.mlp import MLP
from ..operators.swiglu import GatedMLP
from ..shape import OFFICIAL_EPSILON, ModelShape
from .parts import AdaLNBlock, Backbone, BlockObserver, Condition, Observer, PatchEmbed, TimestepEmbedder
from .parts import modulate, norm, timestep_features, unpatchify

Edits = Mapping[tuple[int, str], tuple[str, dict[str, float]]]
"""Name and settings of the replacement operators by block and slot."""


class DiTBlock(AdaLNBlock):
    """A block with its own modulation layer."""

    def __init__(self, shape: ModelShape, attention: Operator, mlp: Operator):
        dim, is_rms = shape.hidden_size, shape.rms_norm
        super().__init__(
            attention, mlp, norm(dim, OFFICIAL_EPSILON, is_rms), norm(dim, shape.mlp_norm_epsilon, is_rms)
        )
        self.has_shift = shape.block_shift
        self.adaLN_modulation = nn.Sequential(nn.Identity(), nn.Linear(dim, (6 if self.has_shift else 4) * dim))

    def modulation(self, condition: torch.Tensor) -> torch.Tensor:
        modulation = self.adaLN_modulation(condition)
        if self.has_shift:
            return modulation
        # Scale and gate of each half, behind a shift of zero.
        return nn.functional.pad(modulation.unflatten(1, (2, 2, -1)), (0, 0, 1, 0)).flatten(1)


class FinalLayer(nn.Module):
    """Modulated norm and linear layer: (batch, tokens, dim) -> (batch, tokens, patch^2 out channels)."""

    def __init__(self, shape: ModelShape):
        super().__init__()
        self.norm_final = norm(shape.hidden_size, OFFICIAL_EPSILON, shape.rms_norm)
        self.linear = nn.Linear(shape.hidden_size, shape.patch_size**2 * shape.out_channels)
        self.adaLN_modulation = nn.Sequential(nn.Identity(), nn.Linear(shape.hidden_size, 2 * shape.hidden_size))

    def forward(self, x: torch.Tensor, condition: torch.Tensor, observe: Observer | None) -> torch.Tensor:
        modulation = self.adaLN_modulation(condition)
        shift, scale = modulation.chunk(2, dim=1)
        x = self.linear(modulate(self.norm_final(x), shift, scale))
        if observe is not None:
            observe("final_layer.adaLN.out", modulation)
            observe("final_layer.out", x)
        return x


class LabelEmbedder(nn.Module):
    """The table of classes, with a last row for the null class where the model has one."""

    def __init__(self, shape: ModelShape):
        super().__init__()
        self.embedding_table = nn.Embedding(shape.label_rows, shape.hidden_size)

    def forward(self, labels: torch.Tensor) -> torch.Tensor:
        return self.embedding_table(labels)


def operators(shape: ModelShape, index: int, edits: Edits) -> tuple[Operator, Operator]:
    """The operators of a block: replacements where the edits name one, otherwise attention and an MLP."""

    def make(slot: str, original: Operator) -> Operator:
        spec = edits.get((index, slot))
        return build(spec[0], slot, spec[1], shape, f"{index}.{slot}") if spec else original

    dim, width = shape.hidden_size, shape.mlp_width
    return (
        make("attention", MultiHeadAttention(Context.of(shape), shape.num_heads)),
        make("mlp", GatedMLP(dim, width, shape.mlp_bias) if shape.swiglu else MLP(dim, width)),
    )


class DiT(Backbone):
    """Noise prediction and variance parameter: x (batch, channels, height, width) -> (batch, out channels, ...).

    A model of velocities is the same network: its times are in [0, 1], and of its output only the first channels, the
    velocity, count; one with reversed time is told 1 - t, and its velocity is turned round.
    """

    def __init__(self, shape: ModelShape, edits: Edits = {}, parallel: Mapping[int, str] = {}):
        super().__init__()
        self.shape = shape
        self.x_embedder = PatchEmbed(shape)
        self.t_embedder = TimestepEmbedder(shape.hidden_size)
        self.y_embedder = LabelEmbedder(shape)
        self.pos_embed = nn.Parameter(torch.empty(1, shape.tokens, shape.hidden_size), requires_grad=False)
        self.blocks = nn.ModuleList(
            DiTBlock(shape, *operators(shape, index, edits)) for index in range(shape.depth)
        )
        self._join(dict(parallel))
        self.final_layer = FinalLayer(shape)

    def condition(
        self, times: torch.Tensor, condition: Condition, observe: Observer | None = None
    ) -> torch.Tensor:
        features = condition.features
        if features is None:
            own = 1 - times if self.shape.reversed_time else times
            features = timestep_features(own, self.shape.frequency_shift)
        if condition.labels is None:
            raise EngineError("the model is class-conditional, and the data have no labels; use data with labels")
        time, label = self.t_embedder(features), self.y_embedder(condition.labels)
        if observe is not None:
            observe("t_embedder.out", time)
            observe("y_embedder.out", label)
        return silu(time + label)

    def forward(
        self, x: torch.Tensor, times: torch.Tensor, condition: Condition, observe: Observer | None = None,
        observe_block: BlockObserver | None = None,
    ) -> torch.Tensor:
        """times (batch): timesteps in [0, 1000), of a model of velocities times in [0, 1]."""
        grid = (x.shape[2] // self.shape.patch_size, x.shape[3] // self.shape.patch_size)
        tokens = self.x_embedder(x)
        if observe is not None:
            observe("x_embedder.out", tokens)
        tokens = tokens + self._positions(grid)
        modulator = self.condition(times, condition, observe)
        tokens = self.run_blocks(tokens, modulator, grid, (), observe, observe_block)
        tokens = self.final_layer(tokens, modulator, observe)
        image = unpatchify(tokens, self.shape.patch_size, grid)
        if not self.shape.predicts_velocity:
            return image
        velocity = image[:, : self.shape.in_channels]
        return -velocity if self.shape.reversed_time else velocity

    def _positions(self, grid: tuple[int, int]) -> torch.Tensor:
        if grid == (self.shape.grid, self.shape.grid):
            return self.pos_embed
        return self.shape.position_table(*grid)[None].to(self.pos_embed.device)
