"""Folders of images by class to latents, over ranks; images are read and cropped as facebookresearch/DiT does."""

from __future__ import annotations

import os
from typing import Any, Callable

import numpy as np
import torch

from . import autoencoder as autoencoders
from .errors import EngineError
from .files import TensorFile, item, write_tensors
from .philox import Stream
from .ranks import Ranks

_ENDINGS = (".png", ".jpg", ".jpeg", ".jpe", ".jfif")
_TOGETHER = 16


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError:
        raise EngineError(
            "encode: reading PNG and JPEG files needs Pillow, which is not installed; 'pip install pillow', or let the"
            " native engine encode the images"
        ) from None
    return Image


def listed(folder: str) -> list[tuple[str, int]]:
    """Images by class: paths inside the folder, sorted by class and name, with labels.

    Subfolders that are named by numbers are these labels; others count in the order of their names.
    """
    classes = sorted(n for n in os.listdir(folder) if os.path.isdir(os.path.join(folder, n)) and n[0] != ".")
    numeric = all(n.isdigit() for n in classes)
    items = []
    for index, name in enumerate(classes):
        for root, _, files in sorted(os.walk(os.path.join(folder, name), followlinks=True)):
            inside = os.path.relpath(root, folder)
            items += [
                (os.path.join(inside, f), int(name) if numeric else index)
                for f in sorted(files) if f.lower().endswith(_ENDINGS) and f[0] != "."
            ]
    if not items:
        raise EngineError(
            f"{folder}: holds no images in class folders, expected files such as 'cat/1.png'; put PNG or JPEG files into"
            " a folder for each class"
        )
    return items


def read_image(path: str, size: int, mirrored: bool) -> torch.Tensor:
    """An image (3, size, size) in -1 ... 1: halved by boxes, resized bicubically, cropped in the middle."""
    library = _pillow()
    with library.open(path) as opened:
        image = opened.convert("RGB")
    while min(image.size) >= 2 * size:
        image = image.resize(tuple(x // 2 for x in image.size), resample=library.BOX)
    scale = size / min(image.size)
    image = image.resize(tuple(round(x * scale) for x in image.size), resample=library.BICUBIC)
    pixels = np.array(image)
    top, left = (pixels.shape[0] - size) // 2, (pixels.shape[1] - size) // 2
    pixels = pixels[top : top + size, left : left + size]
    if mirrored:
        pixels = pixels[:, ::-1]
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 127.5 - 1


def encode(
    folder: str, autoencoder: str, size: int, output: str, flip: bool, ranks: Ranks,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Writes `latents` and `labels` of all images to a safetensors file; returns how many.

    Mirroring and the draw from the posterior are addressed by each image's name, so the latents do not depend on ranks.
    """
    items = listed(folder)
    model = autoencoders.load(autoencoder).to(ranks.device)
    if size % model.factor:
        raise EngineError(f"--size {size}: expected a multiple of {model.factor}; choose the size of the model's images")
    rows = ranks.rows(len(items))
    latents = []
    for start in range(rows.start, rows.stop, _TOGETHER):
        report(start - rows.start, len(rows))
        part = items[start : min(rows.stop, start + _TOGETHER)]
        images = torch.stack([
            read_image(
                os.path.join(folder, name), size,
                flip and Stream(0, f"image/{name}/flip").uniform(0, 1).item() < 0.5,
            )
            for name, _ in part
        ])
        with torch.no_grad():
            mean, log_variance = model.encode(images.to(ranks.device))
        noise = torch.stack([
            Stream(0, f"image/{name}/noise").normal(mean.shape[1:], 0, ranks.device) for name, _ in part
        ])
        latents.append(model.scaled(mean + torch.exp(0.5 * log_variance) * noise).cpu())
    piece = f"{output}.{ranks.rank}.part"
    write_tensors(piece, [item("latents", torch.cat(latents) if latents else torch.empty(0, 1, 1, 1))], {})
    ranks.collect(None)
    if ranks.first:
        pieces = [f"{output}.{r}.part" for r in range(ranks.world)]
        found = [p for p in pieces if TensorFile(p).shape("latents")[0]]
        shape = (len(items), *TensorFile(found[0]).shape("latents")[1:])
        write_tensors(
            output,
            [
                ("latents", shape, lambda: torch.cat([TensorFile(p).raw("latents") for p in found])),
                item("labels", torch.tensor([float(label) for _, label in items])),
            ],
            {"source": os.path.abspath(folder)},
        )
        for path in pieces:
            os.unlink(path)
    ranks.collect(None)
    return len(items)
