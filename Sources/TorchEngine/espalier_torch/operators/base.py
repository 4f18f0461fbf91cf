"""What an operator is: its definition for plans, its module, its fresh weights and the transfer of weights."""

from __future__ import annotations

import dataclasses
import functools
from typing import Callable, Mapping

import torch
from torch import nn

from .. import initializers as init
from ..errors import EngineError
from ..shape import ModelShape

Config = Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Field:
    """A setting of an operator in a plan."""

    key: str
    default: float
    low: float
    high: float
    integer: bool = True
    implied: bool = False
    """Whether other settings or the model determine the value; forms and lists omit it."""
    names: tuple[str, ...] = ()
    """Names of the values 0, 1, ... of a choice, which plans may state instead."""


def choice(key: str, *names: str) -> Field:
    """A choice by name; the first one is the default."""
    return Field(key, 0, 0, len(names) - 1, names=names)


@dataclasses.dataclass(frozen=True)
class Context:
    """Extents of the model that an operator is built for."""

    hidden_size: int
    tokens: int
    num_heads: int
    qk_norm: Callable[[int], nn.Module] | None = None
    """Makes the norm of queries or keys of a width, in models that have them."""
    rotary_side: int = 0
    """Tokens along an axis of a model that turns queries and keys by 2-D positions; 0 for all others."""

    @classmethod
    def of(cls, shape: ModelShape) -> "Context":
        """That of a model."""
        norm = (lambda width: nn.RMSNorm(width, eps=1e-6)) if shape.rms_norm else nn.LayerNorm
        return cls(
            shape.hidden_size, shape.tokens, shape.num_heads, norm if shape.qk_norm else None,
            shape.grid if shape.rotary else 0,
        )


class Operator(nn.Module):
    """An operator of a transformer block: x (batch, tokens, dim) -> (batch, tokens, dim)."""

    def forward(self, x: torch.Tensor, grid: tuple[int, int] | None = None) -> torch.Tensor:
        """Applies the operator to tokens in raster order on a grid (rows, columns); None for a square one."""
        raise NotImplementedError

    def output_layer(self) -> nn.Linear | None:
        """The linear layer that gives the output, which can be fitted in closed form; None without one."""
        found = [getattr(self, name, None) for name in ("proj", "out_proj", "fc2", "w3", "linear")]
        return next((layer for layer in found if isinstance(layer, nn.Linear)), None)

    def output_bias(self) -> nn.Parameter | None:
        """The constant that is the output of an operator without any layer; None for all others."""
        return None

    def own_initializers(self) -> dict[str, init.Initializer]:
        """Initializers of parameters that do not follow PyTorch's default, by name relative to the operator."""
        return {}

    def initializers(self) -> dict[str, init.Initializer]:
        """The initializer of every parameter by name relative to the operator."""
        result: dict[str, init.Initializer] = {}
        for prefix, module in self.named_modules():
            for name, _ in module.named_parameters(recurse=False):
                full = f"{prefix}.{name}" if prefix else name
                if isinstance(module, nn.Linear):
                    result[full] = init.fan_in(module.in_features)
                elif isinstance(module, nn.Conv1d):
                    result[full] = init.fan_in(module.kernel_size[0])
                elif isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
                    result[full] = init.ones if name == "weight" else init.zeros
        result.update(self.own_initializers())
        return result


Transfer = Callable[[str, torch.Tensor, Callable[[str], torch.Tensor]], torch.Tensor]
"""Initial values of a parameter: its relative name, its fresh values, the original operator's tensors by name."""


