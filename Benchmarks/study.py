"""The paper's study in miniature on the shipped model: one operator after another through both stages.

    unset OPENBLAS_CORETYPE
    make build && python3 Benchmarks/study.py --output study        # at most an hour on two cores, --minutes
    python3 Benchmarks/study.py --output try --quick --rows swa     # a smoke run

First Hyena-X in every second block with all of 'plan set --preset short', measured on 500 images of 25 DDIM steps. Then
the other grafts of the paper with the same recipe and fewer steps: half of the blocks (1, 3, ..., 27) get another
operator, two operators go into all of them, and all blocks become parallel in pairs. Each is distilled (stage 1),
measured, finetuned end to end (stage 2) and measured again: 100 images, 10 DDIM steps, guidance 2, the same noise for
all. Then one Hyena-X graft is finetuned in as many steps with one term of stage 2 changed at a time, and as the paper
does it. Everything is seeded.

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
HYENA = [["set", *ODD, "--operator", "hyena_x"]]
ROWS = {
    "hyena_x_full": ("Hyena-X, 50 %, all of the recipe", HYENA),
    "linear_attention": ("linear attention, 50 %", [["set", *ODD, "--operator", "linear_attention"]]),
    "mlp_r3": ("MLP r=3, 50 %", [["set", *ODD, "--operator", "mlp", "--config", "expansion_ratio=3"]]),
    "hyena_x": ("Hyena-X, 50 %", HYENA),
    "swa": ("SWA, 50 %", [["set", *ODD, "--operator", "swa"]]),
    "mha": ("MHA, self-graft, 50 %", [["set", *ODD, "--operator", "mha"]]),
    "hyena_x_all": ("Hyena-X, 100 %", [["set", *ALL, "--operator", "hyena_x"]]),
    "mlp_r3_all": ("MLP r=3, 100 %", [["set", *ALL, "--operator", "mlp", "--config", "expansion_ratio=3"]]),
    "parallel": ("depth to width, 28 to 14", [["parallel", *ALL]]),
    "mamba2": ("Mamba-2, 50 %", [["set", *ODD, "--operator", "mamba2"]]),
    "mlp_r6": ("MLP r=6, 50 %", [["set", *ODD, "--operator", "mlp", "--config", "expansion_ratio=6"]]),
    "mlp_hyena_x": ("MLP Hyena-X, 50 %", [["set", *ODD, "--operator", "mlp_hyena_x"]]),
}
# Rows with all of the recipe's steps; the others have these in stage 2.
FULL = {"hyena_x_full"}
STEPS = {"linear_attention": 2000}
SHORT = 400
# One change each of the stage 2 of the row "hyena_x".
TERMS = {
    "paper": ("the diffusion loss alone", {
        "distillation_weight": 0, "diffusion_weight": 1, "distill_null": False, "feature_weight": 0}),
    "both": ("the diffusion loss and the teacher", {"diffusion_weight": 1}),
    "null": ("predictions without a condition, 150 steps", {"distill_null": True, "label_dropout": 0, "steps": 150}),
    "features": ("features, weight 0.1", {"feature_weight": 0.1}),
    "inherited": ("inherited weights at 0.3 of the rate", {"inherited_rate": 0.3}),
    "adamw": ("AdamW at half of the rate", {"optimizer": "adamw", "learning_rate": 1e-3}),
    "density": ("few of the least noisy samples", {
        "timestep_density": [[0, 0.2], [80, 1], [650, 1], [999, 0.4]]}),
    "variance": ("the variance at a tenth", {"variance_weight": 0.1}),
    "kept": ("each of the teacher's outputs twice", {"teacher_samples": 1600}),
    "self": ("no data", {"data": "self"}),
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

    def plan(self, name, edits, changes):
        """The plan file of a row with the recipe and some settings changed, made if it is missing."""
        path = self.folder / "plans" / f"{name}.json"
        if path.exists():
            return path
        draft = path.with_suffix(".draft")
        draft.unlink(missing_ok=True)
        self.espalier("plan", "new", draft, "--name", name)
        for verb, *arguments in edits:
            self.espalier("plan", verb, draft, *arguments)
        self.espalier("plan", "set", draft, "--preset", "short")
        changes = dict(changes)
        if "data" in changes:
            self.espalier("plan", "set", draft, "--data", changes.pop("data"))
        if self.quick:
            changes |= {"stage1.steps": 4, "stage2.steps": 2, "stage1.warmup_steps": 1, "stage2.warmup_steps": 1}
        stages = json.loads(draft.read_text())
        steps = {stage: changes.get(f"{stage}.steps", stages[stage]["steps"]) for stage in ("stage1", "stage2")}
        for stage in steps:
            changes |= {f"{stage}.held_out_every": steps[stage], f"{stage}.held_out_samples": 64,
                        f"{stage}.checkpoint_every": 100}
        texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in changes.items()}
        self.espalier("plan", "set", draft, *(f"{key}={text}" for key, text in texts.items()))
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

    def measure(self, cell, run, full=False, paired=False):
        """The line of a cell; measures what the run does not know yet."""
        start = time.monotonic()
        samples, steps = (500, 25) if full and not self.quick else (self.samples, self.steps)
        rows = self.espalier("compare", run, "--measure", "--samples", samples, "--steps", steps)
        entry = self.state["cells"][cell]
        if paired and "paired" not in entry:
            model = pathlib.Path(run) / "checkpoints" / "model.safetensors"
            found = self.espalier("evaluate", model, "--paired", "demo", "--samples", 64, "--steps", self.steps)
            entry["paired"] = found["latents"]
        if "row" not in entry:
            entry["measure_seconds"] = time.monotonic() - start
            print(f"  measured in {entry['measure_seconds']:.0f} s", flush=True)
        self.state.setdefault("teacher", {})[str(samples)], entry["row"] = rows[0], rows[1]
        entry["samples"], entry["steps"] = samples, last_step(pathlib.Path(run))
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

    def row(self, name, title, edits):
        """Both stages of a graft."""
        full = name in FULL
        plan = self.plan(name, edits, {} if full else {"stage2.steps": STEPS.get(name, SHORT)})

        def stage1():
            run = self.train(f"{name}.1", "distill", plan)
            self.measure(f"{name}.1", run)

        def stage2():
            start = self.state["cells"][f"{name}.1"]["run"]
            run = self.train(f"{name}.2", "finetune", plan, "--from", start)
            self.measure(f"{name}.2", run, full, paired=True)

        if self.part(f"{title}: stage 1", stage1):
            self.part(f"{title}: stage 2", stage2)

    def term(self, name, title, changes):
        """Stage 2 of the Hyena-X graft with something changed."""
        settings = {key if key == "data" else f"stage2.{key}": value for key, value in changes.items()}

        def work():
            plan = self.plan(f"term_{name}", HYENA, {"stage2.steps": SHORT} | settings)
            run = self.train(f"{name}.term", "finetune", plan, "--from", self.state["cells"]["hyena_x.1"]["run"])
            self.measure(f"{name}.term", run, paired=True)

        self.part(f"Hyena-X, {title}", work)

    def run(self, names):
        for name in names:
            if name in ROWS:
                self.row(name, *ROWS[name])
            elif "hyena_x.1" in self.state["cells"]:
                self.term(name, *TERMS[name])
            else:
                self.notes.append(f"{TERMS[name][0]}: left out, it starts from stage 1 of the row hyena_x.")
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
        teachers = self.state["teacher"]
        head = ["graft", "stage", "steps", "images", "held-out loss", "agreement", "Fréchet distance", "paired distance",
                "parameters", "FLOPs", "forward", "training"]
        lines = [line(head), line(["---", "---:", *["---:"] * (len(head) - 2)])]
        for samples, row in sorted(teachers.items(), key=lambda item: -int(item[0])):
            lines.append(line(["teacher", "", "", samples, "", *quality(row), "", count(row["parameters"]),
                               count(row["flops"]), f"{row['forward_milliseconds']:.1f} ms", ""]))
        for name, (title, _) in ROWS.items():
            for stage in (1, 2):
                cell = cells.get(f"{name}.{stage}")
                if cell:
                    row, teacher = cell["row"], teachers[str(cell["samples"])]
                    lines.append(line([
                        title, str(stage), str(cell["steps"]), str(cell["samples"]), change(row), *quality(row), paired(cell),
                        relative(row["parameters"], teacher["parameters"]), relative(row["flops"], teacher["flops"]),
                        f"× {row['forward_ratio']:.3f}", f"{cell['train_seconds']:.0f} s"]))
        text = "\n".join(lines)
        terms = [(title, cells[f"{name}.term"]) for name, (title, _) in TERMS.items() if f"{name}.term" in cells]
        if "hyena_x.2" in cells:
            terms.insert(0, ("the recipe (the row above)", cells["hyena_x.2"]))
        if terms:
            head = ["stage 2 of Hyena-X, 50 %, with", "steps", "agreement", "Fréchet distance", "paired distance", "training"]
            text += "\n\n" + line(head) + "\n" + line(["---", *["---:"] * (len(head) - 1)])
            for title, cell in terms:
                text += "\n" + line([title, str(cell["steps"]), *quality(cell["row"]), paired(cell),
                                     f"{cell['train_seconds']:.0f} s"])
        text += (f"\n\n{self.steps} DDIM steps (25 for 500 images), guidance 2. Held-out losses of stage 1 are the operators' own, those of stage 2"
                 " depend on its terms; neither compares across rows. Agreement and Fréchet distance are the shipped judge's;"
                 " the latter compares only at equal numbers of images. Paired distance: of 64 samples from the same noise as"
                 " the teacher's, relative to the spread of its samples. Forward: batch 1, in turns with the teacher.")
        if self.quick:
            text += " A smoke run: the figures mean nothing."
        training = sum(cell["train_seconds"] for cell in self.state["cells"].values())
        measuring = sum(cell.get("measure_seconds", 0) for cell in self.state["cells"].values())
        text += f"\nTraining took {training / 60:.1f} min, measuring {measuring / 60:.1f} min in all."
        if seconds is not None:
            print(f"training {training:.0f} s, measuring {measuring:.0f} s, this time {seconds:.0f} s")
        return text + "".join(f"\n- {note}" for note in self.notes) + "\n"


def last_step(run):
    """Number of the last step of a training."""
    events = (json.loads(record) for record in (run / "events.jsonl").read_text().splitlines())
    return max((event["step"] for event in events if event["kind"] == "step"), default=0)


def line(cells):
    return f"| {' | '.join(cells)} |"


def quality(row):
    return [f"{row['agreement'] * 100:.1f} %" if "agreement" in row else "–",
            f"{row['frechet_distance']:.3f}" if "frechet_distance" in row else "–"]


def paired(cell):
    found = cell.get("paired")
    return f"{found['value']:.3f} ± {found['standard_error']:.3f}" if found else "–"


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
    names = [*ROWS, *TERMS]
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
