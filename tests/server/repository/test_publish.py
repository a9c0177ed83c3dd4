"""Publishing: atomic, contained, bounded, and safe against being killed."""

import os
import random
import shutil
import signal
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from server.errors import Conflict, InvalidInput, PayloadTooLarge
from server.repository.incoming import Incoming, sweep, taken_versions
from server.repository.manifest import check_hashes, check_lengths, read_manifest, write_manifest
from server.repository.publish import (
    publish_path,
    publish_stream,
    remove,
)
from tests.server.repository.children import fork, open_folder, run_unprivileged
from tests.server.repository.test_archive import gzip_tar_of, tar_of, zip_of

LIMIT = 1 << 20
FULL = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    folder.mkdir()
    return folder


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    path = tmp_path / "net.onnx"
    path.write_bytes(b"\x08\x09graph")
    return path


async def stream(content: bytes, size: int = 1000) -> AsyncIterator[bytes]:
    for start in range(0, len(content), size):
        yield content[start : start + size]


def assert_whole(folder: Path) -> None:
    manifest = read_manifest(folder)
    assert manifest is not None and "model.onnx" in manifest
    check_lengths(folder, manifest)
    check_hashes(folder, manifest)


def hidden(root: Path) -> list[Path]:
    return list(root.glob("*/.*"))


def test_a_file_becomes_version_1_then_2(root: Path, graph: Path):
    first = publish_path(root, "m", None, graph, LIMIT)
    assert (first.version, first.files, first.bytes) == ("1", ("model.onnx",), 7)
    assert publish_path(root, "m", None, graph, LIMIT).version == "2"
    assert publish_path(root, "m", "v9", graph, LIMIT).version == "v9"
    assert publish_path(root, "m", None, graph, LIMIT).version == "3"
    for version in ("1", "2", "3", "v9"):
        assert_whole(root / "m" / version)
    assert hidden(root) == []


def test_a_folder_keeps_its_files_and_their_names(root: Path, tmp_path: Path):
    source = tmp_path / "export"
    (source / "samples").mkdir(parents=True)
    (source / "mynet.onnx").write_bytes(b"g")
    (source / "labels.txt").write_text("a\nb\n")
    (source / "samples" / "0.npz").write_bytes(b"s")
    (source / ".cache").write_bytes(b"x")
    published = publish_path(root, "m", "1", source, LIMIT)
    assert published.files == ("labels.txt", "mynet.onnx", "samples/0.npz")
    assert not (published.folder / ".cache").exists()


def test_an_existing_version_is_a_conflict(root: Path, graph: Path):
    publish_path(root, "m", "1", graph, LIMIT)
    with pytest.raises(Conflict, match="already has a version '1'"):
        publish_path(root, "m", "1", graph, LIMIT)
    assert hidden(root) == []


def test_files_directly_in_the_model_take_version_1(root: Path, graph: Path):
    (root / "flat").mkdir()
    (root / "flat" / "model.onnx").write_bytes(b"g")
    (root / "optimum" / "onnx").mkdir(parents=True)
    (root / "optimum" / "onnx" / "model.onnx").write_bytes(b"g")
    for model in ("flat", "optimum"):
        assert "1" in taken_versions(root / model)
        with pytest.raises(Conflict):
            publish_path(root, model, "1", graph, LIMIT)
        assert publish_path(root, model, None, graph, LIMIT).version == "2"


@pytest.mark.parametrize(
    ("model", "version"), [("../m", "1"), ("m", "../1"), ("m", ".x"), ("", "1")]
)
def test_names_that_lead_elsewhere_are_refused(root: Path, graph: Path, model: str, version: str):
    with pytest.raises(InvalidInput, match="name"):
        publish_path(root, model, version, graph, LIMIT)
    assert list(root.iterdir()) == []


