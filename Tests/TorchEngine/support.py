"""A tiny random DiT with data, plans and runs for the engine's tests."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import time
from typing import Any

import torch

ROOT = pathlib.Path(__file__).resolve().parents[2]
ENGINE = ROOT / "Sources/TorchEngine"
sys.path.insert(0, str(ENGINE))

from espalier_torch.files import TensorFile, item, sha256, write_tensors  # noqa: E402
from espalier_torch.models import make  # noqa: E402
from espalier_torch.philox import Stream  # noqa: E402
from espalier_torch.shape import ModelShape  # noqa: E402

SHAPE = ModelShape(depth=4, hidden_size=32, num_heads=4, patch_size=2, input_size=8, num_classes=10)


def native() -> str | None:
    """The native program, if it is built."""
    named = os.environ.get("ESPALIER_NATIVE")
    places = [named] if named else [str(ROOT / ".build/release/espalier"), str(ROOT / ".build/debug/espalier")]
    return next((p for p in places if p and os.path.exists(p)), None)


def goldens() -> str | None:
    """The folder of reference files, if there is one."""
    named = os.environ.get("ESPALIER_GOLDENS", str(ROOT.parent / "shared/goldens"))
    return named if os.path.isdir(named) else None


def write_model(path: pathlib.Path, shape: ModelShape = SHAPE) -> None:
    """A model whose every parameter is random."""
    items = []
    for name, parameter in make(shape).named_parameters():
        if name == "pos_embed":
            value = shape.position_table()[None]
        else:
            spread = 0.02 if "bias" in name else 0.6 / max(1, parameter[0].numel()) ** 0.5
            # Millions of numbers of a stream take long on a CPU.
            draw = torch.randn if parameter.numel() > 1 << 20 else Stream(7, name).normal
            value = draw(tuple(parameter.shape)) * spread
        items.append(item(name, value))
    write_tensors(str(path), items, {"config": shape.stated([], "tiny")})


def write_data(path: pathlib.Path, count: int = 40, shape: ModelShape = SHAPE) -> None:
    """Random latents with labels."""
    size = (count, shape.in_channels, shape.input_size, shape.input_size)
    labels = torch.tensor([float(i % shape.num_classes) for i in range(count)])
    write_tensors(str(path), [item("latents", Stream(8, "data").normal(size)), item("labels", labels)], {})


def write_plan(
    folder: pathlib.Path, blocks: list[dict[str, Any]], parallel: list[dict[str, Any]] | None = None, seed: int = 5,
    stage1: dict[str, Any] | None = None, stage2: dict[str, Any] | None = None, name: str = "plan.json",
    own_data: dict[str, Any] | None = None, shape: ModelShape = SHAPE,
) -> pathlib.Path:
    """A plan for the model and the data in a folder."""
    model, data = folder / "model.safetensors", folder / "data.safetensors"
    table: dict[str, Any] = {
        "espalier_plan": 1, "name": "tiny", "seed": seed,
        "model": {
            "path": str(model), "content_hash": sha256(str(model)),
            **{key: value for key, value in json.loads(shape.stated([], "")).items() if key != "name"},
        },
        "blocks": blocks, "data": own_data or {"path": str(data)},
        "stage1": {
            "steps": 20, "batch_size": 6, "warmup_steps": 4, "held_out_every": 1, "held_out_samples": 4,
            "checkpoint_every": 1000, "learning_rate": 2e-3, **(stage1 or {}),
        },
        "stage2": {
            "steps": 20, "batch_size": 6, "micro_batch": 2, "warmup_steps": 4, "held_out_every": 1,
            "held_out_samples": 4, "checkpoint_every": 1000, "learning_rate": 1e-3, "ema_decay": 0.9, **(stage2 or {}),
        },
    }
    if parallel:
        table["parallel"] = parallel
    path = folder / name
    path.write_text(json.dumps(table, indent=1))
    return path


def make_run(
    folder: pathlib.Path, plan: pathlib.Path, kind: str = "distill", name: str = "run", weights: list[str] | None = None,
    **request: Any,
) -> pathlib.Path:
    """A run directory as the launcher makes it."""
    run = folder / name
    for part in ("checkpoints", "samples"):
        (run / part).mkdir(parents=True)
    job: dict[str, Any] = {"kind": kind, "plan_path": "plan.json"}
    if kind == "finetune":
        job["weights"] = weights or []
    content = {
        "espalier_run": 1, "job": job, "name": "tiny", "created_at": time.time(), "code_version": "0", "seed": 5,
        "random_generator": "philox4x32-10", "model_hash": json.loads(plan.read_text())["model"]["content_hash"],
        "precision": "fp32", **request,
    }
    (run / "run.json").write_text(json.dumps(content))
    (run / "plan.json").write_text(plan.read_text())
    for log in ("events.jsonl", "control.jsonl"):
        (run / log).write_text("")
    return run


def environment(**extra: str) -> dict[str, str]:
    """The environment of the engine's processes."""
    own = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "TORCHELASTIC"))}
    own.update(PYTHONPATH=str(ENGINE), OMP_NUM_THREADS="1", ESPALIER_CONNECT_SECONDS="45", ESPALIER_LOG_EVERY_STEP="1", **extra)
    return own


