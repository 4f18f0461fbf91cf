"""What a run does: stage 1 or stage 2 of its plan, on all ranks."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import os
import signal
import sys
import time
from typing import Any, Callable

import torch

from .data import training_data
from .errors import AGAIN, EngineError
from .files import read_json, write_json
from .graft import Graft
from .loop import Loop, Throttle, stop_on_signals
from .modelfile import ModelFile
from .own import TeacherLatents
from .plan import Plan, Site, load
from .ranks import Ranks
from .ridge import RidgeFit
from .rundir import Interruption, Reporter, RunDirectory
from .stage1 import Stage1
from .stage2 import Execution, Stage2


@dataclasses.dataclass(frozen=True)
class Options:
    """How a run is executed; nothing that a plan says."""

    device: str | None = None
    shard: bool = False
    compiles: bool = False
    micro_batch: int | None = None
    requeue: bool = False
    """Whether a stop by a signal leaves the run unfinished, for the scheduler to start it again."""


def refuse(plan: Plan, kind: str, device: str) -> None:
    """Raises EngineError for what this engine cannot do; called before a run exists, too."""
    if kind not in ("distill", "finetune"):
        raise EngineError(f"this engine does no job of kind '{kind}'; let the native engine do it")
    if plan.draws_own_data and plan.shape.family == "pixart":
        raise EngineError(
            f"{plan.model_path}: a PixArt draws images of captions, and data \"self\" has none; make a set by 'espalier"
            " sample --prompts FILE --dataset FOLDER'"
        )
    if kind == "finetune" and plan.draws_own_data and plan.stage2.diffusion_weight > 0:
        raise EngineError(
            'stage2.diffusion_weight: data "self" has no clean samples to train the diffusion loss on; set it to 0 and'
            ' "distillation_weight" to 1'
        )
    if kind == "finetune" and plan.draws_own_data and plan.stage2.teacher_samples > 0:
        raise EngineError('stage2.teacher_samples: samples of data "self" never come again; set it to 0')
    if kind == "finetune" and plan.draws_own_data and plan.stage2.timestep_density is not None:
        raise EngineError(
            'stage2.timestep_density: data "self" have the timesteps of the teacher\'s own sampling; leave it out'
        )
    if kind == "distill" and not plan.sites:
        raise EngineError("blocks: no slot is edited and no blocks are parallel, so there is nothing to distil")


def precision_of(run: RunDirectory, ranks: Ranks, reporter: Reporter) -> str:
    """fp32 or bf16: that of the request, else the fastest of the device, which the request then keeps."""
    request = run.request()
    name = request.get("precision")
    if name is None:
        fast = ranks.kind == "cuda" and torch.cuda.is_bf16_supported()
        name = "bf16" if fast and not os.path.exists(run.latest) else "fp32"
        name = ranks.share(name)
        request["precision"] = name
        reporter.when_room(lambda: write_json(run.request_path, request))
    if name not in ("fp32", "bf16"):
        raise EngineError(f"{run.request_path}: precision is '{name}', expected fp32 or bf16; correct it")
    return name


def autocast_for(device: torch.device, precision: str) -> Callable[[], Any]:
    """Makes the context of a model's computation: bfloat16 products over float32 weights, or nothing."""
    if precision == "fp32":
        return contextlib.nullcontext
    return lambda: torch.autocast(device.type, dtype=torch.bfloat16)


