"""Linear attention over all tokens (arXiv 2006.16236): `qkv`, `proj` and, where the settings ask for them, `q_map`,
`k_map`, `k_norm`, `qk_conv`, `v_conv`.

Before the feature map, in this order: depthwise convolutions of the token grid are added to queries and keys and to
values, keys are normalised over the tokens, and, for the feature map `exp`, queries and keys of every head are
multiplied by matrices (arXiv 2402.04347).
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import elu, relu

from .. import initializers as init
from ..shape import ModelShape
from . import transfers
from .base import Attention, Config, Context, Definition, Field, Operator, choice, heads, heads_field, heads_refusal
from .base import join_heads, sides

_MAPS = ("elu1", "relu", "exp")


class HeadMap(nn.Module):
    """x (batch, heads, tokens, width) times a matrix of each head, transposed."""

    def __init__(self, count: int, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(count, width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight.transpose(-1, -2)


class TokenNorm(nn.Module):
    """Instance norm of x (batch, tokens, dim) over the tokens, eps 1e-5."""

    def __init__(self, dim: int):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.empty(dim)), nn.Parameter(torch.empty(dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        variance, mean = torch.var_mean(x, dim=1, keepdim=True, correction=0)
        return (x - mean) * torch.rsqrt(variance + 1e-5) * self.weight + self.bias


class LinearAttention(Attention):
    """phi(q) (phi(k)^T v) / (phi(q) . sum phi(k) + 1e-6), in float32."""

    def __init__(self, context: Context, count: int, config: Config):
        super().__init__(context, count, has_norm=False)
        dim, self.map = context.hidden_size, _MAPS[int(config.get("feature_map", 0))]
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

        def convolution(key: str, channels: int) -> nn.Conv2d | None:
            extent = int(config.get(key, 0))
            return nn.Conv2d(channels, channels, extent, padding=extent // 2, groups=channels) if extent else None

        self.qk_conv, self.v_conv = convolution("qk_conv", 2 * dim), convolution("v_conv", dim)
        self.k_norm = TokenNorm(dim) if config.get("key_norm", 0) == 1 else None
        if self.map == "exp":
            self.q_map, self.k_map = HeadMap(count, dim // count), HeadMap(count, dim // count)

    def _features(self, x: torch.Tensor) -> torch.Tensor:
        if self.map == "exp":
            return torch.cat([x, -x], dim=-1).softmax(-1)
        return relu(x) if self.map == "relu" else elu(x) + 1

    def forward(self, x: torch.Tensor, grid: tuple[int, int] | None = None) -> torch.Tensor:
        projected = self.qkv(x)
        dim = x.shape[-1]
        with torch.autocast(x.device.type, enabled=False):
            pair, v = projected.float().split([2 * dim, dim], dim=-1)

            def convolved(convolution: nn.Conv2d | None, x: torch.Tensor) -> torch.Tensor:
                if convolution is None:
                    return x
                return x + convolution(x.transpose(1, 2).unflatten(2, sides(x, grid))).flatten(2).transpose(1, 2)

            q, k = convolved(self.qk_conv, pair).chunk(2, dim=-1)
            v = convolved(self.v_conv, v)
            if self.k_norm is not None:
                k = self.k_norm(k)
            q, k, v = self.split(torch.cat([q, k, v], dim=-1), grid)
            if self.map == "exp":
                q, k = self.q_map(q), self.k_map(k)
            q, k = self._features(q), self._features(k)
            total = q @ k.sum(-2, keepdim=True).transpose(-1, -2)
            mixed = q @ (k.transpose(-1, -2) @ v) / (total + 1e-6)
        return self.proj(join_heads(mixed))

    def own_initializers(self) -> dict[str, init.Initializer]:
        rules: dict[str, init.Initializer] = {}
        for name in ("qk_conv", "v_conv"):
            if getattr(self, name) is not None:
                rules.update({f"{name}.weight": init.zeros, f"{name}.bias": init.zeros})
        if self.k_norm is not None:
            rules.update({"k_norm.weight": init.ones, "k_norm.bias": init.zeros})
        if self.map == "exp":
            width = self.q_map.weight.shape[-1]
            identity = init.table(torch.eye(width).expand(self.heads, -1, -1).contiguous())
            rules.update({"q_map.weight": identity, "k_map.weight": identity})
        return rules


def _refusal(config: Config, shape: ModelShape) -> str | None:
    for key in ("qk_conv", "v_conv"):
        extent = int(config.get(key, 0))
        if extent and extent % 2 == 0:
            return f"{key} {extent} has no middle; choose an odd extent, or 0 for none"
    return heads_refusal(config, shape)


def _build(config: Config, context: Context) -> Operator:
    return LinearAttention(context, heads(config, context.num_heads), config)


OPERATOR = Definition(
    "linear_attention", ("attention",),
    (
        heads_field(), choice("feature_map", *_MAPS), choice("key_norm", "none", "instance"),
        Field("qk_conv", 0, 0, 7), Field("v_conv", 0, 0, 7), choice("inherit_qk", "no", "yes"),
    ),
    _build, _refusal,
    lambda config: (
        transfers.attention("qkv", "proj", has_norms=False) if config.get("inherit_qk") == 1 else transfers.values
    ),
)