def command(run: pathlib.Path, ranks: int = 1, *options: str, launcher: tuple[str, ...] = ()) -> list[str]:
    """The command line of a run on some ranks."""
    if ranks == 1:
        return [sys.executable, "-m", "espalier_torch", "run", "--device", "cpu", *options, str(run)]
    torchrun = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", *launcher, "-m",
    ]
    return [*torchrun, "espalier_torch", "run", "--device", "cpu", *options, str(run)]


def execute(run: pathlib.Path, ranks: int = 1, *options: str, code: int | None = 0, **extra: str) -> str:
    """Runs the engine to its end and returns its output."""
    done = subprocess.run(
        command(run, ranks, *options), env=environment(**extra), capture_output=True, text=True, timeout=300
    )
    if code is not None:
        assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def events(run: pathlib.Path, kind: str | None = None) -> list[dict[str, Any]]:
    """The events of a run, or those of a kind."""
    found = []
    for line in (run / "events.jsonl").read_text().splitlines():
        record = json.loads(line)
        if kind is None or record["kind"] == kind:
            found.append(record)
    return found


def wait_for_step(run: pathlib.Path, step: int) -> None:
    """Waits until a run has logged a step."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        if any(e["step"] >= step for e in events(run, "step")):
            return
        time.sleep(0.05)
    raise AssertionError((run / "log.txt").read_text()[-3000:])


def curve(run: pathlib.Path, kind: str = "step") -> dict[int, float]:
    """Losses by step: `step` for training, `held_out` for held-out losses (means over sites)."""
    result = {}
    for event in events(run, kind):
        losses = event.get("losses") or {}
        value = event.get("loss")
        if value is None:
            value = sum(losses.values()) / len(losses)
        result[event["step"]] = float(value)
    return result


def site_curves(run: pathlib.Path, kind: str = "held_out") -> dict[tuple[int, str], float]:
    """Losses by step and site."""
    return {
        (event["step"], site): float(value) for event in events(run, kind) for site, value in event["losses"].items()
    }


def largest_difference(one: dict[Any, float], other: dict[Any, float], steps: range | None = None) -> float:
    """The largest relative difference of two curves at the points that both have."""
    keys = [k for k in one if k in other and (steps is None or (k[0] if isinstance(k, tuple) else k) in steps)]
    assert keys, "the curves share no point"
    return max(abs(one[k] - other[k]) / max(abs(other[k]), 1e-12) for k in keys)


def tensors(path: pathlib.Path) -> dict[str, torch.Tensor]:
    """All tensors of a safetensors file."""
    file = TensorFile(str(path))
    return {name: file.raw(name) for name in file.names}


def native_run(
    folder: pathlib.Path, plan: pathlib.Path, kind: str, weights: list[str] | None = None, *options: str
) -> pathlib.Path:
    """A finished run of the native engine."""
    program, root = native(), folder / f"native-{time.monotonic_ns()}"
    assert program
    words = [program, kind, str(plan), "--runs", str(root), "--precision", "fp32", "--detach", *options]
    for path in weights or []:
        words += ["--from", path]
    env = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache")}
    made = subprocess.run(words, env=env, capture_output=True, text=True, check=True, timeout=120)
    run = pathlib.Path(made.stdout.strip().splitlines()[-1])
    wait_for(run)
    return run


def wait_for(run: pathlib.Path, kind: str = "finished", seconds: float = 240) -> dict[str, Any]:
    """Waits for an event of a run."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = events(run, kind) if (run / "events.jsonl").exists() else []
        if found:
            return found[-1]
        time.sleep(0.05)
    raise AssertionError(f"{run}: no event {kind}: {(run / 'log.txt').read_text() if (run / 'log.txt').exists() else ''}")
