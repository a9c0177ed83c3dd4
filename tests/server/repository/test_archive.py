"""Archives from outside: unpacked into their folder, and nowhere else."""

import errno
import gzip
import io
import stat
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.repository import archive as archive_module
from server.repository.archive import ArchiveInvalid, ArchiveTooLarge, kind_of, unpack

LIMIT = 1 << 20


def tar_of(*entries: tuple[str, bytes], mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, content in entries:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def zip_of(*entries: tuple[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return buffer.getvalue()


def gzip_tar_of(*entries: tuple[str, bytes]) -> bytes:
    return tar_of(*entries, mode="w:gz")


def unpacked(tmp_path: Path, content: bytes, limit: int = LIMIT) -> dict[str, bytes]:
    archive, target = tmp_path / "upload", tmp_path / "in" / "target"
    archive.write_bytes(content)
    target.mkdir(parents=True)
    kind = kind_of(content[:512])
    assert kind is not None
    unpack(archive, kind, target, limit)
    return {str(p.relative_to(target)): p.read_bytes() for p in target.rglob("*") if p.is_file()}


packers = pytest.mark.parametrize("pack", [tar_of, gzip_tar_of, zip_of])


@packers
def test_files_and_folders_are_unpacked(tmp_path: Path, pack: Callable[..., bytes]):
    found = unpacked(tmp_path, pack(("model.onnx", b"graph"), ("samples/0.npz", b"sample")))
    assert found == {"model.onnx": b"graph", "samples/0.npz": b"sample"}


@packers
def test_a_single_top_folder_is_taken_off(tmp_path: Path, pack: Callable[..., bytes]):
    content = pack(("2/model.onnx", b"graph"), ("2/2", b"same name"), ("2/samples/0.npz", b"s"))
    assert set(unpacked(tmp_path, content)) == {"model.onnx", "2", "samples/0.npz"}


@packers
def test_hidden_files_and_those_of_macos_are_left_out(tmp_path: Path, pack: Callable[..., bytes]):
    content = pack(("./model.onnx", b"g"), (".git/config", b"x"), ("__MACOSX/._model.onnx", b"x"))
    assert set(unpacked(tmp_path, content)) == {"model.onnx"}


@packers
@pytest.mark.parametrize(
    "name",
    ["../evil", "/etc/evil", "a/../../evil", "a\\..\\evil", "C:/evil", "a/" * 9 + "b", "x" * 256],
)
def test_no_entry_leaves_the_folder(tmp_path: Path, pack: Callable[..., bytes], name: str):
    with pytest.raises(ArchiveInvalid, match="entry"):
        unpacked(tmp_path, pack((name, b"evil")))
    assert not list(tmp_path.rglob("*evil*"))


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, b"S"]
)
def test_links_devices_and_sparse_files_are_refused(tmp_path: Path, kind: bytes):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        info = tarfile.TarInfo("model.onnx")
        info.type, info.linkname = kind, "/etc/passwd"
        archive.addfile(info)
    with pytest.raises(ArchiveInvalid):
        unpacked(tmp_path, buffer.getvalue())


def test_links_in_zip_files_are_refused(tmp_path: Path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        link = zipfile.ZipInfo("model.onnx")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(ArchiveInvalid, match="link or a device"):
        unpacked(tmp_path, buffer.getvalue())


def test_encrypted_zip_files_are_refused(tmp_path: Path):
    content = bytearray(zip_of(("model.onnx", b"graph")))
    content[content.index(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(ArchiveInvalid, match="encrypted"):
        unpacked(tmp_path, bytes(content))


@packers
def test_bombs_stop_at_the_limit(tmp_path: Path, pack: Callable[..., bytes]):
    bomb = pack(("model.onnx", bytes(8 << 20)))
    with pytest.raises(ArchiveTooLarge, match="more than 1048576 bytes"):
        unpacked(tmp_path, bomb)
    written = sum(path.stat().st_size for path in (tmp_path / "in").rglob("*") if path.is_file())
    assert written <= LIMIT


# Not for zip files: they are read by their directory, what is left out is never unpacked.
@pytest.mark.parametrize("pack", [tar_of, gzip_tar_of])
def test_left_out_entries_count_too(tmp_path: Path, pack: Callable[..., bytes]):
    with pytest.raises(ArchiveTooLarge):
        unpacked(tmp_path, pack((".skipped", bytes(8 << 20)), ("model.onnx", b"g")))


@pytest.mark.parametrize("pack", [tar_of, zip_of])
def test_very_many_entries_are_refused(
    tmp_path: Path, pack: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(archive_module, "MAX_ENTRIES", 20)
    content = pack(*((f"f{i}", b"") for i in range(21)))
    with pytest.raises(ArchiveTooLarge, match="more than 20 entries"):
        unpacked(tmp_path, content, limit=1 << 30)


@packers
def test_one_name_twice_is_refused(tmp_path: Path, pack: Callable[..., bytes]):
    with pytest.warns() if pack is zip_of else nullcontext():
        content = pack(("model.onnx", b"a"), ("model.onnx", b"b"))
    with pytest.raises(ArchiveInvalid, match="twice"):
        unpacked(tmp_path, content)


def test_a_file_cannot_be_a_folder_as_well(tmp_path: Path):
    with pytest.raises(ArchiveInvalid, match="twice"):
        unpacked(tmp_path, tar_of(("a", b"x"), ("a/b", b"y")))


def test_a_huge_header_is_not_read_into_memory(tmp_path: Path):
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 200 << 20
    content = gzip.compress(info.tobuf() + bytes(200 << 20), compresslevel=1)
    tracemalloc.start()
    try:
        with pytest.raises(ArchiveInvalid, match="headers of over"):
            unpacked(tmp_path, content)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 50 << 20


def test_kinds_are_told_by_content():
    assert kind_of(zip_of(("a", b""))[:512]) == "zip"
    assert kind_of(tar_of(("a", b""))[:512]) == "tar"
    assert kind_of(gzip_tar_of(("a", b""))[:512]) == "tar"
    assert kind_of(b"\x08\x09") is None
    assert kind_of(b"") is None


@settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_damaged_archives_are_errors_of_the_caller(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
):
    pack = data.draw(st.sampled_from([tar_of, gzip_tar_of, zip_of]))
    content = bytearray(pack(("model.onnx", b"graph" * 50), ("samples/0.npz", b"sample")))
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(1, len(content)))]
    if kind_of(bytes(content[:512])) is None:
        return
    folder = tmp_path_factory.mktemp("damaged")
    with suppress(ArchiveInvalid, ArchiveTooLarge):
        unpacked(folder, bytes(content))
    assert {path.name for path in folder.iterdir()} == {"upload", "in"}
    assert [path.name for path in (folder / "in").iterdir()] == ["target"]


@pytest.mark.parametrize(
    ("method", "told"),
    [(zipfile.ZIP_BZIP2, "not a readable zip"), (zipfile.ZIP_LZMA, "compressed by method 14")],
)
def test_damaged_entries_of_rarer_methods(tmp_path: Path, method: int, told: str):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr("model.onnx", b"graph" * 50)
    content = bytearray(file.getvalue())
    content[42:60] = bytes(18)
    with pytest.raises(ArchiveInvalid, match=told):
        unpacked(tmp_path, bytes(content))


def test_a_name_that_is_not_in_its_encoding(tmp_path: Path):
    content = zip_of(("é", b"graph")).replace("é".encode(), b"\xc3\xff")
    with pytest.raises(ArchiveInvalid, match="not a readable zip"):
        unpacked(tmp_path, content)


def test_a_full_disk_is_not_the_archives_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("server.repository.archive._write", full)
    with pytest.raises(OSError, match="No space left"):
        unpacked(tmp_path, zip_of(("model.onnx", b"graph")))