@dataclasses.dataclass(frozen=True)
class Definition:
    """An operator's name, slots and settings, and how it is built."""

    name: str
    slots: tuple[str, ...]
    fields: tuple[Field, ...]
    build: Callable[[Config, Context], Operator]
    """Makes the module from a complete configuration."""
    refusal: Callable[[Config, ModelShape], str | None] = lambda config, shape: None
    """Reason why settings within their ranges do not fit a model; None if they do."""
    transfer: Callable[[Config], Transfer] | None = None
    """The transfer of the original operator's weights under a configuration."""
    transfer_refusal: Callable[[Config, ModelShape], str | None] = lambda config, shape: None
    """Reason why a configuration has no place for the original's weights."""

    def complete(self, config: Config) -> dict[str, float]:
        """The configuration with every default filled in; settings that others imply only if they are stated."""
        given = {f.key: config.get(f.key, f.default) for f in self.fields if not f.implied or f.key in config}
        return given

    def check(self, config: Config, shape: ModelShape, key: str) -> None:
        """Raises EngineError for a setting that does not exist, is out of range or does not fit the model."""
        known = {f.key: f for f in self.fields}
        for name, value in sorted(config.items()):
            field = known.get(name)
            if field is None:
                names = ", ".join(known) or "none"
                raise EngineError(
                    f"{key}.config.{name}: {self.name} has no such setting, expected {names}; remove the setting"
                )
            whole = field.integer and value != int(value)
            if whole or not field.low <= value <= field.high:
                kind = "a whole number" if field.integer else "a number"
                raise EngineError(
                    f"{key}.config.{name}: expected {kind} from {field.low:g} to {field.high:g}, found {value:g};"
                    " correct it"
                )
        reason = self.refusal(config, shape)
        if reason:
            raise EngineError(f"{key}.config: {reason}")


def heads_field() -> Field:
    """`num_heads` of attention operators; 0 is the model's number."""
    return Field("num_heads", 0, 0, 1024)


def heads(config: Config, model: int) -> int:
    """The number of heads of a configuration."""
    return int(config.get("num_heads", 0)) or model


def heads_refusal(config: Config, shape: ModelShape) -> str | None:
    """Reason why the channels cannot be split into the heads."""
    count = heads(config, shape.num_heads)
    if shape.hidden_size % count:
        return f"num_heads {count} does not divide the hidden size {shape.hidden_size}; choose a divisor"
    width = shape.hidden_size // count
    if shape.rotary and width % 4:
        return (
            f"num_heads {count} leaves heads of {width} channels, and the model's rotary positions need a multiple of 4;"
            " choose another number"
        )
    return None


def ratio_field(default: float) -> Field:
    """Ratio of an MLP's inner width to the hidden size."""
    return Field("expansion_ratio", default, 0.25, 16, integer=False)


def inner_width(config: Config, dim: int) -> int:
    """Inner width of an MLP with all settings: ratio times hidden size, truncated as in timm."""
    return int(config["expansion_ratio"] * dim)


def ratio_refusal(config: Config, shape: ModelShape) -> str | None:
    """Reason why an MLP would have no inner channel."""
    if "expansion_ratio" not in config or inner_width(config, shape.hidden_size) >= 1:
        return None
    return (
        f"expansion_ratio {config['expansion_ratio']:g} of {shape.hidden_size} channels leaves no inner channel;"
        " choose a larger ratio"
    )


