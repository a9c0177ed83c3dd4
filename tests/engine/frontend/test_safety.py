"""The door for files: nothing outside of a model's folder, nothing larger than it says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from engine.errors import InvalidModel, ResourceLimit
from engine.frontend.safety import ExternalData, read_model_file

DATA = bytes(range(100))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    inside = tmp_path / "model"
    (inside / "sub").mkdir(parents=True)
    (inside / "w.bin").write_bytes(DATA)
    (inside / "sub" / "w.bin").write_bytes(DATA)
    (tmp_path / "secret.bin").write_bytes(DATA)
    return inside


def read(folder: Path | None, location: str, offset: int = 0, length: int = 10) -> bytes:
    return bytes(ExternalData(folder, 1000).read("w", location, offset, length))


@pytest.mark.parametrize("location", ["w.bin", "./w.bin", "sub/w.bin"])
def test_reads_what_lies_in_the_folder(folder: Path, location: str) -> None:
    assert read(folder, location, 5, 20) == DATA[5:25]


@pytest.mark.parametrize(
    "location",
    [
        "../secret.bin",
        "sub/../../secret.bin",
        "sub/../w.bin",
        "/etc/passwd",
        "//w.bin",
        "",
        ".",
        "..",
        "sub//w.bin",
        "w.bin/",
        "..\\secret.bin",
        "w.bin\0.txt",
        "sub/./w.bin",
    ],
)
def test_refuses_paths_that_are_not_plainly_inside(folder: Path, location: str) -> None:
    with pytest.raises(InvalidModel, match="plain relative path"):
        read(folder, location)


def test_refuses_a_link(folder: Path) -> None:
    (folder / "link.bin").symlink_to("w.bin")
    with pytest.raises(InvalidModel, match="links are not followed"):
        read(folder, "link.bin")


def test_refuses_a_folder_that_is_a_link(folder: Path) -> None:
    (folder / "out").symlink_to("..", target_is_directory=True)
    with pytest.raises(InvalidModel, match=r"cannot open|is a link"):
        read(folder, "out/secret.bin")


def test_refuses_hard_links(folder: Path) -> None:
    os.link(folder.parent / "secret.bin", folder / "hard.bin")
    with pytest.raises(InvalidModel, match="hard links"):
        read(folder, "hard.bin")


def test_refuses_what_is_no_file(folder: Path) -> None:
    os.mkfifo(folder / "fifo")
    for name in ("sub", "fifo"):
        with pytest.raises(InvalidModel):
            read(folder, name)


def test_refuses_a_missing_file(folder: Path) -> None:
    with pytest.raises(InvalidModel, match=r"cannot open 'none.bin'"):
        read(folder, "none.bin")


@pytest.mark.parametrize(("offset", "length"), [(95, 10), (100, 1), (2**62, 1), (-1, 5), (0, -1)])
def test_refuses_ranges_beyond_the_file(folder: Path, offset: int, length: int) -> None:
    with pytest.raises(InvalidModel, match=r"beyond|negative"):
        read(folder, "w.bin", offset, length)


def test_counts_all_bytes_against_the_limit(folder: Path) -> None:
    external = ExternalData(folder, 150)
    external.read("a", "w.bin", 0, 100)
    assert list(external.files) == ["w.bin"]
    with pytest.raises(ResourceLimit, match="model_bytes=150"):
        external.read("b", "w.bin", 0, 100)


def test_a_model_of_bytes_has_no_folder() -> None:
    with pytest.raises(InvalidModel, match="load it from its path"):
        read(None, "w.bin")


def test_model_file_may_be_a_link_but_must_be_a_file(folder: Path) -> None:
    (folder / "m.onnx").symlink_to("w.bin")
    assert read_model_file(folder / "m.onnx", 100) == DATA
    with pytest.raises(ResourceLimit, match="100 bytes, the limit is model_bytes=99"):
        read_model_file(folder / "m.onnx", 99)
    os.mkfifo(folder / "fifo")
    for bad in (folder / "none", folder, folder / "fifo"):
        with pytest.raises(InvalidModel):
            read_model_file(bad, 100)
