"""`millrace index` and `millrace similar` against a running server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from server.cli import app
from server.commands import client as client_module
from server.commands import index as index_command
from server.commands.index import batches, find_pictures
from tests.server.consoles import widen_consoles
from tests.server.similarity.nets import png

runner = CliRunner()


def run(*arguments: str, status: int = 0) -> str:
    widen_consoles()
    done = runner.invoke(app, [*arguments], env={"COLUMNS": "400"})
    assert done.exit_code == status, done.output + repr(done.exception)
    assert "Traceback" not in done.output
    return str(done.output)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    (root / "cats").mkdir(parents=True)
    (root / ".hidden").mkdir()
    for n in range(5):
        (root / f"{n}.png").write_bytes(png(n))
    (root / "cats" / "tom & jerry.png").write_bytes(png(10))
    (root / ".hidden" / "no.png").write_bytes(png(11))
    (root / "notes.txt").write_text("not a picture")
    return root


def test_a_folder_is_indexed_searched_and_indexed_again(server, photos, monkeypatch):
    monkeypatch.setattr(index_command, "BATCH_ITEMS", 2)
    common = ("--collection", "folder", "--server", server.url)
    first = run("index", str(photos), *common)
    assert "6 added, 0 replaced, 1 other files left out" in first
    told = run("similar", str(photos / "3.png"), "-k", "3", *common)
    lines = [line.split() for line in told.splitlines() if line.strip()]
    assert lines[1][:3] == ["1", "1.0000", "3.png"] and len(lines) == 4
    assert "sha256" not in told
    of_cats = json.dumps({"folder": "cats"})
    nearest = json.loads(
        run("similar", "cats/tom & jerry.png", "--id", "--json", "-k", "5", *common)
    )
    assert len(nearest["results"][0]["hits"]) == 5
    only = run("similar", str(photos / "3.png"), "--filter", of_cats, *common)
    assert "tom & jerry.png" in only and '{"folder": "cats"}' in only and "3.png" not in only

    again = run("index", str(photos), *common)
    assert "0 added, 0 replaced, 6 there already" in again
    (photos / "0.png").write_bytes(png(50))
    (photos / "new.png").write_bytes(png(51))
    third = run("index", str(photos), *common)
    assert "1 added, 1 replaced, 5 there already" in third


def test_pictures_that_are_none_are_told_by_name(server, photos):
    (photos / "cats" / "broken.jpg").write_bytes(b"GIF89a")
    (photos / "gone.png").symlink_to(photos / "nowhere.png")
    output = run("index", str(photos), "--collection", "broken", "--server", server.url, status=1)
    assert "cats/broken.jpg:" in output and "1 of the pictures could not be indexed" in output
    assert "6 added" in output


def test_one_picture_and_an_unreadable_one(server, photos, monkeypatch):
    common = ("--collection", "single", "--server", server.url)
    assert "1 added" in run("index", str(photos / "1.png"), "--model", "eyes", *common)

    def refuse(path):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", refuse)
        output = run("index", str(photos), *common, status=1)
    assert "1.png: Permission denied" in output


def test_a_server_that_takes_less_at_a_time_is_sent_less(server, tmp_path, monkeypatch):
    for n in range(5):  # each of less than a MiB, which is what this server takes
        (tmp_path / f"{n}.bmp").write_bytes(png(n, (360, 300), "BMP"))
    sent: list[int] = []
    post = index_command._post
    monkeypatch.setattr(
        index_command, "_post", lambda *these: (sent.append(len(these[2])), post(*these))
    )
    told = run("index", str(tmp_path), "--collection", "parts", "--server", server.url)
    assert "5 added" in told and sent == [5, 2, 3, 1, 2]
    (tmp_path / "6.bmp").write_bytes(png(6, (700, 600), "BMP"))
    told = run("index", str(tmp_path), "--collection", "parts", "--server", server.url, status=1)
    assert "6.bmp: the body is larger than 1048576 bytes" in told and "5 there already" in told


def test_what_cannot_be_indexed(server, photos, tmp_path):
    common = ("--collection", "other", "--server", server.url)
    assert "no file or folder" in run("index", str(tmp_path / "none"), *common, status=2)
    assert "404" in run("index", str(photos), "--model", "nobody", *common, status=1)
    assert "422" in run("index", str(photos), "--metric", "taxicab", *common, status=1)
    assert "422" in run("index", str(photos), "--model", "echo", *common, status=1)
    run("index", str(photos / "1.png"), *common)
    assert "not echo" in run("index", str(photos), "--model", "echo", *common, status=2)
    bad = ("--collection", "x", "--server", "ftp://nowhere")
    assert "not a server's address" in run("index", str(photos), *bad, status=2)


def test_a_server_that_is_not_there(photos, monkeypatch):
    slept: list[float] = []
    monkeypatch.setattr(client_module.time, "sleep", slept.append)
    common = ("--collection", "x", "--server", "http://127.0.0.1:1")
    told = run("index", str(photos), *common, status=1)
    assert "start the command again" in " ".join(told.split())  # wherever the terminal wraps it
    assert len(slept) == client_module.ATTEMPTS - 1 and slept == sorted(slept)


def test_what_cannot_be_searched(server, photos):
    missing = run("similar", "cat.jpg", "--collection", "none", status=2)
    assert "add --id" in missing
    common = ("--server", server.url)
    output = run("similar", str(photos / "1.png"), "--collection", "none", *common, status=1)
    assert "404" in output


def test_batches_are_bounded(tmp_path, monkeypatch):
    for n in range(5):
        (tmp_path / f"{n}.png").write_bytes(bytes(100))
    found, other = find_pictures(tmp_path)
    assert len(found) == 5 and other == 0
    monkeypatch.setattr(index_command, "BATCH_BYTES", 250)
    assert [len(batch) for batch in batches(found)] == [2, 2, 1]
    assert list(batches([])) == []
