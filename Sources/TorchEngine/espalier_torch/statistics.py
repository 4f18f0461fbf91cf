"""Mean and deviation of every latent channel, by which latents are normalised (hustvl/LightningDiT, REPA-E)."""

from __future__ import annotations

import dataclasses
import os

import torch

from .errors import EngineError

NAME = "latents_stats.pt"


@dataclasses.dataclass(frozen=True)
class LatentStatistics:
    """One number a channel each, and the file that states them."""

    mean: torch.Tensor
    deviation: torch.Tensor
    path: str

    def __post_init__(self) -> None:
        whole = torch.isfinite(self.mean).all() and torch.isfinite(self.deviation).all()
        if len(self.mean) != len(self.deviation) or not len(self.mean) or not whole or self.deviation.min() <= 0:
            raise EngineError(
                f"{self.path}: states {len(self.mean)} means and {len(self.deviation)} deviations, expected a finite mean"
                " and a positive deviation for every latent channel; compute them again"
            )

    @classmethod
    def beside(cls, folder: str) -> "LatentStatistics | None":
        """Those of `latents_stats.pt` in a folder; None without."""
        path = os.path.join(folder, NAME)
        if not os.path.exists(path):
            return None
        try:
            table = torch.load(path, map_location="cpu", weights_only=True)
            mean, deviation = (table[key].double().flatten() for key in ("mean", "std"))
        except Exception as error:
            reason = str(error).split("\n")[0]
            raise EngineError(f"{path}: holds no tensors 'mean' and 'std' ({reason}); compute it again") from None
        return cls(mean, deviation, path)

    def require(self, channels: int) -> None:
        """Raises EngineError if they are those of another number of channels."""
        if len(self.mean) != channels:
            raise EngineError(
                f"{self.path}: states {len(self.mean)} channels, expected {channels}; put the statistics of these latents"
                " there"
            )

    def normalised(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents (channels, height, width) as the model sees them, float32."""
        mean, deviation = (x.float()[:, None, None] for x in (self.mean, self.deviation))
        return (latents.float() - mean) / deviation
