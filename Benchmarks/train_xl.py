"""Trains a random DiT-XL/2 through both stages for a few steps: seconds a step and peak memory, in Markdown.

    unset OPENBLAS_CORETYPE
    make build && python3 Benchmarks/train_xl.py --folder xl   # pip install torch numpy safetensors

The folder receives the model (2.7 GB, in the official format; one that is there is used) and 96 procedural latents with
labels: sums of a few plane waves, of unit variance. Stage 1 puts Hyena-X into 14 blocks, batch 8; stage 2 trains all
weights with AdamW and their average, batch 4, blocks recomputed.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
MODEL = "DiT-XL-2-256x256.pt"


def latents(path, count=96, channels=4, side=32, classes=1000):
    """Writes plane waves whose directions depend on the label, and the labels."""
    random = np.random.default_rng(0)
    labels = random.integers(0, classes, count)
    y, x = np.meshgrid(np.arange(side), np.arange(side), indexing="ij")
    result = np.zeros((count, channels, side, side), np.float32)
    for index, label in enumerate(labels):
        for channel in range(channels):
            for wave in range(3):
                angle = 2 * np.pi * (label / classes + (channel + wave) / 7)
                phase, pitch = random.uniform(0, 2 * np.pi), random.uniform(0.1, 0.8)
                result[index, channel] += np.cos(pitch * (np.cos(angle) * x + np.sin(angle) * y) + phase)
    result /= result.std()
    np.savez(path, latents=result, labels=labels.astype(np.int64))


def model(folder):
    """Writes the model with random weights, in a process of its own."""
    code = "from compare_dit_xl import make; import sys; make(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, folder], check=True, cwd=HERE.parent / "Tests" / "Reference")


def train(command):
    """Runs a training; gives the peak of its worker's memory in GiB and its events."""
    started = json.loads(subprocess.run([*command, "--detach", "--json"], check=True, capture_output=True).stdout)
    run, peak = started["run"], 0
    while True:
        worker = json.loads(pathlib.Path(run, "worker.json").read_text())["pid"]
        try:
            status = pathlib.Path(f"/proc/{worker}/status").read_text()
        except OSError:
            break
        found = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")]
        if not found:
            break
        peak = max(peak, int(found[0]))
        time.sleep(0.5)
    events = [json.loads(line) for line in pathlib.Path(run, "events.jsonl").read_text().splitlines()]
    end = events[-1]
    if end.get("outcome") != "done":
        sys.exit(f"{run}: {end.get('text', end)}")
    return run, peak / 2**20, events


def seconds(events):
    """The median of the seconds between steps that follow each other."""
    steps = [event for event in events if event["kind"] == "step"]
    pairs = [(a, b) for a, b in zip(steps, steps[1:]) if b["step"] == a["step"] + 1]
    return statistics.median(b["t"] - a["t"] for a, b in pairs)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", required=True)
    parser.add_argument("--espalier", default=HERE.parent / ".build/release/espalier")
    parser.add_argument("--stage1-steps", type=int, default=8)
    parser.add_argument("--stage2-steps", type=int, default=20)
    options = parser.parse_args()
    os.environ.pop("OPENBLAS_CORETYPE", None)
    folder = os.path.abspath(options.folder)
    os.makedirs(folder, exist_ok=True)
    espalier, plan = str(options.espalier), f"{folder}/plan.json"
    if not os.path.exists(f"{folder}/{MODEL}"):
        model(folder)
    latents(f"{folder}/latents.npz")
    subprocess.run([espalier, "plan", "new", plan, "--model", f"{folder}/{MODEL}", "--force"], check=True)
    edit = ["plan", "set", plan, "--blocks", "odd", "--operator", "hyena_x", "--data", f"{folder}/latents.npz"]
    subprocess.run([espalier, *edit], check=True)
    settings = json.loads(pathlib.Path(plan).read_text())
    common = {"held_out_samples": 4, "checkpoint_every": 1000, "warmup_steps": 2}
    settings["stage1"].update(common, steps=options.stage1_steps, batch_size=8, held_out_every=options.stage1_steps)
    settings["stage2"].update(
        common, steps=options.stage2_steps, batch_size=4, recompute=True, held_out_every=options.stage2_steps
    )
    pathlib.Path(plan).write_text(json.dumps(settings))
    runs = ["--runs", f"{folder}/runs"]
    first, first_peak, first_events = train([espalier, "distill", plan, *runs])
    second, second_peak, second_events = train([espalier, "finetune", plan, "--from", first, *runs])
    print("| DiT-XL/2, random weights | steps | seconds a step | peak memory |")
    print("| --- | --- | --- | --- |")
    for title, count, events, peak in [
        ("stage 1, Hyena-X in 14 blocks, batch 8", options.stage1_steps, first_events, first_peak),
        ("stage 2, all weights, batch 4", options.stage2_steps, second_events, second_peak),
    ]:
        print(f"| {title} | {count} | {seconds(events):.1f} | {peak:.1f} GiB |")


if __name__ == "__main__":
    main()
