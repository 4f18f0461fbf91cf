"""Networks of the model families."""

from __future__ import annotations

from typing import Mapping

import torch

from ..shape import ModelShape
from .dit import DiT, Edits
from .parts import Activations, Backbone, Condition
from .pixart import PixArt


def make(shape: ModelShape, edits: Edits = {}, parallel: Mapping[int, str] = {}) -> Backbone:
    """Builds a network without memory for its parameters; `load_state_dict(..., assign=True)` gives them."""
    with torch.device("meta"):
        return (PixArt if shape.family == "pixart" else DiT)(shape, edits, parallel)
