"""Rules that initialise parameters of a replacement from the operator that it replaces."""

from __future__ import annotations

from typing import Callable

import torch

from .base import Transfer

Original = Callable[[str], torch.Tensor]


def attention(projections: str, output: str, has_norms: bool = True) -> Transfer:
    """All weights of attention under other names: `projections` for `qkv`, `output` for `proj`.

    Norms of queries and keys come along where the operator's have the meaning of attention's.
    """

    def rule(name: str, own: torch.Tensor, original: Original) -> torch.Tensor:
        module, _, rest = name.partition(".")
        if module == projections:
            return original(f"qkv.{rest}").clone()
        if has_norms and module in ("q_norm", "k_norm"):
            norm = original(name)
            return norm.clone() if norm.shape == own.shape else own
        return original(f"proj.{rest}").clone() if module == output else own

    return rule


def _with_values(source: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """`own` with its last third of rows, the values, replaced by that of `source`."""
    result, start = own.clone(), 2 * own.shape[0] // 3
    result[start:] = source[start:]
    return result


def values(name: str, own: torch.Tensor, original: Original) -> torch.Tensor:
    """The value and output projections of attention; queries and keys stay fresh."""
    module, _, rest = name.partition(".")
    if module in ("qkv", "in_proj"):
        return _with_values(original(f"qkv.{rest}"), own)
    return original(f"proj.{rest}").clone() if module in ("proj", "out_proj") else own


def gated_values(has_short_filter: bool) -> Transfer:
    """As `values`, with gates near 1, so that a Hyena operator first outputs each token's value projection."""

    def rule(name: str, own: torch.Tensor, original: Original) -> torch.Tensor:
        third = own.shape[0] // 3
        if name == "in_proj.bias" and not has_short_filter:
            result = _with_values(original("qkv.bias"), own)
            result[: 2 * third] = 1
            return result
        if name == "short_filter.bias":
            result = torch.zeros_like(own)
            result[: 2 * third] = 1
            return result
        if name == "short_filter.weight":
            result = own.clone()
            result[2 * third :] = 0
            result[2 * third :, :, -1] = 1
            return result
        return values(name, own, original)

    return rule


def scan(name: str, own: torch.Tensor, original: Original) -> torch.Tensor:
    """Queries, keys and values as C, B and x of a scan whose gate, convolution, step and decay change nothing."""
    if name in ("in_proj.weight", "in_proj.bias"):
        q, k, v = original(f"qkv.{name[8:]}").chunk(3)
        dim, result = q.shape[0], own.clone()
        result[:dim] = 0 if name.endswith("weight") else 1.2784645
        result[dim : 4 * dim] = torch.cat([v, k, q])
        result[4 * dim :] = 0
        return result
    if name == "conv1d.weight":
        result = torch.zeros_like(own)
        result[:, 0, -1] = 1
        return result
    if name in ("conv1d.bias", "D"):
        return torch.zeros_like(own)
    if name in ("dt_bias", "A_log"):
        return torch.full_like(own, 0.5413249 if name == "dt_bias" else -12)
    return original(f"proj.{name[9:]}").clone() if name.startswith("out_proj.") else own


def hidden_units(up: str, down: str, parts: int = 1) -> Transfer:
    """The hidden units of an MLP with the largest products of weight norms; added units have no outgoing weights.

    The `parts` rows of a unit in the layer `up` lie one block behind the other.
    """

    def rule(name: str, own: torch.Tensor, original: Original) -> torch.Tensor:
        try:
            source = original(name)
        except KeyError:
            # A layer without biases is one whose biases are zero.
            return torch.zeros_like(own)
        if name == f"{down}.bias":
            return source.clone()
        incoming, outgoing = original(f"{up}.weight"), original(f"{down}.weight")
        width = own.shape[1] if name == f"{down}.weight" else own.shape[0] // parts
        strengths = incoming.square().sum(1).reshape(parts, -1).sum(0) * outgoing.square().sum(0)
        kept = torch.argsort(strengths, descending=True, stable=True)[:width].sort().values
        if name == f"{down}.weight":
            result = torch.zeros_like(own)
            result[:, : len(kept)] = source[:, kept]
            return result
        result = own.clone()
        for new, old in zip(result.chunk(parts), source.chunk(parts)):
            new[: len(kept)] = old[kept]
        return result

    return rule
