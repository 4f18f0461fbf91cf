"""What the checkpoints of both stages share: their metadata and the checks before a run goes on."""

from __future__ import annotations

from . import GENERATOR
from .data import Dataset
from .errors import EngineError
from .files import TensorFile
from .modelfile import PLAN_KEY
from .plan import Plan, parse


def metadata(kind: str, plan: Plan, step: int, dataset: Dataset, held_out: Dataset) -> dict[str, str]:
    """The common entries."""
    return {
        "espalier_file": kind, "step": str(step), "random_generator": GENERATOR, "data": dataset.identity,
        "held_out": held_out.identity, PLAN_KEY: plan.text,
    }


def count(file: TensorFile, key: str, limit: int) -> int:
    """A count in the metadata, from 0 to a limit."""
    text = file.metadata.get(key, "")
    if not text.isdigit() or int(text) > limit:
        raise EngineError(
            f"{file.path}: '{key}' in its metadata is '{text[:40]}', expected 0 to {limit}; the checkpoint is damaged or"
            " of another kind, go on from another one by 'espalier runs retry RUN --step N'"
        )
    return int(text)


def require_continuation(file: TensorFile, plan: Plan, dataset: Dataset, held_out: Dataset) -> None:
    """Raises EngineError if a checkpoint belongs to another generator, plan or data."""
    found = file.metadata.get("random_generator")
    if found != GENERATOR:
        raise EngineError(
            f"{file.path}: 'random_generator' in the metadata is '{str(found)[:40]}', expected '{GENERATOR}'; start a new"
            " run"
        )
    saved = parse(file.metadata.get(PLAN_KEY, ""), file.path)
    if saved.fixed() != plan.fixed():
        raise EngineError(f"{file.path}: was written for another plan; start a run of the changed plan instead")
    for key, now in (("data", dataset), ("held_out", held_out)):
        before = file.metadata.get(key)
        if before is not None and before != now.identity:
            raise EngineError(
                f"{now.path}: the training data have changed since {file.path} was written, their hash was {before[:12]}"
                f" and is {now.identity[:12]}; restore them, or start a new run"
            )
