"""Runs a training in a run directory: events, held-out losses, checkpoints, pausing, stopping; alike on all ranks."""

from __future__ import annotations

import math
import os
import signal
import time
from typing import Any, Callable, Protocol

from .errors import EngineError
from .plan import Site
from .ranks import Ranks
from .rundir import LATEST, Interruption, Reporter, RunDirectory, _number, _sites, keep, remove_surplus

Loss = float | dict[Site, float]


class Training(Protocol):
    """What a stage offers to the loop."""

    step: int
    gradient_norm: float

    @property
    def samples(self) -> int: ...
    def take_step(self) -> Any: ...
    def rates(self) -> Any: ...
    def held_out(self) -> Any: ...
    def validate(self, folder: str, write: Callable[[Callable[[], None]], None]) -> Any: ...
    def is_sound(self) -> bool: ...
    def place_of_failure(self) -> str | None: ...
    def fault_in_data(self) -> str | None: ...
    def save_results(self, folder: str, write: Callable[[Callable[[], None]], None]) -> None: ...
    def prepare_checkpoint(self) -> Callable[[str], None]: ...
    def resume(self, path: str) -> None: ...


class Throttle:
    """Lets a report through five times a second at first, later once in a 2,000th of the time, at most every 10 s."""

    def __init__(self) -> None:
        self.start = time.monotonic()
        self.last: float | None = None

    def due(self) -> bool:
        """Whether a report is due; always with ESPALIER_LOG_EVERY_STEP, for comparisons of curves."""
        if os.environ.get("ESPALIER_LOG_EVERY_STEP"):
            return True
        now = time.monotonic()
        interval = min(10.0, max(0.2, (now - self.start) / 2000))
        if self.last is not None and now - self.last < interval:
            return False
        self.last = now
        return True


