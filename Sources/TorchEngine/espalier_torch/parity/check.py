"""Reference files: reading them, comparing with them, and the report, which is that of `espalier parity`."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from typing import Any, Callable, Iterable, Sequence

import torch
from torch import nn

from ..errors import EngineError
from ..files import TensorFile

Values = torch.Tensor | Sequence[float]


class Fixture:
    """A reference file with parameters, inputs and expected outputs of a case."""

    def __init__(self, path: str):
        self.path, self.file = path, TensorFile(path)
        text = self.file.metadata.get("config")
        if text is None:
            raise EngineError(f"{path}: has no 'config' in its metadata, expected a reference file; remove it")
        self.config: dict[str, Any] = json.loads(text)
        self.folder = os.path.dirname(path)

    def names(self, prefix: str) -> list[str]:
        """Names of the tensors with a prefix."""
        return [name for name in self.file.names if name.startswith(prefix)]

    def __contains__(self, name: str) -> bool:
        return name in self.file

    def __getitem__(self, name: str) -> torch.Tensor:
        if name not in self.file:
            raise EngineError(f"{self.path}: has no tensor '{name}'; the file is damaged, copy it again")
        return self.file.raw(name)

    def bases(self) -> list["Fixture"]:
        """The files that parameters come from."""
        names = self.config.get("params_from", [])
        names = [names] if isinstance(names, str) else names
        found = []
        for name in names:
            places = [os.path.join(self.folder, name), os.path.join(os.path.dirname(self.folder), name)]
            found.append(Fixture(next((p for p in places if os.path.exists(p)), places[0])))
        return found

    def parameters(self) -> dict[str, torch.Tensor]:
        """Parameters by name: those of the bases without the dropped ones, then this file's own."""
        result: dict[str, torch.Tensor] = {}
        dropped = self.config.get("params_dropped", [])
        for index, base in enumerate(self.bases()):
            own = base.own_parameters()
            if index == 0:
                own = {k: v for k, v in own.items() if not any(_matches(k, d) for d in dropped)}
            result.update(own)
        return {**result, **self.own_parameters()}

    def own_parameters(self) -> dict[str, torch.Tensor]:
        """The parameters that the file itself holds."""
        return {name[6:]: self.file.raw(name) for name in self.names("param.")}


def _matches(name: str, pattern: str) -> bool:
    return name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern


@dataclasses.dataclass
class Comparison:
    """Comparison of one tensor with the reference."""

    tensor: str
    kind: str
    error: float
    tolerance: float

    @property
    def passes(self) -> bool:
        """Whether the error is within the tolerance."""
        return self.error <= self.tolerance

    @property
    def strain(self) -> float:
        """Error over tolerance."""
        if self.tolerance == 0:
            return 0.0 if self.error == 0 else math.inf
        return self.error / self.tolerance


def _doubles(values: Values) -> torch.Tensor:
    if isinstance(values, torch.Tensor):
        return values.detach().double().cpu().flatten()
    return torch.tensor(list(values), dtype=torch.float64)


def _difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    if not (torch.isfinite(found).all() and torch.isfinite(expected).all()):
        return math.inf
    return float((found - expected).abs().max()) if len(found) else 0.0


