"""A run's trajectory does not depend on the number of ranks, nor on how weights are distributed."""

from __future__ import annotations

import pathlib
import shutil
import subprocess
import sys
from typing import Any

import pytest

import support
from support import curve, largest_difference, site_curves
from test_curves import PAIRS, here
from test_registry import OTHER_OPERATORS

STEPS = {"steps": 9, "checkpoint_every": 3, "keep_last": 9, "held_out_every": 3}
L2 = {"overrides": {"0+1": {"loss": "l2"}, "2+3": {"loss": "l2"}}}
CASES: dict[str, dict[str, Any]] = {
    "streaming": {"kind": "distill", "parallel": PAIRS, "stage1": {**STEPS, **L2}},
    "cached": {"kind": "distill", "stage1": {
        **STEPS, "mode": "cached", "samples": 15, "epochs": 3, "overrides": {"0.attention": {"keep_best": True}},
    }},
    "whole": {"kind": "finetune", "stage2": {**STEPS, "distillation_weight": 0.5, "batch_size": 5, "keep_best": True}},
    "lora": {"kind": "finetune", "parallel": PAIRS, "stage2": {
        **STEPS, "trained": "lora", "lora_rank": 4, "batch_size": 2, "recompute": True,
    }},
}


def together(world: int, runs: list[pathlib.Path], *options: str) -> None:
    """Does runs on some ranks, in one group of processes."""
    script = str(pathlib.Path(__file__).parent / "several.py")
    words = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world}", script, *options,
        *map(str, runs),
    ]
    done = subprocess.run(words, env=support.environment(), capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.fixture(scope="module")
def alone(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """Every case on one rank."""
    patch = pytest.MonkeyPatch()
    patch.setenv("ESPALIER_LOG_EVERY_STEP", "1")
    patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    runs = {name: made(folder, name, 1) for name in CASES}
    for run in runs.values():
        here(run)
    patch.undo()
    return runs


def made(folder: pathlib.Path, name: str, world: int, suffix: str = "") -> pathlib.Path:
    """The run of a case."""
    case = CASES[name]
    plan = support.write_plan(
        folder, OTHER_OPERATORS, case.get("parallel"), stage1=case.get("stage1"), stage2=case.get("stage2"),
        name=f"ranks-{name}.json",
    )
    return support.make_run(folder, plan, case["kind"], name=f"ranks-{name}-{world}{suffix}")


def same(run: pathlib.Path, other: pathlib.Path, kind: str, limit: float = 1e-5) -> None:
    """Losses, held-out losses and results agree."""
    read = site_curves if kind == "distill" else curve
    for event in ("step", "held_out"):
        assert largest_difference(read(run, event), read(other, event)) <= limit
    for file in ("model", "latest"):
        one, two = (support.tensors(r / f"checkpoints/{file}.safetensors") for r in (run, other))
        assert one.keys() == two.keys()
        for key in one:
            if not key.startswith(("first", "second")) and "attn.qkv.bias" not in key:
                assert float((one[key] - two[key]).abs().max()) < 1e-4, key


@pytest.mark.parametrize("world", [2, 3])
def test_the_number_of_ranks_does_not_matter(
    folder: pathlib.Path, alone: dict[str, pathlib.Path], world: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A cache of its own, so that the ranks record activations too.
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / f"cache-{world}"))
    runs = {name: made(folder, name, world) for name in CASES}
    together(world, list(runs.values()))
    for name, run in runs.items():
        same(run, alone[name], CASES[name]["kind"])
        ranks = support.events(run, "ranks")
        assert ranks[-1]["count"] == world and ranks[-1]["backend"] == "gloo"
        used = support.events(run, "resources")[-1]
        assert len(used["memory_by_rank"]) == len(used["waiting_by_rank"]) == world
        assert used["memory"] == max(used["memory_by_rank"]) and min(used["memory_by_rank"]) > 0
        assert all(0 <= share <= 1 for share in used["waiting_by_rank"])


def test_distributed_weights_do_not_matter(folder: pathlib.Path, alone: dict[str, pathlib.Path]) -> None:
    runs = {name: made(folder, name, 2, "-shard") for name in ("whole", "lora")}
    # The second goes on from a checkpoint of one rank.
    shutil.copy(alone["lora"] / "checkpoints/step-3.safetensors", runs["lora"] / "checkpoints/latest.safetensors")
    together(2, list(runs.values()), "--shard")
    for name, run in runs.items():
        same(run, alone[name], "finetune")
    assert any("resumed at step 3" in e["text"] for e in support.events(runs["lora"], "message"))


def test_a_run_goes_on_with_another_number_of_ranks(folder: pathlib.Path, alone: dict[str, pathlib.Path]) -> None:
    runs = {name: made(folder, name, 2, "-on") for name in ("streaming", "cached", "whole")}
    for name, run in runs.items():
        shutil.copy(alone[name] / "checkpoints/step-3.safetensors", run / "checkpoints/latest.safetensors")
    together(2, list(runs.values()))
    for name, run in runs.items():
        # From 1 rank to 2, and back to 1 for the last steps.
        (run / "checkpoints/step-6.safetensors").replace(run / "checkpoints/latest.safetensors")
        here(run)
        same(run, alone[name], CASES[name]["kind"])
