#!/usr/bin/env python3
"""The random generator of docs/random.md in NumPy, and the vectors that the Swift tests are held against.

random_reference.py          checks the vectors in the fixture and in docs/random.md
random_reference.py --write  writes the fixture
"""
import json
import pathlib
import re
import sys

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
FIXTURE = ROOT / "Tests/TensorCoreTests/Fixtures/random.json"
# Known answers of Random123 for philox4x32-10: seed, stream, block, words.
KNOWN = (
    (0, 0, 0, "6627e8d5e169c58dbc57ac4c9b00dbd8"),
    (2**64 - 1, 2**64 - 1, 2**64 - 1, "408f276d41c83b0ea20bc7c66d5451fd"),
    (0x299F31D0A4093822, 0x0370734413198A2E, 0x85A308D3243F6A88, "d16cfe0994fdcceb5001e42024126ea1"),
)
LOW = np.uint64(0xFFFFFFFF)


def stream_number(name):
    number = 0xCBF29CE484222325
    for byte in name.encode():
        number = (number ^ byte) * 0x100000001B3 % 2**64
    return number


def philox(seed, stream, block):
    """The four words of each block: Philox4x32-10."""
    half = np.uint64(32)
    c = [block & LOW, block >> half] + [np.full_like(block, x) for x in (stream & 0xFFFFFFFF, stream >> 32)]
    key = [seed & 0xFFFFFFFF, seed >> 32]
    for _ in range(10):
        p, q = c[0] * np.uint64(0xD2511F53), c[2] * np.uint64(0xCD9E8D57)
        c = [(q >> half) ^ c[1] ^ np.uint64(key[0]), q & LOW, (p >> half) ^ c[3] ^ np.uint64(key[1]), p & LOW]
        key = [(key[0] + 0x9E3779B9) % 2**32, (key[1] + 0xBB67AE85) % 2**32]
    return np.stack(c, axis=1)


def words(seed, name, first, count):
    """Words first ... first + count - 1 of a stream."""
    block = np.arange(first // 4, (first + count + 3) // 4, dtype=np.uint64)
    return philox(seed, stream_number(name), block).ravel()[first % 4:][:count]


def bits(seed, name, first, count):
    pairs = words(seed, name, 2 * first, 2 * count)
    return pairs[0::2] | pairs[1::2] << np.uint64(32)


def uniform(seed, name, first, count):
    return (bits(seed, name, first, count) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def integers(seed, name, first, count, bound):
    return [int(x) * bound >> 64 for x in bits(seed, name, first, count)]


def permutation(seed, name, count):
    order = list(range(count))
    for place in range(count - 1, 0, -1):
        other = integers(seed, name, place, 1, place + 1)[0]
        order[place], order[other] = order[other], order[place]
    return order


def polynomial(x, *coefficients):
    """Horner's rule from the highest power down, each operation rounded."""
    result = np.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        result = result * x + coefficient
    return result


def normal(seed, name, first, count):
    """Standard normal numbers in float32, equal in every bit to those of the program."""
    start = first - first % 2
    pairs = words(seed, name, start, count + first % 2 + (first + count) % 2)
    a, b = pairs[0::2].astype(np.float64), pairs[1::2].astype(np.int64)
    m, e = np.frexp(a + 0.5)
    small = m < 0.7071067811865476
    m, e = np.where(small, 2 * m, m), e - small
    s = (m - 1) / (m + 1)
    log = (e - 32) * 0.6931471805599453 + 2 * s * polynomial(s * s, *(1 / k for k in range(17, 0, -2)))
    radius = np.sqrt(-2 * log)
    quarter = (b + 2**29) >> 30
    x = (b - (quarter << 30)) * (6.283185307179586 * 2.0**-32)
    f = [float(np.prod(range(1, n + 1), dtype=object)) for n in range(17)]
    cosine = polynomial(x * x, *((-1) ** (n // 2) / f[n] for n in range(16, -1, -2)))
    sine = x * polynomial(x * x, *((-1) ** (n // 2) / f[n] for n in range(15, 0, -2)))
    quarter = quarter % 4
    turned = [np.choose(quarter, [cosine, -sine, -cosine, sine]), np.choose(quarter, [sine, cosine, -sine, -cosine])]
    return (radius * np.stack(turned)).T.ravel().astype(np.float32)[first % 2:][:count]


def vectors():
    """Addresses of many kinds with what is there; floats by their bits."""
    cases = []
    for seed in (0, 1, 0x299F31D0A4093822, 2**64 - 1):
        for name in ("", "blocks.0.attn.qkv.weight", "Größe"):
            for first in (0, 1, 1002, 2**60 + 1):
                normals = normal(seed, name, first, 1001)
                cases.append({
                    "seed": str(seed), "name": name, "first": first,
                    "bits": [f"{x:016x}" for x in bits(seed, name, first, 3)],
                    "uniform": [x.hex() for x in uniform(seed, name, first, 3)],
                    "integers": {str(n): integers(seed, name, first, 3, n) for n in (1, 10, 2**62)},
                    "normal": [f"{x:08x}" for x in normals[:7].view(np.uint32)],
                    "normal_sum": int(normals.view(np.uint32).astype(np.uint64).sum()),
                    "permutation": permutation(seed, name, 8),
                })
    return cases


def main():
    for seed, stream, block, expected in KNOWN:
        found = philox(seed, stream, np.array([block], dtype=np.uint64))[0]
        if "".join(f"{x:08x}" for x in found) != expected:
            sys.exit(f"philox({seed}, {stream}, {block}) is not {expected}")
    text = "[" + ",\n".join(json.dumps(case, ensure_ascii=False) for case in vectors()) + "]\n"
    if "--write" in sys.argv:
        FIXTURE.parent.mkdir(exist_ok=True)
        FIXTURE.write_text(text)
    table = (ROOT / "docs/random.md").read_text()
    rows = re.findall(r"^\| (\d+) \| `(.*)` \| (\d+) \| `(\w+)` \| (\S+) \| (\S+) \|$", table, re.MULTILINE)
    for seed, name, index, *found in rows:
        at = (int(seed), name, int(index), 1)
        expected = [f"{bits(*at)[0]:016x}", str(uniform(*at)[0]), str(normal(*at)[0])]
        if found != expected:
            sys.exit(f"docs/random.md: {at} is {expected}, not {found}")
    if FIXTURE.read_text() != text or not rows:
        sys.exit(f"{FIXTURE}: differs from this definition")
    print(f"{len(vectors())} vectors and {len(rows)} rows of docs/random.md agree")


if __name__ == "__main__":
    main()
