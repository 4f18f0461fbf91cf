"""The random generator of docs/random.md: every number is a function of a seed, the name of a stream and an index.

Computed with 64-bit integer and float64 tensor operations, so the bits are those of the native engine on any device.
"""

from __future__ import annotations

import functools
import math

import torch

_LOW = 0xFFFFFFFF
_CHUNK = 1 << 20
"""Blocks that are computed together, which bounds memory."""


@functools.lru_cache(maxsize=4096)
def stream_number(name: str) -> int:
    """FNV-1a (64 bits) of a stream's name."""
    number = 0xCBF29CE484222325
    for byte in name.encode():
        number = (number ^ byte) * 0x100000001B3 % 2**64
    return number


def _high(product: torch.Tensor) -> torch.Tensor:
    """The upper 32 bits of a 64-bit product, which may have the sign bit set."""
    return (product >> 32) & _LOW


def blocks(seed: int, stream: int, first: int, count: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """Words (count, 4) of blocks first ... first + count - 1 of Philox4x32-10, each in 0 ..< 2^32."""
    numbers = torch.arange(first, first + count, dtype=torch.int64, device=device)
    c0, c1 = numbers & _LOW, _high(numbers)
    c2 = torch.full_like(numbers, stream & _LOW)
    c3 = torch.full_like(numbers, stream >> 32)
    k0, k1 = seed & _LOW, seed >> 32
    for _ in range(10):
        p, q = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = _high(q) ^ c1 ^ k0, q & _LOW, _high(p) ^ c3 ^ k1, p & _LOW
        k0, k1 = (k0 + 0x9E3779B9) & _LOW, (k1 + 0xBB67AE85) & _LOW
    return torch.stack([c0, c1, c2, c3], dim=1)


def _polynomial(x: torch.Tensor, coefficients: list[float]) -> torch.Tensor:
    """Horner's rule from the highest power down, every operation rounded."""
    result = torch.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        result = result * x + coefficient
    return result


_LOG = [1 / k for k in range(17, 0, -2)]
_COSINE = [(-1) ** (n // 2) / math.factorial(n) for n in range(16, -1, -2)]
_SINE = [(-1) ** (n // 2) / math.factorial(n) for n in range(15, 0, -2)]


def _box_muller(words: torch.Tensor) -> torch.Tensor:
    """Pairs of words (2n) to standard normal numbers (2n) in float32."""
    a, b = words[0::2].double(), words[1::2]
    m, e = torch.frexp(a + 0.5)
    small = m < 0.7071067811865476
    m = torch.where(small, 2 * m, m)
    e = e.double() - small.double()
    s = (m - 1) / (m + 1)
    log = (e - 32) * 0.6931471805599453 + 2 * s * _polynomial(s * s, _LOG)
    radius = torch.sqrt(-2 * log)
    quarter = (b + 2**29) >> 30
    x = (b - (quarter << 30)).double() * (6.283185307179586 * 2.0**-32)
    cosine, sine = _polynomial(x * x, _COSINE), x * _polynomial(x * x, _SINE)
    turn = quarter & 3
    first = torch.where(turn % 2 == 0, cosine, sine)
    second = torch.where(turn % 2 == 0, sine, cosine)
    first = torch.where((turn == 1) | (turn == 2), -first, first)
    second = torch.where(turn >= 2, -second, second)
    return torch.stack([radius * first, radius * second], dim=1).flatten().float()


class Stream:
    """Random numbers by index of one seed and name."""

    def __init__(self, seed: int, name: str):
        self.seed, self.number = seed, stream_number(name)

    def words(self, first: int, count: int, device: torch.device | str = "cpu") -> torch.Tensor:
        """Words first ... first + count - 1 (count), int64."""
        start, end = first // 4, (first + count + 3) // 4
        parts = [
            blocks(self.seed, self.number, at, min(_CHUNK, end - at), device).flatten()
            for at in range(start, end, _CHUNK)
        ]
        if not parts:
            return torch.empty(0, dtype=torch.int64, device=device)
        return torch.cat(parts)[first % 4 :][:count]

    def uniform(self, first: int, count: int, device: torch.device | str = "cpu") -> torch.Tensor:
        """Numbers in [0, 1) (count), float64."""
        pairs = self.words(2 * first, 2 * count, device)
        bits = pairs[0::2] | (pairs[1::2] << 32)
        return ((bits >> 11) & ((1 << 53) - 1)).double() * 2.0**-53

    def bits(self, first: int, count: int) -> list[int]:
        """64-bit numbers."""
        pairs = self.words(2 * first, 2 * count).tolist()
        return [low | high << 32 for low, high in zip(pairs[0::2], pairs[1::2])]

    def integers(self, below: int, first: int, count: int) -> list[int]:
        """Integers in 0 ..< below."""
        return [x * below >> 64 for x in self.bits(first, count)]

    def permutation(self, count: int) -> list[int]:
        """A permutation of 0 ..< count: place p, from the last one down, is exchanged with the integer below p + 1."""
        order, bits = list(range(count)), self.bits(0, count)
        for place in range(count - 1, 0, -1):
            other = bits[place] * (place + 1) >> 64
            order[place], order[other] = order[other], order[place]
        return order

    def normal(
        self, shape: list[int] | tuple[int, ...], first: int = 0, device: torch.device | str = "cpu"
    ) -> torch.Tensor:
        """Standard normal numbers of a shape in row-major order, starting at an index; float32."""
        count = math.prod(shape)
        start, end = first - first % 2, first + count + (first + count) % 2
        parts = [
            _box_muller(self.words(at, min(2 * _CHUNK, end - at), device)) for at in range(start, end, 2 * _CHUNK)
        ]
        if not parts:
            return torch.empty(*shape, device=device)
        return torch.cat(parts)[first % 2 :][:count].reshape(*shape)


def choose(sums: torch.Tensor, uniform: float) -> int:
    """The first number whose running sum of weights (float64) is above `uniform` times their total."""
    return int(torch.searchsorted(sums, uniform * float(sums[-1]), right=True).clamp(max=len(sums) - 1))
