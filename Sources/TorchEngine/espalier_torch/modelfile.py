"""Models by name: the shipped one, files in the official naming or that of diffusers, folders of diffusers."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from typing import Any

import torch

from .errors import EngineError, not_finite
from .files import TensorFile, digest_of
from .keys import diffusers_keys, pixart_keys, renamed
from .models import Backbone, make
from .plan import Plan, parse
from .shape import ModelShape, published_heads, published_name

PLAN_KEY = "espalier_plan"
_CONTAINERS = ("ema", "model", "state_dict")
_WRAPPERS = ("module.", "_orig_mod.")


def path_of(name: str) -> tuple[str, str | None]:
    """Path of a model and the entry of a training checkpoint after `#` in its name."""
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

    def __init__(self, name: str, shape: ModelShape | None = None):
        self.path, self.container = path_of(name)
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
        self.tensors = self._official(tensors)

    def _open(self) -> dict[str, torch.Tensor]:
        path = self.path
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
            self.files.append(os.path.join(folder, "config.json"))
            self.path = self.files[0]
            for part in parts:
                self.metadata.update(part.metadata)
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
        """The tensors of the chosen entry without the prefixes of wrappers."""
        tops = {name.split(".", 1)[0] for name in tensors}
        own = self.container
        if own is None:
            own = next((c for c in _CONTAINERS if c in tops and c not in tensors), None)
        if own is not None:
            tensors = {k[len(own) + 1 :]: v for k, v in tensors.items() if k.startswith(own + ".")}
            if not tensors:
                raise EngineError(f"{self.path}: has no entry '{own}' with tensors; choose one of {sorted(tops)[:8]}")
        for wrapper in (*_WRAPPERS, _WRAPPERS[0]):
            if tensors and all(name.startswith(wrapper) for name in tensors):
                tensors = {name[len(wrapper) :]: v for name, v in tensors.items()}
        return {name.replace("_orig_mod.", ""): v for name, v in tensors.items()}

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

        patch = need("x_embedder.proj.weight")
        dim, channels, edge = patch.shape[0], patch.shape[1], patch.shape[2]
        depth = 0
        while f"blocks.{depth}.adaLN_modulation.1.weight" in tensors:
            depth += 1
        heads = table.get("num_heads") or published_heads(depth, dim)
        if heads is None:
            raise EngineError(
                f"{self.path}: no published DiT has depth {depth} and hidden size {dim}, so its number of attention heads"
                f" is unknown; state it in '{self.path}.json' as {{\"config\": {{\"num_heads\": N}}}}"
            )
        rows = need("y_embedder.embedding_table.weight").shape[0]
        has_null = rows not in (1, 10, 100, 1000)
        tokens = tensors["pos_embed"].shape[1] if "pos_embed" in tensors else (32 // edge) ** 2
        outputs = need("final_layer.linear.weight").shape[0]
        is_sit = os.path.basename(self.path).startswith("SiT-") or table.get("family") == "sit"
        return ModelShape(
            depth, dim, heads, edge, table.get("input_size") or round(tokens**0.5) * edge,
            table.get("num_classes") or rows - has_null, family="sit" if is_sit else "dit", in_channels=channels,
            learn_sigma=outputs == 2 * channels * edge * edge, has_null_class=has_null,
            mlp_ratio=need("blocks.0.mlp.fc1.weight").shape[0] / dim if "blocks.0.mlp.fc1.weight" in tensors else 4.0,
        )

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
        if self.container is None:
            return digest
        return hashlib.sha256(f"{digest}#{self.container}".encode()).hexdigest()

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
        value = value.float()
        if not torch.isfinite(value).all():
            raise not_finite(f"{path}: tensor '{name}'")
        values[name] = value
    model.load_state_dict(values, assign=True)


def with_family(shape: ModelShape, family: str) -> ModelShape:
    """The architecture as another family."""
    return dataclasses.replace(shape, family=family)
