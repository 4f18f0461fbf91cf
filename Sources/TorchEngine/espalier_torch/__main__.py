"""The command line of the engine: `python -m espalier_torch COMMAND`."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from typing import Callable, Sequence

from . import __version__
from .errors import AGAIN, EngineError


def parser() -> argparse.ArgumentParser:
    """The commands with their options."""
    root = argparse.ArgumentParser(prog="espalier_torch", description="The PyTorch engine of Espalier.")
    root.add_argument("--version", action="version", version=__version__)
    commands = root.add_subparsers(dest="command", required=True)

    def command(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, description=text)

    run = command("run", "Do the job of a run directory, as one of the ranks that a launcher starts, or alone.")
    _device(run)
    run.add_argument("--shard", action="store_true", help="distribute weights and moments over ranks (stage 2, FSDP2)")
    run.add_argument("--compile", action="store_true", help="compile every block (stage 2)")
    run.add_argument("--micro-batch", type=int, help="samples in each forward pass, in place of the plan's")
    run.add_argument("--requeue", action="store_true", help="after a signal, leave the run to be started again")
    run.add_argument("run", metavar="RUN", help="the run directory")

    launch = command("launch", "Start the ranks of a run on this machine, by PyTorch's launcher or another program.")
    launch.add_argument("--command", dest="job", choices=("run", "sample", "encode"), default="run", help="what every rank does")
    launch.add_argument("--ranks", type=int, default=1, help="number of processes")
    launch.add_argument("--max-restarts", type=int, default=0, help="times that all are started again after a loss")
    launch.add_argument(
        "--launcher", action="append", default=[], metavar="WORD", help="a word of the program that starts every rank"
    )
    launch.add_argument("--detached", action="store_true", help="do not end with the program that starts this one")
    launch.add_argument("words", nargs="+", metavar="WORD", help="-- and what follows the command")

    follow = command("follow", "Keep a run here in step with a run directory elsewhere, over standard input and output.")
    follow.add_argument("--from", type=int, default=0, dest="offset", metavar="BYTES", help="size of the log there")
    follow.add_argument("--models", required=True, metavar="DIR", help="the folder of models, by the hash of their content")
    follow.add_argument("run", metavar="RUN", help="the run directory; it may not exist yet")

    check = command("check", "Say whether this engine can train a plan, before a run exists.")
    check.add_argument("--stage", choices=("1", "2"), default="1", help="1 distils, 2 finetunes")
    check.add_argument("plan", metavar="PLAN", help="the plan file; - for standard input")

    parity = command("parity", "Run reference files through the engine and compare outputs and gradients.")
    _device(parity)
    parity.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parity.add_argument("--json", action="store_true", help="print one JSON object with every comparison")
    parity.add_argument("directory", metavar="DIR", help="the folder of reference files, *.safetensors")

    sample = command("sample", "Draw images of a model over ranks; a restart goes on after the finished chunks.")
    _device(sample)
    sample.add_argument("--output", required=True, metavar="DIR", help="the folder of the chunks")
    sample.add_argument("--npz", metavar="FILE", help="arr_0, uint8 (count, height, width, 3), for evaluators")
    sample.add_argument("--latents", metavar="FILE", help="an .npy, float32 (count, channels, height, width)")
    sample.add_argument("--count", type=int, required=True, help="number of images")
    sample.add_argument("--method", choices=("ddim", "ancestral", "dpmpp", "ode", "sde"), default="ddim")
    sample.add_argument("--steps", type=int, default=25)
    sample.add_argument("--guidance", type=float, default=2.0, help="1 is none")
    sample.add_argument("--seed", type=int, default=0)
    sample.add_argument("--eta", type=float, default=0.0, help="noise of DDIM: 0 none, 1 as ancestral sampling")
    sample.add_argument("--classes", default="", help="classes, separated by commas (default: all in turn)")
    sample.add_argument("--chunk", type=int, default=16, help="images that are drawn together")
    sample.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    sample.add_argument("--autoencoder", metavar="PATH", help="a file or folder (default: the one beside the model)")
    sample.add_argument("--captions", metavar="FILE", help="embeddings of captions, for a text-conditional model")
    sample.add_argument("--null-caption", metavar="FILE", help="embedding of the empty caption")
    sample.add_argument("--config", metavar="JSON", help="the architecture, as in plans (default: what the file shows)")
    sample.add_argument("model", metavar="MODEL", help="'demo', a file, or a folder of diffusers")

    encode = command("encode", "Encode a folder of images by class into latents, over ranks.")
    _device(encode)
    encode.add_argument("--autoencoder", required=True, metavar="PATH", help="a file or folder")
    encode.add_argument("--size", type=int, required=True, help="edge of the images in pixels")
    encode.add_argument("--output", required=True, metavar="FILE", help="the safetensors file to write")
    encode.add_argument("--no-flip", action="store_true", help="mirror no image")
    encode.add_argument("folder", metavar="FOLDER", help="a subfolder for each class")

    info = command("info", "Print versions, devices and operators as JSON.")
    info.add_argument("--brief", action="store_true", help="versions and devices alone, as one line")
    return root


def _device(command: argparse.ArgumentParser) -> None:
    command.add_argument("--device", help="cuda or cpu (default: cuda where there is one)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns its exit code: 0, 1 for a failure, 2 for usage."""
    options = parser().parse_args(arguments)
    try:
        return _run(options)
    except EngineError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1


