"""Times a work of `espalier bench` in PyTorch (pip install torch); compare.py calls it.

    python3 Benchmarks/peer_torch.py --work forward_1 --precision bf16 --compile inductor
"""

import argparse
import contextlib
import json
import resource
import statistics
import time

import torch
from torch import nn
from torch.nn import functional

from works import FORWARD, STAGE1, Transformer


def training_step(network, inputs, target, loss, autocast):
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, weight_decay=0)

    def step():
        optimizer.zero_grad(set_to_none=True)
        with autocast():
            output = network(*inputs)
        loss(output.float(), target).backward()
        nn.utils.clip_grad_norm_(network.parameters(), 10.0)
        optimizer.step()

    return step


def make(work, autocast, bf16, backend):
    if work == "product":
        kind = torch.bfloat16 if bf16 else torch.float32
        a, b = torch.randn(512, 1152).to(kind), torch.randn(4608, 1152).to(kind)
        return lambda: a @ b.T
    if work in FORWARD:
        network, inputs = FORWARD[work]()
        network.eval()
        if backend:
            torch._inductor.config.freezing = True
            network = torch.compile(network, backend=backend)

        def forward():
            with torch.no_grad() if backend else torch.inference_mode(), autocast():
                network(*inputs)

        return forward
    if work in STAGE1:
        maker, loss = STAGE1[work]
        return training_step(maker(), (torch.randn(8, 256, 1152),), torch.randn(8, 256, 1152), loss, autocast)
    if work == "demo_train":
        inputs = (torch.randn(32, 256, 4), torch.randn(32, 256))
        return training_step(Transformer(64, 4, 1), inputs, torch.randn(32, 256, 8), functional.mse_loss, autocast)
    raise SystemExit(f"--work {work}: unknown")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", required=True)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--compile", choices=["inductor", "zentorch"], help="forward passes through torch.compile")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    name = f"PyTorch {torch.__version__}"
    if options.compile == "zentorch":
        import zentorch

        name = f"zentorch {zentorch.__version__} on {name}"
    torch.manual_seed(0)
    bf16 = options.precision == "bf16"

    def autocast():
        return torch.autocast("cpu", torch.bfloat16) if bf16 else contextlib.nullcontext()

    body = make(options.work, autocast, bf16, options.compile)
    body()
    times = []
    for _ in range(options.repeats):
        start = time.perf_counter()
        body()
        times.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        json.dumps(
            {
                "engine": name,
                "threads": torch.get_num_threads(),
                "seconds": statistics.median(times),
                "peak_memory_mib": peak,
            }
        )
    )


if __name__ == "__main__":
    main()
