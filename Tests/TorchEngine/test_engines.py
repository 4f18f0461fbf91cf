"""The native program starts the engine as the child of a run's worker."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import support
from support import curve, events, largest_difference, wait_for
from test_registry import OTHER_OPERATORS


@pytest.fixture
def own(program: str, folder: pathlib.Path, tmp_path: pathlib.Path) -> dict[str, str]:
    """An environment whose engines.yaml names this Python."""
    helped = subprocess.run([program, "engines"], capture_output=True, text=True)
    if helped.returncode:
        pytest.skip("the native program is of before the engines; 'make build' renews it")
    (tmp_path / "espalier").mkdir()
    (tmp_path / "espalier/engines.yaml").write_text(
        f"torch:\n  python: {sys.executable}\n  device: cpu\n"
        f"two:\n  python: {sys.executable}\n  device: cpu\n  ranks: 2\n  max_restarts: 2\n"
        "none:\n  python: /nowhere/python\n"
    )
    return {**support.environment(), "XDG_CONFIG_HOME": str(tmp_path), "XDG_CACHE_HOME": str(folder / "cache")}


def call(program: str, own: dict[str, str], *words: str, code: int = 0) -> str:
    """The output of the program, of its errors if it fails."""
    done = subprocess.run([program, *words], env=own, capture_output=True, text=True, timeout=240)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stderr if code else done.stdout


def begun(program: str, own: dict[str, str], *words: str) -> pathlib.Path:
    """The directory of a run that was started."""
    return pathlib.Path(call(program, own, *words, "--detach").strip().splitlines()[-1])


def test_engines_are_listed_and_checked(program: str, own: dict[str, str]) -> None:
    text = call(program, own, "engines")
    assert "native" in text and "two  2 ranks, cpu" in text
    assert {row["name"] for row in json.loads(call(program, own, "engines", "list", "--json"))} == {"torch", "two", "none"}
    assert "torch 2." in call(program, own, "engines", "check", "torch")
    assert "cannot be started" in call(program, own, "engines", "check", "none", code=1)
    assert "there is no such engine, expected one of native, none, torch, two" in call(
        program, own, "engines", "check", "other", code=1
    )
    yaml = pathlib.Path(own["XDG_CONFIG_HOME"]) / "espalier/engines.yaml"
    yaml.write_text("torch:\n  pythonn: x\n")
    fault = call(program, own, "engines", code=1)
    assert f"{yaml}:2" in fault and "torch.pythonn" in fault and "unknown key" in fault


def test_what_the_engine_cannot_do_is_said_before_a_run_exists(
    program: str, own: dict[str, str], folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    plan = support.write_plan(folder, OTHER_OPERATORS, name="unstarted.json")
    words = ("distill", str(plan), "--runs", str(tmp_path / "runs"), "--engine")
    assert "there is no such engine" in call(program, own, *words, "other", code=1)
    assert "cannot be started" in call(program, own, *words, "none", code=1)
    assert not (tmp_path / "runs").exists()


def test_a_run_on_two_ranks_is_finished_by_the_native_engine(
    program: str, own: dict[str, str], folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    settings = {"steps": 4000, "checkpoint_every": 50, "held_out_every": 4000, "keep_last": 500}
    plan = support.write_plan(folder, OTHER_OPERATORS, stage1=settings, name="shared.json")
    run = begun(program, own, "distill", str(plan), "--runs", str(tmp_path), "--precision", "fp32", "--engine", "two")
    wait_for(run, "checkpointed")
    assert any("starting 2 ranks of engine two" in e["text"] for e in events(run, "message"))
    listed = json.loads(call(program, own, "runs", "list", "--runs", str(tmp_path), "--json"))
    assert [row["state"] for row in listed] == ["running"]
    call(program, own, "runs", "pause", str(run))
    wait_for(run, "paused")
    call(program, own, "runs", "resume", str(run))
    wait_for(run, "resumed")
    call(program, own, "runs", "cancel", str(run))
    assert wait_for(run)["outcome"] == "cancelled"
    reached = events(run, "checkpointed")[-1]["step"]
    before = len(events(run))
    # The plan is cut short by its checkpoints alone: the native engine does the rest.
    # At once: a retry waits until the engine of a run that has just ended is gone.
    call(program, own, "runs", "retry", str(run), "--engine", "native")
    end = time.monotonic() + 200
    while time.monotonic() < end and not any(e["kind"] == "finished" for e in events(run)[before:]):
        time.sleep(0.1)
    assert events(run)[-1]["outcome"] == "done"
    assert any(e.get("text") == f"resumed at step {reached} from its last checkpoint" for e in events(run, "message"))
    assert "engine" not in json.loads((run / "run.json").read_text())


def test_another_launcher_starts_the_ranks(
    program: str, own: dict[str, str], folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    plan = support.write_plan(folder, OTHER_OPERATORS, stage1={"steps": 3}, name="launched.json")
    words = ("distill", str(plan), "--runs", str(tmp_path), "--precision", "fp32")
    launcher = f"{sys.executable} -m torch.distributed.run --standalone --nproc-per-node=2 --no-python"
    run = begun(program, own, *words, "--engine", "torch", "--launcher", launcher)
    assert wait_for(run)["outcome"] == "done"
    assert events(run, "ranks")[-1]["count"] == 2
    run = begun(program, own, *words, "--engine", "torch", "--launcher", "/nowhere/launch --all")
    assert "/nowhere/launch: cannot be started" in wait_for(run)["text"]
    assert "name it by --engine" in call(program, own, *words, "--launcher", launcher, code=2)


def test_images_are_drawn_by_the_ranks_of_an_engine(
    program: str, own: dict[str, str], folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    words = ("sample", "demo", "--count", "5", "--steps", "3", "--seed", "4", "--precision", "fp32")
    found = []
    for engine in ("two", "native"):
        images, latents = tmp_path / f"{engine}.npz", tmp_path / f"{engine}.npy"
        call(program, own, *words, "--npz", str(images), "--latents", str(latents), "--engine", engine)
        found.append(np.load(images)["arr_0"].astype(int))
    assert found[0].shape == found[1].shape == (5, 64, 64, 3) and np.abs(found[0] - found[1]).max() <= 1
    # The chunks are gone, and a text beside the images says what they are.
    assert {p.name for p in tmp_path.glob("two.npz*")} == {"two.npz", "two.npz.json"}
    assert json.loads((tmp_path / "two.npz.json").read_text())["engine"] == "two"
    for option, reason in ((("--decoded", "x.npy"), "--decoded is done by the native engine"), (("--cache", "0.1"), "step caching")):
        refusal = call(program, own, *words, "--latents", str(tmp_path / "x.npy"), *option, "--engine", "two", code=1)
        assert "the engine two cannot do it" in refusal and reason in refusal
    assert not (tmp_path / "x.npy").exists()


def test_a_dead_engine_ends_the_run_and_a_killed_worker_its_engine(
    program: str, own: dict[str, str], folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    settings = {"steps": 100_000, "checkpoint_every": 20, "held_out_every": 50_000}
    plan = support.write_plan(folder, OTHER_OPERATORS, stage2=settings, name="mortal.json")
    words = ("finetune", str(plan), "--runs", str(tmp_path), "--precision", "fp32", "--engine", "torch")
    run = begun(program, own, *words)
    wait_for(run, "checkpointed")
    child = events(run, "started")[-1]["pid"]
    os.kill(child, signal.SIGKILL)
    end = wait_for(run)
    assert end["outcome"] == "failed" and "the engine torch was killed by signal 9" in end["text"]
    run = begun(program, own, *words)
    wait_for(run, "checkpointed")
    child = events(run, "started")[-1]["pid"]
    call(program, own, "runs", "cancel", str(run), "--hard")
    stop = time.monotonic() + 60
    while os.path.exists(f"/proc/{child}") and time.monotonic() < stop:
        time.sleep(0.1)
    assert not os.path.exists(f"/proc/{child}")
    assert events(run, "finished")[-1]["outcome"] == "cancelled"


def test_the_shipped_model_and_its_images_go_to_the_engine(
    program: str, own: dict[str, str], folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    plan = tmp_path / "plan.json"
    call(program, own, "plan", "new", str(plan))
    call(program, own, "plan", "set", str(plan), "--blocks", "3", "--operator", "hyena_x")
    call(program, own, "plan", "set", str(plan), "stage1.steps=4", "stage1.held_out_every=1", "stage1.held_out_samples=4")
    runs = []
    for engine in ("torch", "native"):
        run = begun(
            program, own, "distill", str(plan), "--runs", str(tmp_path / engine), "--precision", "fp32", "--engine", engine
        )
        assert wait_for(run)["outcome"] == "done", (run / "log.txt").read_text()
        runs.append(run)
    assert largest_difference(curve(runs[0], "held_out"), curve(runs[1], "held_out")) <= 1e-4
