"""The variational autoencoder of latent diffusion (AutoencoderKL of diffusers), key by key."""

from __future__ import annotations

import json
import os
from typing import Any, Mapping

import torch
from torch import nn
from torch.nn.functional import interpolate, pad, scaled_dot_product_attention, silu

from .errors import EngineError
from .files import TensorFile, digest_of
from .statistics import LatentStatistics

_EARLY = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
"""Names of the attention layers in early releases."""


class _Residual(nn.Module):
    def __init__(self, inputs: int, outputs: int, groups: int):
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(groups, inputs, 1e-6), nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm2, self.conv2 = nn.GroupNorm(groups, outputs, 1e-6), nn.Conv2d(outputs, outputs, 3, padding=1)
        if inputs != outputs:
            self.conv_shortcut = nn.Conv2d(inputs, outputs, 1)
        self.same = inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv2(silu(self.norm2(self.conv1(silu(self.norm1(x))))))
        return (x if self.same else self.conv_shortcut(x)) + y


class _Attention(nn.Module):
    def __init__(self, channels: int, groups: int):
        super().__init__()
        self.group_norm = nn.GroupNorm(groups, channels, 1e-6)
        self.to_q, self.to_k, self.to_v = (nn.Linear(channels, channels) for _ in range(3))
        self.to_out = nn.Sequential(nn.Linear(channels, channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.group_norm(x).flatten(2).transpose(1, 2)[:, None]
        mixed = scaled_dot_product_attention(self.to_q(tokens), self.to_k(tokens), self.to_v(tokens))
        return x + self.to_out(mixed)[:, 0].transpose(1, 2).reshape(x.shape)


class _Middle(nn.Module):
    def __init__(self, channels: int, groups: int, attention: bool):
        super().__init__()
        self.resnets = nn.ModuleList(_Residual(channels, channels, groups) for _ in range(2))
        self.attentions = nn.ModuleList([_Attention(channels, groups)] if attention else [])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.resnets[0](x)
        for attention in self.attentions:
            x = attention(x)
        return self.resnets[1](x)


class _Down(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(pad(x, (0, 1, 0, 1)))


class _Up(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(interpolate(x, scale_factor=2.0, mode="nearest"))


class _Stage(nn.Module):
    def __init__(self, inputs: int, outputs: int, layers: int, groups: int, resample: str | None):
        super().__init__()
        self.resnets = nn.ModuleList(
            _Residual(inputs if i == 0 else outputs, outputs, groups) for i in range(layers)
        )
        if resample == "down":
            self.downsamplers = nn.ModuleList([_Down(outputs)])
        if resample == "up":
            self.upsamplers = nn.ModuleList([_Up(outputs)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.resnets:
            x = block(x)
        for name in ("downsamplers", "upsamplers"):
            for module in getattr(self, name, []):
                x = module(x)
        return x


class _Coder(nn.Module):
    """Images to features of latents, or latents to images, (batch, channels, height, width)."""

    def __init__(self, table: Mapping[str, Any], encodes: bool):
        super().__init__()
        widths = list(table["block_out_channels"])
        groups, layers = table["norm_num_groups"], table["layers_per_block"]
        latent = table["latent_channels"]
        order = widths if encodes else widths[::-1]
        self.encodes = encodes
        self.conv_in = nn.Conv2d(table["in_channels"] if encodes else latent, order[0], 3, padding=1)
        stages = nn.ModuleList(
            _Stage(
                order[max(0, i - 1)], order[i], layers + (0 if encodes else 1), groups,
                None if i == len(order) - 1 else "down" if encodes else "up",
            )
            for i in range(len(order))
        )
        setattr(self, "down_blocks" if encodes else "up_blocks", stages)
        self.mid_block = _Middle(widths[-1], groups, table["mid_block_add_attention"])
        self.conv_norm_out = nn.GroupNorm(groups, order[-1], 1e-6)
        self.conv_out = nn.Conv2d(order[-1], 2 * latent if encodes else table["out_channels"], 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv_in(x)
        if not self.encodes:
            x = self.mid_block(x)
        for stage in self.down_blocks if self.encodes else self.up_blocks:
            x = stage(x)
        if self.encodes:
            x = self.mid_block(x)
        return self.conv_out(silu(self.conv_norm_out(x)))


_DEFAULTS: dict[str, Any] = {
    "in_channels": 3, "out_channels": 3, "latent_channels": 4, "layers_per_block": 2, "norm_num_groups": 32,
    "use_quant_conv": True, "use_post_quant_conv": True, "mid_block_add_attention": True, "scaling_factor": 0.18215,
    "latent_mean": None, "latent_std": None,
}


class AutoencoderKL(nn.Module):
    """Encoder and decoder; `scaling_factor`, or mean and deviation per channel, leads to the latents of diffusion."""

    def __init__(self, table: Mapping[str, Any]):
        super().__init__()
        self.table = {**_DEFAULTS, **{k: v for k, v in table.items() if v is not None}}
        latent = self.table["latent_channels"]
        self.encoder, self.decoder = _Coder(self.table, True), _Coder(self.table, False)
        self.quant_conv = nn.Conv2d(2 * latent, 2 * latent, 1) if self.table["use_quant_conv"] else None
        self.post_quant_conv = nn.Conv2d(latent, latent, 1) if self.table["use_post_quant_conv"] else None

    @property
    def factor(self) -> int:
        """Pixels per latent position along an axis."""
        return 2 ** (len(self.table["block_out_channels"]) - 1)

    @classmethod
    def from_tensors(
        cls, table: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], path: str
    ) -> "AutoencoderKL":
        """Builds a model for inference from tensors in current or early names."""
        named: dict[str, torch.Tensor] = {}
        for name, value in tensors.items():
            for early, current in _EARLY.items():
                if ".attentions." in name:
                    name = name.replace(early, current)
            linear = ".attentions." in name and value.dim() == 4
            named[name] = value.flatten(1) if linear else value
        with torch.device("meta"):
            model = cls(table)
        try:
            model.load_state_dict({k: v.float() for k, v in named.items()}, assign=True)
        except RuntimeError as error:
            reason = str(error).split("\n")[1].strip()
            raise EngineError(
                f"{path}: the autoencoder's tensors do not fit its configuration ({reason}); check that they belong"
                " together"
            ) from None
        return model.eval().requires_grad_(False)

    def encode(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Images (batch, channels, H, W) in -1 ... 1 to mean and log variance of their latents, not scaled."""
        features = self.encoder(images)
        mean, log_variance = (features if self.quant_conv is None else self.quant_conv(features)).chunk(2, dim=1)
        return mean, log_variance.clamp(-30, 20)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents that are not scaled (batch, channels, h, w) to images."""
        return self.decoder(latents if self.post_quant_conv is None else self.post_quant_conv(latents))

    def _channels(self, key: str, like: torch.Tensor) -> torch.Tensor:
        return torch.tensor(self.table[key], dtype=torch.float32, device=like.device)[None, :, None, None]

    def scaled(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents as diffusion sees them."""
        if self.table["latent_mean"] is None:
            return latents * self.table["scaling_factor"]
        return (latents - self._channels("latent_mean", latents)) / self._channels("latent_std", latents)

    def images(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents of diffusion to bytes (batch, height, width, channels), clamped and truncated as ADM does."""
        if self.table["latent_mean"] is None:
            plain = latents / self.table["scaling_factor"]
        else:
            plain = latents * self._channels("latent_std", latents) + self._channels("latent_mean", latents)
        decoded = self.decode(plain).float()
        return (127.5 * decoded + 128).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def load(path: str, statistics: LatentStatistics | None = None) -> AutoencoderKL:
    """Opens a file with its configuration in the metadata or in `config.json` beside it, or a folder of diffusers.

    statistics: those of a model's latents, in the place of a scaling factor.
    """
    weights = os.path.join(path, "diffusion_pytorch_model.safetensors") if os.path.isdir(path) else path
    convert = "'espalier convert MODEL --naming diffusers --to FOLDER' writes such a one in FOLDER/vae, or use the native engine"
    if not weights.endswith(".safetensors"):
        raise EngineError(f"{weights}: this engine reads autoencoders in safetensors files only; {convert}")
    file = TensorFile(weights)
    if other := next((name for name in file.names if "encoder.down.0.block." in name), None):
        raise EngineError(
            f"{weights}: tensor '{other}' has the naming of latent-diffusion, this engine reads that of diffusers only;"
            f" {convert}"
        )
    text = file.metadata.get("config")
    beside = os.path.join(os.path.dirname(weights), "config.json")
    if text is None and os.path.exists(beside):
        with open(beside, encoding="utf-8") as source:
            text = source.read()
    if text is None:
        raise EngineError(f"{weights}: there is no config.json beside it; put the autoencoder's config.json there")
    table = json.loads(text)
    if table.get("latents_mean") or table.get("shift_factor"):
        channels = table.get("latent_channels", 4)
        scale = table.get("scaling_factor", 0.18215)
        table["latent_mean"] = table.get("latents_mean") or [table["shift_factor"]] * channels
        table["latent_std"] = [s / scale for s in table.get("latents_std") or [1.0] * channels]
    if statistics is not None:
        statistics.require(table.get("latent_channels", 4))
        table["latent_mean"], table["latent_std"] = statistics.mean.tolist(), statistics.deviation.tolist()
    return AutoencoderKL.from_tensors(table, {name: file.raw(name) for name in file.names}, weights)


def content_hash(path: str) -> str:
    """The digest of an autoencoder's files, as the native engine computes it."""
    if os.path.isdir(path):
        return digest_of([os.path.join(path, n) for n in ("diffusion_pytorch_model.safetensors", "config.json")])
    return digest_of([path])