class Check:
    """Collects the comparisons of a case: max|a - b| / max|b|, for gradients with a floor of the denominator."""

    def __init__(self, fixture: Fixture, precision: str = "fp32", device: str = "cpu"):
        self.fixture, self.precision, self.device = fixture, precision, device
        self.comparisons: list[Comparison] = []
        self.seen: set[str] = set()
        self.omissions: list[str] = []
        tolerance = fixture.config.get("tolerance", {})
        rounded = precision == "bf16"
        self.forward_tolerance = 5e-2 if rounded else tolerance.get("forward", 1e-4)
        self.sum_tolerance = 2e-1 if rounded else self.forward_tolerance
        self.gradient_tolerance = 1e-1 if rounded else tolerance.get("grad", 1e-3)
        self.gradient_floor = (2e-2 if rounded else 1e-3) * fixture.config.get("grad_scale", 0)

    def autocast(self) -> Any:
        """The context of a model's computation."""
        return torch.autocast(self.device, dtype=torch.bfloat16, enabled=self.precision == "bf16")

    def tensor(self, name: str) -> torch.Tensor:
        """An input on the device."""
        return self.fixture[name].to(self.device)

    def forward(self, name: str, found: Values, tolerance: float | None = None, remark: str = "") -> None:
        """Compares an output relative to its largest expected magnitude."""
        expected, own = self._expected(name, found)
        usual = self.forward_tolerance if isinstance(found, torch.Tensor) else self.sum_tolerance
        difference = _difference(own, expected)
        error = 0.0 if difference == 0 else difference / float(expected.abs().max())
        label = f"{name} ({remark})" if remark else name
        self._add(label, "forward", error, usual if tolerance is None else tolerance)

    def absolute(
        self, name: str, found: Values, tolerance: float, divided_by: int = 1, skip: range = range(0),
        mean: float | None = None,
    ) -> None:
        """Compares by the largest, and optionally the mean, absolute difference."""
        expected, own = self._expected(name, found)
        kept = torch.ones(len(own), dtype=torch.bool)
        kept[skip.start : skip.stop] = False
        own, expected = own[kept], expected[kept]
        self._add(name, "forward", _difference(own, expected) / divided_by, tolerance)
        if mean is not None:
            self._add(f"{name} (mean)", "forward", float((own - expected).abs().mean()) / divided_by, mean)

    def exact(self, name: str, found: Iterable[int]) -> None:
        """Compares integers; the error is the share of wrong ones."""
        expected, own = self._expected(name, [float(x) for x in found])
        self._add(name, "forward", float((own != expected).double().mean()) if len(own) else 0.0, 0.0)

    def gradient(self, name: str, found: torch.Tensor) -> None:
        """Compares a gradient, or its row and column sums where the file holds those."""
        found = found.detach().double().cpu()
        if f"gradrow.{name}" in self.fixture or f"gradcol.{name}" in self.fixture:
            matrix = found.flatten(1) if found.dim() > 1 else found[:, None]
            self._floored(f"gradrow.{name}", matrix.sum(1))
            self._floored(f"gradcol.{name}", matrix.sum(0))
        else:
            self._floored(f"grad.{name}", found)

    def gradients(self, module: nn.Module) -> None:
        """Compares the gradients of all trained parameters."""
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                gradient = parameter.grad
                self.gradient(f"param.{name}", torch.zeros_like(parameter) if gradient is None else gradient)

    def leave_out(self, prefixes: list[str], reason: str) -> None:
        """Marks expected tensors as not compared."""
        for prefix in prefixes:
            self.seen.update(self.fixture.names(prefix))
        self.omissions.append(reason)

    def require_complete(self) -> None:
        """Raises EngineError if an expected tensor was not compared."""
        left = [
            name for prefix in ("out.", "grad.", "gradrow.", "gradcol.") for name in self.fixture.names(prefix)
            if name not in self.seen
        ]
        if left:
            more = f" and {len(left) - 1} more" if len(left) > 1 else ""
            raise EngineError(
                f"{self.fixture.path}: expected tensor '{left[0]}'{more} was not compared; the case is not known in"
                " this form"
            )

    def _floored(self, name: str, found: torch.Tensor) -> None:
        expected, own = self._expected(name, found)
        difference = _difference(own, expected)
        scale = max(float(expected.abs().max()), self.gradient_floor)
        # A bias sums the rounded gradients of all tokens.
        is_sum = self.precision != "fp32" and name.endswith(".bias")
        self._add(
            name, "gradient", 0.0 if difference == 0 else difference / scale,
            self.sum_tolerance if is_sum else self.gradient_tolerance,
        )

    def _expected(self, name: str, found: Values) -> tuple[torch.Tensor, torch.Tensor]:
        expected, own = _doubles(self.fixture[name]), _doubles(found)
        self.seen.add(name)
        if isinstance(found, torch.Tensor) and self.fixture[name].dim() and found.dim():
            if tuple(found.shape) != tuple(self.fixture[name].shape) and len(own) != len(expected):
                raise EngineError(
                    f"{self.fixture.path}: tensor '{name}' has shape {list(self.fixture[name].shape)}, but the engine"
                    f" computes {list(found.shape)}; the file is damaged or the engine is wrong"
                )
        if len(own) != len(expected):
            raise EngineError(
                f"{self.fixture.path}: tensor '{name}' does not have the {len(own)} elements that the engine computes;"
                " the file is damaged or the engine is wrong"
            )
        return expected, own

    def _add(self, name: str, kind: str, error: float, tolerance: float) -> None:
        self.comparisons.append(Comparison(name, kind, error, tolerance))


@dataclasses.dataclass
class Result:
    """Result of one reference file."""

    name: str
    comparisons: list[Comparison]
    failure: str | None = None

    @property
    def passes(self) -> bool:
        """Whether the case ran and every comparison is within its tolerance."""
        return self.failure is None and bool(self.comparisons) and all(c.passes for c in self.comparisons)

    def worst(self, kind: str) -> Comparison | None:
        """The comparison of a kind that comes closest to its tolerance, or exceeds it most."""
        return max((c for c in self.comparisons if c.kind == kind), key=lambda c: c.strain, default=None)


@dataclasses.dataclass(frozen=True)
class Case:
    """A family of reference files."""

    prefix: str
    run: Callable[[Check], None]
    refusal: Callable[[Fixture], str | None] = lambda fixture: None
    rounds: bool = False
    """Whether it can also be run in bfloat16."""


