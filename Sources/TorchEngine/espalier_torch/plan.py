"""Plans: which operators of a model are replaced and how the replacements are trained (docs/plans.md)."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from typing import Any, Mapping

from . import operators
from .errors import EngineError
from .files import read_text
from .settings import DATA, STAGE1, STAGE2, Section, read_section, read_values
from .shape import ModelShape

SLOTS = ("attention", "mlp")
OWN = "self"
"""The path of data that the model draws itself."""
MERGES = ("projection", "mean", "residual")
Slot = tuple[int, str]
Spec = tuple[str, dict[str, float]]


@dataclasses.dataclass(frozen=True)
class Site:
    """A replaced slot, or a pair of parallel blocks: what stage 1 trains with one loss."""

    block: int
    slot: str | None
    """None for the pair that begins with the block."""

    @property
    def order(self) -> tuple[int, int, int]:
        """Sites sort by their first slot; a pair comes before its slots."""
        slot = 0 if self.slot is None else SLOTS.index(self.slot)
        return self.block, slot, 0 if self.slot is None else 1

    def __str__(self) -> str:
        return f"{self.block}+{self.block + 1}" if self.slot is None else f"{self.block}.{self.slot}"

    @property
    def phrase(self) -> str:
        """The site with its kind, for sentences."""
        return f"pair {self}" if self.slot is None else f"slot {self}"

    @property
    def prefixes(self) -> list[str]:
        """The checkpoint prefixes of all parameters that stage 1 trains at the site."""
        if self.slot is None:
            return [f"blocks.{self.block}.", f"blocks.{self.block + 1}."]
        return [slot_prefix((self.block, self.slot))]

    @property
    def side(self) -> str:
        """Name of what is recorded besides input and target: the gate, or the conditioning of a pair."""
        return "condition" if self.slot is None else "gate"

    @classmethod
    def read(cls, text: str, key: str) -> "Site":
        """Reads `7.attention` or `2+3`."""
        slot = re.fullmatch(r"(\d+)\.(attention|mlp)", text)
        if slot:
            return cls(int(slot[1]), slot[2])
        pair = re.fullmatch(r"(\d+)\+(\d+)", text)
        if pair and int(pair[2]) == int(pair[1]) + 1:
            return cls(int(pair[1]), None)
        raise EngineError(
            f"{key}: expected a slot such as 7.attention or a pair of blocks such as 2+3, found '{text[:60]}';"
            " correct it"
        )


def slot_prefix(slot: Slot) -> str:
    """The checkpoint prefix of a slot's operator, such as `blocks.7.attn.`."""
    return f"blocks.{slot[0]}.{'attn' if slot[1] == 'attention' else 'mlp'}."


