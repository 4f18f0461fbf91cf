"""Models by name: the shipped one, files in the official naming or that of diffusers, folders of diffusers."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import os
from typing import Any

import torch

from .errors import EngineError, not_finite
from .files import TensorFile, digest_of
from .keys import diffusers_keys, pixart_keys, renamed
from .models import Backbone, make
from .operators.base import rotation
from .plan import Plan, parse
from .shape import FAMILIES, ModelShape, published_heads, published_name
from .statistics import LatentStatistics

PLAN_KEY = "espalier_plan"
_CONTAINERS = ("ema", "model", "state_dict")
_NESTED = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
_ANCHORS = ("x_embedder.proj.weight", "transformer_blocks.0.norm1.linear.weight", "adaln_single.linear.weight")
"""Tensors of which every model has one: what stands before them is the model's entry in a file."""
_ROTATION = ("feat_rope.freqs_cos", "feat_rope.freqs_sin")
_LEFT_OUT = (*_ROTATION, "bn.running_mean", "bn.running_var", "bn.num_batches_tracked")
"""Statistics of latents and tables that are computed: as projectors of a training, none of them is the network's."""


def family_in(name: str) -> tuple[str | None, str]:
    """The family that a name states, as in `sit:FILE`, and the rest of the name."""
    family, mark, rest = name.partition(":")
    return (family, rest) if mark and family in FAMILIES and not os.path.exists(name) else (None, name)


def path_of(name: str) -> tuple[str, str | None]:
    """Path of a model and the entry of a training checkpoint after `#` in its name."""
    name = family_in(name)[1]
    container = None
    if "#" in name and not os.path.exists(name):
        name, container = name.rsplit("#", 1)
    if name == "demo":
        places = [os.environ.get("ESPALIER_DEMO", "")]
        here = os.path.dirname(os.path.abspath(__file__))
        for up in ("../../../Assets/demo", "../../../demo"):
            places.append(os.path.normpath(os.path.join(here, up)))
        folder = next((p for p in places if p and os.path.exists(os.path.join(p, "model.safetensors"))), None)
        if folder is None:
            raise EngineError(
                "demo: the shipped model is neither named by ESPALIER_DEMO nor beside this package; set ESPALIER_DEMO to"
                " its folder"
            )
        name = os.path.join(folder, "model.safetensors")
    if not os.path.exists(name):
        raise EngineError(f"{name}: there is no such model; give 'demo', the path of a file, or a folder of diffusers")
    return name, container


