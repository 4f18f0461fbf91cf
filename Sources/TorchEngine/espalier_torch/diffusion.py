"""Gaussian diffusion with learned-range variance, as `GaussianDiffusion` and `SpacedDiffusion` of facebookresearch/DiT.

Tables are float64 and rounded to float32 where they meet a tensor, as upstream; sums are float64.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Callable

import numpy as np
import torch

from .errors import EngineError

TIMESTEPS = 1000
Network = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Noisy latents (batch, C, H, W) and timesteps (batch) to noise prediction, with 2C channels also the variance."""
StepReport = Callable[[int, torch.Tensor, torch.Tensor], None]
"""Receives the position of an executed step, the latents after it and the predicted clean latents before it."""


class Schedule:
    """A variance schedule with its derived tables; step i has the timestep `timesteps[i]` of the trained process."""

    def __init__(self, betas: np.ndarray, timesteps: list[int]):
        self.betas, self.timesteps = betas, timesteps
        self.alphas_cumprod = np.cumprod(1 - betas)
        self.alphas_cumprod_prev = np.append(1.0, self.alphas_cumprod[:-1])
        rest = 1 - self.alphas_cumprod
        self.posterior_variance = betas * (1 - self.alphas_cumprod_prev) / rest
        first = self.posterior_variance[1] if len(betas) > 1 else betas[0]
        self.posterior_log_variance_clipped = np.log(np.append(first, self.posterior_variance[1:]))
        self.posterior_mean_coef1 = betas * np.sqrt(self.alphas_cumprod_prev) / rest
        self.posterior_mean_coef2 = (1 - self.alphas_cumprod_prev) * np.sqrt(1 - betas) / rest
        self.sqrt_alphas_cumprod = np.sqrt(self.alphas_cumprod)
        self.sqrt_one_minus_alphas_cumprod = np.sqrt(rest)
        self.sqrt_recip_alphas_cumprod = np.sqrt(1 / self.alphas_cumprod)
        self.sqrt_recipm1_alphas_cumprod = np.sqrt(1 / self.alphas_cumprod - 1)
        self.log_betas = np.log(betas)

    def __len__(self) -> int:
        return len(self.betas)

    @classmethod
    def linear(cls, steps: int = TIMESTEPS, first: float | None = None, last: float | None = None) -> "Schedule":
        """Linear betas from 1e-4 to 0.02, end points scaled with 1000 / steps."""
        scale = 1000 / steps
        first, last = first or scale * 1e-4, last or scale * 0.02
        return cls(np.linspace(first, last, steps, dtype=np.float64), list(range(steps)))

    def keeping(self, kept: list[int]) -> "Schedule":
        """The process of some steps, with their cumulative products."""
        last, betas = 1.0, []
        for index in kept:
            betas.append(1 - self.alphas_cumprod[index] / last)
            last = self.alphas_cumprod[index]
        return Schedule(np.array(betas), [self.timesteps[i] for i in kept])

    def respaced(self, spacing: str) -> "Schedule":
        """The process restricted to "N" steps, to equal sections "a,b,c", or to an integer stride "ddimN"."""
        return self.keeping(spaced(spacing, len(self))) if spacing else self

    def evenly_spread(self, steps: int) -> "Schedule":
        """Evenly spread steps with the last one and without the first (`linspace` of diffusers)."""
        if not 0 < steps < len(self):
            raise EngineError(f"sampling steps {steps}: expected 1 to {len(self) - 1}; ask for another number")
        stride = (len(self) - 1) / steps
        return self.keeping([round(k * stride) for k in range(1, steps + 1)])


def spaced(spacing: str, count: int) -> list[int]:
    """The steps that a spacing keeps, ascending (`space_timesteps` upstream; halves are rounded to even)."""
    try:
        if spacing.startswith("ddim"):
            wanted = int(spacing[4:])
            for stride in range(1, count):
                if len(range(0, count, stride)) == wanted:
                    return list(range(0, count, stride))
            raise EngineError(
                f'sampling steps "{spacing}": no whole-numbered stride over {count} timesteps gives exactly {wanted}'
                " steps; ask for another number"
            )
        sections = [int(part) for part in spacing.split(",")]
        if min(sections) < 1:
            raise ValueError
    except ValueError:
        raise EngineError(
            f'sampling steps "{spacing}" cannot be read; write a number such as "50", "ddim50", or a list of section'
            ' sizes such as "10,15,20"'
        ) from None
    kept: set[int] = set()
    start = 0
    for index, wanted in enumerate(sections):
        size = count // len(sections) + (1 if index < count % len(sections) else 0)
        if wanted > size:
            raise EngineError(
                f'sampling steps "{spacing}": cannot take {wanted} steps out of a section of {size} timesteps; ask for'
                f" at most {size}"
            )
        stride, position = (size - 1) / (wanted - 1) if wanted > 1 else 1, 0.0
        for _ in range(wanted):
            kept.add(start + round(position))
            position += stride
        start += size
    return sorted(kept)


