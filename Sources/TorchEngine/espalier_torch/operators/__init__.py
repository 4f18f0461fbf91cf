"""Replacement operators: a module of this package with an `OPERATOR` defines one, and nothing else names it."""

from __future__ import annotations

import importlib
import pkgutil

from ..errors import EngineError
from ..shape import ModelShape
from .base import Context, Definition, Operator


def _load() -> dict[str, Definition]:
    found: dict[str, Definition] = {}
    for info in sorted(pkgutil.iter_modules(__path__), key=lambda info: info.name):
        module = importlib.import_module(f"{__name__}.{info.name}")
        definition = getattr(module, "OPERATOR", None)
        if isinstance(definition, Definition):
            found[definition.name] = definition
    return found


REGISTRY: dict[str, Definition] = _load()
"""All operators by the name in plans."""


def definition(name: str, slot: str, key: str) -> Definition:
    """The operator of a plan's entry; EngineError if there is none of that name for the slot."""
    own = REGISTRY.get(name)
    if own is None or slot not in own.slots:
        fitting = ", ".join(sorted(d.name for d in REGISTRY.values() if slot in d.slots))
        raise EngineError(
            f"{key}.operator: '{name[:60]}' is no operator of the {slot} slot in this engine, expected one of"
            f" {fitting}; choose another or train the plan with the native engine"
        )
    return own


def build(name: str, slot: str, config: dict[str, float], shape: ModelShape, key: str = "operator") -> Operator:
    """Makes an operator for a slot of a model; its parameters are not initialised."""
    own = definition(name, slot, key)
    own.check(config, shape, key)
    return own.build(own.complete(config), Context.of(shape))
