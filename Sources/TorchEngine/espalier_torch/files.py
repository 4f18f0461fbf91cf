"""Files on disk: atomic replacement, safetensors with metadata, content hashes."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import secrets
import struct
from typing import Any, BinaryIO, Callable, Iterable, Iterator, Mapping

import torch

from .errors import EngineError, not_finite

DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}


class DiskFull(EngineError):
    """A write that failed because the disk or a quota is full; it may be repeated."""


def writing(path: str, error: OSError) -> EngineError:
    """The sentence for a file that cannot be written."""
    kind = DiskFull if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else EngineError
    return kind(f"{path}: cannot be written ({os.strerror(error.errno or 0)}); free some space or check the disk")


def _draft_prefix(path: str) -> str:
    return f".{os.path.basename(path)[:100]}."


def remove_abandoned(folder: str, prefix: str = ".") -> None:
    """Removes drafts of killed processes; writers lock theirs."""
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            if not (name.startswith(prefix) and name.startswith(".") and name.endswith(".tmp")):
                continue
            with contextlib.suppress(OSError):
                descriptor = os.open(os.path.join(folder, name), os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    os.unlink(os.path.join(folder, name))
                finally:
                    os.close(descriptor)


@contextlib.contextmanager
def replacing(path: str) -> Iterator[BinaryIO]:
    """A locked draft that takes the place of `path` by a rename when the body ends, and vanishes if it raises."""
    folder, prefix = os.path.dirname(path) or ".", _draft_prefix(path)
    draft = os.path.join(folder, f"{prefix}{secrets.token_hex(8)}.tmp")
    try:
        with open(draft, "xb") as sink:
            fcntl.flock(sink, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield sink
            sink.flush()
            os.fsync(sink.fileno())
            os.replace(draft, path)
        with contextlib.suppress(OSError):
            directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        remove_abandoned(folder, prefix)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(draft)
        if isinstance(error, OSError):
            raise writing(path, error) from error
        raise


def write_bytes(path: str, data: bytes) -> None:
    """Replaces a file atomically."""
    with replacing(path) as sink:
        sink.write(data)


def write_json(path: str, value: Any) -> None:
    """Replaces a JSON file atomically."""
    write_bytes(path, (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode())


def link(path: str, other: str) -> None:
    """Makes `other` a hard link to a file atomically."""
    draft = os.path.join(os.path.dirname(other), f"{_draft_prefix(other)}{secrets.token_hex(8)}.tmp")
    try:
        os.link(path, draft)
        os.replace(draft, other)
    except OSError as error:
        raise writing(other, error) from error
    finally:
        with contextlib.suppress(OSError):
            os.unlink(draft)


def read_text(path: str, limit: int = 4 << 20) -> str:
    """Reads a text file of at most `limit` bytes."""
    try:
        with open(path, "rb") as source:
            data = source.read(limit + 1)
    except OSError as error:
        raise EngineError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    if len(data) > limit:
        raise EngineError(f"{path}: has more than {limit} bytes; check that this is the right file")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise EngineError(f"{path}: is not a text in UTF-8; correct it") from None


def read_json(path: str, limit: int = 4 << 20) -> Any:
    """Reads a JSON file of at most `limit` bytes."""
    try:
        return json.loads(read_text(path, limit))
    except ValueError as error:
        raise EngineError(f"{path}: is not valid JSON ({error}); correct it") from None


# Safetensors

Item = tuple[str, tuple[int, ...], Callable[[], torch.Tensor]]
"""Name, shape and a function that gives the elements when they are written."""


def item(name: str, tensor: torch.Tensor) -> Item:
    """An item of a tensor in memory."""
    return name, tuple(tensor.shape), lambda: tensor


def write_tensors(
    path: str, items: Iterable[Item], metadata: Mapping[str, str], dtype: torch.dtype = torch.float32
) -> None:
    """Writes a safetensors file atomically: sorted by name, header padded to eight bytes, elements streamed."""
    ordered = sorted(items, key=lambda entry: entry[0].encode())
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    offset, size = 0, torch.finfo(dtype).bits // 8
    for name, shape, _ in ordered:
        end = offset + size * torch.Size(shape).numel()
        header[name] = {"dtype": DTYPES[dtype], "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with replacing(path) as sink:
        sink.write(struct.pack("<Q", len(text)) + text)
        for name, shape, load in ordered:
            tensor = load().detach().to("cpu", dtype).contiguous()
            assert tuple(tensor.shape) == shape, (name, tensor.shape, shape)
            sink.write(tensor.reshape(-1).view(torch.uint8).numpy().data)


class TensorFile:
    """An open safetensors file; tensors are read when they are asked for."""

    def __init__(self, path: str):
        from safetensors import SafetensorError, safe_open

        self.path = path
        try:
            self._file = safe_open(path, framework="pt")
        except FileNotFoundError:
            raise EngineError(f"{path}: no such file; check the path") from None
        except (SafetensorError, OSError) as error:
            raise EngineError(f"{path}: is no safetensors file ({error}); fetch it again") from None
        self.metadata: dict[str, str] = self._file.metadata() or {}
        self.names: list[str] = list(self._file.keys())
        self._known = set(self.names)

    def __contains__(self, name: str) -> bool:
        return name in self._known

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor that the file has."""
        return tuple(self._file.get_slice(name).get_shape())

    def raw(self, name: str) -> torch.Tensor:
        """A tensor in the type of the file."""
        return self._file.get_tensor(name)

    def rows(self, name: str, start: int, end: int) -> torch.Tensor:
        """Rows of a tensor along its first axis, in the type of the file."""
        return self._file.get_slice(name)[start:end]

    def tensor(self, name: str, shape: tuple[int, ...] | torch.Size) -> torch.Tensor:
        """A tensor in float32 with a required shape and finite values."""
        if name not in self:
            raise EngineError(
                f"{self.path}: tensor '{name}' is missing; expected shape {list(shape)}; check that the file holds"
                " this model"
            )
        value = self._file.get_tensor(name).float()
        if tuple(value.shape) != tuple(shape):
            raise EngineError(
                f"{self.path}: tensor '{name}' has shape {list(value.shape)}, expected {list(shape)}; check that the"
                " file holds this model"
            )
        if not torch.isfinite(value).all():
            raise not_finite(f"{self.path}: tensor '{name}'")
        return value


# Hashes and caches


def sha256(path: str) -> str:
    """The digest of a file, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as source:
            while piece := source.read(1 << 20):
                digest.update(piece)
    except OSError as error:
        raise EngineError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    return digest.hexdigest()


def digest_of(paths: list[str]) -> str:
    """The digest of several files: of their digests in order; that of the file itself if it is one."""
    digests = [sha256(path) for path in paths]
    return digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()


def cache_folder() -> str:
    """The folder of caches that both engines share."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not base.startswith("/"):
        base = os.path.join(os.path.expanduser("~"), ".cache")
    path = os.path.join(base, "espalier")
    os.makedirs(path, exist_ok=True)
    return path
