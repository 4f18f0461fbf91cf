"""Grafted text-conditional transformers (`pixart_graft`): teacher, hybrid, and low-rank adapters of the hybrid."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import nn

from .. import operators as registry
from ..errors import EngineError
from ..files import TensorFile
from ..keys import pixart_keys, renamed
from ..lora import LoRALinear, merged
from ..models import Backbone, Condition, make
from ..models.dit import Edits
from ..models.parts import Activations
from ..stage1 import regression
from .check import Check, Fixture
from .transformers import load, pixart_shape


def _beside(fixture: Fixture, name: str) -> Fixture:
    """A fixture that another one names relative to the folder of all."""
    return Fixture(os.path.join(os.path.dirname(fixture.folder), name))


def _inputs(check: Check) -> tuple[torch.Tensor, torch.Tensor, Condition]:
    """Latents, times and captions of a fixture, or of the one that `inputs_from` names."""
    fixture = check.fixture
    source = _beside(fixture, fixture.config["inputs_from"]) if "inputs_from" in fixture.config else fixture
    latent, times, captions, mask = (
        source[f"in.{name}"].to(check.device) for name in ("latent", "t", "caption", "caption_mask")
    )
    return latent, times.float(), Condition(captions=captions, mask=mask)


def _edits(fixture: Fixture) -> Edits:
    """The operators of a hybrid, one in the self-attention of every block that it names."""
    config = fixture.config
    own = registry.REGISTRY[config["operator"]]
    values = {f.key: float(config["filter_length"]) for f in own.fields if not f.implied and "filter" in f.key}
    return {(int(block), "attention"): (own.name, values) for block in config["blocks"]}


def _keys(name: str, known: set[str]) -> list[str]:
    """The names in the fixtures of a parameter: those of a new operator stay its own below the diffusers' block."""
    parts = name.split(".", 2)
    if parts[0] == "blocks" and (own := f"transformer_blocks.{parts[1]}.{parts[2].replace('attn.', 'attn1.', 1)}") in known:
        return [own]
    return pixart_keys(name)


def _model(check: Check, fixture: Fixture, edits: Edits = {}) -> Backbone:
    """The model of a fixture; parameters of its operators have the operators' names below `attn1`."""
    tensors = fixture.parameters()
    shape = pixart_shape(fixture)
    names = [name for name, _ in make(shape, edits).named_parameters()]
    return load(shape, renamed(tensors, names, lambda name: _keys(name, set(tensors))), check.device, edits)


def teacher(check: Check) -> None:
    """Output and activations of the teacher."""
    fixture = check.fixture
    model = _model(check, fixture)
    latent, times, captions = _inputs(check)
    seen: dict[str, torch.Tensor] = {}

    def block(index: int, a: Activations) -> None:
        prefix = f"transformer_blocks.{index}."
        seen.update({f"{prefix}in": a.input, f"{prefix}attn1.in": a.attention_input, f"{prefix}attn1.out": a.attention_output})

    with torch.no_grad(), check.autocast():
        check.forward("out.sample", model(latent, times, captions, seen.__setitem__, block).float())
    check.forward("out.adaln_mod", seen["t_block"])
    for name in fixture.names("out.act."):
        check.forward(name, seen[name[8:]].float())


def hybrid(check: Check) -> None:
    """Output and gradients of a hybrid, and the losses of stage 1 on the teacher's activations."""
    fixture = check.fixture
    edits = _edits(fixture)
    model = _model(check, fixture, edits)
    latent, times, captions = _inputs(check)
    latent.requires_grad_()
    with check.autocast():
        output = model(latent, times, captions).float()
    check.forward("out.sample", output)
    loss = (output * check.tensor("in.cotangent")).sum(dtype=torch.float64)
    check.forward("out.L", [loss.item()])
    loss.backward()
    assert latent.grad is not None
    check.gradient("in.latent", latent.grad)
    for block, _ in sorted(edits):
        for name, parameter in model.blocks[block].attn.named_parameters():
            assert parameter.grad is not None
            check.gradient(f"param.transformer_blocks.{block}.attn1.{name}", parameter.grad)
    losses = fixture.config["stage1_losses"]
    slot = losses["slot"]
    source = fixture.bases()[0]
    given, target = (source[f"out.act.{slot}.{end}"].to(check.device) for end in ("in", "out"))
    with torch.no_grad(), check.autocast():
        student = model.blocks[int(slot.split(".")[1])].attn(given, None).float()
    check.forward("out.stage1.student_on_teacher_input", student)
    for name in ("l1", "l2", "huber"):
        found = regression(name, 1.0, student, target).item()
        check._add(f"stage1_losses.{name}", "forward", abs(found - losses[name]) / abs(losses[name]), check.forward_tolerance)


