"""`millrace learn`, against a server."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from server.cli import app
from server.settings import Settings
from tests.server.consoles import widen_consoles
from tests.server.learning.lessons import picture
from tests.server.running import RunningServer, running_server
from tests.server.similarity.nets import add_eyes


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    root = tmp_path_factory.mktemp("commands")
    add_eyes(root, name="objects", dim=24)
    settings = Settings(
        repository=root,
        device="reference",
        isolate=False,
        watch=False,
        settle_s=0.0,
        worker_threads=2,
        admin_token="t0ken",
    )
    with running_server(settings) as running:
        yield running


@pytest.fixture
def run(server: RunningServer):
    def call(*arguments: str, status: int = 0, token: str = "t0ken") -> str:
        env = {"COLUMNS": "300", "MILLRACE_ADMIN_TOKEN": token}
        widen_consoles()
        done = CliRunner().invoke(app, ["learn", *arguments, "--server", server.url], env=env)
        assert done.exit_code == status, done.output + repr(done.exception)
        return str(done.output)

    return call


def folder_of(place: Path, start: int = 0, classes: int = 2) -> Path:
    for kind in range(classes):
        (place / f"kind[{kind}]").mkdir(parents=True)
        for seed in range(start, start + 4):
            (place / f"kind[{kind}]" / f"{seed}.png").write_bytes(picture(kind, seed))
    (place / "notes.txt").write_text("no picture")
    return place


def test_a_folder_is_learned_and_more_added(run, tmp_path: Path):
    cars = folder_of(tmp_path / "cars")
    (cars / "kind[0]" / "copy.png").write_bytes((cars / "kind[0]" / "0.png").read_bytes())
    text = run(str(cars), "--name", "cars")
    assert "cars version 1 is served by" in text
    assert "kind[1]" in text and "right of 8 pictures in 2 classes" in text
    assert "1 came twice: kind[0]/copy.png" in text
    assert "1 are no pictures and were passed over: notes.txt" in text
    packed = tmp_path / "more.zip"
    more = folder_of(tmp_path / "more", start=30, classes=3)
    with zipfile.ZipFile(packed, "w") as archive:
        for path in more.rglob("*.png"):
            archive.write(path, path.relative_to(more))
    text = run(str(packed), "--base", "cars", "--no-publish")
    assert "right of 20 pictures in 3 classes" in text and "nothing was published" in text


def test_what_cannot_be_learned_is_told(run, tmp_path: Path):
    cars = folder_of(tmp_path / "cars")
    assert "`name` is missing" in run(str(cars), status=1)
    assert "there is no file or folder" in run(str(tmp_path / "none"), status=2)
    assert "(401)" in run(str(cars), "--name", "x", status=1, token="wrong")
    assert "'tree' is not known" in run(str(cars), "--name", "x", "--method", "tree", status=1)
    (cars / "kind[1]" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    text = run(str(cars), "--name", "x", status=1)  # within the stream
    assert "kind[1]/broken.png" in text and "skip_unreadable" in text
    text = run(str(cars), "--name", "x", "--no-publish", "--skip-unreadable")
    assert "1 cannot be read and were left out: kind[1]/broken.png" in text
