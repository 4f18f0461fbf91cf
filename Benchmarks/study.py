"""The paper's study in miniature on the shipped model: one operator after another through both stages.

    unset OPENBLAS_CORETYPE
    make build && python3 Benchmarks/study.py --output study        # at most an hour on two cores, --minutes
    python3 Benchmarks/study.py --output try --quick --rows swa     # a smoke run

Half of the blocks (1, 3, ..., 27) get another operator, two operators go into all of them, and all blocks become
parallel in pairs. Each graft is distilled (stage 1, 300 steps of 8 samples), measured, finetuned end to end (stage 2,
80 steps of 16) and measured again: 100 images, 10 DDIM steps, guidance 2, the same noise for all. Then L1, L2 and Huber
(delta 1) as losses of stage 1, for attention and for MLPs of the teacher's own kind, and operators that start from weights
of what they replace. Everything is seeded.

A run that is stopped goes on where it was when it is started again with the same --output; what is done is skipped.
The tables are in OUTPUT/study.md, rewritten after every part; the runs are in OUTPUT/runs, for 'espalier report'.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent

# Name: title, and what 'espalier plan' is asked for. In the order of importance, should the time run out.
ODD, ALL = ["--blocks", "odd"], ["--blocks", "all"]
ROWS = {
    "mha": ("MHA, self-graft, 50 %", [["set", *ODD, "--operator", "mha"]]),
    "swa": ("SWA, 50 %", [["set", *ODD, "--operator", "swa"]]),
    "hyena_x": ("Hyena-X, 50 %", [["set", *ODD, "--operator", "hyena_x"]]),
    "hyena_se": ("Hyena-SE, 50 %", [["set", *ODD, "--operator", "hyena_se"]]),
    "hyena_y": ("Hyena-Y, 50 %", [["set", *ODD, "--operator", "hyena_y"]]),
    "mamba2": ("Mamba-2, 50 %", [["set", *ODD, "--operator", "mamba2"]]),
    "linear_attention": ("linear attention, 50 %", [["set", *ODD, "--operator", "linear_attention"]]),
    "mlp_r3": ("MLP r=3, 50 %", [["set", *ODD, "--operator", "mlp", "--config", "expansion_ratio=3"]]),
    "mlp_r6": ("MLP r=6, 50 %", [["set", *ODD, "--operator", "mlp", "--config", "expansion_ratio=6"]]),
    "mlp_hyena_x": ("MLP Hyena-X, 50 %", [["set", *ODD, "--operator", "mlp_hyena_x"]]),
    "hyena_x_all": ("Hyena-X, 100 %", [["set", *ALL, "--operator", "hyena_x"]]),
    "mlp_r3_all": ("MLP r=3, 100 %", [["set", *ALL, "--operator", "mlp", "--config", "expansion_ratio=3"]]),
    "parallel": ("depth to width, 28 to 14", [["parallel", *ALL]]),
}
MHA, MLP = ROWS["mha"][1], [["set", *ODD, "--operator", "mlp", "--config", "expansion_ratio=4"]]
# The row "mha" is distilled with L1 already.
LOSSES = {
    "mha": ("MHA, L1", MHA, "l1"),
    "mha_l2": ("MHA, L2", MHA, "l2"),
    "mha_huber": ("MHA, Huber", MHA, "huber"),
    "mlp_l1": ("MLP r=4, L1", MLP, "l1"),
    "mlp_l2": ("MLP r=4, L2", MLP, "l2"),
    "mlp_huber": ("MLP r=4, Huber", MLP, "huber"),
}
# Operators whose rows above start from their own initialisation.
STARTS = {
    f"{name}_transferred": (f"{ROWS[name][0]}", [[*ROWS[name][1][0], "--initialization", "transferred"]])
    for name in ("swa", "linear_attention", "hyena_x", "mlp_r3")
}


class Failure(Exception):
    """A command that did not end well, with its complaint."""


class Study:
    def __init__(self, options):
        self.folder = pathlib.Path(options.output).resolve()
        self.program = options.program
        self.quick = options.quick
        self.began = time.monotonic()
        self.deadline = self.began + 60 * options.minutes
        self.samples, self.steps = (10, 2) if options.quick else (100, 10)
        self.notes = []
        (self.folder / "plans").mkdir(parents=True, exist_ok=True)
        self.state_path = self.folder / "state.json"
        settings = {"quick": options.quick, "samples": self.samples, "steps": self.steps}
        self.state = {"settings": settings, "cells": {}}
        if self.state_path.exists():
            self.state = json.loads(self.state_path.read_text())
            if self.state["settings"] != settings:
                sys.exit(f"{self.state_path}: has settings {self.state['settings']}, expected {settings}; "
                         "choose another --output")

    def espalier(self, *arguments, quiet=True):
        """What a command prints as JSON."""
        environment = {key: value for key, value in os.environ.items() if key != "OPENBLAS_CORETYPE"}
        done = subprocess.run([self.program, *map(str, arguments), "--json"], env=environment, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE if quiet else None)
        if done.returncode != 0:
            raise Failure((done.stderr or "").strip().splitlines()[-1:] or [f"exit code {done.returncode}"])
        return json.loads(done.stdout)

    def save(self):
        draft = self.state_path.with_suffix(".tmp")
        draft.write_text(json.dumps(self.state, indent=1))
        draft.replace(self.state_path)

    def plan(self, name, edits, loss=None):
        """The plan file of a row, made if it is missing."""
        path = self.folder / "plans" / f"{name}.json"
        if path.exists():
            return path
        draft = path.with_suffix(".draft")
        draft.unlink(missing_ok=True)
        self.espalier("plan", "new", draft, "--name", name)
        for verb, *arguments in edits:
            self.espalier("plan", verb, draft, *arguments)
        plan = json.loads(draft.read_text())
        steps = (4, 2) if self.quick else (300, 80)
        plan["stage1"].update(steps=steps[0], batch_size=8, warmup_steps=min(20, steps[0] - 1),
                              held_out_every=steps[0], held_out_samples=64, checkpoint_every=50)
        if loss:
            plan["stage1"].update(attention_loss=loss, mlp_loss=loss)
        plan["stage2"].update(steps=steps[1], batch_size=16, learning_rate=3e-4, warmup_steps=min(5, steps[1] - 1),
                              held_out_every=steps[1], held_out_samples=64, checkpoint_every=20)
        draft.write_text(json.dumps(plan))
        self.espalier("plan", "validate", draft)
        draft.replace(path)
        return path

    def train(self, cell, *command):
        """Takes a cell's run to its end, wherever it stands, and gives its directory."""
        entry = self.state["cells"].setdefault(cell, {"train_seconds": 0.0})
        start = time.monotonic()
        if "run" not in entry:
            entry["run"] = self.espalier(*command, "--runs", self.folder / "runs", "--detach")["run"]
            self.save()
        run = entry["run"]
        state = self.espalier("runs", "show", run)["state"]
        if state != "done":
            if state in ("lost", "failed", "cancelled"):
                self.espalier("runs", "resume", run)
            self.espalier("runs", "follow", run)
            entry["train_seconds"] += time.monotonic() - start
            self.save()
            print(f"  trained in {entry['train_seconds']:.0f} s", flush=True)
        return run

    def measure(self, cell, run):
        """The line of a cell; measures what the run does not know yet."""
        start = time.monotonic()
        rows = self.espalier("compare", run, "--measure", "--samples", self.samples, "--steps", self.steps)
        entry = self.state["cells"][cell]
        if "row" not in entry:
            entry["measure_seconds"] = time.monotonic() - start
            print(f"  measured in {entry['measure_seconds']:.0f} s", flush=True)
        self.state["teacher"], entry["row"] = rows[0], rows[1]
        entry["step_seconds"] = step_seconds(pathlib.Path(run))
        self.save()

    def part(self, title, work):
        """Does a part unless the time is up, and rewrites the tables; whether it is there."""
        if time.monotonic() > self.deadline:
            self.notes.append(f"{title}: left out, the time was up.")
            return False
        print(f"[{(time.monotonic() - self.began) / 60:5.1f} min] {title}", flush=True)
        try:
            work()
        except Failure as failure:
            self.notes.append(f"{title}: {failure.args[0][0]}")
            print(f"  {self.notes[-1]}", flush=True)
            return False
        finally:
            self.write(None)
        return True

    def distilled(self, name, edits, loss=None):
        cell = f"{name}.1"

        def work():
            run = self.train(cell, "distill", self.plan(name, edits, loss))
            self.measure(cell, run)

        return work

    def finetuned(self, name, edits):
        cell = f"{name}.2"

        def work():
            start = self.state["cells"][f"{name}.1"]["run"]
            run = self.train(cell, "finetune", self.plan(name, edits), "--from", start)
            self.measure(cell, run)

        return work

    def run(self, rows):
        for name in rows:
            if name in ROWS:
                title, edits = ROWS[name]
                if self.part(f"{title}: stage 1", self.distilled(name, edits)):
                    self.part(f"{title}: stage 2", self.finetuned(name, edits))
        for name in rows:
            if name in LOSSES:
                title, edits, loss = LOSSES[name]
                self.part(f"{title}: stage 1", self.distilled(name, edits, loss))
        for name in rows:
            if name in STARTS:
                title, edits = STARTS[name]
                self.part(f"{title}, transferred: stage 1", self.distilled(name, edits))
        self.write(time.monotonic() - self.began)

    def write(self, seconds):
        """Writes the tables of what is there."""
        path = self.folder / "study.md"
        draft = path.with_suffix(".tmp")
        draft.write_text(self.tables(seconds))
        draft.replace(path)

    def tables(self, seconds):
        cells = {name: cell for name, cell in self.state["cells"].items() if "row" in cell}
        if "teacher" not in self.state:
            return "nothing is measured yet\n"
        teacher = self.state["teacher"]
        head = ["graft", "stage", "held-out loss", "agreement", "Fréchet distance", "parameters", "FLOPs", "forward",
                "training step"]
        lines = [line(head), line(["---", "---:", *["---:"] * 7]),
                 line(["teacher", "", "", *quality(teacher), count(teacher["parameters"]), count(teacher["flops"]),
                       f"{teacher['forward_milliseconds']:.1f} ms", ""])]
        for name, (title, _) in ROWS.items():
            for stage in (1, 2):
                cell = cells.get(f"{name}.{stage}")
                if not cell:
                    continue
                row = cell["row"]
                lines.append(line([
                    title, str(stage), change(row), *quality(row),
                    relative(row["parameters"], teacher["parameters"]), relative(row["flops"], teacher["flops"]),
                    f"× {row['forward_ratio']:.3f}", f"{cell['step_seconds'] * 1000:.0f} ms"]))
        text = "\n".join(lines)
        losses = [(title, cells[f"{name}.1"]) for name, (title, _, _) in LOSSES.items() if f"{name}.1" in cells]
        if losses:
            text += "\n\n" + line(["distilled with", "held-out, by that loss", "agreement", "Fréchet distance"])
            text += "\n" + line(["---", "---:", "---:", "---:"])
            for title, cell in losses:
                text += "\n" + line([title, change(cell["row"]), *quality(cell["row"])])
        starts = [(name, title) for name, (title, _) in STARTS.items() if f"{name}.1" in cells]
        if starts:
            text += "\n\n" + line(["stage 1 from", "held-out loss", "agreement", "Fréchet distance"])
            text += "\n" + line(["---", "---:", "---:", "---:"])
            for name, title in starts:
                for cell, start in ((name.removesuffix("_transferred"), "own weights"), (name, "transferred")):
                    if f"{cell}.1" in cells:
                        row = cells[f"{cell}.1"]["row"]
                        text += "\n" + line([f"{title}, {start}", change(row), *quality(row)])
        text += (f"\n\n{self.samples} images of each model, {self.steps} DDIM steps, guidance 2. Held-out losses of stage 1"
                 " are the operators' own and do not compare across rows; agreement and Fréchet distance are the shipped"
                 " judge's. Forward: batch 1, in turns with the teacher.")
        if self.quick:
            text += " A smoke run: the figures mean nothing."
        training = sum(cell["train_seconds"] for cell in self.state["cells"].values())
        measuring = sum(cell.get("measure_seconds", 0) for cell in self.state["cells"].values())
        text += f"\nTraining took {training / 60:.1f} min, measuring {measuring / 60:.1f} min in all."
        if seconds is not None:
            print(f"training {training:.0f} s, measuring {measuring:.0f} s, this time {seconds:.0f} s")
        return text + "".join(f"\n- {note}" for note in self.notes) + "\n"