def split_heads(qkv: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """qkv (batch, tokens, 3 dim) to queries, keys and values (batch, heads, tokens, head dim)."""
    batch, tokens, width = qkv.shape
    parts = qkv.reshape(batch, tokens, 3, count, width // 3 // count).permute(2, 0, 3, 1, 4)
    return parts[0], parts[1], parts[2]


@functools.lru_cache(8)
def rotation(
    rows: int, columns: int, side: int, width: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines (tokens, width / 2) of the turns of a head's pairs of channels.

    The first half of the pairs turns with the row, the second with the column, pair i of a half by the coordinate times
    10000^(-4 i / width); coordinates are scaled to a grid with `side` tokens along each axis (arXiv 2104.09864 in the
    form of EVA-02 and LightningDiT).
    """
    frequencies = torch.pow(10000.0, -4 * torch.arange(width // 4, dtype=torch.float64) / width)

    def angles(count: int) -> torch.Tensor:
        return torch.arange(count, dtype=torch.float64)[:, None] * side / count * frequencies

    down, across = angles(rows)[:, None], angles(columns)[None]
    both = torch.cat([down.expand(-1, columns, -1), across.expand(rows, -1, -1)], dim=-1).flatten(0, 1)
    return both.cos().float().to(device), both.sin().float().to(device)


class Attention(Operator):
    """An operator with queries and keys, which it treats before their products as the attention of the model does."""

    def __init__(self, context: Context, count: int, has_norm: bool = True):
        super().__init__()
        self.heads, self.side = count, context.rotary_side
        make = context.qk_norm if has_norm else None
        self.q_norm, self.k_norm = (make and make(context.hidden_size // count) for _ in range(2))

    def split(
        self, qkv: torch.Tensor, grid: tuple[int, int] | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """qkv (batch, tokens, 3 dim) to queries, keys and values (batch, heads, tokens, head dim)."""
        q, k, v = split_heads(qkv, self.heads)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q.float()).to(q.dtype), self.k_norm(k.float()).to(k.dtype)
        if not self.side:
            return q, k, v
        cosine, sine = rotation(*sides(qkv, grid), self.side, q.shape[-1], q.device)

        def turned(x: torch.Tensor) -> torch.Tensor:
            one, other = x.float().unflatten(-1, (-1, 2)).unbind(-1)
            return torch.stack([one * cosine - other * sine, one * sine + other * cosine], -1).flatten(-2).to(x.dtype)

        return turned(q), turned(k), v


def join_heads(x: torch.Tensor) -> torch.Tensor:
    """(batch, heads, tokens, head dim) to (batch, tokens, dim)."""
    return x.transpose(1, 2).flatten(2)


def sides(x: torch.Tensor, grid: tuple[int, int] | None) -> tuple[int, int]:
    """Rows and columns of the tokens x (batch, tokens, dim); a square grid unless one is given."""
    edge = round(x.shape[1] ** 0.5)
    return grid or (edge, edge)


def window_mask(
    rows: int, columns: int, window: tuple[int, int], device: torch.device
) -> torch.Tensor:
    """Which keys (tokens) every query (tokens) sees: a window centred at it and shifted into the grid at its borders.

    The window is at most the grid, and every query sees as many keys (arXiv 2204.07143).
    """

    def seen(extent: int, size: int) -> torch.Tensor:
        size = min(size, extent)
        place = torch.arange(extent, device=device)
        first = (place - size // 2).clamp(0, extent - size)
        return (place[None] >= first[:, None]) & (place[None] < first[:, None] + size)

    down, across = seen(rows, window[0]), seen(columns, window[1])
    return (down[:, None, :, None] & across[None, :, None, :]).reshape(rows * columns, rows * columns)


def window_field() -> Field:
    """`window` of operators that attend to neighbours on the grid."""
    return Field("window", 7, 1, 255)


def window_refusal(config: Config, shape: ModelShape) -> str | None:
    """Reason why a window has no middle, or the channels cannot be split into the heads."""
    window = int(config.get("window", 7))
    if window % 2 == 0:
        return f"window {window} has no middle; choose an odd extent"
    return heads_refusal(config, shape)


def depthwise(channels: int, taps: int) -> nn.Conv1d:
    """A depthwise convolution with weight (channels, 1, taps) and bias, applied by `causal`."""
    return nn.Conv1d(channels, channels, taps, groups=channels)


def causal(convolution: nn.Conv1d, x: torch.Tensor) -> torch.Tensor:
    """The causal convolution of x (batch, channels, length): the last tap reads the current element."""
    return convolution(nn.functional.pad(x, (convolution.kernel_size[0] - 1, 0)))


def identity_filter(channels: int, taps: int) -> init.Initializer:
    """A filter (channels, 1, taps) whose last tap is 1."""
    values = torch.zeros(channels, 1, taps)
    values[:, :, -1] = 1
    return init.table(values)