def test_what_is_not_a_version_is_refused(root: Path, tmp_path: Path):
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "a.onnx").write_bytes(b"1")
    (empty / "b.onnx").write_bytes(b"2")
    with pytest.raises(InvalidInput, match=r"expected model\.onnx or a single .* a\.onnx"):
        publish_path(root, "m", "1", empty, LIMIT)
    with pytest.raises(InvalidInput, match="no file or folder"):
        publish_path(root, "m", "1", tmp_path / "missing", LIMIT)
    assert list(root.iterdir()) == []


def test_links_in_a_folder_are_refused(root: Path, tmp_path: Path):
    source = tmp_path / "export"
    source.mkdir()
    (source / "model.onnx").write_bytes(b"g")
    (source / "labels.txt").symlink_to("/etc/passwd")
    with pytest.raises(InvalidInput, match=r"labels\.txt is a link"):
        publish_path(root, "m", "1", source, LIMIT)
    (source / "labels.txt").unlink()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "0.npz").write_bytes(b"s")
    (source / "samples").symlink_to(tmp_path / "outside")
    with pytest.raises(InvalidInput, match=r"samples/0\.npz is a link"):
        publish_path(root, "m", "1", source, LIMIT)


def test_a_manifest_that_came_along_must_hold(root: Path, tmp_path: Path):
    source = tmp_path / "export"
    source.mkdir()
    (source / "model.onnx").write_bytes(b"good")
    write_manifest(source)
    (source / "model.onnx").write_bytes(b"evil")
    with pytest.raises(InvalidInput, match=r"does not match its own manifest\.json"):
        publish_path(root, "m", "1", source, LIMIT)
    assert list(root.iterdir()) == []


def test_limits(root: Path, tmp_path: Path):
    big = tmp_path / "big.onnx"
    big.write_bytes(bytes(LIMIT + 1))
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(bytes(LIMIT + 1))
    bomb = tmp_path / "bomb.zip"
    bomb.write_bytes(zip_of(("model.onnx", bytes(LIMIT + 1))))
    for source in (big, folder, bomb):
        with pytest.raises(PayloadTooLarge):
            publish_path(root, "m", "1", source, LIMIT)
    assert list(root.iterdir()) == []


@pytest.mark.parametrize("pack", [tar_of, gzip_tar_of, zip_of])
async def test_a_stream_of_an_archive(root: Path, pack):
    content = pack(("7/model.onnx", b"g"), ("7/samples/0.npz", bytes(5000)))
    published = await publish_stream(root, "m", "7", stream(content, 100), LIMIT)
    assert published.files == ("model.onnx", "samples/0.npz")
    assert_whole(published.folder)


async def test_a_stream_of_a_graph(root: Path):
    content = b"\x08\x09" + os.urandom(3 << 20)
    published = await publish_stream(root, "m", None, stream(content, 70_000), 1 << 30)
    assert (published.folder / "model.onnx").read_bytes() == content


async def test_a_stream_that_is_too_long_or_hostile_leaves_nothing(root: Path):
    with pytest.raises(PayloadTooLarge):
        await publish_stream(root, "m", "1", stream(bytes(LIMIT + 1)), LIMIT)
    with pytest.raises(InvalidInput, match="leads out"):
        await publish_stream(root, "m", "1", stream(tar_of(("../x", b"x"))), LIMIT)
    with pytest.raises(InvalidInput):
        await publish_stream(root, "..", "1", stream(b""), LIMIT)

    async def broken() -> AsyncIterator[bytes]:
        yield b"begin"
        raise ConnectionError("the client went away")

    with pytest.raises(ConnectionError):
        await publish_stream(root, "m", "1", broken(), LIMIT)
    assert list(root.iterdir()) == []