@dataclasses.dataclass
class Losses:
    """Losses per row of a batch (rows), float64; loss = mse + vb."""

    loss: torch.Tensor
    mse: torch.Tensor
    vb: torch.Tensor


def _normal_cdf(x: torch.Tensor) -> torch.Tensor:
    """The tanh approximation of the standard normal distribution function."""
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def _discretized_nll(value: torch.Tensor, mean: torch.Tensor, log_variance: torch.Tensor) -> torch.Tensor:
    """Negative log likelihood in nats of 256 levels on [-1, 1] under a Gaussian; probabilities are at least 1e-12."""
    inverse, distance = torch.exp(-0.5 * log_variance), value - mean
    upper, lower = _normal_cdf(inverse * (distance + 1 / 255)), _normal_cdf(inverse * (distance - 1 / 255))
    probability = torch.where(value < -0.999, upper, torch.where(value > 0.999, 1 - lower, upper - lower))
    return -torch.log(probability.clamp(min=1e-12))


class GaussianDiffusion:
    """Noise, training loss and samplers over the steps of a schedule."""

    def __init__(self, schedule: Schedule | None = None):
        self.schedule = schedule or Schedule.linear()

    def draw(self, uniform_or_step: list[int], device: torch.device | str) -> torch.Tensor:
        """The steps of rows as a tensor."""
        return torch.tensor(uniform_or_step, dtype=torch.int64, device=device)

    def times(self, steps: torch.Tensor) -> torch.Tensor:
        """The timesteps that the model sees (batch), float32."""
        return torch.tensor(self.schedule.timesteps, dtype=torch.float32, device=steps.device)[steps]

    def _entry(self, table: np.ndarray, steps: torch.Tensor, dtype: torch.dtype = torch.float64) -> torch.Tensor:
        """Entries of a table, rounded to float32, as (batch, 1, 1, 1)."""
        rounded = torch.from_numpy(table.astype(np.float32)).to(steps.device)
        return rounded[steps].to(dtype)[:, None, None, None]

    def noisy(self, start: torch.Tensor, noise: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
        """x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) noise (batch, C, H, W)."""
        s = self.schedule
        return (
            self._entry(s.sqrt_alphas_cumprod, steps, torch.float32) * start
            + self._entry(s.sqrt_one_minus_alphas_cumprod, steps, torch.float32) * noise
        )

    def _log_variance(self, parameter: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
        """The log variance between that of the posterior (-1) and log beta (1)."""
        fraction = (parameter + 1) / 2
        low = self._entry(self.schedule.posterior_log_variance_clipped, steps)
        return fraction * self._entry(self.schedule.log_betas, steps) + (1 - fraction) * low

    def _start(self, latents: torch.Tensor, noise: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
        s = self.schedule
        return (
            self._entry(s.sqrt_recip_alphas_cumprod, steps) * latents
            - self._entry(s.sqrt_recipm1_alphas_cumprod, steps) * noise
        )

    def decomposed(
        self, output: torch.Tensor, latents: torch.Tensor, steps: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Clean latents and noise that an output predicts; `noisy` makes the noisy latents of them again."""
        noise = output[:, : latents.shape[1]]
        return self._start(latents.double(), noise.double(), steps).float(), noise

    def _posterior_mean(self, start: torch.Tensor, latents: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
        s = self.schedule
        return (
            self._entry(s.posterior_mean_coef1, steps) * start + self._entry(s.posterior_mean_coef2, steps) * latents
        )

    def losses(
        self, output: torch.Tensor, start: torch.Tensor, latents: torch.Tensor, noise: torch.Tensor,
        steps: torch.Tensor,
    ) -> Losses:
        """Mean squared error of the noise plus the variational bound in bits, per row.

        The bound sees the noise prediction as a constant, so it trains only the variance parameter; a model without
        that parameter is trained on the first term alone.
        """
        channels = start.shape[1]
        output, start, latents, noise = (x.double() for x in (output, start, latents, noise))
        predicted = output[:, :channels]
        mse = (noise - predicted).square().flatten(1).mean(1)
        if output.shape[1] == channels:
            return Losses(mse, mse, torch.zeros_like(mse))
        log_variance = self._log_variance(output[:, channels:], steps)
        mean = self._posterior_mean(self._start(latents, predicted.detach(), steps), latents, steps)
        true_log = self._entry(self.schedule.posterior_log_variance_clipped, steps)
        distance = (self._posterior_mean(start, latents, steps) - mean).square()
        divergence = 0.5 * (
            -1 + log_variance - true_log + torch.exp(true_log - log_variance) + distance * torch.exp(-log_variance)
        )
        first = steps[:, None, None, None] == 0
        bound = torch.where(first, _discretized_nll(start, mean, log_variance), divergence)
        vb = bound.flatten(1).mean(1) / math.log(2)
        return Losses(mse + vb, mse, vb)

    # Samplers

    def _step(self, step: int, latents: torch.Tensor) -> torch.Tensor:
        return torch.full((latents.shape[0],), step, dtype=torch.int64, device=latents.device)

    def ancestral(
        self, latents: torch.Tensor, network: Network, noise: Callable[[int], torch.Tensor],
        clips: bool = False, report: StepReport | None = None,
    ) -> torch.Tensor:
        """`p_sample_loop` upstream: latents x_T (batch, C, H, W) to x_0; `noise(position)` is added after each step."""
        for position in range(len(self.schedule)):
            step = len(self.schedule) - 1 - position
            steps = self._step(step, latents)
            start, log_variance, x = self._denoised(latents, network, steps, clips)
            result = self._posterior_mean(start, x, steps).float()
            if step > 0:
                result = result + torch.exp(0.5 * log_variance.float()) * noise(position)
            if report:
                report(position, result, start.float())
            latents = result
        return latents

    def _denoised(
        self, latents: torch.Tensor, network: Network, steps: torch.Tensor, clips: bool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Predicted clean latents, log variance and the latents, float64."""
        output = network(latents, self.times(steps)).double()
        channels, x = latents.shape[1], latents.double()
        start = self._start(x, output[:, :channels], steps)
        if clips:
            start = start.clamp(-1, 1)
        if output.shape[1] == channels:
            # The larger fixed variance upstream; at step 0 that of the posterior.
            s = self.schedule
            table = s.posterior_log_variance_clipped if int(steps[0]) == 0 else s.log_betas
            return start, self._entry(table, steps).expand_as(x), x
        return start, self._log_variance(output[:, channels:], steps), x

    def ddim(
        self, latents: torch.Tensor, network: Network, eta: float = 0.0,
        noise: Callable[[int], torch.Tensor] | None = None, clips: bool = False, report: StepReport | None = None,
    ) -> torch.Tensor:
        """`ddim_sample_loop` upstream (arXiv 2010.02502)."""
        s = self.schedule
        for position in range(len(s)):
            step = len(s) - 1 - position
            steps = self._step(step, latents)
            start, _, x = self._denoised(latents, network, steps, clips)
            start = start.float().double()
            alpha, previous = (float(np.float32(t[step])) for t in (s.alphas_cumprod, s.alphas_cumprod_prev))
            sigma = eta * math.sqrt((1 - previous) / (1 - alpha)) * math.sqrt(1 - alpha / previous)
            direct = (self._entry(s.sqrt_recip_alphas_cumprod, steps) * x - start) / self._entry(
                s.sqrt_recipm1_alphas_cumprod, steps
            )
            result = start * math.sqrt(previous) + math.sqrt(max(0.0, 1 - previous - sigma**2)) * direct
            if step > 0 and sigma > 0 and noise is not None:
                result = result + sigma * noise(position).double()
            latents = result.float()
            if report:
                report(position, latents, start.float())
        return latents

    def dpm_solver(
        self, latents: torch.Tensor, network: Network, report: StepReport | None = None
    ) -> torch.Tensor:
        """DPM-Solver++(2M) (arXiv 2211.01095) with the defaults of diffusers; the last step goes to noise level 0."""
        s, channels = self.schedule, latents.shape[1]
        alpha, sigma = np.sqrt(s.alphas_cumprod), np.sqrt(1 - s.alphas_cumprod)
        ratio = sigma / alpha
        previous: tuple[torch.Tensor, float] | None = None
        for position in range(len(s)):
            step = len(s) - 1 - position
            output = network(latents, self.times(self._step(step, latents)))[:, :channels].double()
            start = ((latents.double() - sigma[step] * output) / alpha[step]).float()
            if step == 0:
                result = start
            else:
                target = start.double()
                if previous is not None:
                    slope = 0.5 * math.log(ratio[step] / ratio[step - 1]) / math.log(previous[1] / ratio[step])
                    target = target + slope * (target - previous[0].double())
                moved = -alpha[step - 1] * (ratio[step - 1] / ratio[step] - 1)
                result = (sigma[step - 1] / sigma[step] * latents.double() + moved * target).float()
            previous = (start, float(ratio[step]))
            latents = result
            if report:
                report(position, latents, start)
        return latents


def guided(network: Network, scale: float, channels: int = 3) -> Network:
    """Classifier-free guidance over [conditional | unconditional] batches; the first half of the latents counts."""

    def run(latents: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        half = latents[: len(latents) // 2]
        output = network(torch.cat([half, half]), times)
        count = min(channels, latents.shape[1])
        conditional, free = output[: len(half), :count], output[len(half) :, :count]
        mixed = free + scale * (conditional - free)
        return torch.cat([torch.cat([mixed, mixed]), output[:, count:]], dim=1)

    return run
