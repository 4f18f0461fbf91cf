"""Teacher and grafted model of a plan."""

from __future__ import annotations

from typing import Sequence

import torch

from .errors import EngineError
from .files import Item, TensorFile, item, write_tensors
from .modelfile import PLAN_KEY, ModelFile, assign
from .models import Backbone, make
from .models.parts import Merge
from .operators import REGISTRY
from .philox import Stream
from .plan import Plan, Site, parse, slot_prefix


class Graft:
    """The teacher, frozen, and the grafted model, which shares all weights outside the sites with it."""

    def __init__(self, plan: Plan, file: ModelFile, device: torch.device, checkpoints: Sequence[str] = ()):
        """checkpoints: operators or grafted models of runs; later ones override earlier ones."""
        self.plan, self.file, self.device = plan, file, device
        self.teacher = file.load().to(device).requires_grad_(False)
        self.model = make(plan.shape, plan.edits, plan.parallel)
        own = {name: p.detach() for name, p in self.teacher.named_parameters()}
        tensors = start(plan, {k: v.cpu() for k, v in own.items()} if plan.edits else own, self.model)
        shared = {name: own[name] for name in tensors if name in own and tensors[name] is None}
        self.untrained = list(plan.sites)
        values: dict[str, torch.Tensor] = {
            name: shared[name] if value is None else value.to(device) for name, value in tensors.items()
        }
        for path in checkpoints:
            self._overlay(path, values)
        assign(self.model, values, file.path)
        self.model.to(device)

    def _overlay(self, path: str, values: dict[str, torch.Tensor]) -> None:
        """Takes over the weights of a checkpoint at the sites that it was trained for; of a whole model all others."""
        file = TensorFile(path)
        text = file.metadata.get(PLAN_KEY)
        if text is None:
            raise EngineError(
                f"{path}: has no '{PLAN_KEY}' in the metadata; give a checkpoint, the operators or the model of a run"
            )
        trained = parse(text, path)
        whole = "x_embedder.proj.weight" in file
        if whole and trained.content_hash != self.plan.content_hash:
            raise EngineError(
                f"{path}: was grafted from another model than the plan's, {self.plan.model_path}; give a checkpoint of a"
                " run on that model"
            )
        sites = [site for site in self.plan.sites if self.plan.agrees(trained, site)]
        taken = [prefix for site in sites for prefix in site.prefixes]
        others = [prefix for site in (*self.plan.sites, *trained.sites) for prefix in site.prefixes]
        for name, value in values.items():
            wanted = name.startswith(tuple(taken)) if taken else False
            if whole and name != "pos_embed" and not name.startswith(tuple(others)):
                wanted = True
            if wanted:
                values[name] = file.tensor(name, value.shape).to(self.device)
        self.untrained = [site for site in self.untrained if site not in sites]

    def parameters(self, site: Site) -> list[tuple[str, torch.nn.Parameter]]:
        """What stage 1 trains at a site, by full name."""
        prefixes = tuple(site.prefixes)
        return [(n, p) for n, p in self.model.named_parameters() if n.startswith(prefixes)]

    def own_for_training(self) -> None:
        """Gives the sites weights of their own; everything else stays frozen."""
        self.model.requires_grad_(False)
        for site in self.plan.sites:
            for _, parameter in self.parameters(site):
                parameter.data = parameter.data.clone()
                parameter.requires_grad_()

    def save_operators(self, path: str) -> None:
        """Writes only the weights of the sites, with the plan in the metadata."""
        items = [item(n, p) for site in self.plan.sites for n, p in self.parameters(site)]
        write_tensors(path, items, {PLAN_KEY: self.plan.text})

    def save_model(self, path: str) -> None:
        """Writes the whole grafted model, with the plan in the metadata."""
        metadata = {**self.file.result_metadata(), PLAN_KEY: self.plan.text}
        items: list[Item] = [item(n, p) for n, p in self.model.named_parameters()]
        write_tensors(path, items, metadata)


def start(
    plan: Plan, teacher: dict[str, torch.Tensor], model: Backbone
) -> dict[str, torch.Tensor | None]:
    """What every parameter of a grafted model starts from: drawn or transferred values, or None for the teacher's.

    teacher: the teacher's tensors by name, on the CPU; model: the network without its parameters.
    """
    result: dict[str, torch.Tensor | None] = {}
    for name, _ in model.named_parameters():
        result[name] = None
    for slot, (name, config) in plan.edits.items():
        prefix = slot_prefix(slot)
        operator = model.blocks[slot[0]].operator(slot[1])
        rule = REGISTRY[name].transfer if plan.transfers(slot) else None
        transfer = rule(REGISTRY[name].complete(config)) if rule else None
        rules = operator.initializers()
        for relative, parameter in operator.named_parameters():
            key = prefix + relative
            value = rules[relative](tuple(parameter.shape), Stream(plan.seed, key))
            if transfer is not None:
                value = transfer(relative, value, lambda other: teacher[prefix + other])
            result[key] = value
    for first, kind in plan.parallel.items():
        if kind == "projection":
            for key, value in Merge.start(plan.shape.hidden_size).items():
                result[f"blocks.{first}.merge.{key}"] = value
    return result