def _run(options: argparse.Namespace) -> int:
    if options.command == "run":
        if options.requeue:
            # A scheduler's warning may come while torch is being imported; job.run takes the signal over.
            signal.signal(signal.SIGUSR1, lambda *_: os._exit(AGAIN))
        from .job import Options, run

        return run(
            options.run,
            Options(options.device, options.shard, options.compile, options.micro_batch, options.requeue),
        )
    if options.command == "launch":
        return _launch(options)
    if options.command == "follow":
        from .follow import follow

        return follow(options.run, options.offset, options.models)
    if options.command == "check":
        from .job import refuse
        from .plan import load

        refuse(load("/dev/stdin", "the plan") if options.plan == "-" else load(options.plan), "distill" if options.stage == "1" else "finetune", "cpu")
        return 0
    if options.command == "parity":
        return _parity(options)
    if options.command == "sample":
        return _sample(options)
    if options.command == "encode":
        return _encode(options)
    if options.command == "info":
        return _info(options.brief)
    raise AssertionError(options.command)


def _parity(options: argparse.Namespace) -> int:
    import torch

    from .parity import CASES, Report

    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    shown = [False]

    def show(result: object) -> None:
        if options.json:
            return
        if not shown[0]:
            print(Report.HEAD)
        shown[0] = True
        print(Report.rows(result), flush=True)  # type: ignore[arg-type]

    try:
        report = Report(options.directory, CASES, options.precision, device, show)
    except EngineError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    print(report.json() if options.json else report.closing())
    return 0 if report.passes else 1


def _progress(label: str, first: bool) -> Callable[[int, int], None]:
    """Prints how far rank 0 is."""

    def report(done: int, total: int) -> None:
        if first:
            print(f"{label} {done} of {total}", file=sys.stderr, flush=True)

    return report


def _sample(options: argparse.Namespace) -> int:
    from .ranks import Ranks
    from .sample import Sampling, sample

    if not options.npz and not options.latents:
        raise EngineError("sample: there is nothing to write; give --npz or --latents")
    try:
        classes = tuple(int(word) for word in options.classes.split(",") if word)
    except ValueError:
        raise EngineError(f"--classes {options.classes}: expected numbers separated by commas; correct it") from None
    for key, low, high in (("count", 1, 10**9), ("steps", 1, 1000), ("chunk", 1, 65536)):
        if not low <= getattr(options, key) <= high:
            raise EngineError(f"--{key} {getattr(options, key)}: expected {low} to {high}; correct it")
    ranks = Ranks(options.device)
    try:
        sample(
            options.model, options.output,
            Sampling(
                options.count, options.method, options.steps, options.guidance, options.seed, options.eta, classes,
                options.chunk, options.precision,
            ),
            ranks, options.npz, options.latents, options.autoencoder, options.captions, options.null_caption,
            _progress("chunk", ranks.first), options.config,
        )
    finally:
        ranks.close()
    return 0


def _encode(options: argparse.Namespace) -> int:
    from .encode import encode
    from .ranks import Ranks

    ranks = Ranks(options.device)
    try:
        count = encode(
            options.folder, options.autoencoder, options.size, options.output, not options.no_flip, ranks,
            _progress("encoding images", ranks.first),
        )
    finally:
        ranks.close()
    if ranks.first:
        print(f"{count} images in {options.output}")
    return 0


def _launch(options: argparse.Namespace) -> int:
    """Becomes the launcher; it ends with the program that started this one."""
    from .job import die_with_parent

    if not options.detached:
        die_with_parent(signal.SIGTERM)
    words = options.words[1:] if options.words[0] == "--" else options.words
    own, work = [sys.executable, "-m"], ["espalier_torch", options.job, *words]
    if options.launcher:
        command = [*options.launcher, *own, *work]
    elif options.ranks == 1 and not options.max_restarts:
        command = [*own, *work]
    else:
        command = [
            *own, "torch.distributed.run", "--standalone", f"--nproc-per-node={options.ranks}",
            f"--max-restarts={options.max_restarts}", "-m", *work,
        ]
    try:
        os.execvp(command[0], command)
    except OSError as error:
        raise EngineError(f"{command[0]}: cannot be started ({error.strerror}); correct the launcher") from None


def _info(brief: bool) -> int:
    import json

    import torch

    from .operators import REGISTRY

    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    if brief:
        print(f"espalier_torch {__version__}, torch {torch.__version__}, {', '.join(devices) or 'cpu'}")
        return 0
    operators = [
        {
            "name": d.name, "slots": list(d.slots),
            "settings": [
                {"key": f.key, "default": f.default, "minimum": f.low, "maximum": f.high, "isInteger": f.integer, "names": list(f.names)}
                for f in d.fields if not f.implied
            ],
        }
        for d in REGISTRY.values()
    ]
    print(json.dumps(
        {"engine": __version__, "torch": torch.__version__, "devices": devices or ["cpu"], "operators": operators},
        indent=2, sort_keys=True,
    ))
    return 0


if __name__ == "__main__":
    sys.exit(main())