# Adapters


def _adapters(path: str, model: Backbone) -> dict[str, list[tuple[torch.Tensor, torch.Tensor] | None]]:
    """A and B of the parts of every adapted layer, by its name."""
    file = TensorFile(path)
    prefix = "base_model.model."
    found: dict[str, list[tuple[torch.Tensor, torch.Tensor] | None]] = {}
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear):
            continue
        keys = [prefix + key.removesuffix(".weight") for key in pixart_keys(f"{name}.weight")]
        parts = [
            (file.raw(f"{k}.lora_A.weight"), file.raw(f"{k}.lora_B.weight")) if f"{k}.lora_A.weight" in file else None
            for k in keys
        ]
        if any(part is not None for part in parts):
            found[name] = parts
    return found


def _joined(parts: list[tuple[torch.Tensor, torch.Tensor] | None], rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """One adapter of all parts of a layer: A stacked, B block by block."""
    present = [part for part in parts if part is not None]
    down = torch.cat([a for a, _ in present])
    up = torch.zeros(rows * len(parts), len(down))
    first = 0
    for index, part in enumerate(parts):
        if part is not None:
            rank = part[1].shape[1]
            up[index * rows : (index + 1) * rows, first : first + rank] = part[1]
            first += rank
    return down, up


def adapters(check: Check) -> None:
    """Outputs with adapters at several scales, merged weights, and gradients of A and B."""
    fixture = check.fixture
    source = _beside(fixture, fixture.config["params_from"][-1])
    latent, times, captions = _inputs(check)
    path = os.path.join(fixture.folder, "lora", "peft/adapter_model.safetensors")
    if not os.path.exists(path):
        raise EngineError(f"{path}: there are no adapters; copy the folder again")
    model = _model(check, source, _edits(source))
    parts = _adapters(path, model)
    whole = {
        name: _joined(own, model.get_submodule(name).weight.shape[0] // len(own)) for name, own in parts.items()
    }
    for scale in (0.5, 1.0, 2.0):
        other = _model(check, source, _edits(source))
        table: dict[str, Any] = {f"{name}.weight": (*pair, scale) for name, pair in whole.items()}
        for name, parameter in other.named_parameters():
            parameter.data = merged(name, parameter.data, table)
        with torch.no_grad():
            check.forward(f"out.sample.scale{scale:g}", other(latent, times, captions))
        if scale == 1:
            for name, parameter in other.named_parameters():
                keys = pixart_keys(name)
                for key, part in zip(keys, parameter.detach().chunk(len(keys))):
                    if f"out.merged.{key}" in fixture:
                        check.forward(f"out.merged.{key}", part, fixture.config["tolerance"].get("merged", 1e-6))
    model.requires_grad_(False)
    for name, (down, up) in whole.items():
        parent, _, child = name.rpartition(".")
        layer = model.get_submodule(name)
        setattr(model.get_submodule(parent), child, LoRALinear(layer, down.to(check.device), up.to(check.device), 1.0))
    output = model(latent, times, captions)
    cotangent = _beside(fixture, fixture.config["cotangent_from"])["in.cotangent"].to(check.device)
    loss = (output * cotangent).sum(dtype=torch.float64)
    check.forward("out.L", [loss.item()])
    loss.backward()
    for name, own in parts.items():
        layer = model.get_submodule(name)
        down, up = layer.lora_A.weight.grad, layer.lora_B.weight.grad
        keys, first = [k.removesuffix(".weight") for k in pixart_keys(f"{name}.weight")], 0
        rows = up.shape[0] // len(own)
        for index, part in enumerate(own):
            if part is not None:
                rank = len(part[0])
                check.gradient(f"param.{keys[index]}.lora_A.weight", down[first : first + rank])
                check.gradient(
                    f"param.{keys[index]}.lora_B.weight", up[index * rows : (index + 1) * rows, first : first + rank]
                )
                first += rank
