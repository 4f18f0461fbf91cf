"""Prints a Markdown table of the forward time of every sequence mixer against the number of tokens.

    unset OPENBLAS_CORETYPE
    make build && python3 Benchmarks/growth.py

The last column is the exponent between 1024 and 4096 tokens: 1 is linear, 2 quadratic.
"""

import argparse
import json
import math
import os
import pathlib
import subprocess

HERE = pathlib.Path(__file__).resolve().parent
TOKENS = [256, 1024, 4096]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--espalier", default=HERE.parent / ".build/release/espalier")
    options = parser.parse_args()
    os.environ.pop("OPENBLAS_CORETYPE", None)

    def espalier(*arguments):
        return json.loads(subprocess.run([options.espalier, *arguments, "--json"], capture_output=True, check=True).stdout)

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
