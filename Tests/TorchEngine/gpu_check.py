#!/usr/bin/env python3
"""What to run first on a GPU machine: reference files, both stages and sampling at DiT-XL/2 size.

gpu_check.py [--size xl|tiny] [--steps N] [--device cuda] [--goldens DIR]    one process
torchrun --nproc-per-node=8 gpu_check.py ...                                 as many as there are GPUs

Prints a line per measurement: samples a second, highest memory of any rank, seconds per checkpoint with its model,
images a second. Reference files are compared in float32 and bfloat16; both stages run in both, stage 2 also compiled and,
with several processes, sharded. Model and data are random, of the size of DiT-XL/2 at 256x256 with its autoencoder's.
Ends with 1 if something fails. About five minutes and 60 GB of disk at size xl; `--size tiny --device cpu` tries it out.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import sys
import tempfile
import time
from typing import Any

import torch

import support
from espalier_torch.autoencoder import AutoencoderKL
from espalier_torch.job import Options, run
from espalier_torch.parity import CASES, Report
from espalier_torch.ranks import Ranks
from espalier_torch.sample import Sampling, sample
from espalier_torch.shape import ModelShape

AUTOENCODERS: dict[str, dict[str, Any]] = {
    "xl": {
        "in_channels": 3, "out_channels": 3, "latent_channels": 4, "block_out_channels": [128, 256, 512, 512],
        "layers_per_block": 2, "norm_num_groups": 32, "scaling_factor": 0.18215,
    },
    "tiny": {
        "in_channels": 3, "out_channels": 3, "latent_channels": 4, "block_out_channels": [8, 16], "layers_per_block": 1,
        "norm_num_groups": 4, "scaling_factor": 0.18215,
    },
}
SIZES = {
    "xl": ModelShape(28, 1152, 16, 2, 32, 1000),
    "tiny": support.SHAPE,
}


def write_autoencoder(path: pathlib.Path, table: dict[str, Any]) -> None:
    """An autoencoder with random weights."""
    items = [
        support.item(name, torch.randn(p.shape) * 0.6 / max(1, p[0].numel()) ** 0.5)
        for name, p in AutoencoderKL(table).named_parameters()
    ]
    support.write_tensors(str(path), items, {"config": json.dumps(table)})


def plan_for(folder: pathlib.Path, shape: ModelShape, steps: int) -> pathlib.Path:
    """Hyena-X in every second attention slot."""
    batch = 32 if shape.depth > 4 else 6
    common = {
        "steps": steps, "batch_size": batch, "warmup_steps": 0, "held_out_every": steps, "held_out_samples": 8,
        "checkpoint_every": steps,
    }
    table = {
        "espalier_plan": 1, "name": "check", "seed": 1,
        "model": {
            "path": str(folder / "model.safetensors"), "content_hash": support.sha256(str(folder / "model.safetensors")),
            **json.loads(shape.stated([], "check")),
        },
        "blocks": [{"block": b, "attention": {"operator": "hyena_x"}} for b in range(1, shape.depth, 2)],
        "data": {"path": str(folder / "data.safetensors")},
        "stage1": common, "stage2": {**common, "micro_batch": batch},
    }
    table["model"].pop("name")
    path = folder / "plan.json"
    path.write_text(json.dumps(table))
    return path


def measured(folder: pathlib.Path, plan: pathlib.Path, kind: str, precision: str, options: Options, ranks: Ranks) -> bool:
    """Does a run and prints its speed."""
    name = f"{kind}-{precision}{'-compiled' if options.compiles else ''}{'-sharded' if options.shard else ''}"
    if ranks.first:
        support.make_run(folder, plan, kind, name=name, precision=precision)
    ranks.collect(None)
    directory = folder / name
    if ranks.kind == "cuda":
        torch.cuda.reset_peak_memory_stats()
    code = run(str(directory), options, ranks)
    if ranks.first:
        steps, batch = support.events(directory, "step"), json.loads(plan.read_text())["stage1"]["batch_size"]
        half = steps[len(steps) // 2 :]
        if not half:
            ending = support.events(directory)[-1]
            print(f"{name:32} took no step: {ending.get('text', ending['kind'])}", flush=True)
            return False
        seconds = (half[-1]["t"] - half[0]["t"]) / max(1, half[-1]["step"] - half[0]["step"])
        saved = support.events(directory, "checkpointed")
        memory = support.events(directory, "resources")
        ending = support.events(directory)[-1]
        print(
            f"{name:32} {batch / max(seconds, 1e-9):9.2f} samples/s  {memory[-1]['memory'] / 1e9 if memory else 0:7.2f} GB"
            f"  checkpoint in {saved[-1]['seconds'] if saved else 0:.2f} s  {ending.get('outcome')}",
            flush=True,
        )
    return code == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=tuple(SIZES), default="xl")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--device")
    parser.add_argument("--goldens", default=support.goldens())
    parser.add_argument("--folder", help="where the model and the runs go (default: a temporary folder)")
    parser.add_argument("--no-compile", action="store_true", help="leave out compiled blocks")
    parser.add_argument("--images", type=int, default=32, help="images that are sampled")
    words = parser.parse_args()
    os.environ["ESPALIER_LOG_EVERY_STEP"] = "1"
    ranks, shape, good = Ranks(words.device), SIZES[words.size], True
    if ranks.first:
        about = ranks.device if ranks.kind == "cpu" else torch.cuda.get_device_name(ranks.device)
        print(f"torch {torch.__version__}, {ranks.world} x {about}, size {words.size}", flush=True)
    if ranks.first and words.goldens:
        for precision in ("fp32", "bf16"):
            report = Report(words.goldens, CASES, precision, str(ranks.device))
            passed = sum(r.passes for r in report.results)
            print(f"reference files in {precision}: {passed} of {len(report.results)} pass", flush=True)
            for result in report.results:
                if not result.passes:
                    print(Report.rows(result))
            good &= report.passes
    made = tempfile.mkdtemp(prefix="espalier-") if ranks.first and not words.folder else words.folder
    folder = pathlib.Path(ranks.share(made))
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    if ranks.first:
        support.write_model(folder / "model.safetensors", shape)
        support.write_data(folder / "data.safetensors", 64, shape)
        plan_for(folder, shape, words.steps)
        write_autoencoder(folder / "autoencoder.safetensors", AUTOENCODERS[words.size])
    ranks.collect(None)
    plan = folder / "plan.json"
    for kind in ("distill", "finetune"):
        for precision in ("fp32", "bf16"):
            for compiles, shard in ((False, False), (True, False), (False, True)):
                if compiles and words.no_compile:
                    continue
                if (kind == "distill" and (compiles or shard)) or (shard and ranks.world == 1):
                    continue
                options = Options(words.device, shard, compiles)
                good &= measured(folder, plan, kind, precision, options, ranks)
    for precision in ("fp32", "bf16"):
        begun = time.monotonic()
        settings = Sampling(words.images, steps=25, guidance=4.0, chunk=16, precision=precision)
        out = str(folder / f"samples-{precision}")
        sample(str(folder / "model.safetensors"), out, settings, ranks, npz=f"{out}.npz")
        if ranks.first:
            print(f"sampling in {precision}: {words.images / (time.monotonic() - begun):.2f} images/s", flush=True)
    ranks.close()
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
