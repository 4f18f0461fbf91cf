"""Both engines train alike: losses step by step, and a run goes from one to the other."""

from __future__ import annotations

import json
import pathlib
import re
import shutil
import subprocess
from typing import Any

import pytest
import torch

import support
from espalier_torch import stage1
from espalier_torch.__main__ import main
from support import curve, largest_difference, site_curves
from test_registry import EVERY_OPERATOR, MORE_OPERATORS, NEWER_OPERATORS, OTHER_OPERATORS

PAIRS = [{"blocks": [0, 1], "merge": "residual"}, {"blocks": [2, 3], "merge": "projection"}]
FITTED = [
    {"block": 0, "attention": {"operator": "hyena_x"}, "mlp": {"operator": "mlp", "config": {"expansion_ratio": 2}}},
    {"block": 1, "attention": {"operator": "swa"}, "mlp": {"operator": "skip", "config": {"constant": 1}}},
]
OVERRIDES = {
    "0.attention": {"schedule": "exponential", "weight_decay": 0.1, "clip_norm": 0.05},
    "1.attention": {"loss": "l2", "steps": 12, "init": "transferred"},
    "2.attention": {"init": "transferred", "gate_scaled": True},
    "3.attention": {"schedule": "plateau", "keep_best": True},
    "3.mlp": {"init": "transferred", "loss": "huber", "huber_delta": 0.01},
}


def here(run: pathlib.Path) -> None:
    """Does a run in this process."""
    assert main(["run", "--device", "cpu", str(run)]) == 0, support.events(run)[-1]


@pytest.mark.parametrize(
    ("name", "blocks", "parallel", "stage1"),
    [
        ("all", EVERY_OPERATOR, [], {"overrides": OVERRIDES}),
        ("newer", NEWER_OPERATORS, [], {}),
        ("more", MORE_OPERATORS, [], {"attention_loss": "l2"}),
        # L1 amplifies rounding where an output crosses its target, so pairs are compared by L2.
        ("pairs", OTHER_OPERATORS, PAIRS, {"overrides": {"0+1": {"loss": "l2"}, "2+3": {"loss": "l2"}}}),
        ("ridge", FITTED, [{"blocks": [2, 3], "merge": "projection"}], {
            "ridge_finish": True, "ridge_samples": 7, "overrides": {
                "0.attention": {"init": "ridge"}, "0.mlp": {"init": "transferred_ridge", "gate_scaled": True},
                "1.attention": {"init": "transferred_ridge"}, "1.mlp": {"init": "ridge"},
                "2+3": {"init": "ridge", "loss": "l2", "ridge_lambda": 0.01},
            },
        }),
        ("cached", OTHER_OPERATORS, [], {"mode": "cached", "samples": 20, "epochs": 13}),
    ],
)
def test_stage_1_follows_the_native_engine(
    program: str, folder: pathlib.Path, name: str, blocks: Any, parallel: Any, stage1: Any
) -> None:
    plan = support.write_plan(folder, blocks, parallel, stage1={"steps": 50, **stage1}, name=f"{name}.json")
    native = support.native_run(folder, plan, "distill")
    run = support.make_run(folder, plan, name=f"stage1-{name}")
    # In cached mode both read the same recordings.
    here(run)
    for kind in ("held_out", "step"):
        own, other = site_curves(run, kind), site_curves(native, kind)
        if kind == "held_out":
            assert {site for _, site in own} == {site for _, site in other} and len(own) == len(other)
            assert largest_difference(own, other, range(11)) <= 1e-4
        assert largest_difference(own, other) <= 1e-3
    for measure in ("gradient_norm", "learning_rate"):
        found = [{e["step"]: e[measure] for e in support.events(r, "step")} for r in (run, native)]
        assert largest_difference(*found) <= (2e-2 if measure == "gradient_norm" else 1e-12)
    last = support.events(run, "step")[-1]
    assert last["samples_per_second"] > 0 and last["resident_memory"] > 1 << 20
    if name == "ridge":
        texts = [[e["text"] for e in support.events(r, "message") if "fitted" in e["text"]] for r in (run, native)]
        assert texts[0] == texts[1] and len(texts[0]) == 2
        one, two = (support.tensors(r / "checkpoints/operators.safetensors") for r in (run, native))
        assert max(float((one[k] - two[k]).abs().max()) for k in one) < 1e-3