def test_of_two_publishers_of_one_version_one_wins(root: Path, graph: Path):
    outcomes: list[str] = []
    ready = threading.Barrier(4)

    def publish() -> None:
        ready.wait()
        try:
            publish_path(root, "m", "1", graph, LIMIT)
            outcomes.append("ok")
        except Conflict:
            outcomes.append("conflict")

    threads = [threading.Thread(target=publish) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["conflict"] * 3 + ["ok"]
    assert_whole(root / "m" / "1")


def test_publishers_without_a_version_never_collide(root: Path, graph: Path):
    threads = [
        threading.Thread(target=publish_path, args=(root, "m", None, graph, LIMIT))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {path.name for path in (root / "m").iterdir()} == {str(i) for i in range(1, 9)}


def test_removing(root: Path, graph: Path):
    publish_path(root, "m", "1", graph, LIMIT)
    publish_path(root, "m", "2", graph, LIMIT)
    remove(root, "m", "1")
    assert [path.name for path in (root / "m").iterdir()] == ["2"]


def test_the_sweep_leaves_living_publishers_and_versions_alone(root: Path, graph: Path):
    publish_path(root, "m", "1", graph, LIMIT)
    dead = root / "m" / ".incoming-dead"
    dead.mkdir()
    (dead / "model.onnx").write_bytes(b"half")
    trash = root / "m" / ".trash-dead"
    trash.mkdir()
    (trash / "model.onnx").write_bytes(b"old")
    newborn = root / "m" / ".incoming-newborn"
    newborn.mkdir()
    with Incoming(root, "m") as living:
        (living.folder / "model.onnx").write_bytes(b"half")
        assert set(sweep(root)) == {dead, trash}
        assert living.folder.exists() and newborn.exists()
        assert_whole(root / "m" / "1")
    assert sweep(root / "missing") == []


READ_ONLY = """
from server.repository.publish import publish_path, remove, check_writable
from server.errors import Conflict
root, graph = map(Path, sys.argv[1:])
for work in (lambda: publish_path(root, 'm', '2', graph, 99),
             lambda: publish_path(root, 'new', '2', graph, 99),
             lambda: remove(root, 'm', '1'), lambda: check_writable(root, 'm')):
    try:
        work()
    except Conflict as error:
        print('conflict', 'cannot be written' in error.message)
"""


def test_a_read_only_repository_is_a_conflict(graph: Path):
    with open_folder() as root:
        publish_path(root, "m", "1", graph, LIMIT)
        for folder in (root, root / "m", root / "m" / "1"):
            folder.chmod(0o555)
        assert run_unprivileged(READ_ONLY, root, graph) == "conflict True\n" * 4


def publish_for_ever(root: Path, source: Path) -> None:
    """Publish version after version, and remove every third."""
    while True:
        published = publish_path(root, "m", None, source, limit_bytes=1 << 30)
        if int(published.version) % 3 == 0:
            remove(root, "m", published.version)


def kill_while_publishing(root: Path, source: Path, after_s: float) -> None:
    child = fork(lambda: publish_for_ever(root, source))
    time.sleep(after_s)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


@pytest.mark.parametrize("kills", [25, pytest.param(1000, marks=FULL)])
def test_kill_9_at_any_moment_leaves_no_half_version(root: Path, tmp_path: Path, kills: int):
    source = tmp_path / "export"
    (source / "samples").mkdir(parents=True)
    (source / "model.onnx").write_bytes(os.urandom(1 << 20))
    for i in range(5):
        (source / "samples" / f"{i}.npz").write_bytes(os.urandom(10_000))
    rng = random.Random(kills)
    start = time.monotonic()
    publish_path(root, "pace", None, source, limit_bytes=1 << 30)
    longest = max(0.1, 5 * (time.monotonic() - start))  # a busy machine needs longer for one
    interrupted = published = 0
    for _ in range(kills):
        kill_while_publishing(root, source, rng.uniform(0.005, longest))
        interrupted += len(hidden(root))
        versions = list((root / "m").glob("[0-9]*"))
        for version in versions:
            assert_whole(version)
            shutil.rmtree(version)
        published += len(versions)
        sweep(root)
        # What was created an instant ago and is still empty may be a living publisher's.
        assert not [path for path in hidden(root) if any(path.iterdir())]
    assert interrupted, "no kill came in the middle of anything"
    assert published, "nothing was ever finished"
