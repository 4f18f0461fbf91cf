"""The architecture of a diffusion transformer, as in plans and in the metadata of model files."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any, Mapping

import torch

from .errors import EngineError

OFFICIAL_EPSILON = 1e-6


@dataclasses.dataclass(frozen=True)
class ModelShape:
    """Sizes of a model; names are the keys in files."""

    depth: int
    hidden_size: int
    num_heads: int
    patch_size: int
    input_size: int
    num_classes: int
    family: str = "dit"
    in_channels: int = 4
    learn_sigma: bool = True
    mlp_ratio: float = 4.0
    has_null_class: bool = True
    frequency_shift: int = 0
    """Subtracted from the divisor 128 of the exponents of the timestep sinusoids (1 in diffusers)."""
    mlp_norm_epsilon: float = OFFICIAL_EPSILON
    # Parts of LightningDiT's blocks.
    rms_norm: bool = False
    qk_norm: bool = False
    rotary: bool = False
    swiglu: bool = False
    mlp_bias: bool = True
    block_shift: bool = True
    reversed_time: bool = False
    """Whether a velocity model was trained with data at time 0 and noise at time 1."""
    # Text-conditional models only.
    caption_channels: int = 4096
    interpolation_scale: float = 1.0
    norm_epsilon: float = OFFICIAL_EPSILON
    compression: int = 1
    """Edge of the blocks of tokens that share a key and a value in `compressed_layers`."""
    compressed_layers: tuple[int, ...] = ()

    @property
    def planned(self) -> tuple[Any, ...]:
        """What plans say of it; the rest of a text-conditional model is in its own file."""
        return dataclasses.astuple(self)[: len(_planned_kinds())]

    @property
    def predicts_velocity(self) -> bool:
        """Whether it predicts the velocity of a path instead of noise."""
        return self.family in ("sit", "lightningdit")

    @property
    def guided_channels(self) -> int:
        """Leading latent channels that the model's own convention guides: all in diffusers and REPA, else three."""
        return self.in_channels if self.frequency_shift or self.reversed_time else min(3, self.in_channels)

    @property
    def guidance_start(self) -> float:
        """Time of a model that predicts velocities from which its own sampler guides."""
        return 0.125 if self.family == "lightningdit" else 0.0

    @property
    def mlp_width(self) -> int:
        """Inner width of the pretrained MLPs; two thirds of the stated one where they are gated."""
        width = int(self.hidden_size * self.mlp_ratio)
        return int(2 / 3 * width) if self.swiglu else width

    @property
    def grid(self) -> int:
        """Tokens along one side."""
        return self.input_size // self.patch_size

    @property
    def tokens(self) -> int:
        """Length of the token sequence."""
        return self.grid**2

    @property
    def out_channels(self) -> int:
        """Channels of the output."""
        return self.in_channels * (2 if self.learn_sigma else 1)

    @property
    def null_class(self) -> int | None:
        """Label of the null class; None without one."""
        return self.num_classes if self.has_null_class else None

    @property
    def label_rows(self) -> int:
        """Rows of the label table."""
        return self.num_classes + (1 if self.has_null_class else 0)

    def validate(self, place: str) -> None:
        """Raises EngineError for the first size out of its range."""
        limits = {
            "depth": (1, 1024), "hidden_size": (4, 65536), "num_heads": (1, 1024), "patch_size": (1, 64),
            "input_size": (1, 4096), "in_channels": (1, 4096),
            "num_classes": (0, 0) if self.family == "pixart" else (1, 1_000_000),
        }
        for key, (low, high) in limits.items():
            value = getattr(self, key)
            if not low <= value <= high:
                raise EngineError(f"{place}: config key '{key}': expected {low} to {high}, found {value}; correct it")
        for key, value, divisor in (
            ("hidden_size", self.hidden_size, 4), ("hidden_size", self.hidden_size, self.num_heads),
            ("input_size", self.input_size, self.patch_size),
        ):
            if value % divisor:
                raise EngineError(
                    f"{place}: config key '{key}': expected a multiple of {divisor}, found {value}; correct it"
                )
        if self.family == "pixart":
            own = next((k for k in _BLOCK_PARTS if getattr(self, k) != _BLOCK_PARTS[k]), None)
            if own:
                raise EngineError(f"{place}: config key '{own}': no PixArt has such blocks; remove the setting")
        if self.reversed_time and not self.predicts_velocity:
            raise EngineError(
                f"{place}: config key 'reversed_time': a {self.family} predicts no velocity; remove the setting"
            )
        if self.rotary and self.hidden_size // self.num_heads % 4:
            raise EngineError(
                f"{place}: config key 'num_heads': rotary positions need heads of a multiple of 4 channels, found"
                f" {self.hidden_size} channels in {self.num_heads} heads; correct it"
            )

    @classmethod
    def read(cls, table: Mapping[str, Any], place: str) -> "ModelShape":
        """Makes a shape of the entries of a file; absent conventions are the official ones."""
        values: dict[str, Any] = {}
        for key, kind in _planned_kinds().items():
            value = table.get(key)
            if value is None:
                continue
            if kind is float and isinstance(value, int) and not isinstance(value, bool):
                value = float(value)
            if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
                raise EngineError(f"{place}: config key '{key}' has the wrong type; correct it")
            values[key] = value
        for key in ("depth", "hidden_size", "num_heads", "patch_size", "input_size", "num_classes"):
            if key not in values:
                raise EngineError(f"{place}: config key '{key}' is missing; add it")
        if values.get("family", "dit") not in FAMILIES:
            raise EngineError(
                f"{place}: config key 'family' is '{str(values['family'])[:60]}', expected one of {', '.join(FAMILIES)};"
                " train such a model with the native engine"
            )
        shape = cls(**values)
        shape.validate(place)
        return shape

    def stated(self, class_names: list[str], name: str) -> str:
        """The metadata entry `config` of a model file."""
        values: dict[str, Any] = {
            key: getattr(self, key)
            for key in (
                "family", "depth", "hidden_size", "num_heads", "patch_size", "input_size", "in_channels",
                "num_classes", "learn_sigma", "mlp_ratio",
            )
        }
        values["name"] = name
        for field in dataclasses.fields(self)[len(values) - 1 : len(_planned_kinds())]:
            value = getattr(self, field.name)
            if value != field.default:
                values[field.name] = value
        if class_names:
            values["class_names"] = class_names
        return json.dumps(values, sort_keys=True, ensure_ascii=False)

    def position_table(self, rows: int | None = None, columns: int | None = None) -> torch.Tensor:
        """The fixed 2-D sin-cos table (tokens, dim), row-major, columns first, from double precision.

        On another grid than the model's the coordinates are scaled to the grid of the model: token centres for
        class-conditional models, corners over the interpolation scale for PixArt.
        """
        rows, columns = rows or self.grid, columns or self.grid

        def coordinates(count: int) -> torch.Tensor:
            places = torch.arange(count, dtype=torch.float64)
            if self.family == "pixart":
                return places / (count / self.grid) / self.interpolation_scale
            return (places + 0.5) * (self.grid / count) - 0.5

        quarter = self.hidden_size // 4
        frequencies = torch.tensor(
            [math.pow(10000, -i / quarter) for i in range(quarter)], dtype=torch.float64
        )

        def waves(count: int) -> torch.Tensor:
            angles = coordinates(count)[:, None] * frequencies
            return torch.cat([angles.sin(), angles.cos()], dim=1).float()

        across, down = waves(columns), waves(rows)
        table = torch.cat(
            [across[None].expand(rows, -1, -1), down[:, None].expand(-1, columns, -1)], dim=-1
        )
        return table.reshape(rows * columns, self.hidden_size)