@pytest.mark.parametrize(("name", "sites"), [("slots", []), ("pairs", PAIRS[1:])])
def test_the_sweep_follows_the_native_engine(
    program: str, folder: pathlib.Path, name: str, sites: list[dict[str, Any]]
) -> None:
    own = {"steps": 8, "sweep": True, "ridge_samples": 10, "attention_loss": "l2", "overrides": {"1.attention": {"sweep": False}}}
    if sites:
        own["overrides"]["2+3"] = {"loss": "l2"}
    plan = support.write_plan(folder, FITTED, sites, stage1=own, name=f"sweep-{name}.json")
    native = support.native_run(folder, plan, "distill")
    run = support.make_run(folder, plan, name=f"sweep-{name}")
    here(run)
    texts = [next(e["text"] for e in support.events(r, "message") if "front to back" in e["text"]) for r in (run, native)]
    assert re.sub(r"from \S+ to [\d.e-]+", "", texts[0]) == re.sub(r"from \S+ to [\d.e-]+", "", texts[1])
    errors = [[float(x) for x in re.search(r"from (\S+) to ([\d.e-]+)", text).groups()] for text in texts]
    assert all(abs(a - b) <= 2e-3 * b for a, b in zip(*errors)) and errors[0][1] < errors[0][0]
    assert largest_difference(site_curves(run), site_curves(native)) <= 1e-3
    one, two = (support.tensors(r / "checkpoints/operators.safetensors") for r in (run, native))
    assert one.keys() == two.keys() and max(float((one[k] - two[k]).abs().max()) for k in one) < 1e-3


