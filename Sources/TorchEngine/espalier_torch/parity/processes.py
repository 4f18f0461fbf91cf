"""Noise schedules, losses and samplers (`diffusion_*`, `sit/sampling`, `sit/paths`)."""

from __future__ import annotations

import math

import torch

from ..diffusion import GaussianDiffusion, Schedule, guided
from ..interpolant import LinearInterpolant, ode, sde
from ..models import Condition
from ..models.parts import timestep_features
from .check import Check, Fixture
from .transformers import load, shape_of, training


def schedule_refusal(fixture: Fixture) -> str | None:
    """Refuses schedules that are not linear."""
    kind = fixture.config["schedule"]
    return None if kind == "linear" else f"there is no {kind} noise schedule"


def schedule(check: Check) -> None:
    """All tables, those in float64 at 1e-9, and the respaced processes."""
    config, fixture = check.fixture.config, check.fixture
    own = Schedule.linear(config["steps"], config["beta_start"], config["beta_end"])
    for name in fixture.names("out."):
        table = name.removeprefix("out.f64.").removeprefix("out.")
        if hasattr(own, table):
            check.forward(name, getattr(own, table).tolist(), 1e-9 if name.startswith("out.f64.") else None)
    for spacing in config["respacings"]:
        kept = own.respaced(spacing)
        check.exact(f"out.respaced.{spacing}.timesteps", kept.timesteps)
        check.forward(f"out.respaced.{spacing}.betas", kept.betas.tolist())
        check.forward(f"out.respaced.{spacing}.posterior_variance", kept.posterior_variance.tolist())


def losses(check: Check) -> None:
    """The training loss of the full and the respaced processes."""
    model = load(shape_of(check.fixture), check.fixture.parameters(), check.device)
    for spacing in check.fixture.config["respacings"]:
        diffusion = GaussianDiffusion(Schedule.linear().respaced(spacing))
        with torch.no_grad():
            training(check, model, diffusion, f"r{spacing}" if spacing else "full")


