"""How far bfloat16 moves a DiT-B/2: Espalier's --precision bf16 beside PyTorch's autocast.

    pip install torch numpy safetensors
    make build && python3 Tests/Reference/compare_bf16.py

Makes random weights in the official format, samples from the same start noise in float32 and in bfloat16 with both
programs, and fails if Espalier's bfloat16 is further from float32 than PyTorch's is.
"""

import argparse
import subprocess
import sys
import tempfile

import numpy as np
import torch

from reference import DiT


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--espalier", default=".build/release/espalier")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--guidance", type=float, default=4.0)
    options = parser.parse_args()
    classes = [207, 360]
    model = DiT.random(depth=12, width=768, heads=12)
    noise = torch.randn(len(classes), 4, 32, 32, generator=torch.Generator().manual_seed(1))
    found = {}
    with torch.inference_mode():
        found["PyTorch fp32"] = model.sample(noise, classes, options.steps, options.guidance).numpy()
        with torch.autocast("cpu", torch.bfloat16):
            found["PyTorch bf16"] = model.sample(noise, classes, options.steps, options.guidance).float().numpy()
    with tempfile.TemporaryDirectory() as folder:
        torch.save(model.weights, f"{folder}/DiT-B-2-256x256.pt")
        np.save(f"{folder}/noise.npy", noise.numpy())
        for precision in ("fp32", "bf16"):
            subprocess.run(
                [options.espalier, "sample", f"{folder}/DiT-B-2-256x256.pt", "--precision", precision]
                + ["--classes", ",".join(map(str, classes)), "--steps", str(options.steps)]
                + ["--guidance", str(options.guidance), "--noise", f"{folder}/noise.npy"]
                + ["--latents", f"{folder}/{precision}.npy"],
                check=True, stdout=subprocess.DEVNULL)
            found[f"Espalier {precision}"] = np.load(f"{folder}/{precision}.npy")
    exact = found.pop("PyTorch fp32")
    errors = {}
    for name, latents in found.items():
        errors[name] = np.linalg.norm(latents - exact) / np.linalg.norm(exact)
        largest = np.abs(latents - exact).max() / np.abs(exact).max()
        print(f"{name:14s} relative difference {errors[name]:.2e} (2-norm), {largest:.2e} (largest)")
    good = errors["Espalier fp32"] < 1e-3 and errors["Espalier bf16"] <= errors["PyTorch bf16"]
    print("agrees" if good else "differs by more than it should")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
