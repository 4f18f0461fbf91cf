"""Models through PyTorch and back: every tensor must keep every bit, and the network its output.

    pip install torch numpy safetensors
    make build && python3 Tests/Reference/round_trip.py

A plain DiT-S/2 checkpoint and a graft of it with every operator go from PyTorch to Espalier, to .pt and
.safetensors, and back.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile

import numpy as np
import torch
from safetensors.torch import load_file

from reference import DiT

SLOTS = {"attention": "attn", "mlp": "mlp"}


def load(path):
    """A file's tensors, as PyTorch and safetensors read them."""
    if path.endswith(".safetensors"):
        return load_file(path)
    return torch.load(path, weights_only=True)


def require_equal(name, found, expected):
    """Fails unless both have the same tensors, bit by bit."""
    assert found.keys() == expected.keys(), f"{name}: {found.keys() ^ expected.keys()}"
    for key, tensor in expected.items():
        other = found[key]
        assert other.dtype == tensor.dtype == torch.float32 and other.shape == tensor.shape, f"{name}: {key}"
        same = torch.equal(other.contiguous().view(torch.int32), tensor.contiguous().view(torch.int32))
        assert same, f"{name}: {key}"
    elements = sum(tensor.numel() for tensor in expected.values())
    print(f"{name}: {len(expected)} tensors, {elements} elements, all bits equal")


class Program:
    """Espalier in a folder."""

    def __init__(self, path, folder):
        self.path, self.folder = os.path.abspath(path), folder

    def __call__(self, *arguments):
        result = subprocess.run(
            [self.path, *map(str, arguments)], cwd=self.folder, capture_output=True, text=True)
        assert result.returncode == 0, f"espalier {' '.join(map(str, arguments))}: {result.stderr}"
        return result.stdout

    def latents(self, model):
        """What a model makes of the start noise in noise.npy in two steps."""
        self("sample", model, "--noise", "noise.npy", "--steps", 2, "--classes", "1,7", "--latents", "latents.npy")
        return np.load(f"{self.folder}/latents.npy")


def plain(espalier, folder):
    """A training checkpoint, as the official training script writes it."""
    model = DiT.random(depth=12, width=384, heads=6).weights
    halved = {name: tensor * 0.5 for name, tensor in model.items()}
    torch.save({"model": halved, "ema": model, "opt": {}, "args": argparse.Namespace(seed=0)}, f"{folder}/train.pt")
    for entry, expected in [("", model), ("#ema", model), ("#model", halved)]:
        for name in ["plain.pt", "plain.safetensors"]:
            espalier("convert", "train.pt" + entry, "--to", name)
            require_equal(f"train.pt{entry} -> {name}", load(f"{folder}/{name}"), expected)
    torch.save(model, f"{folder}/teacher.pt")


def grafted(espalier, folder):
    """A graft with every operator, each in the first free block of its slots."""
    espalier("plan", "new", "plan.json", "--model", "teacher.pt")
    free = dict.fromkeys(SLOTS, 0)
    held = []
    for operator in json.loads(espalier("plan", "operators", "--json")):
        for slot in operator["slots"]:
            espalier("plan", "set", "plan.json", "--operator", operator["name"], "--slot", slot, "--blocks", free[slot])
            held.append((f"blocks.{free[slot]}.{SLOTS[slot]}.", operator["name"]))
            free[slot] += 1
    espalier("convert", "teacher.pt", "--plan", "plan.json", "--fresh", "--to", "graft.pt")
    first = load(f"{folder}/graft.pt")
    for prefix, name in held:
        count = sum(key.startswith(prefix) for key in first)
        assert (count > 0) == (name != "skip"), f"{name}: {count} tensors under {prefix}"
        print(f"  {name:18s} {count:2d} tensors under {prefix}")

    # The same tensors saved by PyTorch, and others: as plain state dict, and as the released grafts are.
    generator = torch.Generator().manual_seed(2)
    other = {key: torch.randn(tensor.shape, generator=generator) * 0.05 for key, tensor in first.items()}
    expected = {"graft.pt": espalier.latents("graft.pt")}
    for name, tensors, container in [("again.pt", first, False), ("other.pt", other, True)]:
        torch.save({"ema": tensors} if container else tensors, f"{folder}/{name}")
        with open(f"{folder}/graft.pt.json") as source, open(f"{folder}/{name}.json", "w") as target:
            target.write(source.read())
        expected[name] = espalier.latents(name)
        for result in ["back.pt", "back.safetensors"]:
            espalier("convert", name, "--to", result)
            require_equal(f"{name} -> {result}", load(f"{folder}/{result}"), tensors)
            same = np.array_equal(espalier.latents(result).view(np.int32), expected[name].view(np.int32))
            assert same, f"{result}: another output than {name}"
    assert np.isfinite(expected["graft.pt"]).all() and expected["graft.pt"].std() > 0.1
    assert np.array_equal(expected["graft.pt"].view(np.int32), expected["again.pt"].view(np.int32))
    assert not np.array_equal(expected["graft.pt"], expected["other.pt"])
    print("the latents of every copy are equal bit by bit")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--espalier", default=".build/release/espalier")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        espalier = Program(options.espalier, folder)
        np.save(f"{folder}/noise.npy", np.random.default_rng(0).standard_normal((2, 4, 32, 32), np.float32))
        plain(espalier, folder)
        grafted(espalier, folder)
    print("agrees")


if __name__ == "__main__":
    sys.exit(main())
