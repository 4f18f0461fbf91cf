"""Hyena-SE: short convolutions before and between the gates: `in_proj`, `short_filter`, `inner_filter`, `out_proj`."""

from __future__ import annotations

from ..shape import ModelShape
from . import transfers
from .base import Config, Definition
from .hyena import ORDER, HyenaMixer, taps_field


def _refusal(config: Config, shape: ModelShape) -> str | None:
    inner, short = config.get("inner_filter_len"), config.get("short_filter_order", 4)
    if inner is None or inner == short:
        return None
    return (
        f"inner_filter_len {inner:g} differs from short_filter_order {short:g}, but the official Hyena-SE has one"
        " length for both filters; set them alike"
    )


OPERATOR = Definition(
    "hyena_se", ("attention",),
    (taps_field("short_filter_order"), taps_field("inner_filter_len", implied=True), ORDER),
    lambda config, context: HyenaMixer(
        context.hidden_size, int(config["short_filter_order"]), int(config["short_filter_order"])
    ),
    _refusal, lambda config: transfers.gated_values(True),
)
