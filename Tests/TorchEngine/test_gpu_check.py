"""The script for GPU machines works, tried at a tiny size on this CPU."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import support

SCRIPT = pathlib.Path(__file__).parent / "gpu_check.py"


def test_the_script_for_gpu_machines_runs_to_its_end(tmp_path: pathlib.Path) -> None:
    words = ["--size", "tiny", "--device", "cpu", "--steps", "4", "--images", "4", "--goldens", ""]
    # Compiling takes minutes on a CPU.
    compiled = bool(os.environ.get("ESPALIER_LONG_TESTS"))
    words += [] if compiled else ["--no-compile"]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *words, "--folder", str(tmp_path)], env=support.environment(), capture_output=True,
        text=True, timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("distill-fp32", "distill-bf16", "finetune-fp32", "finetune-bf16", *(["finetune-bf16-compiled"] if compiled else [])):
        line = next(line for line in done.stdout.splitlines() if line.startswith(name + " "))
        assert "samples/s" in line and "checkpoint in" in line and line.endswith("done")
    assert "sampling in bf16" in done.stdout and "images/s" in done.stdout
