"""Whole models: DiT (`dit_tiny`, `dit_hybrid`, `dit_diffusers`), PixArt (`pixart_tiny`), SiT, and stage 2."""

from __future__ import annotations

from typing import Any

import torch

from .. import operators as registry
from ..diffusion import GaussianDiffusion, Schedule, guided
from ..interpolant import LinearInterpolant
from ..keys import diffusers_keys, pixart_keys, renamed
from ..models import Backbone, Condition, make
from ..models.dit import DiT, Edits
from ..models.parts import Activations, timestep_features
from ..optim import AdamW, Averages
from ..shape import ModelShape
from .check import Check, Fixture
from .operators import missing, spec


def shape_of(fixture: Fixture, family: str = "dit") -> ModelShape:
    """The model's architecture in a fixture."""
    table = dict(fixture.config[family])
    table.setdefault("mlp_ratio", fixture.config.get("mlp_ratio", 4.0))
    return ModelShape.read({**table, "family": family}, fixture.path)


def load(shape: ModelShape, parameters: dict[str, torch.Tensor], device: str, edits: Edits = {}) -> Backbone:
    """A model with parameters by official name."""
    model = make(shape, edits)
    own = {k: v.clone() for k, v in parameters.items()}
    if shape.family != "pixart" and "pos_embed" not in own:
        own["pos_embed"] = shape.position_table()[None]
    model.load_state_dict(own, assign=True)
    return model.to(device)


def condition(check: Check, labels: str) -> Condition:
    """Labels of a fixture."""
    return Condition(labels=check.tensor(labels))


def dit(check: Check) -> None:
    """`dit_tiny`: forward, guidance, intermediate tensors, tables, training terms, gradients."""
    fixture, config = check.fixture, check.fixture.config
    shape = shape_of(fixture)
    model = load(shape, fixture.parameters(), check.device)
    assert isinstance(model, DiT)
    x, times = check.tensor("in.x"), check.tensor("in.t").float()
    rows = min(config["act_rows"], x.shape[0])
    seen: dict[str, torch.Tensor] = {}

    def block(index: int, a: Activations) -> None:
        seen.update({
            f"blocks.{index}.attn.in": a.attention_input, f"blocks.{index}.attn.out": a.attention_output,
            f"blocks.{index}.mlp.in": a.mlp_input, f"blocks.{index}.mlp.out": a.mlp_output,
        })

    with torch.no_grad(), check.autocast():
        check.forward("out.eps_sigma", model(x, times, condition(check, "in.y"), seen.__setitem__, block))
        for name in fixture.names("out.act."):
            check.forward(name, seen[name[8:]][:rows])
        for name in fixture.names("out.attn_map.blocks."):
            index = int(name.rsplit(".", 1)[1])
            mixer = model.blocks[index].attn
            check.forward(name, mixer.map(seen[f"blocks.{index}.attn.in"][:rows]))
        labels = condition(check, "in.cfg.y")
        network = guided(lambda x, t: model(x, t, labels), config["cfg_scale"], config.get("cfg_channels", 3))
        check.forward("out.cfg", network(x, check.tensor("in.cfg.t").float()))
    check.forward("out.t_freq", timestep_features(times))
    check.forward("out.pos_embed_sincos", shape.position_table()[None])
    diffusion = GaussianDiffusion(Schedule.linear(config["diffusion_steps"]))
    with check.autocast():
        loss = training(check, model, diffusion, "train")
    check.forward("out.train.loss_mean", [loss.mean().item()])
    loss.mean().backward()
    check.gradients(model)


def training(check: Check, model: Backbone, diffusion: GaussianDiffusion, tag: str) -> torch.Tensor:
    """Compares the terms of the training loss of a batch `in.TAG.*` and returns the loss per row."""
    start, noise, steps = (check.tensor(f"in.{tag}.{name}") for name in ("x0", "noise", "t"))
    latents = diffusion.noisy(start, noise, steps)
    output = model(latents, diffusion.times(steps), condition(check, f"in.{tag}.y"))
    terms = diffusion.losses(output, start, latents, noise, steps)
    check.forward(f"out.{tag}.x_t", latents)
    for name in ("mse", "vb", "loss"):
        check.forward(f"out.{tag}.{name}", getattr(terms, name).tolist())
    return terms.loss


# Hybrids


def _grafts(fixture: Fixture) -> dict[str, dict[str, Any]]:
    sources = [fixture, *fixture.bases()]
    return next((s.config["grafts"] for s in sources if "grafts" in s.config), {})


def hybrid_refusal(fixture: Fixture) -> str | None:
    """A sentence naming the operators that the registry lacks."""
    lacking = sorted({own["op"] for own in _grafts(fixture).values() if missing(own["op"])})
    return f"the hybrid needs operator {', '.join(lacking)}" if lacking else None


