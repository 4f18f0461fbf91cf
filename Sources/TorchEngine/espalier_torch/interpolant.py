"""The stochastic interpolant of SiT (willisma/SiT): linear path, velocity prediction; t = 1 is data, t = 0 noise."""

from __future__ import annotations

import math
from typing import Callable

import torch

from .diffusion import Losses, Network, StepReport


class LinearInterpolant:
    """x_t = t x_1 + (1 - t) x_0; the model predicts the velocity x_1 - x_0."""

    def times(self, steps: torch.Tensor) -> torch.Tensor:
        """The times that the model sees (batch)."""
        return steps.float()

    def noisy(self, start: torch.Tensor, noise: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
        """Noisy latents (batch, C, H, W) at times in [0, 1)."""
        t = steps.float()[:, None, None, None]
        return t * start + (1 - t) * noise

    def decomposed(
        self, output: torch.Tensor, latents: torch.Tensor, steps: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Data and noise that a velocity predicts; `noisy` makes the noisy latents of them again."""
        t = steps.double()[:, None, None, None]
        velocity, x = output[:, : latents.shape[1]].double(), latents.double()
        return (velocity * (1 - t) + x).float(), (x - t * velocity).float()

    def losses(
        self, output: torch.Tensor, start: torch.Tensor, latents: torch.Tensor, noise: torch.Tensor,
        steps: torch.Tensor,
    ) -> Losses:
        """Mean squared error of the velocity per row, float64."""
        error = output[:, : start.shape[1]].double() - (start.double() - noise.double())
        mse = error.square().flatten(1).mean(1)
        return Losses(mse, mse, torch.zeros_like(mse))


def _times(value: float, like: torch.Tensor) -> torch.Tensor:
    return torch.full((like.shape[0],), value, dtype=torch.float32, device=like.device)


def ode(
    latents: torch.Tensor, network: Network, points: int, method: str = "heun", report: StepReport | None = None
) -> torch.Tensor:
    """dx = v dt from 0 to 1 on `points` grid points, so points - 1 steps of Euler or Heun's method."""
    grid = torch.linspace(0, 1, points, dtype=torch.float64).tolist()
    x = latents.double()
    for position, (t, end) in enumerate(zip(grid, grid[1:])):
        first = network(x.float(), _times(t, x)).double()
        moved = x + (end - t) * first
        if method == "heun":
            second = network(moved.float(), _times(end, x)).double()
            moved = x + (end - t) * (first + second) / 2
        x = moved
        if report:
            report(position, x.float(), (x + (1 - end) * first).float())
    return x.float()


def _weight(form: str, norm: float, t: float) -> float:
    """The diffusion coefficient w(t) of the SDE."""
    if form == "decreasing":
        return 0.25 * (norm * math.cos(math.pi * t) + 1) ** 2
    if form == "increasing-decreasing":
        return norm * math.sin(math.pi * t) ** 2
    return norm if form == "constant" else norm * (1 - t)


def sde(
    latents: torch.Tensor, network: Network, points: int, noise: Callable[[int], torch.Tensor],
    form: str = "sigma", norm: float = 1.0, method: str = "euler", last: str | None = "mean", last_size: float = 0.04,
    report: StepReport | None = None,
) -> torch.Tensor:
    """drift = v + w(t) score on linspace(0, 1 - last, points), then one last step without noise."""
    end = 1.0 if last is None else 1 - last_size
    grid = torch.linspace(0, end, points, dtype=torch.float64).tolist()
    x = latents.double()

    def velocity(x: torch.Tensor, t: float) -> torch.Tensor:
        return network(x.float(), _times(t, x)).double()

    def score(x: torch.Tensor, v: torch.Tensor, t: float) -> torch.Tensor:
        return (t * v - x) / (1 - t)

    def drift(x: torch.Tensor, t: float) -> torch.Tensor:
        v = velocity(x, t)
        return v + _weight(form, norm, t) * score(x, v, t)

    for position, (t, following) in enumerate(zip(grid, grid[1:])):
        h = following - t
        spread = math.sqrt(2 * _weight(form, norm, t)) * math.sqrt(h) * noise(position).double()
        if method == "heun":
            y = x + spread
            first = drift(y, t)
            x = y + h * (first + drift(y + h * first, t + h)) / 2
        else:
            x = x + drift(x, t) * h + spread
        if report:
            report(position, x.float(), x.float())
    if last is not None:
        t = end
        v = velocity(x, t)
        if last == "mean":
            x = x + (v + _weight(form, norm, t) * score(x, v, t)) * last_size
        elif last == "euler":
            x = x + v * last_size
        else:
            x = x / t + (1 - t) ** 2 / t * score(x, v, t)
    if report:
        report(points - 1, x.float(), x.float())
    return x.float()
