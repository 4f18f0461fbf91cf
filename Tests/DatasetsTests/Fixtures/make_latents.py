"""Writes one small data set of latents in every form that people have.

Run with numpy, torch and safetensors. Element (i, c, y, x) is i + c / 4 + y / 8 - x / 16, the label
of sample i is 3 - i; both are exact in float16.
"""
import io
import pathlib
import tarfile

import numpy as np
import torch
from safetensors.numpy import save_file

here = pathlib.Path(__file__).parent / "latents"
i, c, y, x = np.meshgrid(*map(np.arange, (4, 2, 3, 3)), indexing="ij")
latents = (i + c / 4 + y / 8 - x / 16).astype(np.float32)
labels = 3 - np.arange(4)


def fresh(name):
    folder = here / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


np.save(fresh("npy") / "latents.npy", latents.astype(np.float16))
np.save(fresh("npy") / "labels.npy", labels.astype(np.uint8))
np.savez(fresh("npz") / "set.npz", latents=latents, labels=labels[:, None])
np.savez_compressed(fresh("compressed") / "set.npz", latents=latents, labels=labels)
for part in range(2):
    rows = slice(2 * part, 2 * part + 2)
    save_file(
        {"latents": latents[rows], "labels": labels[rows]},
        fresh("safetensors") / f"part{part}.safetensors")


def add(tar, name, content):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def torch_bytes(tensor, legacy=False):
    buffer = io.BytesIO()
    torch.save(tensor, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


whole = torch.from_numpy(latents)
for part, form in enumerate((tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT)):
    with tarfile.open(fresh("tar") / f"split_{part:06d}.tar", "w", format=form) as tar:
        for index in range(2 * part, 2 * part + 2):
            # A long folder needs a ustar prefix or a pax header; a view keeps its whole storage.
            key = f"{'d' * 60}/{'e' * 60}/{index:08d}"
            add(tar, f"{key}.class_name", b"n01440764")
            add(tar, f"{key}.label.pth", torch_bytes(torch.tensor(int(labels[index])), part == 1))
            latent = whole[index] if index % 2 else whole[index].to(torch.bfloat16)
            add(tar, f"{key}.latent.pth", torch_bytes(latent, part == 1))
            add(tar, f"{key}.image_path", "x/ü.JPEG".encode())
