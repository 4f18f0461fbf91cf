"""Images of a model over ranks: finished chunks are files, a restart goes on, the images are the same for any number.

Noise is addressed by seed and sample index, and a chunk holds the same images whoever draws it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import zipfile
from typing import Any, Callable, Iterator, Sequence

import numpy as np
import torch

from . import autoencoder as autoencoders
from .diffusion import GaussianDiffusion, Network, Schedule, guided
from .errors import EngineError
from .files import TensorFile, item, read_json, replacing, write_json, write_tensors
from .interpolant import ode, sde
from .job import autocast_for
from .modelfile import ModelFile, path_of
from .models import Backbone, Condition
from .philox import Stream
from .ranks import Ranks
from .shape import ModelShape

METHODS = ("ddim", "ancestral", "dpmpp", "ode", "sde")


@dataclasses.dataclass(frozen=True)
class Sampling:
    """What is drawn; everything that the images depend on besides the model."""

    count: int
    method: str = "ddim"
    steps: int = 25
    guidance: float = 2.0
    seed: int = 0
    eta: float = 0.0
    classes: tuple[int, ...] = ()
    chunk: int = 16
    """Images that are drawn together."""
    precision: str = "fp32"


def process_for(sampling: Sampling) -> GaussianDiffusion:
    """The diffusion process of a number of steps."""
    if sampling.method == "dpmpp":
        return GaussianDiffusion(Schedule.linear().evenly_spread(sampling.steps))
    if sampling.method == "ddim":
        # Integer strides exist for some numbers of steps only; the others use fractional ones.
        with contextlib.suppress(EngineError):
            return GaussianDiffusion(Schedule.linear().respaced(f"ddim{sampling.steps}"))
    return GaussianDiffusion(Schedule.linear().respaced(str(sampling.steps)))


class Sampler:
    """Draws latents of a model."""

    def __init__(
        self, model: Backbone, sampling: Sampling, device: torch.device,
        captions: tuple[torch.Tensor, torch.Tensor] | None = None,
        null_caption: tuple[torch.Tensor, torch.Tensor] | None = None,
    ):
        self.model, self.sampling, self.device = model, sampling, device
        self.captions, self.null_caption = captions, null_caption
        self.autocast = autocast_for(device, sampling.precision)
        shape = model.shape
        if shape.predicts_velocity != (sampling.method in ("ode", "sde")):
            fitting = "ode or sde" if shape.predicts_velocity else "ddim, ancestral or dpmpp"
            raise EngineError(f"--method {sampling.method}: the model is a {shape.family}; choose {fitting}")
        self.process = None if shape.predicts_velocity else process_for(sampling)

    def _condition(self, indices: range) -> tuple[Condition, bool]:
        """Conditions of images, doubled for guidance, and whether they are."""
        sampling, shape = self.sampling, self.model.shape
        guides = sampling.guidance != 1
        if shape.family == "pixart":
            if self.captions is None:
                raise EngineError("--captions: a text-conditional model needs the embeddings of captions; give them")
            rows = [i % len(self.captions[0]) for i in indices]
            embeddings, masks = self.captions[0][rows], self.captions[1][rows]
            if guides:
                if self.null_caption is None:
                    raise EngineError(
                        f"guidance {sampling.guidance:g} needs the embedding of the empty caption; give it with"
                        " --null-caption, or --guidance 1 for none"
                    )
                null, null_mask = (x.expand(len(rows), *x.shape[1:]) for x in self.null_caption)
                length = max(embeddings.shape[1], null.shape[1])
                embeddings = torch.cat([_padded(embeddings, length), _padded(null, length)])
                masks = torch.cat([_padded(masks, length), _padded(null_mask, length)])
            return Condition(captions=embeddings.to(self.device), mask=masks.to(self.device)), guides
        classes = sampling.classes or tuple(range(shape.num_classes))
        labels = torch.tensor([classes[i % len(classes)] for i in indices], device=self.device)
        guides = guides and shape.null_class is not None
        if guides:
            assert shape.null_class is not None
            labels = torch.cat([labels, torch.full_like(labels, shape.null_class)])
        return Condition(labels=labels), guides

    @torch.no_grad()
    def latents(self, indices: range, height: int | None = None, width: int | None = None) -> torch.Tensor:
        """Latents (count, channels, height, width) of images by index."""
        sampling, shape = self.sampling, self.model.shape
        size = (shape.in_channels, height or shape.input_size, width or shape.input_size)
        condition, guides = self._condition(indices)
        elements = size[0] * size[1] * size[2]

        def draw(name: str) -> torch.Tensor:
            noise = Stream(sampling.seed, f"sampling/{name}").normal(
                (len(indices), *size), indices.start * elements, self.device
            )
            return torch.cat([noise, noise]) if guides else noise

        def network(x: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
            with self.autocast():
                return self.model(x, times, condition).float()

        own: Network = network
        if guides:
            channels = shape.guided_channels
            if shape.family == "pixart" and sampling.method == "dpmpp":
                channels = shape.in_channels
            own = guided(network, sampling.guidance, channels)
        start, noise = draw("start"), lambda position: draw(str(position))
        if sampling.method == "ode":
            result = ode(start, own, sampling.steps + 1)
        elif sampling.method == "sde":
            result = sde(start, own, sampling.steps, noise)
        else:
            assert self.process is not None
            if sampling.method == "ddim":
                result = self.process.ddim(start, own, sampling.eta, noise)
            elif sampling.method == "ancestral":
                result = self.process.ancestral(start, own, noise)
            else:
                result = self.process.dpm_solver(start, own)
        if not torch.isfinite(result).all():
            raise EngineError(
                "sampling gave values that are not finite, although all weights are finite; use --precision fp32, less"
                " guidance or other weights"
            )
        return result[: len(indices)]


def _padded(x: torch.Tensor, length: int) -> torch.Tensor:
    missing = length - x.shape[1]
    return torch.cat([x, x.new_zeros(x.shape[0], missing, *x.shape[2:])], dim=1) if missing else x


def captions_of(path: str, channels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings (count, length, channels) and masks (count, length) of a file."""
    file = TensorFile(path)
    name = next((n for n in ("prompt_embeds", "caption_feature") if n in file), None)
    if name is None:
        raise EngineError(f"{path}: has no tensor 'prompt_embeds'; save the text encoder's output under that name")
    embeddings = file.raw(name).float()
    embeddings = embeddings[None] if embeddings.dim() == 2 else embeddings
    if embeddings.dim() != 3 or embeddings.shape[2] != channels:
        raise EngineError(
            f"{path}: tensor '{name}' has shape {list(embeddings.shape)}, expected captions by tokens by {channels}; use"
            " the embeddings of the model's own text encoder"
        )
    mask = next((n for n in ("prompt_attention_mask", "attention_mask") if n in file), None)
    masks = torch.ones(embeddings.shape[:2]) if mask is None else file.raw(mask).float().reshape(embeddings.shape[:2])
    return embeddings, masks


