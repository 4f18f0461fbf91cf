"""One truth: operators, settings and fresh weights are equal in both engines."""

from __future__ import annotations

import json
import pathlib
import re
import subprocess

import pytest
import torch

import support
from espalier_torch.errors import EngineError
from espalier_torch.operators import REGISTRY
from espalier_torch.plan import load, parse
from espalier_torch.settings import DATA, STAGE1, STAGE2

EVERY_OPERATOR = [
    {"block": 0, "attention": {"operator": "mha", "config": {"num_heads": 2}}, "mlp": {"operator": "mlp", "config": {"expansion_ratio": 3}}},
    {"block": 1, "attention": {"operator": "swa", "config": {"window_left": 3, "window_right": 1}}, "mlp": {"operator": "mlp_hyena_x"}},
    {"block": 2, "attention": {"operator": "linear_attention"}, "mlp": {"operator": "skip"}},
    {"block": 3, "attention": {"operator": "hyena_se"}, "mlp": {"operator": "mlp", "config": {"expansion_ratio": 1.5}}},
]
OTHER_OPERATORS = [
    {"block": 0, "attention": {"operator": "hyena_x", "config": {"short_filter_order": 3}}},
    {"block": 1, "attention": {"operator": "hyena_y"}},
    {"block": 2, "attention": {"operator": "mamba2", "config": {"d_state": 8, "headdim": 8, "ngroups": 2, "chunk_size": 8}}},
]


NEWER_OPERATORS = [
    {"block": 0, "attention": {"operator": "swa2d", "config": {"window": 3}}, "mlp": {"operator": "linear"}},
    {"block": 1, "attention": {"operator": "hybrid", "config": {"window": 3}}, "mlp": {"operator": "skip", "config": {"constant": 1}}},
    {"block": 2, "attention": {"operator": "linear_attention", "config": {
        "feature_map": "exp", "key_norm": 1, "qk_conv": 3, "v_conv": 1, "inherit_qk": "yes"}},
        "mlp": {"operator": "swiglu", "config": {"expansion_ratio": 2}}},
    {"block": 3, "attention": {"operator": "mamba2", "config": {
        "expand": 1, "bias": 1, "ngroups": 4, "d_state": 8, "headdim": 8, "scan": "both"}}},
]
MORE_OPERATORS = [
    {"block": 0, "attention": {"operator": "hybrid", "config": {"window": 5, "axes": 1}}},
    {"block": 1, "attention": {"operator": "linear_attention", "config": {"feature_map": "relu", "v_conv": 3}}},
    {"block": 2, "attention": {"operator": "linear"}},
    {"block": 3, "attention": {"operator": "hybrid"}},
]


def covered(*blocks: list[dict]) -> set[str]:
    """The operators that some blocks hold."""
    return {own["operator"] for part in blocks for block in part for key, own in block.items() if key != "block"}


def test_the_plans_of_the_tests_hold_every_operator() -> None:
    assert covered(EVERY_OPERATOR, OTHER_OPERATORS, NEWER_OPERATORS) == set(REGISTRY)


def test_operators_and_their_settings_are_those_of_the_native_engine(program: str) -> None:
    done = subprocess.run([program, "plan", "operators", "--json"], capture_output=True, text=True, check=True)
    native = {row["name"]: row for row in json.loads(done.stdout)}
    assert native.keys() == REGISTRY.keys()
    for name, own in REGISTRY.items():
        assert sorted(native[name]["slots"]) == sorted(own.slots), name
        fields = {
            f.key: (f.default, f.low, f.high, f.integer, list(f.names)) for f in own.fields if not f.implied
        }
        expected = {
            s["key"]: (s["default"], s["minimum"], s["maximum"], s["is_integer"], s["names"]) for s in native[name]["settings"]
        }
        assert fields == expected, name


def test_settings_are_those_of_the_documentation() -> None:
    text = re.sub(r"\s+", " ", (support.ROOT / "docs/settings.md").read_text().split("## Recipe")[0])
    rows = re.findall(r"- `(data|stage1|stage2)\.([\w.]+)`((?: \*\*[SR]\*\*)*): (.*?)(?= - `|## |$)", text)
    documented = {(section, key.removeprefix("overrides.SITE.")): (marks, rest) for section, key, marks, rest in rows}
    documented.pop(("stage1", "overrides"))
    own = {(s, r.key): r for s, table in (("data", DATA), ("stage1", STAGE1), ("stage2", STAGE2)) for r in table}
    assert documented.keys() == own.keys()
    for key, row in own.items():
        marks, rest = documented[key]
        assert ("**S**" in marks) == row.site, key
        assert ("**R**" in marks) == row.resume, key
        default = re.search(r"default `(.*?)`\.", rest)
        if default:
            assert json.loads(default[1]) == row.default, key
        bounds = re.search(r"number, ([\de.+-]+) to ([\de.+-]+)", rest)
        if bounds:
            assert (float(bounds[1]), float(bounds[2])) == (row.low, row.high), key
        choices = re.search(r'((?:"[^"]+"(?:, | or )?)+); default', rest)
        assert set(re.findall(r'"([^"]+)"', choices[1]) if choices else ()) == set(row.choices), key