def resident_memory() -> int:
    """Resident memory of this process in bytes."""
    with open("/proc/self/statm", encoding="ascii") as source:
        return int(source.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def whole(loss: Loss) -> float:
    """The loss of a model, or the mean over sites in order."""
    if isinstance(loss, dict):
        return sum(loss.values()) / len(loss) if loss else 0.0
    return loss


class Loop:
    """Drives a training to its end."""

    def __init__(
        self, run: RunDirectory, reporter: Reporter, ranks: Ranks, settings: Any, steps: int, rate_key: str
    ):
        self.run, self.reporter, self.ranks, self.settings = run, reporter, ranks, settings
        self.steps, self.rate_key = steps, rate_key
        self.saved: int | None = None
        self.saved_at = self.reported_at = time.monotonic()

    # What all ranks agree on

    def agree(self, step: int) -> bool:
        """Between steps: all ranks learn of requests and signals together, and wait while the run is paused.

        Returns whether it is time to report what the ranks use, alike on all. Raises Interruption on all ranks at the
        same step.
        """
        reporter = self.reporter
        reporter.step = step
        announced = False
        while True:
            reporter.poll()
            late = time.monotonic() > reporter.deadline
            due = self.ranks.first and time.monotonic() - self.reported_at > 5
            stop, out_of_time, paused, due = self.ranks.any([reporter.stopping, late, reporter.paused, due])
            if stop or out_of_time:
                raise Interruption("cancelled" if stop else "timed out")
            if not paused:
                break
            if not announced:
                reporter.emit("paused", step=step)
                announced = True
            time.sleep(0.05)
        if announced:
            reporter.emit("resumed", step=step)
        return due

    def write(self, body: Callable[[], None]) -> None:
        """Lets rank 0 write files while the others wait; what ends it there ends it everywhere."""
        fault: BaseException | None = None
        if self.ranks.first:
            try:
                self.reporter.when_room(body)
            except (EngineError, Interruption) as error:
                fault = error
        kind, text = self.ranks.share(
            ("", "") if fault is None else (type(fault).__name__, str(fault))
        )
        if kind == "Interruption":
            raise Interruption(text)
        if kind:
            raise EngineError(text) from fault

    # The loop

    def train(self, training: Training) -> None:
        """Trains from the last checkpoint, or from the start, to the end, and saves."""
        exists = self.ranks.share(os.path.exists(self.run.latest))
        if exists:
            training.resume(self.run.latest)
            self.saved = training.step
            self.reporter.emit("message", text=f"resumed at step {training.step} from its last checkpoint")
        else:
            self.measure(training)
        try:
            self._advance(training)
        except Interruption:
            self.save(training)
            raise
        self.save(training)

    def _advance(self, training: Training) -> None:
        throttle, announcing = Throttle(), Throttle()
        seconds, counted, samples = 0.0, 0.0, 0.0
        while training.step < self.steps:
            if self.agree(training.step):
                self._report_resources(training.step)
            begun = time.monotonic()
            loss = training.take_step()
            seconds, counted = 0.9 * seconds + time.monotonic() - begun, 0.9 * counted + 1
            samples = 0.9 * samples + training.samples
            step = training.step
            if not math.isfinite(whole(loss)):
                raise self._failure(training)
            if throttle.due() or step == self.steps:
                rates = [count / seconds if seconds > 0 else 0.0 for count in (counted, samples)]
                self._report_step(training, loss, *rates)
            if step % self.settings.held_out_every == 0 or step == self.steps:
                if announcing.due():
                    self._announce_measuring(step)
                self._report_held_out(training.validate(self.run.checkpoints, self.write), step)
            if self._is_due(step):
                self.save(training)

    def _report_step(self, training: Training, loss: Loss, rate: float, samples: float) -> None:
        step, rates = training.step, training.rates()
        fields: dict[str, Any] = {}
        if isinstance(rates, dict):
            fields["learning_rate"] = max(rates.values(), default=0.0)
            if len(set(rates.values())) > 1:
                fields["learning_rates"] = _sites(rates)
        else:
            fields["learning_rate"] = rates
        self.reporter.emit(
            "step", step=step, total=self.steps, loss=_number(whole(loss)),
            losses=_sites(loss) if isinstance(loss, dict) else {}, rate=rate,
            seconds_left=(self.steps - step) / max(rate, 1e-9), gradient_norm=_number(training.gradient_norm),
            samples_per_second=samples, resident_memory=resident_memory(), **fields,
        )

    def measure(self, training: Training) -> None:
        """Measures and reports the held-out losses."""
        self._announce_measuring(training.step)
        self._report_held_out(training.held_out(), training.step)

    def _announce_measuring(self, step: int) -> None:
        self.reporter.emit("progress", done=step, total=self.steps, label="measuring at step")

    def _report_held_out(self, loss: Loss, step: int) -> None:
        if isinstance(loss, dict):
            self.reporter.emit("held_out", step=step, losses=_sites(loss))
        else:
            self.reporter.emit("held_out", step=step, loss=_number(loss), losses={})

    def _report_resources(self, step: int) -> None:
        """Highest memory of every rank, and the share of time that each has waited for the others."""
        own = self.ranks.collect((self.ranks.memory(), self.ranks.waiting_share()))
        memory = [bytes_ for bytes_, _ in own]
        self.reported_at = time.monotonic()
        self.reporter.resources = {
            "step": step, "memory": max(memory), "memory_by_rank": memory,
            "waiting_by_rank": [round(share, 4) for _, share in own],
        }
        self.reporter.emit("resources", **self.reporter.resources)

    def _is_due(self, step: int) -> bool:
        """Whether a checkpoint is due; the clock is that of rank 0."""
        minutes = self.settings.checkpoint_minutes
        if step % self.settings.checkpoint_every == 0:
            return True
        return minutes > 0 and self.ranks.any(
            [self.ranks.first and time.monotonic() - self.saved_at >= minutes * 60]
        )[0]

    def save(self, training: Training) -> None:
        """Writes the results and then the checkpoint of the current step, unless there is one."""
        step, before, run = training.step, self.saved, self.run
        if before == step:
            return
        if not training.is_sound():
            raise self._failure(training, "what the model makes of held-out samples")
        begun = time.monotonic()
        training.save_results(run.checkpoints, self.write)
        keep_last = self.settings.keep_last
        self.write(lambda: keep(run, before, step, keep_last))
        save = training.prepare_checkpoint()
        self.write(lambda: save(run.latest))
        if self.ranks.first:
            remove_surplus(run, step, keep_last)
        self.saved, self.saved_at = step, time.monotonic()
        self.reporter.emit("checkpointed", step=step, path=LATEST, seconds=round(self.saved_at - begun, 3))
        self._report_resources(step)

    def _failure(self, training: Training, what: str = "the loss") -> EngineError:
        run = self.run
        begin = f"{run.path}: step {training.step}: {what} is not finite"
        fault = training.fault_in_data()
        if fault:
            return EngineError(f"{begin}: {fault}")
        place = training.place_of_failure()
        where = f", first in {place}" if place else ""
        retry = f"'espalier runs retry {run.id} --rate-factor 0.5"
        rate = f"half the {self.rate_key} of {self.settings.learning_rate:g}"
        if self.saved is None:
            return EngineError(f"{begin}{where}; there is no checkpoint yet; begin again with {rate} by {retry}'")
        older = [s for s in (run.kept_steps() if self.ranks.first else []) if s < self.saved]
        other = f", or from an earlier one by adding '--step {older[-1]}'" if older else ""
        return EngineError(
            f"{begin}{where}; the last good checkpoint is {LATEST} of step {self.saved}; go on from there with {rate} by"
            f" {retry}'{other}"
        )


def stop_on_signals(reporter: Reporter) -> None:
    """SIGTERM, SIGINT and SLURM's SIGUSR1 stop the run at its next step; SIGHUP does nothing."""

    def handle(number: int, frame: Any) -> None:
        reporter.stopping = True

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, handle)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
