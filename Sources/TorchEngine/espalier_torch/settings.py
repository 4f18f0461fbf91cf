"""The settings of plans (docs/settings.md): one row each, with kind, default, range and uses."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Mapping

import numpy as np

from .errors import EngineError

MILLIONS = 10_000_000


@dataclasses.dataclass(frozen=True)
class Row:
    """A setting: its key in files, its kind, default and range."""

    key: str
    kind: str
    """whole, number, flag, text, choice, numbers, choices or knots; with a `?` the value may be null."""
    default: Any
    low: float = -math.inf
    high: float = math.inf
    choices: tuple[str, ...] = ()
    site: bool = False
    """May differ at a single slot or pair."""
    site_only: bool = False
    resume: bool = False
    """May change when a run is resumed."""

    def read(self, value: Any, key: str) -> Any:
        """Checks a value of a file and returns it; EngineError names the key."""
        kind = self.kind.rstrip("?")
        if value is None and self.kind.endswith("?"):
            return None
        if kind == "knots":
            if not is_density(value):
                raise EngineError(
                    f"{key}: expected [timestep, weight] with rising timesteps from 0 to 999 and weights of at least 0, one"
                    f" of them positive, found {_text(value)}; correct the list"
                )
            return [[float(x) for x in knot] for knot in value]
        if kind in ("numbers", "choices"):
            if not isinstance(value, list):
                raise EngineError(f"{key}: expected a list, found {_text(value)}; correct it")
            single = dataclasses.replace(self, kind="number" if kind == "numbers" else "choice")
            result = [single.read(x, f"{key}[{i}]") for i, x in enumerate(value)]
            if kind == "choices" and (not result or len(set(result)) != len(result)):
                raise EngineError(
                    f"{key}: expected at least one layer and none twice, found {_text(value)}; correct the list"
                )
            if kind == "numbers" and result != sorted(result):
                raise EngineError(f"{key}: expected ascending fractions, found {_text(value)}; sort them")
            return result
        if kind == "flag":
            if not isinstance(value, bool):
                raise EngineError(f"{key}: expected true or false, found {_text(value)}; correct it")
            return value
        if kind in ("choice", "text"):
            if not isinstance(value, str) or (kind == "choice" and value not in self.choices):
                expected = ", ".join(f'"{c}"' for c in self.choices) or "a text"
                raise EngineError(f"{key}: expected one of {expected}, found {_text(value)}; correct it")
            return value
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        if not is_number or (kind == "whole" and value != int(value)) or not self.low <= value <= self.high:
            what = "a whole number" if kind == "whole" else "a number"
            raise EngineError(
                f"{key}: expected {what}, {self.low:g} to {self.high:g}, found {_text(value)}; correct it"
            )
        return int(value) if kind == "whole" else float(value)


def is_density(value: Any) -> bool:
    """Whether a value is a list of knots [timestep, weight], the relative density of the 1000 timesteps."""

    def is_number(x: Any) -> bool:
        return isinstance(x, (int, float)) and not isinstance(x, bool) and math.isfinite(x)

    if not isinstance(value, list) or not value:
        return False
    if not all(isinstance(k, list) and len(k) == 2 and all(map(is_number, k)) and k[1] >= 0 for k in value):
        return False
    times = [knot[0] for knot in value]
    rises = all(a < b for a, b in zip(times, times[1:]))
    return rises and times[0] >= 0 and times[-1] <= 999 and 0 < sum(timestep_weights(value)) < math.inf


def timestep_weights(knots: list[list[float]]) -> list[float]:
    """Weights of the 1000 timesteps: linear between knots, constant before the first and after the last."""
    return np.interp(np.arange(1000), *zip(*knots)).tolist()


def _text(value: Any) -> str:
    return repr(value)[:60]


_LOSSES = ("l1", "l2", "huber")

DATA = (
    Row("path", "text", "images"), Row("held_out", "text?", None), Row("flip", "flag", True),
    Row("pool", "whole", 64, 1, 65536), Row("pool_steps", "whole", 20, 1, 1000), Row("guidance", "number", 2.0, 0, 100),
)

STAGE1 = (
    Row("mode", "choice", "streaming", choices=("streaming", "cached")),
    Row("steps", "whole", 1600, 1, MILLIONS, site=True),
    Row("samples", "whole", 8000, 1, MILLIONS),
    Row("epochs", "whole", 200, 1, 1e6, site=True),
    Row("cache_gb", "number", 20.0, 1e-3, 1e6),
    Row("batch_size", "whole", 8, 1, 65536),
    Row("learning_rate", "number", 2.2e-4, 1e-12, 1, site=True, resume=True),
    Row("min_learning_rate", "number", 1e-6, 1e-15, 1, site=True, resume=True),
    Row("weight_decay", "number", 0.0, 0, 1, site=True),
    Row("clip_norm", "number", 10.0, 1e-9, 1e9, site=True),
    Row("warmup_steps", "whole", 50, 0, MILLIONS, site=True),
    Row("schedule", "choice", "multi_step", choices=("multi_step", "exponential", "plateau"), site=True),
    Row("milestones", "numbers", [0.25, 0.5, 0.75], 0, 1, site=True),
    Row("gamma", "number", 0.5, 1e-6, 1, site=True),
    Row("held_out_every", "whole", 100, 1, MILLIONS),
    Row("held_out_samples", "whole", 128, 1, 1e6),
    Row("keep_best", "flag", False, site=True),
    Row("checkpoint_every", "whole", 100, 1, MILLIONS, resume=True),
    Row("checkpoint_minutes", "number", 10.0, 0, 1e6, resume=True),
    Row("keep_last", "whole", 1, 1, 1000, resume=True),
    Row("loss", "choice", "l1", choices=_LOSSES, site=True, site_only=True),
    Row("attention_loss", "choice", "l1", choices=_LOSSES),
    Row("mlp_loss", "choice", "l2", choices=_LOSSES),
    Row("huber_delta", "number", 1.0, 1e-9, 1e9, site=True),
    Row("gate_scaled", "flag", False, site=True),
    Row("label_dropout", "number", 0.1, 0, 1),
    Row("init", "choice", "own", choices=("own", "transferred", "ridge", "transferred_ridge"), site=True, site_only=True),
    Row("ridge_finish", "flag", False, site=True),
    Row("sweep", "flag", False, site=True),
    Row("ridge_samples", "whole", 48, 1, 1e6),
    Row("ridge_lambda", "number", 1e-4, 1e-12, 1000, site=True),
)

STAGE2 = (
    Row("steps", "whole", 100, 1, MILLIONS),
    Row("batch_size", "whole", 16, 1, 65536),
    Row("optimizer", "choice", "adamw", choices=("adamw", "muon")),
    Row("learning_rate", "number", 1e-4, 1e-12, 1, resume=True),
    Row("warmup_steps", "whole", 20, 0, MILLIONS),
    Row("clip_norm", "number", 10.0, 1e-9, 1e9),
    Row("ema_decay", "number", 0.9999, 0, 1),
    Row("label_dropout", "number", 0.1, 0, 1),
    Row("timestep_density", "knots?", None),
    Row("micro_batch", "whole", 4, 1, 65536),
    Row("weight_decay", "number", 0.0, 0, 1),
    Row("milestones", "numbers", [], 0, 1),
    Row("gamma", "number", 0.5, 1e-6, 1),
    Row("ema_warmup", "flag", True),
    Row("held_out_every", "whole", 100, 1, MILLIONS),
    Row("held_out_samples", "whole", 128, 1, 1e6),
    Row("keep_best", "flag", False, resume=True),
    Row("checkpoint_every", "whole", 100, 1, MILLIONS, resume=True),
    Row("checkpoint_minutes", "number", 10.0, 0, 1e6, resume=True),
    Row("keep_last", "whole", 1, 1, 1000, resume=True),
    Row("distillation_weight", "number", 0.0, 0, 1e6),
    Row("variance_weight", "number", 1.0, 0, 1e6),
    Row("teacher_samples", "whole", 0, 0, MILLIONS),
    Row("distill_null", "flag", False),
    Row("diffusion_weight", "number", 1.0, 0, 1e6),
    Row("feature_weight", "number", 0.0, 0, 1e6),
    Row("feature_outliers", "number", 0.0, 0, 1e6),
    Row("inherited_rate", "number", 1.0, 0, 1e3),
    Row("trained", "choice", "all", choices=("all", "grafts", "grafts_and_norms", "last_n_blocks", "lora")),
    Row("last_n_blocks", "whole", 1, 1, 1024),
    Row("lora_rank", "whole", 64, 1, 65536),
    Row("lora_alpha", "number", 64.0, 1e-6, 1e6),
    Row(
        "lora_targets", "choices", ["qkv", "proj", "fc1", "fc2"],
        choices=("qkv", "proj", "fc1", "fc2", "w12", "w3", "adaLN_modulation.1", "q_linear", "kv_linear"),
    ),
    Row("recompute", "flag", False),
)


class Section:
    """The values of a section by key, as attributes."""

    def __init__(self, values: dict[str, Any]):
        self.values = values

    def __getattr__(self, key: str) -> Any:
        try:
            return self.__dict__["values"][key]
        except KeyError:
            raise AttributeError(key) from None

    def merged(self, values: Mapping[str, Any]) -> "Section":
        """The section with some other values."""
        return Section({**self.values, **values})


def read_section(table: Any, rows: tuple[Row, ...], key: str, others: tuple[str, ...] = ()) -> Section:
    """Reads a section; keys that no row names are refused, except `others`."""
    given = read_values(table, tuple(r for r in rows if not r.site_only), key, others)
    return Section({**{row.key: row.default for row in rows if not row.site_only}, **given})


def read_values(
    table: Any, rows: tuple[Row, ...], key: str, others: tuple[str, ...] = ()
) -> dict[str, Any]:
    """The stated values of a section, checked."""
    if not isinstance(table, dict):
        raise EngineError(f"{key}: expected an object, found {_text(table)}; correct it")
    known = {row.key: row for row in rows}
    values = {}
    for name, value in table.items():
        if name in others:
            continue
        if name not in known:
            raise EngineError(
                f"{key}.{name}: this engine has no such setting; train the plan with the native engine, or remove it"
            )
        values[name] = known[name].read(value, f"{key}.{name}")
    return values
