"""SiT and LightningDiT: networks, training and samples are those of the native engine; files without a configuration."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import subprocess
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import support
from espalier_torch.errors import EngineError
from espalier_torch.modelfile import ModelFile
from espalier_torch.operators.base import rotation
from espalier_torch.shape import ModelShape
from support import SHAPE, curve, largest_difference, site_curves
from test_curves import here
from test_samples import drawn

LIGHTNING = dataclasses.replace(
    SHAPE, family="lightningdit", learn_sigma=False, rms_norm=True, qk_norm=True, rotary=True, swiglu=True
)
SHAPES = {
    "sit": dataclasses.replace(SHAPE, family="sit"),
    "lightning": LIGHTNING,
    # Layer norms of queries and keys, no biases, no shifts, turned round in time.
    "other": dataclasses.replace(LIGHTNING, rms_norm=False, mlp_bias=False, block_shift=False, reversed_time=True),
}
FIRST: list[dict[str, Any]] = [
    {"block": 0, "attention": {"operator": "mha", "config": {"num_heads": 2}}, "mlp": {"operator": "mlp"}},
    {"block": 1, "attention": {"operator": "swa"}, "mlp": {"operator": "swiglu", "config": {"expansion_ratio": 2}}},
    {"block": 2, "attention": {"operator": "swa2d", "config": {"window": 3}}},
    {"block": 3, "attention": {"operator": "hybrid", "config": {"window": 3}}},
]
SECOND: list[dict[str, Any]] = [
    {"block": 0, "attention": {"operator": "linear_attention", "config": {"inherit_qk": "yes", "key_norm": 1}}},
    {"block": 1, "attention": {"operator": "hyena_x"}, "mlp": {"operator": "swiglu"}},
]


@pytest.fixture(params=SHAPES, scope="module")
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[pathlib.Path, ModelShape]:
    """A folder with a model of a family and its data, which are normalised by statistics beside them."""
    path, shape = tmp_path_factory.mktemp(request.param), SHAPES[request.param]
    support.write_model(path / "model.safetensors", shape)
    support.write_data(path / "data.safetensors", shape=shape)
    torch.save({"mean": torch.tensor([0.5, -1, 0, 2.0]), "std": torch.tensor([1, 2, 0.5, 3.0])}, path / "latents_stats.pt")
    return path, shape


def test_training_follows_the_native_engine(program: str, place: tuple[pathlib.Path, ModelShape]) -> None:
    path, shape = place
    transferred = ["0.attention", "1.attention", "2.attention", "3.attention", "1.mlp" if shape.swiglu else "0.mlp"]
    own = {"steps": 12, "attention_loss": "l2", "overrides": {site: {"init": "transferred"} for site in transferred}}
    for kind, blocks, parallel in (("distill", FIRST, []), ("finetune", SECOND, [{"blocks": [2, 3], "merge": "projection"}])):
        plan = support.write_plan(
            path, blocks, parallel, stage1=own if kind == "distill" else {}, name=f"{kind}.json", shape=shape,
            stage2={"steps": 12, "distillation_weight": 0.5, "lora_targets": ["qkv", "w12", "w3"]},
        )
        native = support.native_run(path, plan, kind)
        run = support.make_run(path, plan, kind, name=kind)
        here(run)
        read = site_curves if kind == "distill" else curve
        for event in ("step", "held_out"):
            assert largest_difference(read(run, event), read(native, event)) <= 1e-4
        one, two = (support.tensors(r / "checkpoints/model.safetensors") for r in (run, native))
        assert one.keys() == two.keys() and max(float((one[k] - two[k]).abs().max()) for k in one) < 1e-3
        headers = [support.TensorFile(str(r / "checkpoints/latest.safetensors")).metadata for r in (run, native)]
        assert headers[0]["data"] == headers[1]["data"] and headers[0]["held_out"] == headers[1]["held_out"]


def test_samples_are_those_of_the_native_engine(
    program: str, place: tuple[pathlib.Path, ModelShape], tmp_path: pathlib.Path
) -> None:
    model = place[0] / "model.safetensors"
    common = ["--count", "3", "--steps", "4", "--seed", "9", "--guidance", "1.5"]
    own = drawn(model, tmp_path / "own", "--method", "ode", *common)
    words = [program, "sample", str(model), "--latents", str(tmp_path / "native.npy"), "--sampler", "heun", *common]
    # The engine guides at all times, which LightningDiT's defaults do not.
    words += ["--guidance-low", "0", "--guidance-high", "1", "--time-shift", "1"]
    subprocess.run([*words, "--precision", "fp32"], check=True, capture_output=True)
    native = np.load(tmp_path / "native.npy")
    assert own.shape == native.shape == (3, 4, 8, 8)
    assert np.abs(own - native).max() <= 2e-4 * np.abs(native).max()


def foreign(path: pathlib.Path, shape: ModelShape, **extra: torch.Tensor) -> pathlib.Path:
    """A file as a training saves it: an entry `ema`, tables of positions, and nothing that states the architecture."""
    support.write_model(path / "stated.safetensors", shape)
    tensors = support.tensors(path / "stated.safetensors")
    cosine, sine = rotation(shape.grid, shape.grid, shape.grid, shape.hidden_size // shape.num_heads, torch.device("cpu"))
    if shape.rotary:
        tensors["feat_rope.freqs_cos"], tensors["feat_rope.freqs_sin"] = (x.repeat_interleave(2, 1) for x in (cosine, sine))
    torch.save({"ema": {**tensors, **extra}, "model": {}}, path / "weights.pt")
    return path / "weights.pt"


def test_a_file_without_a_configuration_shows_its_blocks(tmp_path: pathlib.Path) -> None:
    shape = dataclasses.replace(LIGHTNING, num_classes=12)
    path = foreign(tmp_path, shape)
    file = ModelFile(str(path))
    assert file.shape == shape and file.latent_statistics is None
    file.load()
    assert ModelFile(f"dit:{path}").shape == dataclasses.replace(shape, family="dit")
    assert file.content_hash() == ModelFile(f"{path}#ema").content_hash() == support.sha256(str(path))
    # With statistics of the latents in the file, and tables that are not those which are computed.
    ones = torch.ones(4)
    found = ModelFile(str(foreign(tmp_path, shape, **{"bn.running_mean": ones, "bn.running_var": 4 * ones}))).latent_statistics
    assert found is not None and found.mean.tolist() == [1] * 4 and found.deviation.tolist() == [2] * 4
    wrong = foreign(tmp_path, shape, **{"feat_rope.freqs_cos": torch.zeros(16, 8)})
    with pytest.raises(EngineError, match="differs from the rotary positions"):
        ModelFile(str(wrong))
    # What REPA trains beside a model is left out, and tells that its time runs the other way.
    normed = dataclasses.replace(SHAPE, num_classes=12, qk_norm=True, family="lightningdit", reversed_time=True)
    file = ModelFile(str(foreign(tmp_path, normed, **{"projectors.0.weight": ones})))
    assert file.shape == normed
    file.load()


@pytest.mark.parametrize(
    ("entries", "chosen"),
    [
        (("model.", "model_ema."), "model_ema."), (("model.module.", "ema.module."), "ema.module."),
        (("ema.online_model.", "ema.ema_model."), "ema.ema_model."), (("net.", "state_dict."), "state_dict."),
        (("", "ema."), "ema."), (("model._orig_mod.",), "model._orig_mod."),
    ],
)
def test_the_model_of_a_file_is_the_one_that_the_native_engine_takes(
    program: str, tmp_path: pathlib.Path, entries: tuple[str, ...], chosen: str
) -> None:
    support.write_model(tmp_path / "own.safetensors", SHAPE)
    own = support.tensors(tmp_path / "own.safetensors")
    path = tmp_path / "model.safetensors"
    values = {f"{e}{name}": (x if e == chosen else x + 1).contiguous() for e in entries for name, x in own.items()}
    save_file(values, path, {"config": support.TensorFile(str(tmp_path / "own.safetensors")).metadata["config"]})
    file = ModelFile(str(path))
    assert all(torch.equal(file.tensors[name], own[name]) for name in own)
    subprocess.run([program, "plan", "new", tmp_path / "p.json", "--model", path], capture_output=True, check=True)
    assert json.loads((tmp_path / "p.json").read_text())["model"]["content_hash"] == file.content_hash()


def test_weights_that_are_not_the_models_are_refused(tmp_path: pathlib.Path) -> None:
    support.write_model(tmp_path / "own.safetensors", SHAPE)
    own = support.tensors(tmp_path / "own.safetensors")
    config = support.TensorFile(str(tmp_path / "own.safetensors")).metadata["config"]
    whole = torch.ones_like(own["x_embedder.proj.bias"], dtype=torch.int32)
    for extra, part in [
        ({"x_embedder.proj.bias": whole}, "quantised"), ({"bn.weight": torch.ones(4)}, "'bn.weight'"),
        ({"model_ema.num_updates": torch.ones(1)}, "latent-diffusion"),
    ]:
        save_file({**own, **extra}, tmp_path / "model.safetensors", {"config": config})
        with pytest.raises(EngineError, match=part):
            ModelFile(str(tmp_path / "model.safetensors")).load()


def test_the_name_of_a_model_states_its_family_as_in_the_native_engine(
    program: str, folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    # A file that does not say what it is, but its heads.
    file = tmp_path / "plain.safetensors"
    support.write_tensors(
        str(file), [support.item(k, v) for k, v in support.tensors(folder / "model.safetensors").items()], {}
    )
    (tmp_path / "plain.safetensors.json").write_text('{"config": {"num_heads": 4}}')
    name = f"sit:{file}"
    subprocess.run([program, "plan", "new", str(tmp_path / "plan.json"), "--model", name], check=True, capture_output=True)
    model = json.loads((tmp_path / "plan.json").read_text())["model"]
    assert model["path"] == name and ModelFile(name).content_hash() == model["content_hash"]
    assert ModelFile(name).shape == ModelShape.read(model, "plan")


def test_a_folder_of_diffusers_is_the_model_that_the_native_engine_opens(
    program: str, folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    place = tmp_path / "folder"
    words = [program, "convert", str(folder / "model.safetensors"), "--to", str(place), "--naming", "diffusers"]
    subprocess.run(words, check=True, capture_output=True)
    weights = place / "transformer/diffusion_pytorch_model.safetensors"
    for name in (place, weights):
        subprocess.run([program, "plan", "new", str(tmp_path / "p.json"), "--model", str(name), "--force"], check=True)
        model = json.loads((tmp_path / "p.json").read_text())["model"]
        files = [ModelFile(str(name)), ModelFile(str(name), None, str(place / "transformer"))]
        assert [file.content_hash() for file in files] == 2 * [model["content_hash"]]
        assert files[0].shape == files[1].shape == ModelShape.read(model, "plan")