@pytest.mark.parametrize("blocks", [EVERY_OPERATOR, OTHER_OPERATORS[:2], NEWER_OPERATORS, MORE_OPERATORS])
def test_fresh_and_transferred_weights_are_those_of_the_native_engine(
    program: str, folder: pathlib.Path, blocks: list[dict]
) -> None:
    from espalier_torch.graft import Graft
    from espalier_torch.modelfile import ModelFile

    edits = load(str(support.write_plan(folder, blocks, name="fresh.json"))).edits
    overrides = {
        f"{block}.{slot}": {"init": "transferred"} for (block, slot), (name, config) in edits.items()
        if REGISTRY[name].transfer and REGISTRY[name].transfer_refusal(config, support.SHAPE) is None
    }
    settings = {"steps": 1, "learning_rate": 1e-12, "warmup_steps": 0, "overrides": overrides}
    for stage1 in ({**settings, "overrides": {}}, settings):
        plan = support.write_plan(folder, blocks, stage1=stage1, name="fresh.json")
        native = support.tensors(support.native_run(folder, plan, "distill") / "checkpoints/operators.safetensors")
        graft = Graft(load(str(plan)), ModelFile(str(folder / "model.safetensors")), torch.device("cpu"))
        found = {n: p for site in graft.plan.sites for n, p in graft.parameters(site)}
        assert native.keys() == found.keys()
        for name, value in native.items():
            assert (value - found[name]).abs().max() < 1e-9, name


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda t: t["stage1"].update(steps=0), "stage1.steps: expected a whole number, 1 to 1e+07, found 0"),
        (lambda t: t["stage1"].update(mode="other"), 'stage1.mode: expected one of "streaming", "cached"'),
        (lambda t: t["stage2"].update(unknown=1), "stage2.unknown: this engine has no such setting"),
        (lambda t: t.update(section={}), "section: this engine has no such section"),
        (lambda t: t["blocks"].append({"block": 9, "mlp": {"operator": "mlp"}}), "the model has blocks 0 to 3, found 9"),
        (lambda t: t["blocks"].append({"block": 1, "mlp": {"operator": "swa"}}), "'swa' is no operator of the mlp slot"),
        (lambda t: t["blocks"].append({"block": 1, "attention": {"operator": "swa", "config": {"x": 1}}}), "swa has no such setting"),
        (lambda t: t["blocks"].append({"block": 1, "attention": {"operator": "mha", "config": {"num_heads": 5}}}), "num_heads 5 does not divide"),
        (lambda t: t.update(espalier_plan=2), "expected version 1, found 2"),
        (lambda t: t["model"].pop("depth"), "config key 'depth' is missing"),
        (lambda t: t["model"].update(rotary=1), "config key 'rotary' has the wrong type"),
        (lambda t: t["model"].update(rotary=True, num_heads=16), "rotary positions need heads of a multiple of 4 channels"),
        (lambda t: t["model"].update(reversed_time=True), "a dit predicts no velocity"),
        (lambda t: t["model"].update(family="pixart", num_classes=0, swiglu=True), "no PixArt has such blocks"),
        (lambda t: t["model"].update(family="other"), "config key 'family' is 'other', expected one of dit, sit, lightningdit, pixart"),
        (lambda t: (t["model"].update(rotary=True), t["blocks"].append({"block": 1, "attention": {"operator": "swa", "config": {"num_heads": 16}}})),
         "num_heads 16 leaves heads of 2 channels, and the model's rotary positions need a multiple of 4"),
        (lambda t: (t["blocks"].append({"block": 1, "mlp": {"operator": "swiglu"}}),
                    t["stage1"].update(overrides={"1.mlp": {"init": "transferred_ridge"}})),
         "stage1.overrides.1.mlp.init: the model's MLPs are not gated"),
        (lambda t: t["stage1"].update(overrides={"7x": {}}), "expected a slot such as 7.attention"),
        (lambda t: t.update(parallel=[{"blocks": [0, 2], "merge": "mean"}]), "expected a block and the next one"),
    ],
)
def test_what_cannot_be_done_is_refused_in_a_sentence(folder: pathlib.Path, change, sentence: str) -> None:
    plan = support.write_plan(folder, [], name="refused.json")
    table = json.loads(plan.read_text())
    change(table)
    with pytest.raises(EngineError) as caught:
        parse(json.dumps(table), "plan.json")
    assert sentence in str(caught.value) and "\n" not in str(caught.value)


def test_check_says_before_a_run_exists_whether_a_plan_can_be_trained(folder: pathlib.Path) -> None:
    from espalier_torch.__main__ import main

    empty = support.write_plan(folder, [], name="empty.json")
    assert main(["check", str(empty)]) == 1
    assert main(["check", "--stage", "2", str(empty)]) == 0
    assert main(["check", str(support.write_plan(folder, OTHER_OPERATORS, name="good.json"))]) == 0


def test_parameters_of_a_grafted_pixart_lie_below_the_slots_of_diffusers() -> None:
    from espalier_torch.keys import pixart_keys

    assert pixart_keys("blocks.8.attn.in_proj.weight") == ["transformer_blocks.8.attn1.in_proj.weight"]
    assert pixart_keys("blocks.8.mlp.w12.bias") == ["transformer_blocks.8.ff.w12.bias"]
    assert pixart_keys("blocks.8.mlp.fc1.bias") == ["transformer_blocks.8.ff.net.0.proj.bias"]
    assert pixart_keys("blocks.8.cross_attn.proj.bias") == ["transformer_blocks.8.attn2.to_out.0.bias"]
