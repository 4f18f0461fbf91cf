"""The work of `espalier bench` in PyTorch, for ratios on the same machine (pip install torch).

Run both in turn, with the same number of threads:
    .build/release/espalier bench && python3 Benchmarks/peer_torch.py
"""

import argparse
import statistics
import time

import torch
from torch import nn
from torch.nn import functional


class Block(nn.Module):
    """An adaLN-Zero block of a DiT."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)
        self.modulation = nn.Linear(width, 6 * width)

    def forward(self, x, c):
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(c)[:, None].chunk(6, dim=-1)
        batch, tokens, width = x.shape
        h = functional.layer_norm(x, (width,), eps=1e-6) * (1 + scale1) + shift1
        q, k, v = self.qkv(h).view(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        h = functional.scaled_dot_product_attention(q, k, v)
        x = x + gate1 * self.proj(h.transpose(1, 2).reshape(batch, tokens, width))
        h = functional.layer_norm(x, (width,), eps=1e-6) * (1 + scale2) + shift2
        return x + gate2 * self.fc2(functional.gelu(self.fc1(h), approximate="tanh"))


class Network(nn.Module):
    """28 blocks with linear embeddings: the same matrix products as the DiT of `espalier bench`."""

    def __init__(self, width, heads):
        super().__init__()
        self.embed = nn.Linear(4, width)
        self.time = nn.Sequential(nn.Linear(256, width), nn.SiLU(), nn.Linear(width, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(28))
        self.last = nn.Linear(width, 8)

    def forward(self, x, t):
        x = self.embed(x)
        c = functional.silu(self.time(t))
        for block in self.blocks:
            x = block(x, c)
        return self.last(x)


def measure(name, units, unit, repeats, body):
    body()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        body()
        times.append(time.perf_counter() - start)
    median = statistics.median(times)
    print(f"{name:58s}{median * 1000:9.2f} ms  {units / median:8.1f} {unit}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--grid", type=int, default=16)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    tokens = options.grid**2
    print(f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads, median of {options.repeats}")
    a, b = torch.randn(512, 1152), torch.randn(4608, 1152)
    measure("matrix product 512x4608x1152", 2e-9 * 512 * 4608 * 1152, "GFLOP/s", options.repeats, lambda: a @ b.T)
    network = Network(options.width, options.heads)
    shape = f"28 blocks, width {options.width}, {tokens} tokens"
    for size in (1, 8):
        x, t = torch.randn(size, tokens, 4), torch.randn(size, 256)

        def forward():
            with torch.inference_mode():
                network(x, t)

        measure(f"forward, {shape}, batch {size}", size, "images/s", options.repeats, forward)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, weight_decay=0)
    x, t = torch.randn(options.batch, tokens, 4), torch.randn(options.batch, 256)
    target = torch.randn(options.batch, tokens, 8)

    def step():
        optimizer.zero_grad(set_to_none=True)
        functional.mse_loss(network(x, t), target).backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()

    measure(f"training step, {shape}, batch {options.batch}", options.batch, "samples/s", options.repeats, step)


if __name__ == "__main__":
    main()