def step_seconds(run):
    """Seconds of a training step, as the run last said."""
    rate = 0.0
    for record in (run / "events.jsonl").read_text().splitlines():
        event = json.loads(record)
        if event["kind"] == "step":
            rate = event["rate"]
    return 1 / rate if rate else 0.0


def line(cells):
    return f"| {' | '.join(cells)} |"


def quality(row):
    return [f"{row['agreement'] * 100:.1f} %" if "agreement" in row else "–",
            f"{row['frechet_distance']:.3f}" if "frechet_distance" in row else "–"]


def change(row):
    return f"{row['held_out_first']:.4g} → {row['held_out_last']:.4g}" if "held_out_last" in row else "–"


def relative(value, base):
    return f"{(value / base - 1) * 100:+.1f} %"


def count(value):
    for scale, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= scale:
            return f"{value / scale:.4g} {letter}"
    return str(value)


def main():
    names = list(dict.fromkeys([*ROWS, *LOSSES, *STARTS]))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", required=True, help="folder of plans, runs and tables")
    parser.add_argument("--quick", action="store_true", help="a few steps and images, to see that all works")
    parser.add_argument("--rows", help=f"rows, separated by commas, of: {', '.join(names)}")
    parser.add_argument("--minutes", type=float, default=60, help="begin no further part after this time (60)")
    parser.add_argument("--program", default=str(ROOT / ".build" / "release" / "espalier"))
    options = parser.parse_args()
    rows = options.rows.split(",") if options.rows else names
    for name in rows:
        if name not in names:
            parser.error(f"--rows: '{name}' is unknown, expected some of {', '.join(names)}")
    study = Study(options)
    study.run(rows)
    print((study.folder / "study.md").read_text())
    return 1 if study.notes else 0


if __name__ == "__main__":
    sys.exit(main())
