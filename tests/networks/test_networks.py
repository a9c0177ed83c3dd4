"""Networks of the user's world, of reduced width: ONNX Runtime's answers at two shapes each."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.networks.cases import read_cases
from tests.networks.checking import check_network
from tests.networks.table import NETWORKS

FOLDER = Path(__file__).with_name("fixtures")
FILE_BYTES, ALL_BYTES = 200_000, 6_000_000


def path(name: str) -> Path:
    return FOLDER / f"{name}.onnx"


@pytest.mark.parametrize(("device", "level"), [("reference", 0), ("reference", 2), ("cpu", 2)])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_answers_as_onnx_runtime_does(name: str, device: str, level: int) -> None:
    check_network(path(name), NETWORKS[name], level, device)


def test_every_file_is_in_the_table() -> None:
    assert {p.stem for p in FOLDER.glob("*.onnx")} == set(NETWORKS)


def test_files_are_small_and_name_no_path() -> None:
    files = [p for p in FOLDER.iterdir() if p.suffix in {".onnx", ".npz", ".data"}]
    assert max(p.stat().st_size for p in files) <= FILE_BYTES
    assert sum(p.stat().st_size for p in files) <= ALL_BYTES
    for file in files:
        assert b"site-packages" not in file.read_bytes()


@pytest.mark.parametrize("name", NETWORKS)
def test_cases_differ_in_shape(name: str) -> None:
    cases = read_cases(path(name).with_suffix(".npz"))
    shapes = {tuple(array.shape for array in case.feeds.values()) for case in cases}
    assert len(cases) == len(shapes) == 2
