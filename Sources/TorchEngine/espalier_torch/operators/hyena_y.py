"""Hyena-Y: a short causal convolution between the gates: `in_proj`, `inner_filter`, `out_proj`."""

from . import transfers
from .base import Definition
from .hyena import ORDER, HyenaMixer, taps_field

OPERATOR = Definition(
    "hyena_y", ("attention",), (taps_field("inner_filter_len"), ORDER),
    lambda config, context: HyenaMixer(context.hidden_size, None, int(config["inner_filter_len"])),
    transfer=lambda config: transfers.gated_values(False),
)