class Report:
    """Results of a folder of reference files."""

    def __init__(
        self, directory: str, cases: Sequence[Case], precision: str = "fp32", device: str = "cpu",
        on_result: Callable[[Result], None] = lambda result: None,
    ):
        self.directory, self.results = directory, list[Result]()
        self.unsupported: list[tuple[str, str]] = []
        if not os.path.isdir(directory):
            raise EngineError(f"{directory}: no such folder, expected a folder of reference files; check the path")
        entries = sorted(os.listdir(directory))
        if not any(n.endswith(".safetensors") for n in entries):
            raise EngineError(
                f"{directory}: has no file *.safetensors, expected a folder of reference files; check the path"
            )
        files = []
        for entry in entries:
            if entry.endswith(".safetensors"):
                files.append(entry)
            elif any(case.prefix.startswith(f"{entry}/") for case in cases):
                inside = sorted(os.listdir(os.path.join(directory, entry)))
                files += [f"{entry}/{n}" for n in inside if n.endswith(".safetensors")]
        for file in files:
            path = os.path.join(directory, file)
            result = self._run(file.removesuffix(".safetensors"), path, cases, precision, device)
            if result is not None:
                self.results.append(result)
                on_result(result)
        self.unsupported.sort()

    @property
    def passes(self) -> bool:
        """Whether at least one case ran and all passed."""
        return bool(self.results) and all(r.passes for r in self.results)

    def _run(
        self, name: str, path: str, cases: Sequence[Case], precision: str, device: str
    ) -> Result | None:
        check: Check | None = None
        try:
            fixture = Fixture(path)
            case = max((c for c in cases if name.startswith(c.prefix)), key=lambda c: len(c.prefix), default=None)
            reason = "no case of this name is known" if case is None else case.refusal(fixture)
            if case is not None and reason is None and precision != "fp32" and not case.rounds:
                reason = "is not checked in bfloat16"
            if case is None or reason is not None:
                self.unsupported.append((name, reason or ""))
                return None
            check = Check(fixture, precision, device)
            case.run(check)
            check.require_complete()
            self.unsupported += [(f"{name} (part)", reason) for reason in check.omissions]
            return Result(name, check.comparisons)
        except (EngineError, KeyError, RuntimeError) as error:
            return Result(name, check.comparisons if check else [], str(error).split("\n")[0])

    HEAD = "case                 forward  allowed  gradient allowed  checks  result"

    @staticmethod
    def rows(result: Result) -> str:
        """A row of the table, and a line per failed comparison."""

        def pair(worst: Comparison | None) -> str:
            if worst is None:
                return f"{'-':9}{'-':9}"
            return f"{_number(worst.error):9}{_number(worst.tolerance):9}"

        lines = [
            f"{result.name:20} {pair(result.worst('forward'))}{pair(result.worst('gradient'))}"
            f"{len(result.comparisons):6}  {'pass' if result.passes else 'FAIL'}"
        ]
        if result.failure:
            lines.append(f"  {result.failure}")
        failed = [c for c in result.comparisons if not c.passes]
        lines += [f"  {c.tensor}: error {_number(c.error)}, allowed {_number(c.tolerance)}" for c in failed[:8]]
        if len(failed) > 8:
            lines.append(f"  and {len(failed) - 8} more")
        return "\n".join(lines)

    def closing(self) -> str:
        """The files that are not supported, and the summary."""
        lines = []
        if self.unsupported:
            lines.append("\nNot supported by this build:")
            lines += [f"  {name:20} {reason}" for name, reason in self.unsupported]
        passed = sum(r.passes for r in self.results)
        lines.append(
            f"\n{passed} of {len(self.results)} supported cases pass, {len(self.unsupported)} not supported."
        )
        return "\n".join(lines)

    def json(self) -> str:
        """The report as JSON with stable order of keys."""

        def number(x: float) -> float | str:
            return x if math.isfinite(x) else "infinity" if x > 0 else "nan"

        def comparison(c: Comparison | None) -> dict[str, Any] | None:
            if c is None:
                return None
            return {"error": number(c.error), "kind": c.kind, "tensor": c.tensor, "tolerance": c.tolerance}

        cases = []
        for r in self.results:
            entry: dict[str, Any] = {
                "comparisons": [comparison(c) for c in r.comparisons], "name": r.name, "passes": r.passes,
            }
            for kind in ("forward", "gradient"):
                if (worst := r.worst(kind)) is not None:
                    entry[kind] = comparison(worst)
            if r.failure:
                entry["failure"] = r.failure
            cases.append(entry)
        passed = sum(r.passes for r in self.results)
        return json.dumps(
            {
                "cases": cases, "directory": self.directory, "failed": len(self.results) - passed, "passed": passed,
                "passes": self.passes,
                "unsupported": [{"name": name, "reason": reason} for name, reason in self.unsupported],
            },
            indent=2, sort_keys=True, ensure_ascii=False,
        )


def _number(value: float) -> str:
    if value == 0:
        return "0"
    return f"{value:.1e}" if math.isfinite(value) else "not finite"