def hybrid_model(check: Check) -> Backbone:
    """The model of a hybrid."""
    shape = shape_of(check.fixture)
    edits = {}
    for key, own in _grafts(check.fixture).items():
        _, block, slot = key.split(".")
        name = "attention" if slot == "attn" else "mlp"
        edits[int(block), name] = spec(own)
        registry.definition(own["op"], name, key)
    return load(shape, check.fixture.parameters(), check.device, edits)


def hybrid(check: Check) -> None:
    """`dit_hybrid`: output, gradients, activations of the replaced operators."""
    fixture, model = check.fixture, hybrid_model(check)
    x = check.tensor("in.x").requires_grad_()
    seen: dict[str, torch.Tensor] = {}

    def block(index: int, a: Activations) -> None:
        seen.update({
            f"blocks.{index}.attn.in": a.attention_input, f"blocks.{index}.attn.out": a.attention_output,
            f"blocks.{index}.mlp.in": a.mlp_input, f"blocks.{index}.mlp.out": a.mlp_output,
        })

    with check.autocast():
        output = model(x, check.tensor("in.t").float(), condition(check, "in.y"), None, block).float()
    check.forward("out.eps_sigma", output)
    for name in fixture.names("out.act."):
        rows = fixture[name].shape[0]
        check.forward(name, seen[name[8:]][:rows])
    loss = (output * check.tensor("in.cotangent")).sum(dtype=torch.float64)
    if "out.L" in fixture:
        check.forward("out.L", [loss.item()])
    loss.backward()
    assert x.grad is not None
    check.gradient("in.x", x.grad)
    check.gradients(model)


def diffusers(check: Check) -> None:
    """`dit_diffusers`: weights in the naming of diffusers under its conventions and the official ones."""
    fixture, config = check.fixture, check.fixture.config
    official = shape_of(fixture)
    import dataclasses

    own = dataclasses.replace(
        official, frequency_shift=config["diffusers_downscale_freq_shift"],
        mlp_norm_epsilon=config["diffusers_norm3_eps"],
    )
    parameters = fixture.parameters()
    with torch.device("meta"):
        names = [name for name, _ in DiT(own).named_parameters() if name != "pos_embed"]
    official_names = renamed(parameters, names, diffusers_keys)
    for name, value in official_names.items():
        check.forward(f"renamed.{name}", value, 1e-6)
    check.forward("renamed.pos_embed", official.position_table()[None], 1e-6)
    x, times, labels = check.tensor("in.latent"), check.tensor("in.t").float(), condition(check, "in.y")
    given = {name[8:]: fixture[name] for name in fixture.names("renamed.")}
    with torch.no_grad():
        check.forward("out.sample", load(own, official_names, check.device)(x, times, labels))
        check.forward("out.official", load(official, given, check.device)(x, times, labels))
        name = "out.sample_eps1e-5_shift0"
        if name in fixture:
            middle = dataclasses.replace(own, frequency_shift=0)
            check.forward(name, load(middle, official_names, check.device)(x, times, labels))


# PixArt


