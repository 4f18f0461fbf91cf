"""Training data: labelled latents (or latents with captions) in files, and the random draws of each batch."""

from __future__ import annotations

import bisect
import dataclasses
import io
import os
import tarfile
import zipfile
from typing import Any, Callable, Protocol, Sequence, TYPE_CHECKING

import numpy as np
import torch

from .diffusion import TIMESTEPS
from .errors import EngineError
from .files import TensorFile, cache_folder, digest_of
from .models import Condition
from .philox import Stream
from .plan import Plan
from .settings import timestep_weights
from .shape import ModelShape
from .statistics import LatentStatistics

if TYPE_CHECKING:
    from .own import TeacherLatents

PROCEDURAL_IMAGES, TRAINING_SEED, HELD_OUT_SEED, PROCEDURAL_CLASSES = 16_384, 1, 2, 10
"""The procedural images of a plan without data: at most this many, of these seeds."""
OWN_SAMPLES = 256, 2048
"""Least and greatest number of a model's own samples beside the pool of its steps."""


@dataclasses.dataclass
class Batch:
    """Clean latents with all random draws of some rows of a training step."""

    latents: torch.Tensor
    """(rows, channels, height, width)"""
    noise: torch.Tensor
    steps: torch.Tensor
    """(rows): steps of the diffusion, or times of an interpolant."""
    condition: Condition
    samples: list[int]
    """Places of the rows in the data set."""

    def __len__(self) -> int:
        return len(self.latents)

    def __getitem__(self, rows: slice) -> "Batch":
        return Batch(
            self.latents[rows], self.noise[rows], self.steps[rows], self.condition[rows], self.samples[rows]
        )


class Pool(Protocol):
    """Samples of the steps of a training that are not drawn from a data set."""

    def batch(
        self, rows: range, size: int, seed: int, stage: str, step: int, null_class: int | None, label_dropout: float
    ) -> Batch:
        """Some rows of a step of `size` rows."""


Reader = Callable[[int], torch.Tensor]


@dataclasses.dataclass
class Part:
    """Samples of one file or array."""

    path: str
    shape: tuple[int, ...]
    labels: list[int]
    read: Reader
    caption: Callable[[int], tuple[torch.Tensor, torch.Tensor]] | None = None


