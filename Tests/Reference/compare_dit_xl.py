"""A full-size DiT-XL/2 and autoencoder through PyTorch and Espalier: latents, images, time, memory.

    pip install torch numpy safetensors
    make build && python3 Tests/Reference/compare_dit_xl.py

Makes random weights in the official formats (3 GB in a temporary folder, or in --folder, where they are
kept), samples from the same start noise with both programs one after the other, and fails if anything
differs by more than --tolerance.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time

import numpy as np

def make(folder):
    """Writes the model and vae/, in a process of its own."""
    import torch
    from safetensors.torch import save_file

    from reference import Autoencoder, DiT

    model = DiT.random(depth=28, width=1152, heads=16)
    assert sum(tensor.numel() for tensor in model.weights.values()) == 675_129_632
    torch.save(model.weights, f"{folder}/DiT-XL-2-256x256.pt")
    autoencoder = Autoencoder.random()
    assert sum(tensor.numel() for tensor in autoencoder.weights.values()) == 83_653_863
    os.makedirs(f"{folder}/vae", exist_ok=True)
    save_file(autoencoder.weights, f"{folder}/vae/diffusion_pytorch_model.safetensors", {"format": "pt"})
    with open(f"{folder}/vae/config.json", "w") as file:
        json.dump(Autoencoder.config(), file)
    open(f"{folder}/made", "w").close()


def reference(folder, classes, steps, guidance):
    """Samples and decodes with PyTorch, in a process of its own."""
    import torch
    from safetensors.torch import load_file

    from reference import Autoencoder, DiT, noise_schedule

    start = time.perf_counter()
    with torch.inference_mode():
        weights = torch.load(f"{folder}/DiT-XL-2-256x256.pt", weights_only=True, mmap=True)
        noise = torch.from_numpy(np.load(f"{folder}/noise.npy"))
        latents = DiT(weights, heads=16).sample(noise, classes, steps, guidance)
        sampled = time.perf_counter()
        autoencoder = Autoencoder(load_file(f"{folder}/vae/diffusion_pytorch_model.safetensors"))
        # One at a time, as Espalier does it.
        decoded = torch.cat([autoencoder.decode(row[None]) for row in latents])
    print(
        f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads: sampling {sampled - start:.1f} s,"
        f" decoding {time.perf_counter() - sampled:.1f} s")
    # A network that does next to nothing would prove nothing.
    alone = noise / noise_schedule(steps)[0][1] ** 0.5
    share = ((latents - alone).norm() / alone.norm()).item()
    print(f"the network changes the latents by {share:.2f} of what the noise alone becomes")
    assert share > 0.1
    np.save(f"{folder}/reference_latents.npy", latents.numpy())
    np.save(f"{folder}/reference_decoded.npy", decoded.numpy())


def measured(name, command, environment=None):
    """Runs a command to its end; prints its time and peak resident memory."""
    start = time.perf_counter()
    process = subprocess.Popen(command, env={**os.environ, **(environment or {})})
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        sys.exit(f"{name} failed with {process.returncode}")
    seconds = time.perf_counter() - start
    print(f"{name:28s} {seconds:8.1f} s  {usage.ru_utime + usage.ru_stime:8.1f} s CPU  "
          f"{usage.ru_maxrss / 1024:7.0f} MiB peak", flush=True)


def difference(name, found, expected, tolerance):
    """Prints relative differences, in the 2-norm and of the largest element; whether they are small."""
    found, expected = found.astype(np.float64), expected.astype(np.float64)
    if found.shape != expected.shape or not np.isfinite(expected).all():
        sys.exit(f"{name}: shape {found.shape}, expected {expected.shape} finite numbers")
    norm = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    largest = np.abs(found - expected).max() / np.abs(expected).max()
    print(f"{name:28s} relative difference {norm:.2e} (2-norm), {largest:.2e} (largest);"
          f" deviation {expected.std():.3f}, largest {np.abs(expected).max():.2f}")
    return max(norm, largest) <= tolerance


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--espalier", default=".build/release/espalier")
    parser.add_argument("--folder", help="where the files are made and kept")
    parser.add_argument("--classes", default="207", help="one image each, separated by commas")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--guidance", type=float, default=4.0)
    parser.add_argument("--tolerance", type=float, default=1e-3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--phase", choices=["make", "reference"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    classes = [int(text) for text in options.classes.split(",")]
    if options.phase == "make":
        return make(options.folder)
    if options.phase == "reference":
        return reference(options.folder, classes, options.steps, options.guidance)

    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or temporary
        os.makedirs(folder, exist_ok=True)
        # This process never loads PyTorch, so that the peaks are those of each program alone.
        common = ["--classes", options.classes, "--steps", str(options.steps)]
        common += ["--guidance", str(options.guidance)]
        own = [sys.executable, __file__, "--folder", folder] + common
        model = f"{folder}/DiT-XL-2-256x256.pt"
        if not os.path.exists(f"{folder}/made"):
            measured("making the weights", own + ["--phase", "make"])
        noise = np.random.default_rng(1).standard_normal((len(classes), 4, 32, 32), np.float32)
        np.save(f"{folder}/noise.npy", noise)
        measured("PyTorch", own + ["--phase", "reference"], {"OMP_NUM_THREADS": str(options.threads)})
        measured(
            "Espalier",
            [options.espalier, "sample", model, "--sampler", "ddim", "--precision", "fp32"] + common
            + ["--noise", f"{folder}/noise.npy", "--latents", f"{folder}/latents.npy"]
            + ["--decoded", f"{folder}/decoded.npy", "--npz", f"{folder}/images.npz"],
            {"ESPALIER_THREADS": str(options.threads)})

        def load(name):
            return np.load(f"{folder}/{name}.npy")

        expected, pixels = load("reference_latents"), load("reference_decoded")
        good = difference("latents", load("latents"), expected, options.tolerance)
        good &= difference("decoded images", load("decoded"), pixels, options.tolerance)
        bytes_ = np.clip(127.5 * pixels + 128, 0, 255).astype(np.uint8).transpose(0, 2, 3, 1)
        off = np.abs(np.load(f"{folder}/images.npz")["arr_0"].astype(int) - bytes_)
        print(f"{'8-bit images':28s} {(off > 0).mean():.2e} of the bytes differ, by at most {off.max()}")
        good &= off.max() <= 1
        print("agrees" if good else f"differs by more than {options.tolerance}")
        sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
