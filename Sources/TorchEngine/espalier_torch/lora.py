"""Low-rank additions (LoRA, arXiv 2106.09685) of the linear layers that a plan does not replace."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import linear

from . import initializers as init
from .models import Backbone
from .philox import Stream
from .plan import Plan


class LoRALinear(nn.Module):
    """y = x W^T + b + scale (x A^T) B^T with frozen W and b; keys of the layer stay as they are."""

    def __init__(self, layer: nn.Linear, down: torch.Tensor, up: torch.Tensor, scale: float):
        super().__init__()
        self.weight, self.bias, self.scale = layer.weight, layer.bias, scale
        self.lora_A = nn.Linear(down.shape[1], down.shape[0], bias=False, device="meta")
        self.lora_B = nn.Linear(up.shape[1], up.shape[0], bias=False, device="meta")
        self.lora_A.weight, self.lora_B.weight = nn.Parameter(down), nn.Parameter(up)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return linear(x, self.weight, self.bias) + self.scale * self.lora_B(self.lora_A(x))


def attach(model: Backbone, plan: Plan) -> None:
    """Freezes all but the replaced operators, and gives the chosen layers of the rest A (drawn) and B (zero)."""
    settings = plan.stage2
    grafts = tuple(prefix for site in plan.sites for prefix in site.prefixes)
    endings = tuple(f".{target}" for target in settings.lora_targets)
    for name, parameter in model.named_parameters():
        if not grafts or not name.startswith(grafts):
            parameter.requires_grad_(False)
    for name, module in list(model.named_modules()):
        frozen = not grafts or not f"{name}.".startswith(grafts)
        if not isinstance(module, nn.Linear) or not frozen:
            continue
        if not name.startswith("blocks.") or not name.endswith(endings):
            continue
        device, inputs = module.weight.device, module.in_features
        key = f"{name}.lora_A.weight"
        down = init.fan_in(inputs)((settings.lora_rank, inputs), Stream(plan.seed, key)).to(device)
        up = torch.zeros(module.out_features, settings.lora_rank, device=device)
        scale = float(torch.tensor(settings.lora_alpha) / torch.tensor(float(settings.lora_rank)))
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, LoRALinear(module, down, up, scale))


def merged(name: str, value: torch.Tensor, adapters: dict[str, tuple[torch.Tensor, torch.Tensor, float]]) -> torch.Tensor:
    """A weight with its addition, if it has one."""
    adapter = adapters.get(name)
    if adapter is None:
        return value
    down, up, scale = adapter
    return value + scale * (up.to(value) @ down.to(value))
