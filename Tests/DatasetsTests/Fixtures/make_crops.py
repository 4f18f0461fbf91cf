"""Writes the pictures beside this file and what Pillow and facebookresearch/DiT make of them.

Run with numpy and Pillow 13; center_crop_arr is that of facebookresearch/DiT `train.py`.
"""
import pathlib
import struct
import zlib

import numpy as np
from PIL import Image

here = pathlib.Path(__file__).parent
random = np.random.default_rng(7)


def center_crop_arr(pil_image, image_size):
    while min(*pil_image.size) >= 2 * image_size:
        pil_image = pil_image.resize(tuple(x // 2 for x in pil_image.size), resample=Image.BOX)
    scale = image_size / min(*pil_image.size)
    pil_image = pil_image.resize(
        tuple(round(x * scale) for x in pil_image.size), resample=Image.BICUBIC)
    arr = np.array(pil_image)
    crop_y = (arr.shape[0] - image_size) // 2
    crop_x = (arr.shape[1] - image_size) // 2
    return Image.fromarray(arr[crop_y: crop_y + image_size, crop_x: crop_x + image_size])


def picture(width, height, channels=3):
    """Smooth waves with noise and hard edges, so that filters over- and undershoot."""
    y, x = np.mgrid[0:height, 0:width]
    planes = []
    for channel in range(channels):
        wave = 128 + 120 * np.sin(x * (0.2 + 0.07 * channel) + y * 0.11)
        wave[(x // 9 + y // 7) % 5 == channel] = 255 * (channel % 2)
        planes.append(np.clip(wave + random.integers(-20, 20, wave.shape), 0, 255))
    return np.stack(planes, -1).astype(np.uint8)


rgb = Image.fromarray(picture(61, 45))
alpha = Image.fromarray(picture(23, 19, 4), "RGBA")
names = {}


def save(name, image, **options):
    image.save(here / name, **options)
    names[name] = None


save("rgb.png", rgb)
save("alpha.png", alpha)
save("palette.png", rgb.quantize(16))
save("grey.png", rgb.convert("L"))
save("half.jpg", rgb, quality=90)
save("full.jpg", rgb, quality=75, subsampling=0, progressive=True)
save("grey.jpg", rgb.convert("L"))
save("inks.jpg", Image.fromarray(picture(24, 16, 4), "CMYK"), quality=95)



def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


PASSES = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]


def png(width, height, depth, kind, interlaced, chunks=b""):
    """A PNG file of random samples with filter 1 (the byte on the left), whole or in Adam7's passes."""
    samples = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[kind]
    data = b""
    for x, y, dx, dy in PASSES if interlaced else [(0, 0, 1, 1)]:
        columns, rows = -((x - width) // dx), -((y - height) // dy)
        if columns > 0 and rows > 0:
            size = -(-columns * depth * samples // 8)
            data += b"".join(b"\1" + random.bytes(size) for _ in range(rows))
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, interlaced)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunks
            + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b""))


def put(name, content):
    (here / name).write_bytes(content)
    names[name] = None


# Every kind of PNG; colour keys, gamma and transparent palettes change nothing.
(here / "kinds").mkdir(exist_ok=True)
keys = {0: b"\0\1", 2: b"\0\1\0\2\0\3", 3: b"\0\x80"}
for kind, depths in {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}.items():
    for depth in depths:
        chunks = chunk(b"gAMA", struct.pack(">I", 20000)) + chunk(b"sRGB", b"\0")
        if kind == 3:
            chunks += chunk(b"PLTE", random.bytes(3 * min(200, 2 ** depth)))
        if kind in keys:
            chunks += chunk(b"tRNS", keys[kind])
        for interlaced in (0, 1):
            put(f"kinds/{kind}-{depth}{'-interlaced' * interlaced}.png", png(7, 5, depth, kind, interlaced, chunks))
whole = (here / "kinds/2-8.png").read_bytes()
put("kinds/no-end.png", whole[:-12])
put("kinds/more-behind.png", whole + b"more")
damaged = bytearray(whole)
damaged[-13] ^= 1
put("kinds/checksum.png", bytes(damaged))

# JPEG files beyond the usual.
jpeg = (here / "half.jpg").read_bytes()
table = jpeg.index(b"\xff\xdb")
put("kinds/stray.jpg", jpeg[:table] + b"\0ab" + jpeg[table:])
put("kinds/more-behind.jpg", jpeg + b"more" * 30)
turned = Image.Exif()
turned[0x112] = 6
small = Image.fromarray(picture(19, 11))
save("kinds/turned.jpg", small, exif=turned.tobytes())
save("kinds/progressive.jpg", small, progressive=True)
save("kinds/rgb.jpg", small, keep_rgb=True)
save("kinds/restarts.jpg", small, restart_marker_blocks=1)

arrays = {}
for name in names:
    image = Image.open(here / name).convert("RGB")
    arrays[f"pixels.{name}"] = np.array(image)
# Larger, equal, smaller and much smaller than the picture, with odd remainders.
for size in (100, 45, 44, 32, 22, 16, 11, 7):
    arrays[f"crop.{size}"] = np.array(center_crop_arr(rgb, size))
# Much taller than wide and the reverse; Pillow then chooses the order of the passes.
for width, height in ((9, 70), (70, 9), (3, 40), (20, 43), (43, 20)):
    image = Image.fromarray(picture(width, height))
    save(f"kinds/{width}x{height}.png", image)
    for size in (6, 16):
        arrays[f"crop.{size}.kinds/{width}x{height}.png"] = np.array(center_crop_arr(image, size))
np.savez(here / "expected.npz", **arrays)
