"""Mamba-2: a gated state space scan along the raster sequence (state-spaces/mamba `Mamba2`).

in_proj(x) is z | x B C | dt. A causal convolution and SiLU are applied to x B C; the scan reads the result and dt; its
output is gated by z, normalised per group and projected.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn.functional import silu, softplus

from .. import initializers as init
from ..shape import ModelShape
from . import transfers
from .base import Config, Context, Definition, Field, Operator, causal, choice, depthwise


def scan(
    x: torch.Tensor, step: torch.Tensor, decay: torch.Tensor, b: torch.Tensor, c: torch.Tensor, chunk: int
) -> torch.Tensor:
    """The recurrence S_t = exp(step_t decay) S_(t-1) + step_t x_t B_t^T, y_t = S_t C_t, in chunks of tokens.

    x (batch, tokens, heads, width), step (batch, tokens, heads), decay (heads), b and c (batch, tokens, heads, state)
    -> (batch, tokens, heads, width). Inside a chunk it is a masked quadratic form; all exponents are at most 0.
    """
    outputs, state = [], None
    for start in range(0, x.shape[1], chunk):
        part = slice(start, start + chunk)
        logs = (step[:, part] * decay).cumsum(1).transpose(1, 2)  # batch, heads, tokens
        weighted = (x[:, part] * step[:, part, :, None]).transpose(1, 2)
        keys, queries = b[:, part].transpose(1, 2), c[:, part].transpose(1, 2)
        length = logs.shape[-1]
        lower = torch.ones(length, length, dtype=torch.bool, device=x.device).tril()
        gaps = (logs[..., :, None] - logs[..., None, :]).masked_fill(~lower, -math.inf)
        y = (queries @ keys.transpose(-1, -2) * gaps.exp()) @ weighted
        if state is not None:
            y = y + logs.exp()[..., None] * (queries @ state)
        outputs.append(y)
        if start + chunk < x.shape[1]:
            rest = (logs[..., -1:] - logs).exp()
            own = (keys * rest[..., None]).transpose(-1, -2) @ weighted  # batch, heads, state, width
            state = own if state is None else own + logs[..., -1, None, None].exp() * state
    return torch.cat(outputs, dim=2).transpose(1, 2)


class GatedNorm(nn.Module):
    """RMSNorm of x * SiLU(z) per group with a weight per channel, eps 1e-5."""

    def __init__(self, width: int, groups: int):
        super().__init__()
        self.groups = groups
        self.weight = nn.Parameter(torch.empty(width))

    def forward(self, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        gated = (x * silu(z)).unflatten(-1, (self.groups, -1))
        scale = torch.rsqrt(gated.square().mean(-1, keepdim=True) + 1e-5)
        return (gated * scale).flatten(-2) * self.weight


class Mamba2(Operator):
    """x (batch, tokens, dim) -> (batch, tokens, dim)."""

    def __init__(
        self, dim: int, expand: int, head_dim: int, groups: int, state: int, taps: int, chunk: int,
        both: bool = False, bias: bool = False,
    ):
        super().__init__()
        self.inner, self.head_dim, self.groups, self.state = expand * dim, head_dim, groups, state
        self.heads = self.inner // head_dim
        self.convolved = self.inner + 2 * groups * state
        self.chunk, self.both = min(chunk, 64), both
        self.in_proj = nn.Linear(dim, self.inner + self.convolved + self.heads, bias=bias)
        self.conv1d = depthwise(self.convolved, taps)
        self.dt_bias = nn.Parameter(torch.empty(self.heads))
        self.A_log = nn.Parameter(torch.empty(self.heads))
        self.D = nn.Parameter(torch.empty(self.heads))
        self.norm = GatedNorm(self.inner, groups)
        self.out_proj = nn.Linear(self.inner, dim, bias=bias)

    def forward(self, x: torch.Tensor, grid: tuple[int, int] | None = None) -> torch.Tensor:
        z, signal, step = self.in_proj(x).split([self.inner, self.convolved, self.heads], dim=-1)
        y = self._scanned(signal, step)
        if self.both:
            y = y + self._scanned(signal.flip(1), step.flip(1)).flip(1)
        with torch.autocast(x.device.type, enabled=False):
            y = self.norm(y, z.float())
        return self.out_proj(y)

    def _scanned(self, signal: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        """Convolution, SiLU and scan of x B C (batch, tokens, channels) -> (batch, tokens, inner), float32."""
        signal = silu(causal(self.conv1d, signal.transpose(1, 2)).transpose(1, 2))
        with torch.autocast(signal.device.type, enabled=False):
            signal, step = signal.float(), softplus(step.float() + self.dt_bias)
            width = self.groups * self.state
            values, b, c = signal.split([self.inner, width, width], dim=-1)
            values = values.unflatten(-1, (self.heads, self.head_dim))
            share = self.heads // self.groups
            b = b.unflatten(-1, (self.groups, self.state)).repeat_interleave(share, dim=2)
            c = c.unflatten(-1, (self.groups, self.state)).repeat_interleave(share, dim=2)
            return (scan(values, step, -self.A_log.exp(), b, c, self.chunk) + self.D[:, None] * values).flatten(-2)

    def own_initializers(self) -> dict[str, init.Initializer]:
        return {
            "dt_bias": init.drawn(_step_bias),
            "A_log": init.drawn(lambda u: math.log(1 + 15 * u)),
            "D": init.ones,
            "norm.weight": init.ones,
        }


def _step_bias(u: float) -> float:
    """Inverse softplus of a step size drawn log-uniformly from 0.001 to 0.1, at least 1e-4."""
    step = max(1e-4, math.exp(math.log(0.001) + u * (math.log(0.1) - math.log(0.001))))
    return step + math.log(-math.expm1(-step))


_FIELDS = (
    Field("d_state", 64, 1, 1024), Field("d_conv", 4, 1, 64), Field("expand", 2, 1, 16),
    Field("headdim", 16, 1, 1024), Field("ngroups", 1, 1, 1024), Field("chunk_size", 256, 1, 1024),
    choice("scan", "forward", "both"), choice("bias", "no", "yes"),
)


def _refusal(config: Config, shape: ModelShape) -> str | None:
    own = {f.key: int(config.get(f.key, f.default)) for f in _FIELDS}
    inner = own["expand"] * shape.hidden_size
    if inner % own["headdim"]:
        return (
            f"headdim {own['headdim']} does not divide the inner width {inner} (expand times hidden size); choose a"
            " divisor"
        )
    count = inner // own["headdim"]
    if count % own["ngroups"]:
        return f"ngroups {own['ngroups']} does not divide the {count} heads (inner width over headdim); choose a divisor"
    return None


def _build(config: Config, context: Context) -> Operator:
    return Mamba2(
        context.hidden_size, int(config["expand"]), int(config["headdim"]), int(config["ngroups"]),
        int(config["d_state"]), int(config["d_conv"]), int(config["chunk_size"]), config["scan"] == 1,
        config["bias"] == 1,
    )


def _transfer_refusal(config: Config, shape: ModelShape) -> str | None:
    own = {f.key: int(config.get(f.key, f.default)) for f in _FIELDS}
    if own["expand"] == 1 and own["bias"] and own["ngroups"] * own["d_state"] == shape.hidden_size:
        return None
    return (
        "queries, keys and values of attention fit mamba2 with expand 1, bias 1 and ngroups times d_state of the hidden"
        f' size {shape.hidden_size}; change them, or start from "own" weights'
    )


OPERATOR = Definition(
    "mamba2", ("attention",), _FIELDS, _build, _refusal, lambda config: transfers.scan, _transfer_refusal
)
