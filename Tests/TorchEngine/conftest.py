"""Fixtures of the engine's tests."""

from __future__ import annotations

import pathlib
import signal
from typing import Iterator

import pytest
import torch

import support


@pytest.fixture(autouse=True)
def _calm() -> Iterator[None]:
    """One thread, and the signal handlers of pytest after a run in this process."""
    torch.set_num_threads(1)
    kept = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder with the tiny model, its data and a cache of its own."""
    path = tmp_path_factory.mktemp("engine")
    support.write_model(path / "model.safetensors")
    support.write_data(path / "data.safetensors")
    return path


@pytest.fixture(autouse=True)
def _cache(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    monkeypatch.setenv("ESPALIER_LOG_EVERY_STEP", "1")


@pytest.fixture
def program() -> str:
    """The native program; tests that compare with it are skipped without."""
    found = support.native()
    if found is None:
        pytest.skip("the native program is not built; 'make build' does")
    return found


@pytest.fixture
def goldens() -> str:
    """The folder of reference files; tests that need it are skipped without."""
    found = support.goldens()
    if found is None:
        pytest.skip("there are no reference files; ESPALIER_GOLDENS names their folder")
    return found
