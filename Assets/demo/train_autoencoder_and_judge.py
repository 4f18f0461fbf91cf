"""Trains the autoencoder and the judge of the shipped model, once; Espalier itself runs them natively.

    pip install torch numpy safetensors
    espalier shapes --count 24000 --seed 1 --output train.bin
    espalier shapes --count 2000 --seed 2 --output test.bin
    python3 train_autoencoder_and_judge.py --train train.bin --test test.bin --output .

The image files are raw RGB8, 64 x 64 x 3 per image, one after another; the class of image i is
i % 10. The autoencoder has the layout and the key names of the AutoencoderKL of diffusers.
"""

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

from networks import CHANNELS, CLASSES, GROUPS, LATENT, LAYERS, Autoencoder, Judge

START = time.time()


def log(text):
    print(f"[{time.time() - START:6.1f} s] {text}", flush=True)


# Images --------------------------------------------------------------------------------------


class Images:
    """A file of raw images; values -1 ... 1, shape (count, 3, 64, 64)."""

    def __init__(self, path):
        self.bytes = np.memmap(path, np.uint8, mode="r").reshape(-1, 64, 64, 3)
        self.count = len(self.bytes)

    def at(self, index):
        index = np.asarray(index)
        pixels = torch.from_numpy(np.ascontiguousarray(self.bytes[np.sort(index)]))
        labels = torch.from_numpy(np.sort(index) % len(CLASSES))
        return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1, labels

    def batches(self, size, count=None):
        for start in range(0, count or self.count, size):
            yield self.at(range(start, min(start + size, count or self.count)))


def one_cycle(step, steps, peak, warmup=100):
    return peak * min((step + 1) / warmup, 0.5 * (1 + math.cos(math.pi * step / steps)) + 1e-3)


# Training ------------------------------------------------------------------------------------


def train_autoencoder(images, args, path):
    torch.manual_seed(args.seed)
    random = np.random.default_rng(args.seed)
    model = Autoencoder()
    log(f"autoencoder: {sum(p.numel() for p in model.parameters()):,} parameters")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0)
    totals = np.zeros(4)
    for step in range(args.autoencoder_steps):
        for group in optimizer.param_groups:
            group["lr"] = one_cycle(step, args.autoencoder_steps, args.autoencoder_rate)
        x, _ = images.at(random.integers(images.count, size=args.autoencoder_batch))
        if step < args.crop_steps:
            top, left = random.integers(0, 9, size=2) * 4
            x = x[:, :, top : top + 32, left : left + 32]
        mean, logvar = model.encode(x)
        # The floor under the noise makes the decoder forgive what a generator gets slightly wrong.
        z = mean + torch.sqrt(logvar.exp() + args.noise_floor**2) * torch.randn_like(mean)
        y = model.decode(z)
        l1, l2 = F.l1_loss(y, x), F.mse_loss(y, x)
        kl = 0.5 * (mean**2 + logvar.exp() - 1 - logvar).mean()
        # The KL term alone would let one channel grow to five times the scale of the others.
        scale = mean.mean((0, 2, 3)).square().mean() + (mean.std((0, 2, 3)) - 1).square().mean()
        loss = l1 + l2 + args.kl_weight * kl + args.scale_weight * scale
        if step % 2 == 0:
            # Latents of half the resolution must decode to the image of half the resolution: this
            # keeps them smooth, and smooth latents are easier to generate.
            coarse = F.l1_loss(model.decode(F.avg_pool2d(z, 2)), F.avg_pool2d(x, 2))
            loss = loss + args.coarse_weight * coarse
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        totals += [l1.item(), l2.item(), kl.item(), coarse.item()]
        if (step + 1) % 100 == 0:
            a, b, c, d = totals / 100
            log(f"autoencoder {step + 1}: l1 {a:.4f} l2 {b:.5f} kl {c:.3f} coarse {d:.4f}")
            totals[:] = 0
        if (step + 1) % 500 == 0:
            save_autoencoder(model, images, path)
    return model


@torch.no_grad()
def save_autoencoder(model, images, path, count=4000):
    model.eval()
    means = torch.cat([model.encode(x)[0] for x, _ in images.batches(100, count)])
    config = {
        "_class_name": "AutoencoderKL", "act_fn": "silu", "sample_size": 64, "in_channels": 3, "out_channels": 3,
        "latent_channels": LATENT, "block_out_channels": CHANNELS, "layers_per_block": LAYERS,
        "norm_num_groups": GROUPS, "mid_block_add_attention": True, "scaling_factor": 1.0,
        "down_block_types": ["DownEncoderBlock2D"] * len(CHANNELS),
        "up_block_types": ["UpDecoderBlock2D"] * len(CHANNELS),
        "latent_mean": means.mean((0, 2, 3)).double().tolist(),
        "latent_std": means.std((0, 2, 3)).double().tolist(),
    }
    save_file(model.state_dict(), path, {"format": "pt", "config": json.dumps(config)})
    log(f"saved {path}: latent mean {np.round(config['latent_mean'], 4)} std {np.round(config['latent_std'], 4)}")
    model.train()


@torch.no_grad()
def reconstruct(model, x):
    return model.decode(model.encode(x)[0]).clamp(-1, 1)


def disturbed(x):
    """Blur of random strength, then noise of random strength, per image."""
    blurred = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    x = torch.lerp(x, blurred, torch.rand(len(x), 1, 1, 1))
    return x + 0.15 * torch.rand(len(x), 1, 1, 1) * torch.randn_like(x)


