"""The random generator, bit by bit, and what is drawn with it."""

from __future__ import annotations

import json

import torch

from espalier_torch.data import Draws, open_latents
from espalier_torch.philox import Stream
from support import ROOT, SHAPE


def test_equals_the_vectors_of_the_native_engine() -> None:
    vectors = json.loads((ROOT / "Tests/TensorCoreTests/Fixtures/random.json").read_text())
    assert vectors
    for case in vectors:
        stream, first = Stream(int(case["seed"]), case["name"]), case["first"]
        assert [f"{x:016x}" for x in stream.bits(first, 3)] == case["bits"]
        assert [x.hex() for x in stream.uniform(first, 3).tolist()] == case["uniform"]
        for below, expected in case["integers"].items():
            assert stream.integers(int(below), first, 3) == expected
        normal = stream.normal((1001,), first).view(torch.int32).to(torch.int64) & 0xFFFFFFFF
        assert [f"{x:08x}" for x in normal[:7].tolist()] == case["normal"]
        assert int(normal.sum()) == case["normal_sum"]
        assert stream.permutation(8) == case["permutation"]


def test_long_streams_are_cut_into_chunks_without_a_seam() -> None:
    stream = Stream(3, "long")
    whole = stream.normal((5_000_001,), 1)
    assert torch.equal(whole[4_194_300:4_194_310], stream.normal((10,), 4_194_301))


def test_a_batch_is_the_same_for_any_number_of_ranks(folder) -> None:
    data = open_latents(str(folder / "data.safetensors"))
    draws = Draws(SHAPE, 11, 0.3, torch.device("cpu"))
    whole = draws.batch(data, range(7), "stage2/4")
    assert SHAPE.null_class in whole.condition.labels
    for world in (1, 2, 3, 8):
        parts = [draws.batch(data, range(r * 7 // world, (r + 1) * 7 // world), "stage2/4") for r in range(world)]
        for get in (lambda b: b.latents, lambda b: b.noise, lambda b: b.steps, lambda b: b.condition.labels):
            assert torch.equal(torch.cat([get(p) for p in parts]), get(whole))