def sampler(check: Check) -> None:
    """`diffusion_psample` and `diffusion_ddim`: with the engine's sinusoids, then with the stored ones."""
    fixture, config = check.fixture, check.fixture.config
    model = load(shape_of(fixture), fixture.parameters(), check.device)
    diffusion = GaussianDiffusion(Schedule.linear().respaced(config["respacing"]))
    executed = list(reversed(diffusion.schedule.timesteps))
    check.exact("out.timestep_map", diffusion.schedule.timesteps)
    check.forward("out.t_freq", timestep_features(torch.tensor(executed)))
    tolerance = config["tolerance"]
    for name, description in sorted(config["runs"].items()):
        labels = check.tensor(f"in.y_{name}" if f"in.y_{name}" in fixture else "in.y")
        noise = check.tensor(f"in.{name}.noise") if f"in.{name}.noise" in fixture else None
        for stored in (False, True):
            samples: list[torch.Tensor] = []
            starts: list[torch.Tensor] = []

            def network(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
                features = check.tensor("out.t_freq")[len(samples)].expand(len(t), -1) if stored else None
                return model(x, t, Condition(labels=labels, features=features))

            own = guided(network, config["cfg_scale"]) if "forward_with_cfg" in description else network
            clips = "clip_denoised=True" in description

            def report(position: int, x: torch.Tensor, start: torch.Tensor) -> None:
                samples.append(x)
                starts.append(start)

            x = check.tensor(f"in.{name}.x_T")
            with torch.no_grad():
                if "eta" in config:
                    diffusion.ddim(x, own, config["eta"], None if noise is None else noise.__getitem__, clips, report)
                else:
                    assert noise is not None
                    diffusion.ancestral(x, own, noise.__getitem__, clips, report)
            remark = "stored sinusoids" if stored else ""
            near = tolerance["with_stored_t_freq" if stored else "samples"]
            check.forward(f"out.{name}.samples", torch.stack(samples), near, remark)
            check.forward(f"out.{name}.pred_xstart", torch.stack(starts), tolerance["pred_xstart"], remark)


def solver(check: Check) -> None:
    """`diffusion_dpmpp`: DPM-Solver++(2M) with the exact noise prediction for Gaussian data."""
    fixture, config = check.fixture, check.fixture.config
    own = config["scheduler"]
    full = Schedule.linear(own["num_train_timesteps"], own["beta_start"], own["beta_end"])
    diffusion = GaussianDiffusion(full.evenly_spread(config["steps"]))
    check.exact("out.timesteps", reversed(diffusion.schedule.timesteps))
    ratios = diffusion.schedule.sqrt_recipm1_alphas_cumprod
    check.forward("out.sigmas", [*reversed((1 / ratios**-1).tolist()), 0.0])
    mean, variance = (check.tensor(f"in.{n}").double()[None, :, None, None] for n in ("mu", "s2"))

    def network(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        a = full.alphas_cumprod[int(t[0])]
        return (math.sqrt(1 - a) * (x.double() - math.sqrt(a) * mean) / (a * variance + 1 - a)).float()

    samples, starts = [], []
    diffusion.dpm_solver(check.tensor("in.x_T"), network, lambda p, x, s: (samples.append(x), starts.append(s)))
    check.forward("out.trajectory", torch.stack(samples))
    check.forward("out.pred_x0", torch.stack(starts))
    check.forward("out.trajectory_diffusers_f32", torch.stack(samples))


def sit_sampling(check: Check) -> None:
    """`sit/sampling`: Euler and Heun steps of the ODE, and the SDE with its last steps."""
    fixture, config = check.fixture, check.fixture.config
    model = load(shape_of(fixture, "sit"), fixture.parameters(), check.device)
    points, tolerance = config["num_steps"], config["tolerance"]["trajectory"]
    for name, run in sorted(config["runs"].items()):
        z, labels = check.tensor(f"in.{run['input']}.z"), Condition(labels=check.tensor(f"in.{run['input']}.y"))
        plain = lambda x, t, labels=labels: model(x, t, labels)  # noqa: E731
        # Rows of a guided run are [z, z] with [labels | null class].
        network = guided(plain, config["cfg_scale"]) if run["input"] == "cfg" else plain

        def noise(position: int) -> torch.Tensor:
            return check.tensor(f"in.{name}.noise")[position]

        states: list[torch.Tensor] = [z]

        def report(position: int, x: torch.Tensor, _: torch.Tensor) -> None:
            states.append(x)

        with torch.no_grad():
            if run["kind"] == "ode":
                ode(z, network, points, run["method"], report)
            else:
                sde(
                    z, network, points, noise, run["form"], run["norm"], run["method"], run["last_step"],
                    config["last_step_size"], report,
                )
        # Trajectories of the SDE leave the start out where they end with a last step.
        check.forward(f"out.{name}", torch.stack(states[-fixture[f"out.{name}"].shape[0] :]), tolerance)
        end = 1.0 if run["kind"] == "ode" or run["last_step"] is None else 1 - config["last_step_size"]
        grid = torch.linspace(0, end, points, dtype=torch.float64).tolist()
        times = f"out.{name}.t" if run["kind"] == "sde" else "out.ode.t"
        wanted = fixture[times].shape[0]
        check.forward(times, grid[:wanted] if len(grid) >= wanted else [*grid, 1.0])


def sit_paths(check: Check) -> None:
    """`sit/paths`: the linear path; other paths belong to other models than the published one."""
    path, t = LinearInterpolant(), check.tensor("in.t")
    noise, data = check.tensor("in.x0"), check.tensor("in.x1")
    latents = path.noisy(data, noise, t)
    velocity = data - noise
    column = t[:, None, None, None]
    check.forward("out.linear.alpha", t)
    check.forward("out.linear.sigma", 1 - t)
    check.forward("out.linear.d_alpha", torch.ones_like(t))
    check.forward("out.linear.d_sigma", -torch.ones_like(t))
    check.forward("out.linear.x_t", latents)
    check.forward("out.linear.u_t", velocity)
    check.forward("out.linear.noise", latents - column * velocity)
    check.forward("out.linear.score", (column * velocity - latents) / (1 - column))
    check.leave_out(["out.gvp.", "out.vp.", "out.linear.diffusion."], "only the linear path of the published model")
