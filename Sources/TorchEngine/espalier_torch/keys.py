"""Parameter names of the official repositories and of diffusers."""

from __future__ import annotations

from typing import Callable, Iterable, Mapping

import torch

from .errors import EngineError

_DIT_ENDS = {
    "x_embedder.proj.": "pos_embed.proj.", "final_layer.adaLN_modulation.1.": "proj_out_1.",
    "final_layer.linear.": "proj_out_2.",
}
_DIT_EMBEDDERS = {
    "t_embedder.mlp.0.": "norm1.emb.timestep_embedder.linear_1.",
    "t_embedder.mlp.2.": "norm1.emb.timestep_embedder.linear_2.",
    "y_embedder.embedding_table.": "norm1.emb.class_embedder.embedding_table.",
}
_DIT_BLOCK = {
    "adaLN_modulation.1.": ["norm1.linear."], "attn.qkv.": ["attn1.to_q.", "attn1.to_k.", "attn1.to_v."],
    "attn.proj.": ["attn1.to_out.0."], "mlp.fc1.": ["ff.net.0.proj."], "mlp.fc2.": ["ff.net.2."],
}
_PIXART = {
    "x_embedder.proj": ["pos_embed.proj"],
    "t_embedder.mlp.0": ["adaln_single.emb.timestep_embedder.linear_1"],
    "t_embedder.mlp.2": ["adaln_single.emb.timestep_embedder.linear_2"],
    "t_block.1": ["adaln_single.linear"], "y_embedder.y_proj.fc1": ["caption_projection.linear_1"],
    "y_embedder.y_proj.fc2": ["caption_projection.linear_2"], "final_layer.linear": ["proj_out"],
    "final_layer.scale_shift_table": ["scale_shift_table"],
}
_PIXART_BLOCK = {
    "scale_shift_table": ["scale_shift_table"], "attn.qkv": ["attn1.to_q", "attn1.to_k", "attn1.to_v"],
    "attn.proj": ["attn1.to_out.0"], "cross_attn.q_linear": ["attn2.to_q"],
    "cross_attn.kv_linear": ["attn2.to_k", "attn2.to_v"], "cross_attn.proj": ["attn2.to_out.0"],
    "mlp.fc1": ["ff.net.0.proj"], "mlp.fc2": ["ff.net.2"],
}


def diffusers_keys(name: str) -> list[str]:
    """The names in diffusers whose tensors concatenate along the first axis to a DiT's parameter."""
    for start, other in _DIT_ENDS.items():
        if name.startswith(start):
            return [other + name.removeprefix(start)]
    for start, other in _DIT_EMBEDDERS.items():
        if name.startswith(start):
            return [f"transformer_blocks.0.{other}{name.removeprefix(start)}"]
    parts = name.split(".", 2)
    if len(parts) == 3 and parts[0] == "blocks":
        for start, others in _DIT_BLOCK.items():
            if parts[2].startswith(start):
                rest = parts[2].removeprefix(start)
                return [f"transformer_blocks.{parts[1]}.{other}{rest}" for other in others]
    return [name]


def pixart_keys(name: str) -> list[str]:
    """The names in diffusers whose tensors concatenate along the first axis to a PixArt's parameter."""
    prefix, rest, rules = "", name, _PIXART
    parts = name.split(".", 2)
    if len(parts) == 3 and parts[0] == "blocks":
        prefix, rest, rules = f"transformer_blocks.{parts[1]}.", parts[2], _PIXART_BLOCK
    for own, others in rules.items():
        if rest == own or rest.startswith(own + "."):
            return [prefix + other + rest[len(own) :] for other in others]
    # Parameters of a grafted operator, which diffusers has no names for, lie below its names of the slots.
    for own, other in (("attn.", "attn1."), ("mlp.", "ff.")):
        if prefix and rest.startswith(own):
            return [prefix + other + rest.removeprefix(own)]
    return [name]


def renamed(
    tensors: Mapping[str, torch.Tensor], names: Iterable[str], keys: Callable[[str], list[str]], path: str = "file"
) -> dict[str, torch.Tensor]:
    """Tensors by official name from those of another naming."""
    result = {}
    for name in names:
        parts = keys(name)
        missing = next((part for part in parts if part not in tensors), None)
        if missing:
            raise EngineError(f"{path}: tensor '{missing}' is missing; check that the file holds this model")
        result[name] = torch.cat([tensors[part] for part in parts]) if len(parts) > 1 else tensors[parts[0]]
    return result
