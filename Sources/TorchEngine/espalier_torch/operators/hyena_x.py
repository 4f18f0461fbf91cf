"""Hyena-X: a gated short causal convolution: `in_proj`, `short_filter`, `out_proj`."""

from . import transfers
from .base import Definition
from .hyena import ORDER, HyenaMixer, taps_field

OPERATOR = Definition(
    "hyena_x", ("attention",), (taps_field("short_filter_order"), ORDER),
    lambda config, context: HyenaMixer(context.hidden_size, int(config["short_filter_order"]), None),
    transfer=lambda config: transfers.gated_values(True),
)
