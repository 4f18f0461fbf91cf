"""Prints a Markdown table of the forward time of every sequence mixer against the number of tokens.

    unset OPENBLAS_CORETYPE
    make build && python3 Benchmarks/growth.py

The last column is the exponent between 1024 and 4096 tokens: 1 is linear, 2 quadratic.

    python3 Benchmarks/growth.py --pixart [--precision bf16] --repeats 1

prints the forward time of a PixArt-Sigma XL/2 with random weights and of the paper's graft of it (Hyena-X in 14 of 28
blocks) against the number of tokens; the paper reports 1.43 at 16,384 tokens on an H100 (arXiv 2506.05340, section 5).
"""

import argparse
import json
import math
import os
import pathlib
import subprocess

HERE = pathlib.Path(__file__).resolve().parent
TOKENS = [256, 1024, 4096]
PIXART_TOKENS = [1024, 4096, 16384]
PAPER = {16384: 1.43}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--espalier", default=HERE.parent / ".build/release/espalier")
    parser.add_argument("--pixart", action="store_true", help="the teacher and the graft of PixArt-Sigma instead")
    parser.add_argument("--tokens", type=int, nargs="*", default=PIXART_TOKENS, help="of the rows of --pixart")
    parser.add_argument("--precision", default="fp32")
    options = parser.parse_args()
    os.environ.pop("OPENBLAS_CORETYPE", None)

    def espalier(*arguments):
        return json.loads(subprocess.run([options.espalier, *arguments, "--json"], capture_output=True, check=True).stdout)

    def measured(work):
        report = espalier("bench", "--work", work, "--repeats", str(options.repeats), "--precision", options.precision)
        return report["rows"][0]["seconds"], report["rows"][0]["peak_memory_bytes"] / 2**30

    if options.pixart:
        print(f"| PixArt-Σ XL/2, {options.precision} | teacher | graft | ratio | the paper's |")
        print("|" + " --- |" * 5)
        for count in options.tokens:
            (teacher, memory), (graft, other) = measured(f"pixart_teacher_{count}"), measured(f"pixart_graft_{count}")
            paper = f"{PAPER[count]:.2f}x" if count in PAPER else ""
            print(
                f"| {count} tokens | {teacher:.2f} s, {memory:.1f} GiB | {graft:.2f} s, {other:.1f} GiB"
                f" | {teacher / graft:.2f}x | {paper} |", flush=True,
            )
        return

    names = [item["name"] for item in espalier("plan", "operators") if "attention" in item["slots"]]
    print("| forward, width 1152 | " + " | ".join(f"{count} tokens" for count in TOKENS) + " | exponent |")
    print("|" + " --- |" * (len(TOKENS) + 2))
    for name in names:
        if name == "skip":
            continue
        seconds = []
        for count in TOKENS:
            report = espalier("bench", "--work", f"tokens_{name}_{count}", "--repeats", str(options.repeats))
            seconds.append(report["rows"][0]["seconds"])
        exponent = math.log(seconds[-1] / seconds[-2]) / math.log(TOKENS[-1] / TOKENS[-2])
        print(f"| {name} | " + " | ".join(f"{1000 * value:.1f} ms" for value in seconds) + f" | {exponent:.2f} |")


if __name__ == "__main__":
    main()