@dataclasses.dataclass
class Plan:
    """A checked plan."""

    name: str
    seed: int
    model_path: str
    content_hash: str
    shape: ModelShape
    edits: dict[Slot, Spec]
    parallel: dict[int, str]
    data: Section | None
    stage1: Section
    overrides: dict[Site, dict[str, Any]]
    stage2: Section
    text: str
    """The file's text, which checkpoints carry."""
    folder: str
    """The folder that relative paths count from."""

    @property
    def sites(self) -> list[Site]:
        """All sites in order; replaced slots of parallel blocks belong to their pair."""
        paired = {b for first in self.parallel for b in (first, first + 1)}
        slots = [Site(block, slot) for block, slot in self.edits if block not in paired]
        return sorted([Site(first, None) for first in self.parallel] + slots, key=lambda s: s.order)

    def site_settings(self, site: Site) -> Section:
        """Stage 1's settings at a site."""
        return self.stage1.merged({k: v for k, v in self.overrides.get(site, {}).items() if k not in ("loss", "init")})

    def loss(self, site: Site) -> str:
        """The regression loss of a site: l1, l2 or huber; l1 for a pair unless overridden."""
        own = self.overrides.get(site, {}).get("loss")
        if own or site.slot is None:
            return own or "l1"
        return self.stage1.attention_loss if site.slot == "attention" else self.stage1.mlp_loss

    def transfers(self, slot: Slot) -> bool:
        """Whether the operator of a slot starts from weights of the original."""
        return "transferred" in self.overrides.get(Site(*slot), {}).get("init", "")

    @property
    def draws_own_data(self) -> bool:
        """Whether the model draws the data itself."""
        return self.data is not None and self.data.path == OWN

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps per epoch of the cached mode."""
        return -(-self.stage1.samples // self.stage1.batch_size)

    def total_steps(self, settings: Section | None = None) -> int:
        """Optimizer steps of stage 1, or of a site with its settings."""
        own = settings or self.stage1
        return own.steps if self.stage1.mode == "streaming" else own.epochs * self.steps_per_epoch

    @property
    def drawn_samples(self) -> int:
        """Samples that stage 1 draws."""
        s = self.stage1
        return s.steps * s.batch_size if s.mode == "streaming" else s.samples

    def agrees(self, other: "Plan", site: Site) -> bool:
        """Whether both plans make the same changes at a site of this plan."""
        if site not in other.sites:
            return False
        if site.slot is not None:
            key = (site.block, site.slot)
            return self._normal(key) == other._normal(key)
        slots = [(b, s) for b in (site.block, site.block + 1) for s in SLOTS]
        return self.parallel[site.block] == other.parallel.get(site.block) and all(
            self._normal(s) == other._normal(s) for s in slots
        )

    def _normal(self, slot: Slot) -> Any:
        spec = self.edits.get(slot)
        if spec is None:
            return None
        config = operators.definition(spec[0], slot[1], f"{slot[0]}.{slot[1]}").complete(spec[1])
        if config.get("num_heads") == self.shape.num_heads:
            config["num_heads"] = 0
        fields = {f.key: f for f in operators.REGISTRY[spec[0]].fields}
        return spec[0], {k: v for k, v in config.items() if not fields[k].implied or spec[0] == "mha"}

    def fixed(self) -> Any:
        """Everything that may not change when a run is resumed."""
        free1 = {row.key for row in STAGE1 if row.resume}
        free2 = {row.key for row in STAGE2 if row.resume}

        def without(values: Mapping[str, Any], keys: set[str]) -> dict[str, Any]:
            return {k: v for k, v in values.items() if k not in keys}

        overrides = {str(site): without(own, free1) for site, own in self.overrides.items()}
        data = None
        if self.data is not None:
            data = {k: self.absolute(v) if k in ("path", "held_out") else v for k, v in self.data.values.items()}
        return (
            self.name, self.seed, self.model_path, self.content_hash, self.shape.planned,
            {slot: self._normal(slot) for slot in self.edits}, self.parallel, data,
            without(self.stage1.values, free1), {k: v for k, v in overrides.items() if v},
            without(self.stage2.values, free2),
        )

    def absolute(self, path: str | None) -> str | None:
        """A path of the plan, which counts from its folder; `self` stays."""
        return path if path in (None, OWN) else os.path.normpath(os.path.join(self.folder, path))


def load(path: str, name: str | None = None) -> Plan:
    """Reads and checks a plan file, which errors call by a name if one is given."""
    text = read_text(path)
    try:
        table = json.loads(text)
    except ValueError as error:
        raise EngineError(f"{name or path}: is not valid JSON ({error}); correct it") from None
    return read(table, text, name or path, os.path.dirname(os.path.abspath(path)))


def parse(text: str, file: str) -> Plan:
    """Reads a plan from the metadata of a file."""
    try:
        table = json.loads(text)
    except ValueError as error:
        raise EngineError(f"{file}: the embedded plan is not valid JSON ({error}); use another file") from None
    return read(table, text, f"{file} (embedded plan)", os.getcwd())


def read(table: Any, text: str, file: str, folder: str) -> Plan:
    """Makes a plan of the content of a file."""
    try:
        return _read(table, text, folder)
    except EngineError as error:
        raise EngineError(f"{file}: {error}") from None


def _read(table: Any, text: str, folder: str) -> Plan:
    if not isinstance(table, dict) or "espalier_plan" not in table:
        raise EngineError("espalier_plan: the key is missing, so this is no plan; name a plan file")
    if table["espalier_plan"] != 1:
        raise EngineError(
            f"espalier_plan: expected version 1, found {table['espalier_plan']!r}; use a matching version of espalier"
        )
    known = {"espalier_plan", "name", "seed", "model", "blocks", "parallel", "data", "stage1", "stage2"}
    for key in table:
        if key not in known:
            raise EngineError(
                f"{key}: this engine has no such section; train the plan with the native engine, or remove it"
            )
    for key in ("name", "seed", "model", "blocks"):
        if key not in table:
            raise EngineError(f"{key}: the key is missing; add it")
    model = table["model"]
    if not isinstance(model, dict) or not isinstance(model.get("path"), str):
        raise EngineError("model.path: the key is missing or no text; add it")
    if not isinstance(table["seed"], int) or not 0 <= table["seed"] < 2**64:
        raise EngineError(f"seed: expected a whole number from 0 up, found {table['seed']!r}; correct it")
    shape = ModelShape.read(model, "model")
    stage1_table = dict(table.get("stage1", {}))
    overrides_table = dict(stage1_table.pop("overrides", {}))
    for site, loss in dict(stage1_table.pop("loss_overrides", {})).items():
        overrides_table.setdefault(site, {})["loss"] = loss
    stage1 = read_section(stage1_table, STAGE1, "stage1")
    if "learning_rate" not in stage1_table:
        stage1.values["learning_rate"] = float(f"{0.256 / max(1, shape.hidden_size):.1e}")
    overrides = {}
    for name, own in overrides_table.items():
        key = f"stage1.overrides.{name}"
        site = Site.read(name, key)
        overrides[site] = read_values(own, tuple(r for r in STAGE1 if r.site), key)
        _check_block(site.block + (site.slot is None), shape, key)
    plan = Plan(
        str(table["name"]), table["seed"], model["path"], str(model.get("content_hash", "")), shape,
        _edits(table["blocks"], shape), _pairs(table.get("parallel", []), shape),
        read_section(table["data"], DATA, "data") if table.get("data") is not None else None,
        stage1, overrides, read_section(table.get("stage2", {}), STAGE2, "stage2"), text, folder,
    )
    _check(plan)
    return plan


def _check_block(block: int, shape: ModelShape, key: str) -> None:
    if not 0 <= block < shape.depth:
        raise EngineError(f"{key}: the model has blocks 0 to {shape.depth - 1}, found {block}; correct the number")


def _edits(blocks: Any, shape: ModelShape) -> dict[Slot, Spec]:
    edits: dict[Slot, Spec] = {}
    for index, entry in enumerate(blocks):
        key = f"blocks[{index}]"
        if not isinstance(entry, dict) or not isinstance(entry.get("block"), int):
            raise EngineError(f"{key}.block: the key is missing or no whole number; correct it")
        _check_block(entry["block"], shape, f"{key}.block")
        for slot in SLOTS:
            if slot not in entry:
                continue
            own, place = entry[slot], f"{entry['block']}.{slot}"
            if not isinstance(own, dict) or not isinstance(own.get("operator"), str):
                raise EngineError(f"{place}.operator: the key is missing or no text; add it")
            definition = operators.definition(own["operator"], slot, place)
            config = _config(own.get("config", {}), definition, place)
            definition.check(config, shape, place)
            edits[entry["block"], slot] = (own["operator"], config)
    return edits


def _config(table: Any, definition: operators.Definition, place: str) -> dict[str, float]:
    """The settings of an operator; choices may be stated by their names."""
    names = {f.key: f.names for f in definition.fields}
    config: dict[str, float] = {}
    for key, value in table.items():
        if isinstance(value, str) and value in names.get(key, ()):
            config[key] = float(names[key].index(value))
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            config[key] = float(value)
        else:
            kind = f"one of {', '.join(names[key])}" if names.get(key) else "a number"
            raise EngineError(f"{place}.config.{key}: expected {kind}, found {value!r}; correct it")
    return config


def _pairs(entries: Any, shape: ModelShape) -> dict[int, str]:
    pairs: dict[int, str] = {}
    for index, entry in enumerate(entries):
        key = f"parallel[{index}]"
        numbers, merge = entry.get("blocks"), entry.get("merge")
        if not isinstance(numbers, list) or len(numbers) != 2 or numbers[1] != numbers[0] + 1:
            raise EngineError(f"{key}.blocks: expected a block and the next one, found {numbers!r}; correct it")
        _check_block(numbers[1], shape, f"{key}.blocks")
        if merge not in MERGES:
            raise EngineError(f"{key}.merge: expected one of {', '.join(MERGES)}, found {merge!r}; correct it")
        if numbers[0] in pairs or numbers[1] in pairs or numbers[0] - 1 in pairs:
            raise EngineError(f"{key}.blocks: a block is in two pairs; remove one of them")
        pairs[numbers[0]] = merge
    return pairs


def _check(plan: Plan) -> None:
    """Rules of several settings."""
    for site, own in plan.overrides.items():
        key = f"stage1.overrides.{site}"
        settings = plan.site_settings(site)
        for name in ("steps", "epochs"):
            if name in own and own[name] > plan.stage1.values[name]:
                raise EngineError(
                    f"{key}.{name}: expected at most {plan.stage1.values[name]}, found {own[name]}; lower it"
                )
        _check_rates(settings, key)
        if "transferred" in own.get("init", "") and site.slot is not None and (site.block, site.slot) in plan.edits:
            name, config = plan.edits[site.block, site.slot]
            own_definition = operators.REGISTRY[name]
            if own_definition.transfer is None:
                raise EngineError(
                    f"{key}.init: {name} has no place for weights of the original, expected \"own\"; change it"
                )
            reason = own_definition.transfer_refusal(config, plan.shape)
            if reason:
                raise EngineError(f"{key}.init: {reason}")
    _check_rates(plan.stage1, "stage1")
    if plan.stage2.diffusion_weight == 0 and plan.stage2.distillation_weight == 0:
        raise EngineError(
            'stage2.diffusion_weight: 0 leaves no loss to train on with "distillation_weight" 0; set that to 1, for example'
        )
    if plan.stage2.distill_null and plan.shape.family != "pixart" and plan.shape.null_class is None:
        raise EngineError(
            "stage2.distill_null: the model has no class for no condition, so it predicts nothing without one; set it to"
            " false"
        )
    if plan.stage2.timestep_density is not None and plan.shape.predicts_velocity:
        raise EngineError(
            "stage2.timestep_density: a model of velocities has times from 0 to 1 instead of timesteps; leave it out"
        )
    if plan.stage2.trained == "lora" and plan.stage2.lora_rank > plan.shape.hidden_size:
        raise EngineError(
            f"stage2.lora_rank: expected at most {plan.shape.hidden_size}, found {plan.stage2.lora_rank}; lower it"
        )
    if plan.stage2.trained == "last_n_blocks" and plan.stage2.last_n_blocks > plan.shape.depth:
        raise EngineError(
            f"stage2.last_n_blocks: expected at most {plan.shape.depth}, found {plan.stage2.last_n_blocks}; lower it"
        )


def _check_rates(settings: Section, key: str) -> None:
    if settings.schedule != "multi_step" and settings.min_learning_rate > settings.learning_rate:
        raise EngineError(
            f"{key}.min_learning_rate: expected at most the learning rate {settings.learning_rate:g}, found"
            f" {settings.min_learning_rate:g}; lower it"
        )