FAMILIES = ("dit", "sit", "lightningdit", "pixart")
_BLOCK_PARTS = {
    "rms_norm": False, "qk_norm": False, "rotary": False, "swiglu": False, "mlp_bias": True, "block_shift": True,
}


def _planned_kinds() -> dict[str, type]:
    """Types of the values that plans state, by key; the rest of a shape is that of a text-conditional file."""
    kinds = {"int": int, "float": float, "bool": bool, "str": str}
    names = [f.name for f in dataclasses.fields(ModelShape)]
    planned = names[: names.index("reversed_time") + 1]
    return {f.name: kinds[str(f.type)] for f in dataclasses.fields(ModelShape) if f.name in planned}


_SIZES = {"S": (12, 384, 6), "B": (12, 768, 12), "L": (24, 1024, 16), "XL": (28, 1152, 16)}


def published_heads(depth: int, hidden_size: int) -> int | None:
    """Heads of the published model of a size (Peebles and Xie, table 1); None if there is none."""
    return next((heads for d, width, heads in _SIZES.values() if (d, width) == (depth, hidden_size)), None)


def published_name(shape: ModelShape) -> str | None:
    """Name of the published model of an architecture, such as DiT-XL/2."""
    prefix = "SiT" if shape.family == "sit" else "DiT"
    for name, size in _SIZES.items():
        if size == (shape.depth, shape.hidden_size, shape.num_heads) and shape.patch_size in (2, 4, 8):
            return f"{prefix}-{name}/{shape.patch_size}"
    return None
