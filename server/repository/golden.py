"""Golden samples: inputs with the outputs that a version must give for them.

    <version>/samples/*.npz     arrays `input:<name>` and `output:<name>`

They are checked before a version serves anything, and their inputs warm it up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from server.model_config import GoldenConfig
from server.repository.bounded_archives import DAMAGED, open_zip
from server.repository.layout import SAMPLES_FOLDER

INPUT_PREFIX = "input:"
OUTPUT_PREFIX = "output:"
MAX_SAMPLES = 64
MAX_SAMPLE_BYTES = 256 << 20  # unpacked, all arrays of one file
MAX_ARRAYS = 4096  # of one file
ARRAY_SUFFIX = ".npy"

Feeds = dict[str, np.ndarray[Any, Any]]
Run = Callable[[Feeds, Sequence[str]], Mapping[str, np.ndarray[Any, Any]]]


class GoldenMismatch(ValueError):
    """A version does not give the answers that its own samples promise."""


@dataclass(frozen=True)
class Sample:
    """One file of golden inputs and outputs."""

    name: str
    inputs: Feeds
    outputs: Feeds


def read_samples(folder: Path) -> list[Sample]:
    """Return the samples of a version folder, in the order of their names.

    Raises:
        GoldenMismatch: a file cannot be read as a sample.
    """
    paths = sorted((folder / SAMPLES_FOLDER).glob("*.npz"))
    return [_read_sample(path) for path in paths[:MAX_SAMPLES] if not path.name.startswith(".")]


def _read_sample(path: Path) -> Sample:
    try:
        arrays = _read_arrays(path)
    except (*DAMAGED, OSError, MemoryError) as error:
        raise GoldenMismatch(f"{SAMPLES_FOLDER}/{path.name} cannot be read: {error}") from error
    inputs = _with_prefix(arrays, INPUT_PREFIX)
    outputs = _with_prefix(arrays, OUTPUT_PREFIX)
    if not inputs or not outputs:
        raise GoldenMismatch(
            f"{SAMPLES_FOLDER}/{path.name}: expected arrays named 'input:<name>' and "
            f"'output:<name>', got {sorted(arrays)}"
        )
    return Sample(path.name, inputs, outputs)


def _read_arrays(path: Path) -> Feeds:
    with path.open("rb") as file, open_zip(file, MAX_ARRAYS) as archive:
        entries = [each for each in archive.infolist() if each.filename.endswith(ARRAY_SUFFIX)]
        unpacked = sum(entry.file_size for entry in entries)
        if unpacked > MAX_SAMPLE_BYTES:
            raise ValueError(f"{unpacked} bytes unpacked, the limit is {MAX_SAMPLE_BYTES}")
        arrays: Feeds = {}
        for entry in entries:
            with archive.open(entry) as content:
                array = np.lib.format.read_array(content, allow_pickle=False)
            arrays[entry.filename.removesuffix(ARRAY_SUFFIX)] = array
    return arrays


def _with_prefix(arrays: Feeds, prefix: str) -> Feeds:
    return {name[len(prefix) :]: a for name, a in arrays.items() if name.startswith(prefix)}


def check_samples(samples: Sequence[Sample], run: Run, tolerance: GoldenConfig) -> None:
    """Run every sample and compare.

    Raises:
        GoldenMismatch: naming sample, output, where it differs and by how much.
    """
    for sample in samples:
        got = run(sample.inputs, tuple(sample.outputs))
        for name, expected in sample.outputs.items():
            _compare(
                f"{SAMPLES_FOLDER}/{sample.name}: output {name!r}", expected, got[name], tolerance
            )


def _compare(
    where: str, expected: np.ndarray[Any, Any], got: np.ndarray[Any, Any], tolerance: GoldenConfig
) -> None:
    if got.shape != expected.shape:
        raise GoldenMismatch(f"{where}: expected shape {expected.shape}, got {got.shape}")
    if expected.dtype.kind not in "fiub" or got.dtype.kind not in "fiub":
        wrong = np.asarray(got.astype(str) != expected.astype(str))
    else:
        wrong = ~np.isclose(
            got.astype(np.float64),
            expected.astype(np.float64),
            rtol=tolerance.rtol,
            atol=tolerance.atol,
            equal_nan=True,
        )
    if wrong.any():
        place = tuple(int(index) for index in np.argwhere(wrong)[0])
        raise GoldenMismatch(
            f"{where}: {int(wrong.sum())} of {wrong.size} values are outside rtol="
            f"{tolerance.rtol:g} atol={tolerance.atol:g}; the first at {place}: expected "
            f"{expected[place]}, got {got[place]}"
        )