def autoencoder_path(file: ModelFile) -> str | None:
    """The autoencoder beside a model, for a graft beside its teacher."""
    folders = [os.path.dirname(file.path)]
    if os.path.basename(folders[0]) == "transformer":
        folders.append(os.path.dirname(folders[0]))
    if file.plan is not None:
        with contextlib.suppress(EngineError):
            folders.insert(0, os.path.dirname(path_of(file.plan.model_path)[0]))
    for folder in folders:
        for name in ("autoencoder.safetensors", "vae"):
            if os.path.exists(os.path.join(folder, name)):
                return os.path.join(folder, name)
    return None


def chunk_path(folder: str, index: int) -> str:
    """The file of a chunk."""
    return os.path.join(folder, f"chunk-{index:07d}.safetensors")


def sample(
    name: str, folder: str, sampling: Sampling, ranks: Ranks, npz: str | None = None, latents: str | None = None,
    autoencoder: str | None = None, captions: str | None = None, null_caption: str | None = None,
    report: Callable[[int, int], None] = lambda done, total: None, config: str | None = None,
) -> None:
    """Draws images into chunk files of a folder, and joins them into an .npz of images or an .npy of latents.

    config: the architecture, as in plans; None for what the file shows.
    """
    file = ModelFile(name, None if config is None else ModelShape.read(json.loads(config), "--config"))
    shape = file.shape
    description = {
        **dataclasses.asdict(sampling), "classes": list(sampling.classes), "model": file.content_hash(),
        "captions": captions, "null_caption": null_caption, "images": npz is not None,
    }
    if ranks.first:
        os.makedirs(folder, exist_ok=True)
    fault = ranks.share(_claim(folder, description) if ranks.first else None)
    if fault:
        raise EngineError(fault)
    _check_classes(sampling, shape)
    chunks = -(-sampling.count // sampling.chunk)
    mine = [c for c in range(ranks.rank, chunks, ranks.world) if not _is_whole(folder, c, sampling)]
    if mine:
        null = None
        if null_caption:
            null = captions_of(null_caption, shape.caption_channels)
        elif file.null_caption is not None:
            own = file.null_caption.float()[None]
            null = (own, torch.ones(own.shape[:2]))
        model = file.load().to(ranks.device).eval().requires_grad_(False)
        texts = captions_of(captions, shape.caption_channels) if captions else None
        sampler = Sampler(model, sampling, ranks.device, texts, null)
        decoder = None
        if npz is not None:
            place = autoencoder or autoencoder_path(file)
            if place is None:
                raise EngineError(
                    f"{file.path}: no 'autoencoder.safetensors' beside it and no folder 'vae'; give --autoencoder, or"
                    " --latents alone"
                )
            decoder = autoencoders.load(place, file.latent_statistics).to(ranks.device)
        for done, chunk in enumerate(mine):
            report(done, len(mine))
            first = chunk * sampling.chunk
            found = sampler.latents(range(first, min(sampling.count, first + sampling.chunk)))
            items = [item("latents", found)]
            if decoder is not None:
                with torch.no_grad():
                    images = torch.cat([decoder.images(found[i : i + 1]) for i in range(len(found))])
                # Bytes as numbers that float32 holds exactly.
                items.append(item("images", images.float()))
            write_tensors(chunk_path(folder, chunk), items, {"first": str(first)})
    ranks.collect(None)
    if ranks.first:
        if npz is not None:
            _join(npz, folder, chunks, sampling, "images", np.dtype(np.uint8))
        if latents is not None:
            _join(latents, folder, chunks, sampling, "latents", np.dtype(np.float32))
    ranks.collect(None)


def _check_classes(sampling: Sampling, shape: ModelShape) -> None:
    bad = next((c for c in sampling.classes if not 0 <= c < shape.num_classes), None)
    if bad is not None:
        raise EngineError(f"--classes: {bad} is outside 0 to {shape.num_classes - 1}; choose classes of the model")


def _claim(folder: str, description: dict[str, Any]) -> str | None:
    """Notes what a folder holds; a sentence if it holds other images."""
    path = os.path.join(folder, "sampling.json")
    if os.path.exists(path):
        known = read_json(path)
        if known != json.loads(json.dumps(description)):
            differing = sorted(k for k in description if known.get(k) != json.loads(json.dumps(description))[k])
            return f"{path}: the folder holds other images, which differ in {', '.join(differing)}; choose a new folder"
        return None
    write_json(path, description)
    return None


def _is_whole(folder: str, chunk: int, sampling: Sampling) -> bool:
    """Whether the file of a chunk is there and complete."""
    path = chunk_path(folder, chunk)
    if not os.path.exists(path):
        return False
    count = min(sampling.chunk, sampling.count - chunk * sampling.chunk)
    try:
        file = TensorFile(path)
        return file.shape("latents")[0] == count
    except EngineError:
        return False


def _pieces(folder: str, chunks: int, name: str, dtype: np.dtype) -> Iterator[np.ndarray]:
    for chunk in range(chunks):
        yield TensorFile(chunk_path(folder, chunk)).raw(name).numpy().astype(dtype)


def _join(
    path: str, folder: str, chunks: int, sampling: Sampling, name: str, dtype: np.dtype
) -> None:
    """Streams the chunks into one array: an .npz with arr_0, or an .npy."""
    first = TensorFile(chunk_path(folder, 0)).shape(name)
    shape: Sequence[int] = (sampling.count, *first[1:])
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": tuple(shape)}

    def write(sink: Any) -> None:
        np.lib.format.write_array_header_1_0(sink, header)
        for piece in _pieces(folder, chunks, name, dtype):
            sink.write(np.ascontiguousarray(piece).data)

    with replacing(path) as sink:
        if path.endswith(".npz"):
            with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as archive:
                with archive.open(zipfile.ZipInfo("arr_0.npy"), "w", force_zip64=True) as entry:
                    write(entry)
        else:
            write(sink)
