"""The text-conditional transformer PixArt-Sigma (PixArt-alpha/PixArt-sigma), key by key."""

from __future__ import annotations

from typing import Mapping

import torch
from torch import nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from .. import initializers as init
from ..errors import EngineError
from ..operators import Operator
from ..operators.base import join_heads
from ..shape import OFFICIAL_EPSILON, ModelShape
from .dit import Edits, operators
from .parts import AdaLNBlock, Backbone, BlockObserver, Condition, Observer, PatchEmbed, TimestepEmbedder
from .parts import modulate, norm, timestep_features, unpatchify

MASKED_SCORE = -10_000.0
"""Bias of the scores of masked caption tokens, as in diffusers."""


class CompressedAttention(Operator):
    """Attention with keys and values downsampled over blocks of the token grid (`AttentionKVCompress`, `conv`)."""

    def __init__(self, dim: int, heads: int, factor: int):
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.sr = nn.Conv2d(dim, dim, factor, stride=factor, groups=dim)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: torch.Tensor, grid: tuple[int, int] | None = None) -> torch.Tensor:
        side = round(x.shape[1] ** 0.5)
        rows, columns = grid or (side, side)
        q, k, v = self.qkv(x).chunk(3, dim=-1)

        def compressed(x: torch.Tensor) -> torch.Tensor:
            image = x.transpose(1, 2).unflatten(2, (rows, columns))
            return self.norm(self.sr(image).flatten(2).transpose(1, 2))

        def heads(x: torch.Tensor) -> torch.Tensor:
            return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

        mixed = scaled_dot_product_attention(heads(q), heads(compressed(k)), heads(compressed(v)))
        return self.proj(join_heads(mixed))

    def own_initializers(self) -> dict[str, init.Initializer]:
        dim, factor = self.sr.in_channels, self.sr.kernel_size[0]
        return {
            "sr.weight": init.table(torch.full((dim, 1, factor, factor), 1 / factor**2)), "sr.bias": init.zeros,
            "norm.weight": init.ones, "norm.bias": init.zeros,
        }


class CaptionAttention(nn.Module):
    """Cross-attention of image tokens to the caption (`MultiHeadCrossAttention`)."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.q_linear, self.kv_linear, self.proj = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)

    def forward(self, x: torch.Tensor, caption: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """x (batch, tokens, dim), caption (batch, length, dim), bias (batch, length) of the scores."""
        q = self.q_linear(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.kv_linear(caption).chunk(2, dim=-1)
        )
        mask = None if bias is None else bias[:, None, None].to(q.dtype)
        return self.proj(join_heads(scaled_dot_product_attention(q, k, v, attn_mask=mask)))


class PixArtBlock(AdaLNBlock):
    """adaLN-single block: two operator slots with cross-attention to the caption between them."""

    def __init__(self, shape: ModelShape, attention: Operator, mlp: Operator):
        norms = (norm(shape.hidden_size, shape.norm_epsilon) for _ in range(2))
        super().__init__(attention, mlp, *norms)
        self.scale_shift_table = nn.Parameter(torch.empty(6, shape.hidden_size))
        self.cross_attn = CaptionAttention(shape.hidden_size, shape.num_heads)

    def modulation(self, condition: torch.Tensor) -> torch.Tensor:
        return condition + self.scale_shift_table.flatten()

    def between(self, x: torch.Tensor, context: tuple[torch.Tensor | None, ...]) -> torch.Tensor:
        caption, bias = context
        assert caption is not None
        return x + self.cross_attn(x, caption, bias)


class _Projection(nn.Module):
    def __init__(self, shape: ModelShape):
        super().__init__()
        self.fc1 = nn.Linear(shape.caption_channels, shape.hidden_size)
        self.fc2 = nn.Linear(shape.hidden_size, shape.hidden_size)


class CaptionEmbedder(nn.Module):
    """Captions (batch, length, channels) -> (batch, length, dim)."""

    def __init__(self, shape: ModelShape):
        super().__init__()
        self.y_proj = _Projection(shape)

    def forward(self, captions: torch.Tensor) -> torch.Tensor:
        return self.y_proj.fc2(gelu(self.y_proj.fc1(captions), approximate="tanh"))


class PixArtFinal(nn.Module):
    """Modulation by the time embedding and a table, then a linear layer."""

    def __init__(self, shape: ModelShape):
        super().__init__()
        self.linear = nn.Linear(shape.hidden_size, shape.patch_size**2 * shape.out_channels)
        self.scale_shift_table = nn.Parameter(torch.empty(2, shape.hidden_size))
        self.norm_final = norm(shape.hidden_size, OFFICIAL_EPSILON)

    def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        shift, scale = (self.scale_shift_table[None] + time[:, None]).unbind(1)
        return self.linear(modulate(self.norm_final(x), shift, scale))


class PixArt(Backbone):
    """Noise prediction and variance parameter under a caption: x (batch, channels, height, width) of any size."""

    def __init__(self, shape: ModelShape, edits: Edits = {}, parallel: Mapping[int, str] = {}):
        super().__init__()
        self.shape = shape
        dim = shape.hidden_size
        self.x_embedder = PatchEmbed(shape)
        self.t_embedder = TimestepEmbedder(dim)
        self.t_block = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        self.y_embedder = CaptionEmbedder(shape)
        blocks = []
        for index in range(shape.depth):
            attention, mlp = operators(shape, index, edits)
            if index in shape.compressed_layers and (index, "attention") not in edits:
                attention = CompressedAttention(dim, shape.num_heads, shape.compression)
            blocks.append(PixArtBlock(shape, attention, mlp))
        self.blocks = nn.ModuleList(blocks)
        self._join(dict(parallel))
        self.final_layer = PixArtFinal(shape)

    def condition(
        self, times: torch.Tensor, condition: Condition, observe: Observer | None = None
    ) -> torch.Tensor:
        return self.t_block(self._time(times, condition))

    def _time(self, times: torch.Tensor, condition: Condition) -> torch.Tensor:
        features = condition.features
        return self.t_embedder(timestep_features(times) if features is None else features)

    def context(self, condition: Condition) -> tuple[torch.Tensor | None, ...]:
        if condition.captions is None:
            raise EngineError(
                "the model is text-conditional, and the data have no captions; give data with 'prompt_embeds'"
            )
        bias = None if condition.mask is None else (1 - condition.mask.float()) * MASKED_SCORE
        return self.y_embedder(condition.captions), bias

    def forward(
        self, x: torch.Tensor, times: torch.Tensor, condition: Condition, observe: Observer | None = None,
        observe_block: BlockObserver | None = None,
    ) -> torch.Tensor:
        grid = (x.shape[2] // self.shape.patch_size, x.shape[3] // self.shape.patch_size)
        positions = self.shape.position_table(*grid)[None].to(x.device)
        time = self._time(times, condition)
        modulation, context = self.t_block(time), self.context(condition)
        if observe is not None:
            observe("pos_embed", positions)
            observe("t_embedder", time)
            observe("t_block", modulation)
            assert context[0] is not None
            observe("y_embedder", context[0])
        tokens = self.run_blocks(self.x_embedder(x) + positions, modulation, grid, context, observe, observe_block)
        return unpatchify(self.final_layer(tokens, time), self.shape.patch_size, grid)
