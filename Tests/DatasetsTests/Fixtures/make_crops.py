"""Writes the pictures beside this file and what Pillow and facebookresearch/DiT make of them.

Run with numpy and Pillow; center_crop_arr is that of facebookresearch/DiT `train.py`.
"""
import pathlib

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

arrays = {}
for name in names:
    image = Image.open(here / name).convert("RGB")
    arrays[f"pixels.{name}"] = np.array(image)
# Larger, equal, smaller and much smaller than the picture, with odd remainders.
for size in (100, 45, 44, 32, 22, 16, 11, 7):
    arrays[f"crop.{size}"] = np.array(center_crop_arr(rgb, size))
np.savez(here / "expected.npz", **arrays)