def die_with_parent(number: int) -> None:
    """Lets the kernel send this process a signal when its parent ends, also across exec."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, number)


def run(directory: str, options: Options, connected: Ranks | None = None) -> int:
    """Does the job of a run directory as one of its ranks; returns the exit code.

    connected: the ranks, if they are connected already and stay so afterwards.
    """
    run_dir = RunDirectory(directory)
    if os.environ.get("TORCHELASTIC_RUN_ID"):
        # No rank works on for nobody when the launcher is killed.
        die_with_parent(signal.SIGTERM)
    ranks = connected or Ranks(options.device)
    reporter = Reporter(run_dir, ranks.first)
    stop_on_signals(reporter)
    if ranks.first:
        run_dir.claim()
        run_dir.sweep()
    torch.manual_seed(0)
    if ranks.kind == "cuda":
        torch.set_float32_matmul_precision("highest")
    reporter.begin_heartbeat(ranks.silent)
    try:
        text = _perform(run_dir, reporter, ranks, options)
        outcome = "done"
    except Interruption as interruption:
        if interruption.reason == "timed out":
            outcome = "failed"
            text = (
                f"{run_dir.path}: its time was up at step {reporter.step}; 'espalier runs retry {run_dir.id}' goes on from"
                " the last checkpoint"
            )
        elif options.requeue and reporter.stopping and not _asked_to_cancel(run_dir):
            reporter.end_heartbeat()
            reporter.emit("message", text=f"stopped at step {reporter.step} to be started again by the scheduler")
            if connected is None:
                ranks.close()
            return AGAIN
        else:
            outcome, text = "cancelled", f"cancelled at step {reporter.step}"
    except EngineError as error:
        outcome, text = "failed", str(error)
    reporter.end_heartbeat()
    if ranks.first:
        with contextlib.suppress(EngineError):
            run_dir.event("finished", outcome=outcome, text=text)
        run_dir.perform_hook(outcome)
        run_dir.release()
        if outcome == "failed":
            print(f"espalier_torch: {text}", file=sys.stderr)
    if connected is None:
        ranks.close()
    return 1 if outcome == "failed" else 0


def _asked_to_cancel(run_dir: RunDirectory) -> bool:
    requests, _ = run_dir.controls(0)
    return "cancel" in requests or "kill" in requests


def _perform(run_dir: RunDirectory, reporter: Reporter, ranks: Ranks, options: Options) -> str:
    request = run_dir.request()
    job = request["job"]
    plan = load(run_dir.resolve(job.get("plan_path", "plan.json")))
    refuse(plan, job["kind"], ranks.kind)
    if request.get("timeout"):
        reporter.deadline = time.monotonic() + float(request["timeout"])
    distills = job["kind"] == "distill"
    total = plan.total_steps() if distills else plan.stage2.steps
    reporter.emit("started", pid=os.getpid(), total_steps=total)
    reporter.emit("ranks", **ranks.describe())
    places = _places(run_dir)
    file = _model(plan, places)
    precision = precision_of(run_dir, ranks, reporter)
    autocast = autocast_for(ranks.device, precision)
    prepared: dict[str, str] = {}
    if os.path.exists(run_dir.resolve("data.json")):
        prepared = read_json(run_dir.resolve("data.json"))
    settings = plan.stage1 if distills else plan.stage2
    samples = plan.drawn_samples if distills else settings.steps * settings.batch_size
    own = TeacherLatents(plan, ranks.device, autocast) if plan.draws_own_data else None
    dataset, held_out = training_data(plan, samples, settings.held_out_samples, prepared, places, own)
    key = f"stage{1 if distills else 2}.learning_rate"
    loop = Loop(run_dir, reporter, ranks, settings, total, key)
    throttle = Throttle()

    def progress(done: int, of: int) -> None:
        loop.agree(0) if ranks.world == 1 else None
        if throttle.due():
            reporter.emit("progress", done=done, total=of, label="recording activations")

    micro = options.micro_batch or (4 if ranks.kind == "cpu" else 32)
    begun = ranks.share(os.path.exists(run_dir.latest))

    def fitting(done: int, of: int, label: str = "fitting output layers") -> None:
        if throttle.due():
            reporter.emit("progress", done=done, total=of, label=label)

    def fit_initially(graft: Graft, sites: list[Site]) -> None:
        """Fits the output layers of sites without trained weights that start so."""
        fit = RidgeFit(graft, dataset, ranks, autocast, micro)
        targets = [] if begun else fit.initial_targets(sites)
        if targets:
            shares = fit(targets, fitting)
            text = ", ".join(f"{site} {100 * (1 - share):.1f}" for site, share in sorted(shares.items(), key=_order))
            reporter.emit(
                "message",
                text=f"fitted output layers in closed form; percent of the teacher's variance explained: {text}",
            )

    if distills:
        graft = Graft(plan, file, ranks.device)
        graft.own_for_training()
        if own is not None:
            own.teacher = graft.teacher
        fit_initially(graft, plan.sites)
        stage1 = Stage1(graft, dataset, held_out, ranks, autocast, precision, micro, progress)
        loop.train(stage1)
        kept = stage1.restore_best()
        if kept:
            loop.measure(stage1)
            reporter.emit("message", text=f"kept the best weights of {kept} sites by their held-out losses")
        tried, improved = stage1.ridge_finish(RidgeFit(graft, dataset, ranks, autocast, micro), fitting)
        if tried:
            loop.measure(stage1)
            reporter.emit(
                "message",
                text=f"fitted the output layers of {tried} sites in closed form; {improved} have a lower held-out loss so"
                " and keep them",
            )
        swept = stage1.sweep(
            RidgeFit(graft, dataset, ranks, autocast, micro),
            lambda done, of: fitting(done, of, "sweeping front to back"),
        )
        if swept:
            loop.measure(stage1)
            count, before, after = swept
            reporter.emit(
                "message",
                text=f"fitted {count} sites from front to back on the graft's own activations; the relative error of its"
                f" output went from {before:.4g} to {after:.4g}{'' if after < before else ', so they stay as they were'}",
            )
        loop.write(lambda: graft.save_operators(os.path.join(run_dir.checkpoints, "operators.safetensors")))
        loop.write(lambda: graft.save_model(os.path.join(run_dir.checkpoints, "model.safetensors")))
        return f"{total} steps; grafted model in checkpoints/model.safetensors"
    graft = _finetuned(run_dir, plan, file, ranks, reporter, [places.get(name, name) for name in job.get("weights", [])])
    if own is not None:
        own.teacher = graft.teacher
    fit_initially(graft, graft.untrained)
    execution = Execution(options.shard, options.compiles, options.micro_batch)
    stage2 = Stage2(graft, dataset, held_out, ranks, autocast, execution)
    del graft
    loop.train(stage2)
    best = ""
    if stage2.lowest is not None:
        best = f" (the best, with held-out loss {stage2.lowest:.4g}, in checkpoints/best.safetensors)"
    return f"{total} steps; finetuned model in checkpoints/model.safetensors{best}"


def _order(entry: tuple[Site, float]) -> tuple[int, int, int]:
    return entry[0].order


def _places(run_dir: RunDirectory) -> dict[str, str]:
    """Where files that plan and request name lie on this host, if elsewhere (`paths.json`)."""
    path = run_dir.resolve("paths.json")
    return read_json(path) if os.path.exists(path) else {}


def _model(plan: Plan, places: dict[str, str]) -> ModelFile:
    """The plan's model; of a text-conditional one the file tells what the plan does not."""
    is_text = plan.shape.family == "pixart"
    file = ModelFile(plan.model_path, None if is_text else plan.shape, places.get(plan.model_path))
    file.require_hash(plan)
    if is_text:
        names = [f.name for f in dataclasses.fields(file.shape)]
        for key, mine, own in zip(names, plan.shape.planned, file.shape.planned):
            if mine != own and key not in ("has_null_class", "frequency_shift", "mlp_norm_epsilon"):
                raise EngineError(
                    f"model.{key}: the plan says {mine} and {file.path} has {own}; make a plan for this model"
                )
        plan.shape = file.shape
    return file


def _finetuned(
    run_dir: RunDirectory, plan: Plan, file: ModelFile, ranks: Ranks, reporter: Reporter, names: list[str]
) -> Graft:
    """The graft with the initial weights of the run; a resumed run takes them from its checkpoint."""
    if ranks.share(os.path.exists(run_dir.latest)):
        return Graft(plan, file, ranks.device)
    paths = [run_dir.weights_path(name) for name in names]
    graft = Graft(plan, file, ranks.device, paths)
    if paths and plan.sites and len(graft.untrained) == len(plan.sites):
        raise EngineError(
            f"{', '.join(paths)}: no operator in it was trained as the plan has it; give the checkpoint of a run of this"
            " plan"
        )
    if graft.untrained:
        reporter.emit("message", text=f"untrained: {', '.join(map(str, graft.untrained))}")
    return graft
