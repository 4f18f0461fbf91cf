"""Single operators (`op_*`) and stage 1 on one of them (`stage1_ref`)."""

from __future__ import annotations

from typing import Any

import torch

from .. import operators
from ..optim import AdamW
from ..shape import ModelShape
from ..stage1 import regression
from .check import Check, Fixture


def missing(name: str) -> str | None:
    """A sentence if the registry lacks the name."""
    return None if name in operators.REGISTRY else f"there is no operator {name} yet"


def spec(config: dict[str, Any]) -> tuple[str, dict[str, float]]:
    """A plan's entry from the configuration of a fixture; settings implied by the model are left out."""
    own = operators.REGISTRY[config["op"]]
    values = {f.key: float(config[f.key]) for f in own.fields if not f.implied and config.get(f.key) is not None}
    if "window" in config:
        values["window_left"], values["window_right"] = (float(x) for x in config["window"])
    return own.name, values


def build(config: dict[str, Any], tokens: int, parameters: dict[str, torch.Tensor], device: str) -> operators.Operator:
    """An operator with the fixture's parameters."""
    width = config["d"]
    shape = ModelShape(1, width, config.get("num_heads", 1), 1, 1, 1)
    name, values = spec(config)
    own = operators.REGISTRY[name]
    own.check(values, shape, name)
    context = operators.Context(width, tokens, shape.num_heads)
    module = own.build(own.complete(values), context)
    module.load_state_dict({k: v.clone() for k, v in parameters.items()}, assign=True)
    return module.to(device)


def run(check: Check) -> None:
    """Compares `out.y`, `out.L` and all gradients of L = sum(y * cotangent)."""
    config = check.fixture.config
    module = build(config, config["N"], check.fixture.parameters(), check.device)
    x = check.tensor("in.x").requires_grad_()
    with check.autocast():
        y = module(x).float()
    loss = (y * check.tensor("in.cotangent")).sum(dtype=torch.float64)
    loss.backward()
    check.forward("out.y", y)
    check.forward("out.L", [loss.item()])
    assert x.grad is not None
    check.gradient("in.x", x.grad)
    check.gradients(module)


def stage1_refusal(fixture: Fixture) -> str | None:
    """A sentence if the registry lacks the student."""
    return missing(fixture.config["student"]["op"])


def stage1(check: Check) -> None:
    """Trains the student once per regression objective, as stage 1 does."""
    fixture, config = check.fixture, check.fixture.config
    adam, tolerance = config["optimizer"], config["tolerance"]
    inputs, targets = check.tensor("in.x"), check.tensor("in.y")
    for tag, clip in sorted(config["clip_grad_norm"].items()):
        kind, delta = tag.split("_")[0], float(config.get("huber_delta", 1))
        module = build(config["student"], config["N"], fixture.parameters(), check.device)
        optimizer = AdamW(
            list(module.named_parameters()),
            adam["weight_decay"],
            betas=tuple(adam["betas"]),
            epsilon=adam["eps"],
        )
        losses, norms = [], []
        for step in range(config["steps"]):
            rows = [(config["batch"] * step + i) % config["samples"] for i in range(config["batch"])]
            loss = regression(kind, delta, module(inputs[rows]), targets[rows])
            loss.backward()
            losses.append(loss.item())
            norms.append(optimizer.step(adam["lr"], clip))
        check.forward(f"out.loss.{tag}", losses, tolerance["loss"])
        check.forward(f"out.grad_norm.{tag}", norms, tolerance["grad_norm"])
        with torch.no_grad():
            final = regression(kind, delta, module(inputs), targets).item()
        check.forward(f"out.final_full_loss.{tag}", [final], tolerance["loss"])
        for name, parameter in module.named_parameters():
            if f"out.final.{tag}.{name}" in fixture:
                check.absolute(f"out.final.{tag}.{name}", parameter, tolerance["final_abs"][tag])