def pixart_shape(fixture: Fixture) -> ModelShape:
    """The architecture of a PixArt in a fixture, by the names of diffusers."""
    table = fixture.config["pixart"]
    heads = table["num_attention_heads"]
    return ModelShape(
        table["num_layers"], heads * table["attention_head_dim"], heads, table["patch_size"], table["sample_size"], 0,
        family="pixart", in_channels=table["in_channels"],
        learn_sigma=table["out_channels"] == 2 * table["in_channels"], caption_channels=table["caption_channels"],
        interpolation_scale=table.get("interpolation_scale") or max(table["sample_size"] // 64, 1),
        norm_epsilon=table["norm_eps"], has_null_class=False,
    )


def pixart(check: Check) -> None:
    """`pixart_tiny`: forward with and without a mask, embeddings, all gradients."""
    fixture, shape = check.fixture, pixart_shape(check.fixture)
    names = [name for name, _ in make(shape).named_parameters()]
    model = load(shape, renamed(fixture.parameters(), names, pixart_keys), check.device)
    x, captions = check.tensor("in.latent").requires_grad_(), check.tensor("in.caption").requires_grad_()
    times, mask = check.tensor("in.t").float(), check.tensor("in.caption_mask")
    seen: dict[str, torch.Tensor] = {}
    with check.autocast():
        output = model(x, times, Condition(captions=captions, mask=mask), seen.__setitem__).float()
        check.forward("out.sample", output)
        with torch.no_grad():
            check.forward("out.sample_nomask", model(x, times, Condition(captions=captions)).float())
    for name, module in (
        ("adaln_mod", "t_block"), ("caption_proj", "y_embedder"), ("pos_embed", "pos_embed"), ("t_emb", "t_embedder"),
    ):
        check.forward(f"out.{name}", seen[module])
    loss = (output * check.tensor("in.cotangent")).sum(dtype=torch.float64)
    check.forward("out.L", [loss.item()])
    loss.backward()
    assert x.grad is not None and captions.grad is not None
    check.gradient("in.latent", x.grad)
    check.gradient("in.caption", captions.grad)
    for name, parameter in model.named_parameters():
        keys = pixart_keys(name)
        assert parameter.grad is not None
        for key, part in zip(keys, parameter.grad.chunk(len(keys))):
            check.gradient(f"param.{key}", part)


# SiT


def sit(check: Check) -> None:
    """`sit/model`: velocity, guidance, training loss, gradients."""
    fixture, shape = check.fixture, shape_of(check.fixture, "sit")
    model = load(shape, fixture.parameters(), check.device)
    with torch.no_grad():
        check.forward("out.velocity", model(check.tensor("in.x"), check.tensor("in.t"), condition(check, "in.y")))
        labels = condition(check, "in.cfg.y")
        network = guided(lambda x, t: model(x, t, labels), fixture.config["cfg_scale"])
        check.forward("out.cfg", network(check.tensor("in.cfg.x"), check.tensor("in.cfg.t")))
    path = LinearInterpolant()
    data, noise, times = (check.tensor(f"in.train.{n}") for n in ("x1", "x0", "t"))
    latents = path.noisy(data, noise, times)
    check.forward("out.train.x_t", latents)
    check.forward("out.train.target", data - noise)
    terms = path.losses(model(latents, path.times(times), condition(check, "in.train.y")), data, latents, noise, times)
    check.forward("out.train.loss", terms.loss.tolist())
    check.forward("out.train.loss_mean", [terms.loss.mean().item()])
    terms.loss.mean().backward()
    check.gradients(model)


# Stage 2


def stage2(check: Check) -> None:
    """`stage2_ref`: trains the hybrid as stage 2 does; curves, updates and averages."""
    fixture, config = check.fixture, check.fixture.config
    model = hybrid_model(check)
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    initial = {name: p.detach().clone() for name, p in named}
    adam, tolerance = config["optimizer"], config["tolerance"]
    optimizer = AdamW(named, adam["weight_decay"], betas=tuple(adam["betas"]), epsilon=adam["eps"])
    slow, quick = Averages([p for _, p in named]), Averages([p for _, p in named])
    diffusion = GaussianDiffusion()
    curves: dict[str, list[float]] = {"loss": [], "mse": [], "vb": [], "grad_norm": []}
    for step in range(config["steps"]):
        start, noise, steps, labels = (check.tensor(f"in.{n}")[step] for n in ("x0", "noise", "t", "y"))
        latents = diffusion.noisy(start, noise, steps)
        output = model(latents, diffusion.times(steps), Condition(labels=labels))
        terms = diffusion.losses(output, start, latents, noise, steps)
        for name in ("loss", "mse", "vb"):
            curves[name].append(getattr(terms, name).mean().item())
        terms.loss.mean().backward()
        curves["grad_norm"].append(optimizer.step(adam["lr"], config["clip_grad_norm"]))
        slow.update(config["ema_decay"])
        quick.update(config["ema_check_decay"])
    for name, curve in curves.items():
        check.forward(f"out.{name}", curve, tolerance["grad_norm" if name == "grad_norm" else "loss"])
    for index, (name, parameter) in enumerate(named):
        rows = parameter.shape[0]
        # The gradient of the keys' bias is rounding error, which Adam scales to full steps.
        noise_rows = range(rows // 3, 2 * rows // 3) if name.endswith("attn.qkv.bias") else range(0)
        moved = parameter.detach().double() - initial[name].double()
        largest, mean = tolerance["delta_abs_max"], tolerance["delta_abs_mean"]
        _compare(check, "delta", name, moved, noise_rows, largest, mean)
        _compare(check, "ema", name, slow.values[index].double(), noise_rows, tolerance["ema_abs"])
        _compare(check, "ema_check", name, quick.values[index].double(), noise_rows, tolerance["ema_check_abs"])


def _compare(
    check: Check, kind: str, name: str, found: torch.Tensor, skip: range, tolerance: float, mean: float | None = None
) -> None:
    """Compares a tensor, or its row and column sums where the file holds those."""
    whole = f"out.{kind}.{name}"
    if whole in check.fixture:
        check.absolute(whole, found, tolerance, skip=skip, mean=mean)
        return
    matrix = found.flatten(1) if found.dim() > 1 else found[:, None]
    for suffix, axis in (("row", 1), ("col", 0)):
        key = f"out.{kind}_{suffix}.{name}"
        if key in check.fixture:
            check.absolute(key, matrix.sum(axis), tolerance, divided_by=matrix.shape[axis], mean=mean)