class Dataset:
    """Latents with labels; rows are read one by one from mapped files."""

    def __init__(self, parts: list[Part], identity: str, path: str):
        self.parts, self.identity, self.path = parts, identity, path
        self.starts = [0]
        for part in parts:
            self.starts.append(self.starts[-1] + len(part.labels))
        if self.starts[-1] == 0:
            raise EngineError(f"{path}: holds no samples; name a data set with latents and labels")
        shapes = {part.shape for part in parts}
        if len(shapes) > 1:
            raise EngineError(f"{path}: its latents have different shapes {sorted(shapes)}; keep such sets apart")
        self.shape = shapes.pop()
        self.labels = [label for part in parts for label in part.labels]
        self.order: Sequence[int] | None = None
        self.pool: Pool | None = None
        """Where steps of a training take their samples instead."""

    def __len__(self) -> int:
        return len(self.labels) if self.order is None else len(self.order)

    def subset(self, order: list[int], identity: str) -> "Dataset":
        """The samples at some places, in that order."""
        result = Dataset(self.parts, identity, self.path)
        result.order = order if self.order is None else [self.order[i] for i in order]
        return result

    def split(self, held_out: int) -> tuple["Dataset", "Dataset"]:
        """Sets at most `held_out` samples, and at most a tenth, aside: training and held-out samples."""
        count = len(self)
        if count < 2:
            raise EngineError(
                f"{self.path}: holds a single sample, and one is set aside for the held-out loss; add more or name"
                ' others with "held_out"'
            )
        aside = min(held_out, max(1, count // 10))
        order = Stream(0, "held-out samples").permutation(count)
        return (
            self.subset(sorted(order[aside:]), f"{self.identity} without {aside}"),
            self.subset(sorted(order[:aside]), f"{self.identity} held out {aside}"),
        )

    def _locate(self, index: int) -> tuple[Part, int]:
        place = index if self.order is None else self.order[index]
        part = bisect.bisect_right(self.starts, place) - 1
        return self.parts[part], place - self.starts[part]

    def label(self, index: int) -> int:
        """The label of a sample."""
        return self.labels[index if self.order is None else self.order[index]]

    def latents(self, indices: Sequence[int]) -> torch.Tensor:
        """The latents of samples (count, channels, height, width), float32."""
        rows = []
        for index in indices:
            part, row = self._locate(index)
            rows.append(part.read(row).float())
        return torch.stack(rows) if rows else torch.empty(0, *self.shape)

    def captions(self, indices: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Embeddings (count, length, channels) and masks (count, length) of samples; None without captions."""
        rows = []
        for index in indices:
            part, row = self._locate(index)
            if part.caption is None:
                return None
            rows.append(part.caption(row))
        if not rows:
            return None
        return torch.stack([e.float() for e, _ in rows]), torch.stack([m.float() for _, m in rows])

    def place(self, index: int) -> str:
        """Where a sample comes from, for error messages."""
        part, row = self._locate(index)
        return f"sample {row} in {part.path}"

    def fault(self, batch: Batch, name: str = "training") -> str | None:
        """A sentence about the first sample of a batch that is not finite."""
        for row, index in enumerate(batch.samples):
            if not torch.isfinite(batch.latents[row]).all():
                return (
                    f"{self.place(index)} of the {name} data holds values that are not finite; correct or remove it and"
                    " start a new run"
                )
        return None


@dataclasses.dataclass
class Draws:
    """What batches of a training are drawn with."""

    shape: ModelShape
    seed: int
    label_dropout: float
    device: torch.device
    null_caption: torch.Tensor | None = None
    """(length, channels): replaces dropped captions."""
    density: list[list[float]] | None = None
    """Knots [timestep, weight] of the density of a training step's timesteps; None is uniform."""

    def batch(
        self, dataset: Dataset, rows: range, name: str, density: list[list[float]] | None = None
    ) -> Batch:
        """Rows of the batch of a name: samples, times, noise, labels; each row depends on seed, name and its number."""
        count, first = len(rows), rows.start
        samples = Stream(self.seed, f"{name}/sample").integers(len(dataset), first, count)
        latents = dataset.latents(samples)
        width = latents[0].numel() if count else 0
        noise = Stream(self.seed, f"{name}/noise").normal(latents.shape, first * width, self.device)
        times = Stream(self.seed, f"{name}/timestep")
        if self.shape.predicts_velocity:
            steps = times.uniform(first, count).float()
        elif density is not None:
            sums = np.cumsum(timestep_weights(density))
            targets = times.uniform(first, count).double().numpy() * sums[-1]
            steps = torch.from_numpy(np.minimum(np.searchsorted(sums, targets, side="right"), TIMESTEPS - 1))
        else:
            steps = torch.tensor(times.integers(TIMESTEPS, first, count), dtype=torch.int64)
        drop = (Stream(self.seed, f"{name}/label").uniform(first, count) < self.label_dropout).tolist()
        return Batch(
            latents.to(self.device), noise, steps.to(self.device),
            self._condition(dataset, samples, drop).to(self.device), samples,
        )

    def step(self, dataset: Dataset, rows: range, size: int, stage: str, step: int) -> Batch:
        """Rows of a step of a training with `size` rows: drawn, or those of the pool."""
        if dataset.pool is None:
            return self.batch(dataset, rows, f"{stage}/{step}", self.density)
        return dataset.pool.batch(rows, size, self.seed, stage, step, self.shape.null_class, self.label_dropout)

    def _condition(self, dataset: Dataset, samples: list[int], drop: list[bool]) -> Condition:
        if self.shape.family != "pixart":
            null = self.shape.null_class
            labels = [
                null if dropped and null is not None else dataset.label(i) for dropped, i in zip(drop, samples)
            ]
            return Condition(labels=torch.tensor(labels, dtype=torch.int64))
        captions = dataset.captions(samples)
        if captions is None:
            raise EngineError(
                f"{dataset.path}: has no 'prompt_embeds', but the model is text-conditional; add the embeddings of the"
                " captions"
            )
        embeddings, masks = captions
        for row, dropped in enumerate(drop):
            if not dropped:
                continue
            if self.null_caption is None:
                raise EngineError(
                    "label_dropout: the model's file has no 'y_embedder.y_embedding' for dropped captions; set it to 0"
                )
            length = min(embeddings.shape[1], self.null_caption.shape[0])
            embeddings[row, :length] = self.null_caption[:length]
            masks[row] = 1
        return Condition(captions=embeddings, mask=masks)


# Files


def _labels(values: np.ndarray | torch.Tensor, path: str, count: int) -> list[int]:
    numbers = torch.as_tensor(np.asarray(values)).flatten().tolist()
    if len(numbers) != count:
        raise EngineError(
            f"{path}: has {len(numbers)} labels, expected {count}, one for each of the latents; save both together"
        )
    bad = next((i for i, x in enumerate(numbers) if x < 0 or x != int(x)), None)
    if bad is not None:
        raise EngineError(f"{path}: label {bad} is no whole number from 0 up; save the classes' numbers")
    return [int(x) for x in numbers]


def _four(shape: Sequence[int], path: str) -> tuple[int, ...]:
    if len(shape) != 4:
        raise EngineError(
            f"{path}: its latents have shape {list(shape)}, expected samples, channels, height and width; save such an"
            " array"
        )
    return tuple(shape[1:])


def _safetensors(path: str) -> Part:
    file = TensorFile(path)
    if "latents" not in file:
        raise EngineError(f"{path}: has no tensor 'latents'; name a data set with latents and labels")
    shape = file.shape("latents")
    sample = _four(shape, path)
    labels = _labels(file.raw("labels"), path, shape[0]) if "labels" in file else [0] * shape[0]
    caption = None
    if "prompt_embeds" in file:
        length = file.shape("prompt_embeds")[1]

        def caption(row: int) -> tuple[torch.Tensor, torch.Tensor]:  # noqa: F811
            embeddings = file.rows("prompt_embeds", row, row + 1)[0]
            if "prompt_attention_mask" not in file:
                return embeddings, torch.ones(length)
            return embeddings, file.rows("prompt_attention_mask", row, row + 1)[0]

    elif "labels" not in file:
        raise EngineError(f"{path}: has neither 'labels' nor 'prompt_embeds'; add what the model is conditioned on")
    return Part(path, sample, labels, lambda row: file.rows("latents", row, row + 1)[0], caption)


def _array(array: np.ndarray, labels: Any, path: str, label_path: str) -> Part:
    sample = _four(array.shape, path)
    return Part(
        path, sample, _labels(labels, label_path, array.shape[0]),
        lambda row: torch.from_numpy(np.array(array[row], dtype=np.float32)),
    )


def _npz(path: str) -> Part:
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: info for info in archive.infolist()}
        for name in ("latents.npy", "labels.npy"):
            if name not in members:
                raise EngineError(f"{path}: has no array '{name[:-4]}'; save latents and labels with numpy.savez")
        info = members["latents.npy"]
        if info.compress_type != zipfile.ZIP_STORED:
            raise EngineError(
                f"{path}: is compressed, so samples cannot be read one by one; save it with numpy.savez"
            )
        with archive.open(info) as stream:
            version = np.lib.format.read_magic(stream)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, fortran, dtype = read(stream)
            header = stream.tell()
        with archive.open("labels.npy") as stream:
            labels = np.load(io.BytesIO(stream.read()))
    if fortran:
        raise EngineError(f"{path}: its latents are not in row-major order; save it with numpy.savez")
    with open(path, "rb") as raw:
        raw.seek(info.header_offset + 26)
        sizes = raw.read(4)
    start = info.header_offset + 30 + int.from_bytes(sizes[:2], "little") + int.from_bytes(sizes[2:], "little")
    array = np.memmap(path, dtype=dtype, mode="r", offset=start + header, shape=shape)
    return _array(array, labels, path, path)


def _tar(path: str) -> Part:
    """A webdataset shard: KEY.latent.pth and KEY.label.pth for each sample."""
    places: dict[str, dict[str, tuple[int, int]]] = {}
    with tarfile.open(path) as archive:
        for member in archive:
            folder, _, base = member.name.rpartition("/")
            key, _, kind = base.partition(".")
            if kind in ("latent.pth", "label.pth"):
                places.setdefault(f"{folder}/{key}", {})[kind] = (member.offset_data, member.size)
    source = open(path, "rb")

    def load(place: tuple[int, int]) -> torch.Tensor:
        data = os.pread(source.fileno(), place[1], place[0])
        return torch.as_tensor(torch.load(io.BytesIO(data), weights_only=True, map_location="cpu"))

    kept = []
    for key, parts in places.items():
        if len(parts) != 2:
            missing = "latent.pth" if "latent.pth" not in parts else "label.pth"
            raise EngineError(f"{path}: sample '{key}' has no {missing}; pack both for every sample")
        kept.append(parts)
    labels = [int(load(parts["label.pth"])) for parts in kept]
    shape = tuple(load(kept[0]["latent.pth"]).shape) if kept else ()
    return Part(path, shape, labels, lambda row: load(kept[row]["latent.pth"]))


def latent_files(path: str) -> list[str]:
    """The files of a data set in order; empty for a folder without latents."""
    if not os.path.exists(path):
        raise EngineError(f"{path}: no such file or folder, though the plan trains on it; check the path")
    if not os.path.isdir(path):
        return [path]
    names = sorted(n for n in os.listdir(path) if not n.startswith("."))
    for ending in (".tar", ".safetensors", ".npz"):
        shards = [os.path.join(path, n) for n in names if n.endswith(ending)]
        if shards:
            return shards
    if "latents.npy" in names:
        return [os.path.join(path, "latents.npy")]
    features = next((n for n in names if n.endswith("_features")), None)
    if features:
        arrays = [n for n in os.listdir(os.path.join(path, features)) if n.endswith(".npy")]
        return [os.path.join(path, features, n) for n in sorted(arrays, key=lambda n: (len(n), n))]
    return []


def open_latents(path: str) -> Dataset:
    """Opens latents in files of any format."""
    files = latent_files(path)
    if not files:
        raise EngineError(
            f"{path}: holds no latents (.tar, .safetensors, .npz or latents.npy); encode the images first, by"
            " 'python -m espalier_torch encode'"
        )
    parts, hashed = [], []
    for file in files:
        hashed.append(file)
        if file.endswith(".npy"):
            folder = os.path.dirname(file)
            beside = os.path.join(folder, "labels.npy")
            if folder.endswith("_features"):
                beside = os.path.join(folder.removesuffix("_features") + "_labels", os.path.basename(file))
            hashed.append(beside)
            parts.append(_array(np.load(file, mmap_mode="r"), np.load(beside), file, beside))
        elif file.endswith(".tar"):
            parts.append(_tar(file))
        else:
            parts.append(_npz(file) if file.endswith(".npz") else _safetensors(file))
    statistics = LatentStatistics.beside(os.path.dirname(files[0]))
    if statistics is not None:
        statistics.require(parts[0].shape[0])
        hashed.append(statistics.path)
        parts = [_normalised(part, statistics) for part in parts]
    return Dataset(parts, digest_of(hashed), path)


def _normalised(part: Part, statistics: LatentStatistics) -> Part:
    """A part with latents that are normalised when they are read."""
    return dataclasses.replace(part, read=lambda row: statistics.normalised(part.read(row)))


def _procedural(seed: int, count: int) -> Dataset:
    """The procedural images as the native engine has encoded them."""
    path = os.path.join(cache_folder(), f"latents-{seed}-{count}.safetensors")
    if not os.path.exists(path):
        raise EngineError(
            f"{path}: the procedural images are not encoded yet, and this engine does not draw them; start the run by"
            " 'espalier', which does, or give the plan data"
        )
    file = TensorFile(path)
    labels = [i % PROCEDURAL_CLASSES for i in range(count)]
    part = Part(path, file.shape("latents")[1:], labels, lambda row: file.rows("latents", row, row + 1)[0])
    return Dataset([part], file.metadata.get("identity", ""), path)


def _encoded(path: str, identity: str) -> Dataset:
    """Encoded images of a folder in the shared cache."""
    place = os.path.join(cache_folder(), f"images-{identity[:24]}")
    files = sorted(os.path.join(place, n) for n in os.listdir(place)) if os.path.isdir(place) else []
    parts = [_safetensors(file) for file in files if file.endswith(".safetensors")]
    return Dataset(parts, identity, path)


def training_data(
    plan: Plan,
    samples: int,
    held_out: int,
    prepared: dict[str, str],
    places: dict[str, str],
    own: TeacherLatents | None = None,
) -> tuple[Dataset, Dataset]:
    """Training and held-out data of a plan.

    prepared: identities of folders of images, by path, that the starting program has encoded (`data.json`).
    places: where files lie on this host, if elsewhere than the plan says.
    own: the samples of data that the model draws itself.
    """
    if plan.data is None:
        return _procedural(TRAINING_SEED, min(PROCEDURAL_IMAGES, samples)), _procedural(HELD_OUT_SEED, held_out)

    def opened(path: str) -> Dataset:
        dataset = _encoded(path, prepared[path]) if path in prepared else open_latents(places.get(path, path))
        require(dataset, plan.shape)
        return dataset

    path, other = plan.absolute(plan.data.path), plan.absolute(plan.data.held_out)
    assert path is not None
    if own is not None:
        dataset = own.dataset(min(max(samples, OWN_SAMPLES[0]), OWN_SAMPLES[1]), TRAINING_SEED, True)
        return dataset, opened(other) if other else own.dataset(held_out, HELD_OUT_SEED, False)
    dataset = opened(path)
    return (dataset, opened(other)) if other else dataset.split(held_out)


def require(dataset: Dataset, shape: ModelShape) -> None:
    """Raises EngineError if latents or labels do not fit a model."""
    expected = (shape.in_channels, shape.input_size, shape.input_size)
    if tuple(dataset.shape) != expected:
        found, wanted = (" x ".join(map(str, s)) for s in (dataset.shape, expected))
        raise EngineError(
            f"{dataset.path}: its latents are {found}, the model takes {wanted} (channels x height x width); encode the"
            " images for this model"
        )
    if shape.family != "pixart":
        bad = next((i for i, label in enumerate(dataset.labels) if label >= shape.num_classes), None)
        if bad is not None:
            raise EngineError(
                f"{dataset.path}: sample {bad} has label {dataset.labels[bad]}, the model has classes 0 to"
                f" {shape.num_classes - 1}; use data of the model's classes"
            )
