"""Measures what looking at many and at long runs costs, and prints a Markdown table.

    make build && python3 Benchmarks/runs.py [--runs 1000] [--events 200000] [--long 5000000]

Makes a run root whose runs all have the same long event log (hard links, so that it fits on the disk), and a run with
one very long log. Each figure is the median of some calls of `espalier runs list --json`; memory is the highest
resident size of the process. Cold is without what readers keep beside the log (`summary.json`), warm is with it.
"""

import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
SITES = [f"{block}.attention" for block in range(1, 28, 2)]


def write_log(path, events, sites):
    """An ended training of so many events: steps with a loss for each site, heartbeats, held-out losses, checkpoints."""
    steps = events // 2
    with open(path, "w") as file:
        file.write('{"kind":"started","pid":4711,"t":1796023112.1887164,"total_steps":%d,"v":1}\n' % steps)
        for step in range(1, steps + 1):
            now = 1796023112.1887164 + 0.2 * step
            loss = 0.1 + 1 / step + (step % 17) * 1.2345678901e-4
            losses = ",".join(f'"{site}":{loss + index * 1e-3!r}' for index, site in enumerate(sites))
            file.write(
                f'{{"kind":"step","learning_rate":0.001,"loss":{loss!r},"losses":{{{losses}}},"rate":5.1,'
                f'"seconds_left":{0.2 * (steps - step)!r},"step":{step},"t":{now!r},"total":{steps},"v":1}}\n')
            if step % 100 == 0:
                file.write(f'{{"kind":"held_out","losses":{{{losses}}},"step":{step},"t":{now!r},"v":1}}\n')
                file.write(
                    f'{{"kind":"checkpointed","path":"checkpoints/latest.safetensors","step":{step},"t":{now!r},"v":1}}\n')
            else:
                file.write(f'{{"kind":"heartbeat","step":{step},"t":{now!r},"v":1}}\n')
        file.write('{"kind":"finished","outcome":"done","t":1796123112.5,"text":"done","v":1}\n')
    return os.path.getsize(path)


def make_run(root, number, log):
    path = f"{root}/20261130-{number:06d}-distill-{number:x}"
    os.makedirs(f"{path}/checkpoints")
    os.link(log, f"{path}/events.jsonl")
    request = {
        "code_version": "0.1.0", "created_at": 1796023112.0 + number, "espalier_run": 1,
        "job": {"kind": "distill", "plan_path": "plan.json"}, "model_hash": "c0ffee", "name": f"run {number}", "seed": 0,
    }
    pathlib.Path(f"{path}/run.json").write_text(json.dumps(request))
    return path


def call(program, *arguments):
    """Seconds and the highest resident megabytes of a call."""
    before = time.perf_counter()
    process = subprocess.Popen([program, *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{arguments} ended with {status}")
    return time.perf_counter() - before, usage.ru_maxrss / 1024


def measure(program, repeats, *arguments):
    calls = [call(program, *arguments) for _ in range(repeats)]
    return statistics.median(seconds for seconds, _ in calls), max(memory for _, memory in calls)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--espalier", default=HERE.parent / ".build/release/espalier")
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--long", type=int, default=5_000_000)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    program = str(options.espalier)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        log = f"{folder}/log"
        size = write_log(log, options.events, SITES)
        root = f"{folder}/runs"
        first = make_run(root, 0, log)
        label = f"{options.events:,} events ({size / 1e6:.0f} MB)"
        rows.append((f"1 run of {label}, cold", *measure(program, 1, "runs", "list", "--json", "--runs", root), ""))
        rows.append((f"its losses, cold", *measure(program, 1, "runs", "show", first, "--json"), ""))
        rows.append((f"its losses, warm", *measure(program, options.repeats, "runs", "show", first, "--json"), ""))
        for number in range(1, options.runs):
            path = make_run(root, number, log)
            # What a reader would have kept; every run would be read like the first.
            for name in ["summary.json", "curves.json"]:
                if os.path.exists(f"{first}/{name}"):
                    shutil.copy(f"{first}/{name}", path)
        rows.append((f"{options.runs:,} runs of {label}, warm",
                     *measure(program, options.repeats, "runs", "list", "--json", "--runs", root), "0.3 s, 200 MB"))
        size = write_log(f"{folder}/long-log", options.long, SITES[:1])
        make_run(f"{folder}/long", 0, f"{folder}/long-log")
        label = f"1 run of {options.long:,} events ({size / 1e6:.0f} MB)"
        rows.append((f"{label}, cold", *measure(program, 1, "runs", "list", "--json", "--runs", f"{folder}/long"), "200 MB"))
        rows.append((f"{label}, warm",
                     *measure(program, options.repeats, "runs", "list", "--json", "--runs", f"{folder}/long"), "0.3 s"))
    print("| looking at runs | seconds | MB | wanted, at most |\n| --- | ---: | ---: | --- |")
    for name, seconds, memory, wanted in rows:
        print(f"| {name} | {seconds:.3f} | {memory:.0f} | {wanted} |")


if __name__ == "__main__":
    main()
