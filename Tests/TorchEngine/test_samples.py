"""Images are those of the native engine and of any number of ranks; a killed sampling goes on."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import torch

import support
from espalier_torch.__main__ import main
from espalier_torch.sample import chunk_path
from test_curves import here
from test_registry import OTHER_OPERATORS

DEMO = support.ROOT / "Assets/demo"


def drawn(model: pathlib.Path, out: pathlib.Path, *options: str) -> np.ndarray:
    """Latents of a model in this process."""
    words = ["sample", "--device", "cpu", "--output", str(out), "--latents", f"{out}.npy", *options, str(model)]
    assert main(words) == 0
    return np.load(f"{out}.npy")


@pytest.mark.parametrize(
    "options",
    [
        ("--method", "ddim", "--steps", "5", "--eta", "0.5"),
        ("--method", "ddim", "--steps", "7", "--guidance", "1"),
        ("--method", "ancestral", "--steps", "6"),
        ("--method", "dpmpp", "--steps", "4"),
    ],
)
def test_latents_are_those_of_the_native_engine(
    program: str, folder: pathlib.Path, tmp_path: pathlib.Path, options: tuple[str, ...]
) -> None:
    common = ("--count", "5", "--seed", "9", "--classes", "3,1", *options)
    own = drawn(folder / "model.safetensors", tmp_path / "own", "--chunk", "2", *common)
    words = [program, "sample", str(folder / "model.safetensors"), "--latents", str(tmp_path / "native.npy")]
    names = {"--method": "--sampler"}
    helped = subprocess.run([program, "sample", "--help"], capture_output=True, text=True).stdout
    used = [names.get(w, w) if names.get(w, w) in helped else w for w in common]
    subprocess.run([*words, *used, "--precision", "fp32"], check=True, capture_output=True)
    native = np.load(tmp_path / "native.npy")
    assert own.shape == native.shape == (5, 4, 8, 8)
    assert np.abs(own - native).max() <= 2e-4 * np.abs(native).max()


def test_a_graft_is_sampled_with_its_operators(
    program: str, folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    plan = support.write_plan(
        folder, OTHER_OPERATORS, [{"blocks": [2, 3], "merge": "projection"}], stage1={"steps": 2}, name="drawn.json"
    )
    run = support.make_run(folder, plan, name="drawn")
    here(run)
    graft = run / "checkpoints/model.safetensors"
    own = drawn(graft, tmp_path / "own", "--count", "2", "--steps", "4")
    words = [program, "sample", str(graft), "--latents", str(tmp_path / "n.npy"), "--count", "2", "--steps", "4"]
    subprocess.run([*words, "--precision", "fp32"], check=True, capture_output=True)
    native = np.load(tmp_path / "n.npy")
    assert np.abs(own - native).max() <= 2e-4 * np.abs(native).max()


@pytest.mark.skipif(not (DEMO / "model.safetensors").exists(), reason="the shipped model is not there")
def test_images_are_the_same_for_any_number_of_ranks_and_a_killed_sampling_goes_on(tmp_path: pathlib.Path) -> None:
    words = ["--count", "5", "--chunk", "2", "--steps", "2", "--device", "cpu", "demo"]
    own = tmp_path / "own.npz"
    assert main(["sample", "--output", str(tmp_path / "own"), "--npz", str(own), *words]) == 0
    images = np.load(own)["arr_0"]
    assert images.shape == (5, 64, 64, 3) and images.dtype == np.uint8 and images.std() > 10
    # A killed sampling has left one whole chunk and a torn one.
    folder = tmp_path / "two"
    folder.mkdir()
    for name in ("sampling.json", "chunk-0000001.safetensors"):
        (folder / name).write_bytes((tmp_path / "own" / name).read_bytes())
    kept = os.stat(chunk_path(str(folder), 1)).st_mtime_ns
    pathlib.Path(chunk_path(str(folder), 2)).write_bytes(b"torn")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"]
    again = tmp_path / "again.npz"
    subprocess.run(
        [*launch, "espalier_torch", "sample", "--output", str(folder), "--npz", str(again), *words],
        env=support.environment(), check=True, capture_output=True, timeout=200,
    )
    assert np.array_equal(np.load(again)["arr_0"], images)
    assert os.stat(chunk_path(str(folder), 1)).st_mtime_ns == kept
    assert main(["sample", "--output", str(folder), "--npz", str(again), "--seed", "1", *words]) == 1


def both_stages_learn(folder: pathlib.Path, plan: pathlib.Path) -> None:
    """Runs 12 steps of each stage, which lower the loss on held-out samples."""
    for kind in ("distill", "finetune"):
        run = support.make_run(folder, plan, kind, name=kind)
        here(run)
        held_out = support.curve(run, "held_out")
        assert held_out[12] < held_out[0]


def test_sit_is_sampled_and_trained(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import dataclasses
    import json

    shape = dataclasses.replace(support.SHAPE, family="sit")
    support.write_model(tmp_path / "model.safetensors", shape)
    support.write_data(tmp_path / "data.safetensors")
    latents = drawn(tmp_path / "model.safetensors", tmp_path / "ode", "--count", "2", "--method", "ode", "--steps", "3")
    other = drawn(tmp_path / "model.safetensors", tmp_path / "sde", "--count", "2", "--method", "sde", "--steps", "4")
    assert latents.shape == other.shape == (2, 4, 8, 8) and not np.allclose(latents, other)
    plan = support.write_plan(tmp_path, OTHER_OPERATORS, stage1={"steps": 12}, stage2={"steps": 12})
    table = json.loads(plan.read_text())
    table["model"]["family"] = "sit"
    plan.write_text(json.dumps(table))
    both_stages_learn(tmp_path, plan)


def test_pixart_is_trained_from_latents_with_embeddings(tmp_path: pathlib.Path) -> None:
    import dataclasses
    import json

    shape = dataclasses.replace(
        support.SHAPE, family="pixart", num_classes=0, has_null_class=False, caption_channels=24
    )
    items = []
    for name, parameter in support.make(shape).named_parameters():
        spread = 0.02 if "bias" in name else 0.6 / max(1, parameter[0].numel()) ** 0.5
        items.append(support.item(name, support.Stream(7, name).normal(tuple(parameter.shape)) * spread))
    config = {
        "num_attention_heads": 4, "attention_head_dim": 8, "num_layers": 4, "patch_size": 2, "sample_size": 8,
        "in_channels": 4, "out_channels": 8, "caption_channels": 24, "norm_eps": 1e-6, "interpolation_scale": 1,
    }
    support.write_tensors(str(tmp_path / "model.safetensors"), items, {"config": json.dumps(config)})
    count = 20
    support.write_tensors(
        str(tmp_path / "data.safetensors"),
        [
            support.item("latents", support.Stream(8, "data").normal((count, 4, 8, 8))),
            support.item("prompt_embeds", support.Stream(8, "text").normal((count, 6, 24))),
            support.item("prompt_attention_mask", torch.ones(count, 6)),
        ], {},
    )
    settings = {"steps": 12, "label_dropout": 0.0}
    pairs = [{"blocks": [2, 3], "merge": "projection"}]
    # What stage 2 of a new plan of a text-conditional model trains.
    adapters = {
        "trained": "lora", "lora_rank": 8, "lora_alpha": 8,
        "lora_targets": ["qkv", "proj", "fc1", "fc2", "q_linear", "kv_linear"],
    }
    plan = support.write_plan(tmp_path, OTHER_OPERATORS, pairs, stage1=settings, stage2={**settings, **adapters})
    table = json.loads(plan.read_text())
    table["model"].update(family="pixart", num_classes=0)
    plan.write_text(json.dumps(table))
    both_stages_learn(tmp_path, plan)


def test_folders_of_images_are_encoded_alike_on_any_number_of_ranks(tmp_path: pathlib.Path) -> None:
    pytest.importorskip("PIL")
    from PIL import Image

    for index in range(5):
        place = tmp_path / f"images/{index % 2}"
        place.mkdir(parents=True, exist_ok=True)
        pixels = (support.Stream(1, f"{index}").uniform(0, 96 * 80 * 3) * 255).byte().reshape(80, 96, 3).numpy()
        Image.fromarray(pixels).save(place / f"{index}.png")
    words = ["--device", "cpu", "--autoencoder", str(DEMO / "autoencoder.safetensors"), "--size", "64"]
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    assert main(["encode", *words, "--output", str(one), str(tmp_path / "images")]) == 0
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"]
    subprocess.run(
        [*launch, "espalier_torch", "encode", *words, "--output", str(two), str(tmp_path / "images")],
        env=support.environment(), check=True, capture_output=True, timeout=200,
    )
    a, b = support.tensors(one), support.tensors(two)
    assert a["labels"].tolist() == [0, 0, 0, 1, 1]
    assert torch.allclose(a["latents"], b["latents"], atol=1e-5) and torch.isfinite(a["latents"]).all()
