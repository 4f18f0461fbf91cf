"""Builds a library of two blocks of a random DiT-XL/2 and extrapolates the time to all 28, in Markdown.

    unset OPENBLAS_CORETYPE
    make build && python3 Benchmarks/library_xl.py --folder xl   # pip install torch numpy safetensors

The folder receives the model and the latents of train_xl.py. Four attention operators and two MLPs stand for the
default eleven and six; steps, held-out samples and scored samples are few. From the times of the worker's phases follow
what a sample of the teacher costs and, beyond that, what one operator costs in a step, a fit, a score and a timing;
the whole library is 17 operators in each of 28 blocks with the default numbers.
"""

import argparse
import json
import os
import pathlib
import subprocess

from train_xl import HERE, MODEL, latents, model

BLOCKS = [13, 14]
CANDIDATES = {
    "attention": [
        {"name": "hyena_x", "config": {}}, {"name": "swa2d", "config": {"window": 5}},
        {"name": "linear_attention", "config": {}}, {"name": "linear", "config": {}},
    ],
    "mlp": [{"name": "mlp", "config": {"expansion_ratio": 2}}, {"name": "linear", "config": {}}],
}
# What is measured, and the defaults of a whole library.
STEPS, HELD_OUT, SCORED, RIDGE, BATCH = 3, 16, 8, 16, 8
ALL = {"blocks": 28, "attention": 11, "mlp": 6, "steps": 40, "held_out": 128, "scored": 32, "ridge": 48, "batch": 8}


def spans(events):
    """Seconds by label of the progress events, up to the next event of another label, in order."""
    result, last = [], None
    for event in events:
        label = event.get("label") if event["kind"] == "progress" else None
        if last and label != last[0] and event["kind"] != "heartbeat":
            result.append((last[0], event["t"] - last[1]))
            last = None
        if label and not last:
            last = (label, event["t"])
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", required=True)
    parser.add_argument("--espalier", default=HERE.parent / ".build/release/espalier")
    options = parser.parse_args()
    os.environ.pop("OPENBLAS_CORETYPE", None)
    folder, espalier = pathlib.Path(options.folder).resolve(), str(options.espalier)
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / MODEL).exists():
        model(str(folder))
    latents(folder / "latents.npz")
    plan = folder / "library.json"
    subprocess.run([espalier, "plan", "new", plan, "--model", folder / MODEL, "--force"], check=True)
    subprocess.run(
        [espalier, "plan", "set", plan, f"data.path={folder}/latents.npz", f"stage1.held_out_samples={HELD_OUT}",
         f"stage1.ridge_samples={RIDGE}", f"stage1.batch_size={BATCH}"], check=True)
    (folder / "candidates.json").write_text(json.dumps(CANDIDATES))
    started = subprocess.run(
        [espalier, "library", "build", plan, "--candidates", folder / "candidates.json",
         "--blocks", ",".join(map(str, BLOCKS)), "--steps", str(STEPS), "--samples", str(SCORED),
         "--library", folder / "library", "--runs", folder / "runs", "--detach", "--json"],
        check=True, capture_output=True)
    run = json.loads(started.stdout)["run"]
    subprocess.run([espalier, "runs", "wait", run, "--runs", folder / "runs"], check=True)
    events = [json.loads(line) for line in pathlib.Path(run, "events.jsonl").read_text().splitlines()]
    assert events[-1].get("outcome") == "done", events[-1]
    phases = spans(events)

    def seconds(start):
        return sum(time for label, time in phases if label.startswith(start))

    columns = max(len(CANDIDATES["attention"]), len(CANDIDATES["mlp"]))
    operators = len(BLOCKS) * sum(map(len, CANDIDATES.values()))
    # A guided prediction is two passes; the score of a middle block is half of one.
    sample = seconds("running the teacher") / SCORED / 2
    step = (seconds("training") - columns * STEPS * BATCH * sample) / STEPS / operators
    # Each fit before and after the steps runs the teacher once; the losses on held-out samples follow the second one.
    passes = columns * (2 * RIDGE + HELD_OUT) * sample
    fit = (seconds("fitting") - passes) / operators
    score, timing = seconds("scoring") / operators, seconds("timing") / (operators / len(BLOCKS))
    whole = ALL["blocks"] * (ALL["attention"] + ALL["mlp"])
    parts = {
        "teacher passes of the steps": ALL["attention"] * ALL["steps"] * ALL["batch"] * sample,
        "steps of the operators": ALL["steps"] * whole * max(0, step),
        "teacher passes of fits and held-out losses":
            ALL["attention"] * (2 * ALL["ridge"] + ALL["held_out"]) * sample,
        "fits and losses of the operators": whole * max(0, fit) * ALL["ridge"] / RIDGE,
        "scores": whole * score * ALL["scored"] / SCORED,
        "timing": (ALL["attention"] + ALL["mlp"]) * timing,
    }
    total = events[-1]["t"] - events[0]["t"]
    print(f"measured: {operators} operators in blocks {BLOCKS}, {total:.0f} s; teacher {sample:.2f} s a sample\n")
    print("| DiT-XL/2, random weights, 476 operators, extrapolated | minutes |")
    print("| --- | --- |")
    for name, value in parts.items():
        print(f"| {name} | {value / 60:.0f} |")
    print(f"| all | {sum(parts.values()) / 60:.0f} |")


if __name__ == "__main__":
    main()