def train_judge(images, autoencoder, args):
    """Half of every batch is autoencoded, and half of everything is blurred and noisy."""
    torch.manual_seed(args.seed + 1)
    random = np.random.default_rng(args.seed + 1)
    count = min(images.count, 4000)
    coded = torch.cat([reconstruct(autoencoder, x) for x, _ in images.batches(100, count)]).half()
    log(f"judge: {count} images autoencoded")
    model = Judge()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=1e-4)
    total, right = 0.0, 0
    for step in range(args.judge_steps):
        for group in optimizer.param_groups:
            group["lr"] = one_cycle(step, args.judge_steps, 3e-3)
        fresh, fresh_labels = images.at(random.integers(images.count, size=32))
        index = torch.from_numpy(random.integers(count, size=32))
        x = torch.cat([fresh, coded[index].float()])
        labels = torch.cat([fresh_labels, index % len(CLASSES)])
        x = torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, disturbed(x), x)
        logits = model(x)
        loss = F.cross_entropy(logits, labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        total += loss.item()
        right += (logits.argmax(1) == labels).sum().item()
        if (step + 1) % 200 == 0:
            log(f"judge {step + 1}: loss {total / 200:.4f} accuracy {right / 200 / len(x):.4f}")
            total, right = 0.0, 0
    scale_features(model, images)
    return model.eval()


@torch.no_grad()
def scale_features(model, images):
    """Brings the features to a deviation near 1 by a power of two, which leaves the logits as they are."""
    deviation = torch.cat([model.features(x) for x, _ in images.batches(100, 1000)]).std(0).mean()
    scale = 2.0 ** round(math.log2(deviation))
    model.conv4.weight /= scale
    model.conv4.bias /= scale
    model.fc.weight *= scale


@torch.no_grad()
def measure(images, autoencoder, judge):
    """Mean PSNR (range 0 ... 1) of reconstructions, judge accuracy on images and on reconstructions."""
    psnr, direct, coded = [], 0, 0
    for x, labels in images.batches(100):
        y = reconstruct(autoencoder, x)
        psnr += (-10 * torch.log10(((x - y) / 2).square().mean((1, 2, 3)))).tolist()
        direct += (judge(x).argmax(1) == labels).sum().item()
        coded += (judge(y).argmax(1) == labels).sum().item()
    return float(np.mean(psnr)), float(np.min(psnr)), direct / images.count, coded / images.count


def save_judge(model, path, accuracy, coded):
    convs = [m for m in model.children() if isinstance(m, nn.Conv2d)]
    config = {
        "layers": [
            {"name": f"conv{i + 1}", "type": "conv3x3", "in": c.in_channels, "out": c.out_channels, "stride": 2,
             "padding": 1, "activation": "relu"}
            for i, c in enumerate(convs)
        ] + [{"name": "features", "type": "global_average_pool"},
             {"name": "fc", "type": "linear", "in": model.fc.in_features, "out": model.fc.out_features}],
        "classes": CLASSES, "input_range": [-1, 1],
        "accuracy": accuracy, "accuracy_autoencoded": coded,
    }
    save_file(model.state_dict(), path, {"format": "pt", "config": json.dumps(config)})
    log(f"saved {path}: accuracy {accuracy:.4f}, on autoencoded images {coded:.4f}")


@torch.no_grad()
def save_fixture(images, autoencoder, judge, path):
    """Four images and what the networks make of them, the reference of the native implementation."""
    x, _ = images.at([3, 46, 67, 109])
    mean, _ = autoencoder.encode(x)
    save_file(
        {"in.image": x.contiguous(), "out.mean": mean.contiguous(), "out.decode": autoencoder.decode(mean).contiguous(),
         "out.judge.features": judge.features(x), "out.judge.logits": judge(x)}, path)
    log(f"saved {path}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--train", required=True, help="images to train on")
    parser.add_argument("--test", required=True, help="images of another seed, to measure on")
    parser.add_argument("--output", required=True, type=Path, help="folder of the two weight files")
    parser.add_argument("--fixture", help="also write inputs and outputs for the tests of the native implementation")
    parser.add_argument("--reuse-autoencoder", action="store_true", help="load the autoencoder instead of training it")
    parser.add_argument("--autoencoder-steps", type=int, default=2600)
    parser.add_argument("--crop-steps", type=int, default=1200, help="first steps, on 32 x 32 crops: a quarter of the work")
    parser.add_argument("--autoencoder-batch", type=int, default=8)
    parser.add_argument("--autoencoder-rate", type=float, default=2e-3)
    parser.add_argument("--kl-weight", type=float, default=1e-3, help="of the mean over latent elements")
    parser.add_argument("--scale-weight", type=float, default=0.05, help="pulls each channel to mean 0, deviation 1")
    parser.add_argument("--noise-floor", type=float, default=0.15)
    parser.add_argument("--coarse-weight", type=float, default=0.4)
    parser.add_argument("--judge-steps", type=int, default=2000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.output.mkdir(parents=True, exist_ok=True)
    train, test = Images(args.train), Images(args.test)
    weights = args.output / "autoencoder.safetensors"

    if args.reuse_autoencoder:
        autoencoder = Autoencoder()
        autoencoder.load_state_dict(load_file(weights))
    else:
        autoencoder = train_autoencoder(train, args, weights)
        save_autoencoder(autoencoder, train, weights, count=min(train.count, 10000))
    autoencoder.eval()
    judge = train_judge(train, autoencoder, args)
    psnr, worst, direct, coded = measure(test, autoencoder, judge)
    log(f"reconstruction: PSNR {psnr:.2f} dB on average, {worst:.2f} dB at worst, over {test.count} images")
    save_judge(judge, args.output / "judge.safetensors", direct, coded)
    if args.fixture:
        save_fixture(test, autoencoder, judge, args.fixture)


if __name__ == "__main__":
    main()
