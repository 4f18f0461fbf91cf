"""Times Espalier and its peers in turn on the same works and prints a Markdown table with ratios.

    unset OPENBLAS_CORETYPE
    make build && python3 Benchmarks/compare.py            # pip install torch openvino nncf

The peers are PyTorch, torch.compile with frozen weights, OpenVINO (in int8 quantised by NNCF) and, with --zentorch,
zentorch from an environment of its own; --before adds another build of Espalier. Every work of every engine runs in a
process of its own; the engines alternate for --rounds rounds and the median over all rounds counts. A ratio is the
peer's time over Espalier's in the same precision, or in the next larger one for works that have no other: above 1,
Espalier is faster.
"""

import argparse
import functools
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
WORKS = [
    "product", "forward_1", "forward_2", "stage1_hyena_x", "stage1_mha", "stage1_hyena_se", "stage1_hyena_y",
    "stage1_mlp_r3", "stage1_mlp_r6", "decode", "demo_forward_1", "demo_forward_8", "demo_train",
]  # fmt: skip
OPENVINO = {"forward_1", "forward_2", "decode", "demo_forward_1", "demo_forward_8"}


def cpu():
    """The processor's name and the vector extensions that matter."""
    text = pathlib.Path("/proc/cpuinfo").read_text()
    name = next((line.split(":")[1].strip() for line in text.splitlines() if line.startswith("model name")), "?")
    flags = next((line.split() for line in text.splitlines() if line.startswith("flags")), [])
    found = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
    return f"{name} ({', '.join(found)})", "avx512_bf16" in flags or "amx_bf16" in flags


def run(command):
    """The JSON object that a command prints, or None with its last words on standard error."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        print(f"{' '.join(map(str, command))}: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
        return None
    return json.loads(done.stdout)


def espalier(binary, work, *, precision, repeats):
    command = [binary, "bench", "--work", work, "--precision", precision]
    report = run(command + ["--repeats", str(repeats), "--json"])
    if report is None:
        return None
    row = report["rows"][0]
    if row["precision"] != precision:
        return None
    return {
        "engine": f"Espalier, BLAS core {report['blas_core']}",
        "threads": report["threads"],
        "title": row["title"],
        "seconds": row["seconds"],
        "peak_memory_mib": row["peak_memory_bytes"] / 2**20,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", action="append", choices=WORKS, help="repeatable; all by default")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--espalier", default=HERE.parent / ".build/release/espalier")
    parser.add_argument("--before", help="another build of Espalier, for columns of its own")
    parser.add_argument("--zentorch", metavar="PYTHON", help="the Python of an environment with zentorch")
    parser.add_argument("--without", action="append", default=[], choices=["torch", "compile", "openvino", "int8"])
    options = parser.parse_args()
    os.environ.pop("OPENBLAS_CORETYPE", None)
    name, has_bf16 = cpu()
    precisions = ["fp32", "bf16"] if has_bf16 else ["fp32"]
    engines = []  # label, what times a work

    def peer(label, precision, works, script, *more, python=sys.executable):
        command = [python, HERE / script, "--precision", precision, "--repeats", str(options.repeats), *more]
        engines.append(
            (f"{label} {precision}", lambda work: run([*command, "--work", work]) if work in works else None)
        )

    for precision in precisions + ["int8"] * ("int8" not in options.without):
        for label, binary in [("Espalier", options.espalier), ("before", options.before)]:
            if binary:
                measure = functools.partial(espalier, binary, precision=precision, repeats=options.repeats)
                engines.append((f"{label} {precision}", measure))
        if precision != "int8" and "torch" not in options.without:
            peer("PyTorch", precision, WORKS, "peer_torch.py")
        if precision != "int8" and "compile" not in options.without:
            peer("torch.compile", precision, OPENVINO, "peer_torch.py", "--compile", "inductor")
        if precision != "int8" and options.zentorch:
            peer("zentorch", precision, OPENVINO, "peer_torch.py", "--compile", "zentorch", python=options.zentorch)
        if "openvino" not in options.without:
            peer("OpenVINO", precision, OPENVINO, "peer_openvino.py")
    versions = {}
    lines = []
    for work in options.work or WORKS:
        results = {label: [] for label, _ in engines}
        for _ in range(options.rounds):
            for label, measure in engines:
                found = measure(work)
                if found:
                    results[label].append(found)
                    versions[label.split()[0]] = f"{found['engine']}, {found['threads']} threads"
        titles = [rows[0]["title"] for label, rows in results.items() if rows and label.startswith("Espalier")]
        if not titles:
            continue
        cells = titles[:1]
        for label, _ in engines:
            rows = results[label]
            if not rows:
                cells.append("")
                continue
            seconds = statistics.median(row["seconds"] for row in rows)
            memory = max(row["peak_memory_mib"] for row in rows)
            cell = f"{seconds * 1000:.1f} ms, {memory:.0f} MiB"
            engine, precision = label.split()
            same = [f"Espalier {kind}" for kind in (precision, "bf16", "fp32") if results.get(f"Espalier {kind}")]
            ours = [row["seconds"] for row in results[same[0]]] if same else []
            if engine != "Espalier" and ours:
                cell += f", **{seconds / statistics.median(ours):.2f}x**"
            cells.append(cell)
        lines.append("| " + " | ".join(cells) + " |")
        print(lines[-1], file=sys.stderr)
    print(f"{name}, {os.cpu_count()} CPUs, {platform.system()} {platform.release()}")
    if not has_bf16:
        print("This CPU has no bfloat16 dot products: only float32 is compared.")
    print("; ".join(versions.values()) + f"; {options.rounds} rounds, median of {options.repeats} each\n")
    print("| work | " + " | ".join(label for label, _ in engines) + " |")
    print("|" + " --- |" * (1 + len(engines)))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
