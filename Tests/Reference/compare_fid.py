"""Compares FID and inception score of two sets of images with torch-fidelity, on the same weights.

    python Tests/Reference/inception_weights.py /tmp/inception.safetensors
    espalier sample demo --npz /tmp/a.npz --count 200
    espalier sample demo --npz /tmp/b.npz --count 200 --seed 1
    espalier evaluate /tmp/a.npz --reference /tmp/b.npz --inception /tmp/inception.safetensors --json > /tmp/fid.json
    python Tests/Reference/compare_fid.py /tmp/a.npz /tmp/b.npz /tmp/inception.safetensors /tmp/fid.json

Needs torch, torch-fidelity, scipy and safetensors; torchvision is not used. Exits with 1 if a number differs by
more than a thousandth.
"""
import json
import sys
import tempfile
from unittest.mock import MagicMock

import numpy as np
import torch
from safetensors.torch import load_file

try:
    import torchvision  # noqa: F401
except (ImportError, RuntimeError):
    # The package imports it for other networks.
    for name in [name for name in sys.modules if name.startswith("torchvision")]:
        del sys.modules[name]
    for name in ("", ".transforms", ".datasets", ".models", ".transforms.functional"):
        sys.modules["torchvision" + name] = MagicMock()

from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3  # noqa: E402


def features(extractor, path):
    images = torch.from_numpy(np.load(path)["arr_0"]).permute(0, 3, 1, 2).contiguous()
    found = [extractor(batch) for batch in images.split(32)]
    return [torch.cat(parts).double().numpy() for parts in zip(*found)]


def frechet(a, b):
    mean, other = a.mean(0), b.mean(0)
    covariance, second = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    values, vectors = np.linalg.eigh(covariance)
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    overlap = np.sqrt(np.clip(np.linalg.eigvalsh(root @ second @ root), 0, None)).sum()
    return ((mean - other) ** 2).sum() + np.trace(covariance) + np.trace(second) - 2 * overlap


def main():
    first, second, weights, report = sys.argv[1:5]
    with tempfile.NamedTemporaryFile(suffix=".pth") as file:
        torch.save(load_file(weights), file.name)
        extractor = FeatureExtractorInceptionV3(
            "inception", ["2048", "logits_unbiased"], feature_extractor_weights_path=file.name)
    with torch.no_grad():
        (pool, logits), (other, _) = features(extractor, first), features(extractor, second)
    powers = np.exp(logits - logits.max(1, keepdims=True))
    shares = powers / powers.sum(1, keepdims=True)
    divergence = (shares * (np.log(shares) - np.log(shares.mean(0)))).sum(1).mean()
    expected = {"frechet_distance": frechet(pool, other), "inception_score": float(np.exp(divergence))}
    ours, failed = json.load(open(report)), False
    for name, value in expected.items():
        error = abs(ours[name] - value) / abs(value)
        failed |= not error < 1e-3
        print(f"{name}: ours {ours[name]:.6f}, torch-fidelity {value:.6f}, relative difference {error:.1e}")
    sys.exit(failed)


if __name__ == "__main__":
    main()