def test_one_sign_of_the_l1_loss_moves_a_curve_more_than_the_engines_differ(
    folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Why pairs are compared by L2: an output next to its target has either sign by rounding, and L1 counts it whole."""
    curves, real = {}, stage1.regression
    for loss in ("l1", "l2"):
        for flips in (False, True):
            own = {"steps": 20, "overrides": {"0+1": {"loss": loss}}}
            plan = support.write_plan(folder, [], PAIRS[:1], stage1=own, name=f"sign-{loss}-{flips}.json")
            run = support.make_run(folder, plan, name=f"sign-{loss}-{flips}")
            trained = []

            def regression(kind: str, delta: float, found: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
                value = real(kind, delta, found, target)
                trained.append(found.requires_grad)
                if not (flips and found.requires_grad and sum(trained) == 5):
                    return value
                error = (found - target).flatten()
                nearest = error[error.detach().abs().argmin()]
                # L1: the sign of one element turns round. L2: the same element is off by the rounding.
                change = -2 * nearest * nearest.detach().sign() if loss == "l1" else 2e-7 * nearest
                return value + change / error.numel()

            monkeypatch.setattr(stage1, "regression", regression)
            here(run)
            curves[loss, flips] = site_curves(run)
    assert largest_difference(curves["l2", True], curves["l2", False]) <= 1e-5
    assert largest_difference(curves["l1", True], curves["l1", False]) >= 1e-4


@pytest.mark.parametrize(
    ("name", "blocks", "parallel", "stage2"),
    [
        ("all", EVERY_OPERATOR, [], {"distillation_weight": 0.5, "milestones": [0.5], "weight_decay": 0.01}),
        ("lora", OTHER_OPERATORS, [], {"trained": "lora", "lora_rank": 4, "lora_alpha": 8.0,
                                       "lora_targets": ["qkv", "fc2", "adaLN_modulation.1"]}),
        ("norms", OTHER_OPERATORS, PAIRS, {"trained": "grafts_and_norms", "ema_warmup": False, "recompute": True}),
        ("last", OTHER_OPERATORS, [], {"trained": "last_n_blocks", "last_n_blocks": 2, "keep_best": True}),
        ("taught", OTHER_OPERATORS, [], {"distillation_weight": 0.5, "distill_null": True, "diffusion_weight": 0.25,
                                         "feature_weight": 2.0, "feature_outliers": 1.5, "inherited_rate": 0.2}),
        ("pure", OTHER_OPERATORS, PAIRS, {"distillation_weight": 1.0, "distill_null": True, "diffusion_weight": 0,
                                          "feature_weight": 1.0}),
        ("muon", OTHER_OPERATORS, PAIRS, {"optimizer": "muon", "weight_decay": 0.01, "inherited_rate": 0.2,
                                          "distillation_weight": 1.0, "diffusion_weight": 0, "variance_weight": 0.1,
                                          "teacher_samples": 24}),
    ],
)
def test_stage_2_follows_the_native_engine(
    program: str, folder: pathlib.Path, name: str, blocks: Any, parallel: Any, stage2: Any
) -> None:
    steps = 50 if name == "all" else 20
    plan = support.write_plan(folder, blocks, parallel, stage2={"steps": steps, **stage2}, name=f"{name}-2.json")
    native = support.native_run(folder, plan, "finetune")
    run = support.make_run(folder, plan, "finetune", name=f"stage2-{name}")
    here(run)
    for kind in ("held_out", "step"):
        own, other = curve(run, kind), curve(native, kind)
        assert largest_difference(own, other, range(11)) <= 1e-4
        assert largest_difference(own, other) <= 1e-3
    files = ["model", "latest"] + (["best"] if stage2.get("keep_best") else [])
    for file in files:
        one, two = (support.tensors(r / f"checkpoints/{file}.safetensors") for r in (run, native))
        assert one.keys() == two.keys()
        assert all(one[k].shape == two[k].shape and one[k].dtype == two[k].dtype for k in one)
        assert max(float((one[k] - two[k]).abs().max()) for k in one if not k.startswith(("first", "second"))) < 1e-3
    metadata = [support.TensorFile(str(r / "checkpoints/latest.safetensors")).metadata for r in (run, native)]
    assert metadata[0].keys() == metadata[1].keys()
    for key in ("data", "held_out", "step", "optimizer_steps", "random_generator", "espalier_file"):
        assert metadata[0][key] == metadata[1][key]


@pytest.mark.parametrize("kind", ["distill", "finetune"])
def test_data_of_the_models_own_follow_the_native_engine(program: str, folder: pathlib.Path, kind: str) -> None:
    plan = support.write_plan(
        folder, OTHER_OPERATORS, name=f"own-{kind}.json", own_data={"path": "self", "pool": 12, "pool_steps": 4},
        stage1={"attention_loss": "l2"},
        stage2={"diffusion_weight": 0, "distillation_weight": 1, "distill_null": True, "steps": 16},
    )
    native = support.native_run(folder, plan, kind)
    run = support.make_run(folder, plan, kind, name=f"own-{kind}")
    here(run)
    for event in ("held_out", "step"):
        own, other = (
            (site_curves if kind == "distill" else curve)(r, event) for r in (run, native)
        )
        # A trajectory's noise is divided by small numbers, and rounding with it.
        assert largest_difference(own, other) <= 1e-3
    metadata = [support.TensorFile(str(r / "checkpoints/latest.safetensors")).metadata for r in (run, native)]
    assert metadata[0]["data"] == metadata[1]["data"] and metadata[0]["held_out"] == metadata[1]["held_out"]


def retry(program: str, run: pathlib.Path, step: int) -> None:
    """Lets the native engine go on with a run from a kept checkpoint."""
    with open(run / "events.jsonl", "a") as log:
        log.write('{"kind":"finished","outcome":"cancelled","text":"stopped","t":1,"v":1}\n')
    before = len(support.events(run, "finished"))
    words = [program, "runs", "retry", str(run), "--step", str(step)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    import time

    end = time.monotonic() + 120
    while len(support.events(run, "finished")) == before and time.monotonic() < end:
        time.sleep(0.05)
    assert support.events(run)[-1].get("outcome") == "done", support.events(run)[-3:]


@pytest.mark.parametrize("kind", ["distill", "finetune"])
def test_a_run_goes_from_one_engine_to_the_other_and_back(program: str, folder: pathlib.Path, kind: str) -> None:
    settings = {"steps": 18, "checkpoint_every": 6, "keep_last": 9}
    blocks = [*OTHER_OPERATORS, {"block": 3, "mlp": {"operator": "mlp", "config": {"expansion_ratio": 3}}}]
    plan = support.write_plan(
        folder, blocks, stage1={**settings, "overrides": {"0.attention": {"schedule": "plateau", "keep_best": True}}},
        stage2=settings, name=f"over-{kind}.json",
    )
    straight = support.native_run(folder, plan, kind)
    run = pathlib.Path(shutil.copytree(straight, straight.parent / f"{straight.name}x"))
    # Native to step 6, PyTorch to 18, then native again from step 12, which PyTorch wrote.
    shutil.copy(run / "checkpoints/step-6.safetensors", run / "checkpoints/latest.safetensors")
    for step in (12,):
        (run / f"checkpoints/step-{step}.safetensors").unlink()
    here(run)
    assert any("resumed at step 6" in e["text"] for e in support.events(run, "message"))
    assert largest_difference(curve(run, "held_out"), curve(straight, "held_out")) <= 1e-4
    assert (run / "checkpoints/step-12.safetensors").exists()
    retry(program, run, 12)
    for file in ("latest", "model"):
        one, two = (support.tensors(r / f"checkpoints/{file}.safetensors") for r in (run, straight))
        assert one.keys() == two.keys()
        for key in one:
            if not key.startswith(("first", "second")):
                assert float((one[key] - two[key]).abs().max()) < 2e-4, key


def test_a_checkpoint_of_another_plan_or_other_data_is_refused(folder: pathlib.Path) -> None:
    plan = support.write_plan(folder, OTHER_OPERATORS, stage1={"steps": 2}, name="first.json")
    run = support.make_run(folder, plan, name="refusing")
    here(run)
    table = json.loads((run / "plan.json").read_text())
    for change, sentence in (
        (lambda t: t["stage1"].update(weight_decay=0.5), "was written for another plan"),
        (lambda t: t["stage1"].update(learning_rate=1e-4), None),
    ):
        changed = json.loads(json.dumps(table))
        change(changed)
        (run / "plan.json").write_text(json.dumps(changed))
        code = main(["run", "--device", "cpu", str(run)])
        assert code == (1 if sentence else 0)
        if sentence:
            assert sentence in support.events(run)[-1]["text"]
