"""Our engine, as the figures load it. Never imports ONNX Runtime: its memory is measured alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import engine
from engine.device import get_device

Array = NDArray[np.generic]
Run = Callable[[Mapping[str, Array]], dict[str, Array]]


def opened(
    path: Path,
    threads: int,
    precision: str = "fp32",
    device: str = "cpu",
    cache: Path | None = None,
) -> engine.Model:
    """Return the loaded model."""
    return engine.load(path, device=device, threads=threads, precision=precision, cache_dir=cache)


def import_device(name: str) -> None:
    """Import what a device needs, so that loading is timed without it."""
    get_device(name)