class ModelFile:
    """An open model: its tensors by official name, its architecture and its metadata."""

    def __init__(self, name: str, shape: ModelShape | None = None, place: str | None = None):
        """place: where what the name stands for lies, if elsewhere than the name says."""
        self.family, rest = family_in(name)
        if place is None:
            self.path, self.container = path_of(rest)
        else:
            own, mark, entry = rest.rpartition("#")
            is_entry = bool(mark) and os.path.basename(own) == os.path.basename(place)
            self.path, self.container = place, entry if is_entry else None
        self.is_usual = True
        self.files = [self.path]
        self.metadata: dict[str, str] = {}
        tensors = self._open()
        sidecar = self.path + ".json"
        if os.path.exists(sidecar):
            self.files.append(sidecar)
            with open(sidecar, encoding="utf-8") as source:
                extra = json.load(source)
            self.metadata.update({k: v if isinstance(v, str) else json.dumps(v) for k, v in extra.items()})
        self.plan = parse(self.metadata[PLAN_KEY], self.path) if PLAN_KEY in self.metadata else None
        self.null_caption = tensors.pop("y_embedder.y_embedding", None)
        self.stated = self._stated()
        self.shape = shape or self._shape(tensors)
        if self.family:
            self.shape = dataclasses.replace(self.shape, family=self.family)
        self._require_rotation(tensors)
        self.latent_statistics = self._latent_statistics(tensors)
        own = {k: v for k, v in tensors.items() if k not in _LEFT_OUT and not k.startswith("projectors.")}
        self.tensors = self._official(own)

    def _open(self) -> dict[str, torch.Tensor]:
        path = self.path
        folder = os.path.dirname(path)
        if os.path.basename(path).startswith("diffusion_pytorch_model") and os.path.exists(f"{folder}/config.json"):
            path = folder
        if os.path.isdir(path):
            inner = os.path.join(path, "transformer")
            folder = inner if os.path.isdir(inner) else path
            index = os.path.join(folder, "diffusion_pytorch_model.safetensors.index.json")
            if os.path.exists(index):
                with open(index, encoding="utf-8") as source:
                    names = sorted(set(json.load(source)["weight_map"].values()))
                self.files = [index, *(os.path.join(folder, n) for n in names)]
                parts = [TensorFile(p) for p in self.files[1:]]
            else:
                self.files = [os.path.join(folder, "diffusion_pytorch_model.safetensors")]
                parts = [TensorFile(self.files[0])]
            self.path = self.files[0]
            for part in parts:
                self.metadata.update(part.metadata)
            if not _states_all(self.metadata.get("config")):
                self.files.append(os.path.join(folder, "config.json"))
            return {name: part.raw(name) for part in parts for name in part.names}
        if path.endswith(".safetensors"):
            file = TensorFile(path)
            self.metadata.update(file.metadata)
            tensors = {name: file.raw(name) for name in file.names}
        else:
            try:
                loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            except Exception as error:
                reason = str(error).split("\n")[0]
                raise EngineError(f"{path}: PyTorch cannot load it as weights alone ({reason}); save its state_dict()")
            tensors = dict(_flat(loaded))
        return self._chosen(tensors)

    def _chosen(self, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The tensors of the chosen entry without the prefixes of wrappers: averages before weights as trained."""
        if any(name.endswith("model_ema.num_updates") for name in tensors):
            raise EngineError(
                f"{self.path}: keeps averages under names without dots, as latent-diffusion does, which this engine does"
                " not read; convert the file first (espalier convert)"
            )
        found = {n[: len(n) - len(a)] for n in tensors for a in _ANCHORS if n == a or n.endswith(f".{a}")}
        if not found:
            raise EngineError(f"{self.path}: has no tensor '{_ANCHORS[0]}', which every DiT has; use the weights of a DiT")
        asked = {p for p in found if self.container is None or p.startswith(f"{self.container}.")}
        if not asked:
            raise EngineError(f"{self.path}: has no model in '{self.container}'; choose one of {sorted(found)[:8]}")
        prefix = self._best(asked)
        self.is_usual = False
        with contextlib.suppress(EngineError):
            self.is_usual = self.container is None or prefix == self._best(found)
        parts = prefix.split(".")[:-1]
        while parts and parts[-1] in ("module", *_NESTED):
            parts.pop()
        self.container = ".".join(parts) or None
        result = {}
        for name, value in tensors.items():
            if name.startswith(prefix):
                result[".".join(p for p in name[len(prefix) :].split(".") if p not in _NESTED)] = value
        return result

    def _best(self, prefixes: set[str]) -> str:
        """The preferred of several models in a file: averages first, then by known names."""

        def rank(prefix: str) -> int:
            parts = [p for p in prefix.split(".")[:-1] if p not in ("module", *_NESTED)]
            averages = sum("ema" in p.split("_") for p in parts)
            if averages:
                return (1 if "ema" in parts else 2) - averages
            if not parts:
                return 2
            return 3 + (_CONTAINERS.index(parts[0]) if parts[0] in _CONTAINERS else len(_CONTAINERS))

        ranks = {p: rank(p) for p in prefixes}
        best = sorted(p for p, r in ranks.items() if r == min(ranks.values()))
        if len(best) > 1:
            raise EngineError(
                f"{self.path}: holds several models, and nothing tells which is meant; choose one of"
                f" {', '.join(f'{self.path}#{p[:-1]}' for p in best[:8])}"
            )
        return best[0]

    def _stated(self) -> dict[str, Any]:
        text = self.metadata.get("config")
        if text is None or not text.startswith("{"):
            beside = os.path.join(os.path.dirname(self.path), "config.json")
            if not os.path.exists(beside):
                return {}
            with open(beside, encoding="utf-8") as source:
                text = source.read()
        try:
            table = json.loads(text)
        except ValueError:
            raise EngineError(f"{self.path}: metadata key 'config' is no JSON object; correct it") from None
        return table if isinstance(table, dict) else {}

    @property
    def class_names(self) -> list[str]:
        """Names of the classes, if known."""
        names = self.stated.get("class_names") or []
        return names if len(names) == self.shape.num_classes else []

    def _shape(self, tensors: dict[str, torch.Tensor]) -> ModelShape:
        table = self.stated
        if "num_attention_heads" in table:
            return self._diffusers_shape(table)
        if self.plan is not None and "depth" not in table:
            return self.plan.shape
        if "depth" in table and "num_heads" in table:
            return ModelShape.read({"family": "dit", **table}, self.path)
        return self._detected(tensors, table)

    def _diffusers_shape(self, table: dict[str, Any]) -> ModelShape:
        heads = table["num_attention_heads"]
        channels = table.get("in_channels") or 4
        common = dict(
            depth=table["num_layers"], hidden_size=heads * table["attention_head_dim"], num_heads=heads,
            patch_size=table.get("patch_size") or 2, input_size=table.get("sample_size") or 128,
            in_channels=channels, learn_sigma=(table.get("out_channels") or channels) == 2 * channels,
        )
        if "caption_channels" not in table or table["caption_channels"] is None:
            return ModelShape(
                **common, num_classes=table.get("num_embeds_ada_norm") or 1000, frequency_shift=1,
                mlp_norm_epsilon=table.get("norm_eps") or 1e-5,
            )
        compression = table.get("kv_compression") or {}
        return ModelShape(
            **common, num_classes=0, family="pixart", has_null_class=False,
            caption_channels=table["caption_channels"], norm_epsilon=table.get("norm_eps") or 1e-6,
            interpolation_scale=table.get("interpolation_scale") or max(common["input_size"] / 64, 1),
            compression=compression.get("factor", 1), compressed_layers=tuple(compression.get("layers", ())),
        )

    def _detected(self, tensors: dict[str, torch.Tensor], table: dict[str, Any]) -> ModelShape:
        """The architecture of weights in the official naming without a configuration."""

        def need(name: str) -> torch.Tensor:
            if name not in tensors:
                raise EngineError(
                    f"{self.path}: has no tensor '{name}', which every DiT has, and no configuration; use the weights of"
                    " a DiT"
                )
            return tensors[name]

        def first(end: str) -> torch.Tensor | None:
            return next((tensors[k] for k in (f"blocks.{i}.{end}" for i in range(depth)) if k in tensors), None)

        patch = need("x_embedder.proj.weight")
        dim, channels, edge = patch.shape[0], patch.shape[1], patch.shape[2]
        depth = 0
        while f"blocks.{depth}.adaLN_modulation.1.weight" in tensors:
            depth += 1
        norm, gated = first("attn.q_norm.weight"), first("mlp.w3.weight")
        ends = [name.rsplit(".mlp.", 1)[-1] for name in tensors if name.startswith("blocks.")]
        if ends.count("w12.weight") <= ends.count("fc1.weight"):
            # A single gated MLP is a replacement.
            gated = None
        parts = {
            "rms_norm": "blocks.0.norm1.weight" in tensors, "qk_norm": norm is not None,
            "rotary": any(name in tensors for name in _ROTATION),
            "swiglu": gated is not None, "mlp_bias": gated is None or first("mlp.w12.bias") is not None,
            "block_shift": need("blocks.0.adaLN_modulation.1.weight").shape[0] == 6 * dim,
        }
        parts.update({key: table[key] for key in parts if table.get(key) is not None})
        shown = norm if norm is not None else next((tensors[n] for n in _ROTATION if n in tensors), None)
        heads = table.get("num_heads") or (dim // shown.shape[-1] if shown is not None else published_heads(depth, dim))
        if heads is None:
            raise EngineError(
                f"{self.path}: no published DiT has depth {depth} and hidden size {dim}, so its number of attention heads"
                f" is unknown; state it in '{self.path}.json' as {{\"config\": {{\"num_heads\": N}}}}"
            )
        rows = need("y_embedder.embedding_table.weight").shape[0]
        has_null = rows not in (1, 10, 100, 1000)
        tokens = tensors["pos_embed"].shape[1] if "pos_embed" in tensors else (32 // edge) ** 2
        outputs = need("final_layer.linear.weight").shape[0]
        has_projectors = any(name.startswith("projectors.") for name in tensors)
        family = table.get("family") or "dit"
        if "family" not in table and any(parts[key] for key in ("rms_norm", "qk_norm", "rotary", "swiglu")):
            family = "lightningdit"
        elif has_projectors or os.path.basename(self.path).startswith("SiT-"):
            family = "sit"
        ratio = 4.0
        if gated is not None:
            ratio = _gated_ratio(gated.shape[-1], dim)
        elif "blocks.0.mlp.fc1.weight" in tensors:
            ratio = tensors["blocks.0.mlp.fc1.weight"].shape[0] / dim
        family = self.family or family
        return ModelShape(
            depth, dim, heads, edge, table.get("input_size") or round(tokens**0.5) * edge,
            table.get("num_classes") or rows - has_null, family=family, in_channels=channels,
            learn_sigma=outputs == 2 * channels * edge * edge, has_null_class=has_null, mlp_ratio=ratio,
            reversed_time=table.get("reversed_time", has_projectors and family in ("sit", "lightningdit")), **parts,
        )

    def _require_rotation(self, tensors: dict[str, torch.Tensor]) -> None:
        """Raises EngineError if stored rotary positions are not those that are computed."""
        if not self.shape.rotary:
            return
        side, width = self.shape.grid, self.shape.hidden_size // self.shape.num_heads
        for name, table in zip(_ROTATION, rotation(side, side, side, width, torch.device("cpu"))):
            if name not in tensors:
                continue
            stored, expected = tensors[name].float(), table.repeat_interleave(2, dim=1)
            # Tolerance of tables rounded to bfloat16.
            if stored.shape != expected.shape or (stored - expected).abs().max() > 5e-3:
                raise EngineError(
                    f"{self.path}: tensor '{name}' differs from the rotary positions of a grid of {side} by {side} tokens"
                    f" with heads of {width} channels and base 10000, which are computed; use a model with those"
                )

    def _latent_statistics(self, tensors: dict[str, torch.Tensor]) -> LatentStatistics | None:
        """Mean and deviation of the latents' channels: those in the file (REPA-E), else those beside the model."""
        if "bn.running_mean" in tensors and "bn.running_var" in tensors:
            variance = tensors["bn.running_var"].double()
            return LatentStatistics(tensors["bn.running_mean"].double(), variance.sqrt(), self.path)
        folder = os.path.dirname(self.path)
        if self.plan is not None:
            with contextlib.suppress(EngineError):
                folder = os.path.dirname(path_of(self.plan.model_path)[0])
        return LatentStatistics.beside(folder)

    def _official(self, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        names = [name for name, _ in self.build_empty().named_parameters()]
        if "transformer_blocks.0.norm1.linear.weight" in tensors:
            own = renamed(tensors, [n for n in names if n != "pos_embed"], diffusers_keys, self.path)
        elif "adaln_single.linear.weight" in tensors:
            own = renamed(tensors, names, pixart_keys, self.path)
        else:
            own = dict(tensors)
            if self.shape.family == "pixart":
                own.pop("pos_embed", None)
        if self.shape.family != "pixart" and "pos_embed" not in own:
            own["pos_embed"] = self.shape.position_table()[None]
        return own

    def build_empty(self) -> Backbone:
        """The network of the file without its parameters."""
        if self.plan is not None:
            return make(self.shape, self.plan.edits, self.plan.parallel)
        return make(self.shape)

    def load(self) -> Backbone:
        """The network with its parameters, float32."""
        model = self.build_empty()
        assign(model, self.tensors, self.path)
        return model

    def content_hash(self) -> str:
        """The digest of the files, as in plans."""
        digest = digest_of(self.files)
        choice = "" if self.is_usual else f"#{self.container}"
        if self.family:
            choice += f" as {self.family}"
        return hashlib.sha256(f"{digest}{choice}".encode()).hexdigest() if choice else digest

    def require_hash(self, plan: Plan) -> None:
        """Raises EngineError if the weights are not those that a plan was made for."""
        actual = self.content_hash()
        if plan.content_hash and actual != plan.content_hash:
            raise EngineError(
                f"{self.path}: its weights have changed since the run was made, its hash was {plan.content_hash[:12]} and"
                f" is {actual[:12]}; restore the file, or start a new run of a plan for these weights"
            )

    def result_metadata(self) -> dict[str, str]:
        """The metadata of models that are made from this one."""
        metadata = {k: v for k, v in self.metadata.items() if k != PLAN_KEY}
        complete = all(
            k in self.stated for k in ("depth", "hidden_size", "num_heads", "patch_size", "input_size", "num_classes")
        )
        if not complete:
            metadata["config"] = self.shape.stated(self.class_names, published_name(self.shape) or self.shape.family)
        return metadata


def _states_all(text: str | None) -> bool:
    """Whether a metadata entry `config` states an architecture completely, so that no other file is asked."""
    try:
        table = json.loads(text or "")
    except ValueError:
        return False
    keys = ("depth", "hidden_size", "num_heads", "patch_size", "input_size", "in_channels", "num_classes", "learn_sigma")
    return isinstance(table, dict) and ("num_attention_heads" in table or all(key in table for key in (*keys, "mlp_ratio")))


def _gated_ratio(width: int, dim: int) -> float:
    """The ratio whose gated MLP has this inner width; 4 if that is one."""
    start = 3 * width // 2
    plain = next((p for p in (4 * dim, *range(start, start + 3)) if int(2 / 3 * p) == width), start)
    ratio = plain / dim
    return ratio if int(ratio * dim) == plain else math.nextafter(ratio, math.inf)


def _flat(value: Any, prefix: str = "") -> list[tuple[str, torch.Tensor]]:
    """Tensors of nested dictionaries by dotted names."""
    if isinstance(value, torch.Tensor):
        return [(prefix, value)]
    if not isinstance(value, dict):
        return []
    return [pair for k, v in value.items() for pair in _flat(v, f"{prefix}.{k}" if prefix else str(k))]


def assign(model: Backbone, tensors: dict[str, torch.Tensor], path: str) -> None:
    """Gives a network without memory its parameters in float32; missing, surplus and non-finite ones are refused."""
    expected = dict(model.named_parameters())
    for name in tensors:
        if name not in expected:
            raise EngineError(f"{path}: tensor '{name}' belongs to no parameter of this model; check that it fits")
    values = {}
    for name, parameter in expected.items():
        value = tensors.get(name)
        if value is None:
            raise EngineError(f"{path}: tensor '{name}' is missing; check that the file holds this model")
        if value.shape != parameter.shape:
            raise EngineError(
                f"{path}: tensor '{name}' has shape {list(value.shape)}, expected {list(parameter.shape)}; check that"
                " the file holds this model"
            )
        if not value.is_floating_point():
            raise EngineError(
                f"{path}: tensor '{name}' has type {value.dtype}, expected floating-point numbers; weights of integers are"
                " quantised, save the model without quantisation (dequantize)"
            )
        value = value.float()
        if not torch.isfinite(value).all():
            raise not_finite(f"{path}: tensor '{name}'")
        values[name] = value
    model.load_state_dict(values, assign=True)
