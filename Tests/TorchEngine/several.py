"""Does several runs with one group of processes: `torchrun several.py [--shard] RUN...`; starting torch is slow."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "Sources/TorchEngine"))

from espalier_torch.job import Options, run  # noqa: E402
from espalier_torch.ranks import Ranks  # noqa: E402

words = sys.argv[1:]
ranks = Ranks("cpu")
options = Options(device="cpu", shard="--shard" in words, compiles="--compile" in words)
codes = [run(word, options, ranks) for word in words if not word.startswith("--")]
ranks.close()
sys.exit(max(codes))
