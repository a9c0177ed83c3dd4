"""What an archive claims to be is bounded before anything is made of it."""

import gzip
import io
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from server.repository import bounded_archives as bounded
from server.repository.bounded_archives import (
    DAMAGED,
    MAX_HEADER_BYTES,
    ArchiveInvalid,
    ArchiveTooLarge,
    fault_of,
    open_tar,
    open_zip,
)
from server.repository.golden import GoldenMismatch, read_samples

BLOCK = tarfile.BLOCKSIZE


def listed(number: int, comment: bytes = b"") -> bytes:
    name = b"%05d" % number
    lengths = len(name), 0, len(comment), 0, 0, 0, 0
    head = struct.pack("<4s6H3I", b"PK\1\2", 20, 20, 0, 0, 0, 33, 0, 0, 0)
    return head + struct.pack("<5H2I", *lengths) + name + comment


def ending(count: int, length: int, offset: int = 0, comment: bytes = b"") -> bytes:
    return struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, count, count, length, offset, 0) + comment


def read_zip(data: bytes, most: int) -> int:
    with open_zip(io.BytesIO(data), most) as archive:
        return len(archive.infolist())


class NotToBeMade(zipfile.ZipInfo):
    def __init__(self, *args: object) -> None:
        raise AssertionError("an entry was parsed")


def test_entries_of_a_zip_are_counted_before_they_are_parsed(monkeypatch: pytest.MonkeyPatch):
    entries = b"".join(map(listed, range(100)))
    honest = entries + ending(100, len(entries))
    assert read_zip(honest, 100) == 100
    monkeypatch.setattr(zipfile, "ZipInfo", NotToBeMade)
    with pytest.raises(ArchiveTooLarge, match="more than 99 entries"):
        read_zip(honest, 99)
    # The record at the end says that there is one: what counts is what would be read.
    with pytest.raises(ArchiveTooLarge, match="more than 99 entries"):
        read_zip(entries + ending(1, len(entries)), 99)
    monkeypatch.setattr(bounded, "MAX_ZIP_ENTRIES", 10)
    with pytest.raises(ArchiveTooLarge, match="more than 10 entries"):
        read_zip(honest, 1000)


def long_list() -> bytes:
    """Few entries that hold much."""
    return b"".join(listed(number, bytes(60_000)) for number in range(5))


def with_a_record_in_the_record(entries: bytes) -> bytes:
    # Whoever looks for the last mark finds one inside of the record, and no record behind it.
    offset = int.from_bytes(b"PK\5\6", "little")
    return entries + ending(5, len(entries), offset)


def with_a_wide_record(entries: bytes, *, pointing_at: int) -> bytes:
    size, place = len(entries), 0
    wide = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, 5, 5, size, place)
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, pointing_at, 1)
    return entries + wide + locator + ending(0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF)


@pytest.mark.parametrize(
    "data",
    [
        long_list() + ending(5, len(long_list())),
        with_a_record_in_the_record(long_list()),
        with_a_wide_record(long_list(), pointing_at=len(long_list())),
        with_a_wide_record(long_list(), pointing_at=7),
    ],
)
def test_a_long_list_is_not_read_whatever_record_says_where_it_is(
    data: bytes, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(zipfile, "ZipInfo", NotToBeMade)
    with pytest.raises((ArchiveTooLarge, zipfile.BadZipFile)) as refused:
        read_zip(data, 5)
    if refused.type is ArchiveTooLarge:
        assert "at most" in str(refused.value)


def test_what_a_zip_entry_may_be():
    entry = zipfile.ZipInfo("a")
    assert fault_of(entry) is None
    entry.compress_type = zipfile.ZIP_DEFLATED
    assert fault_of(entry) is None
    entry.compress_type = zipfile.ZIP_LZMA  # its header says how much memory it takes
    assert "method 14" in str(fault_of(entry))
    entry.compress_type = zipfile.ZIP_STORED
    entry.flag_bits = 1
    assert "encrypted" in str(fault_of(entry))
    entry.external_attr = 0o120777 << 16
    assert "link" in str(fault_of(entry))


def header(name: str, size: int, type: bytes = tarfile.REGTYPE) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, type
    return info.tobuf(tarfile.GNU_FORMAT)


def member(name: str, data: bytes, type: bytes = tarfile.REGTYPE) -> bytes:
    return header(name, len(data), type) + data + bytes(-len(data) % BLOCK)


def record(key: str, value: str) -> bytes:
    length = len(f" {key}={value}\n".encode())
    digits = len(str(length + len(str(length))))
    return f"{length + digits} {key}={value}\n".encode()


def read_tar(
    data: bytes, most_entries: int = 100, most_bytes: int = 1 << 20, *, contents: bool = False
) -> list[str]:
    names = []
    with open_tar(io.BytesIO(data), most_entries, most_bytes) as entries:
        for entry in entries:
            names.append(entry.name)
            content = entries.content(entry) if contents else None
            if content is not None:
                assert len(content.read()) == entry.size
    return names


END = bytes(2 * BLOCK)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_headers_that_people_send(pack):
    long = "a/" * 300 + "b"
    file = io.BytesIO()
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w", format=form) as archive:
            for name in ("short", long):
                info = tarfile.TarInfo(name)
                info.size, info.pax_headers = 1000, {"SCHILY.xattr.user": "x" * 60_000}
                archive.addfile(info, io.BytesIO(bytes(1000)))
        assert read_tar(pack(file.getvalue()), contents=True) == ["short", long]
        assert read_tar(pack(file.getvalue())) == ["short", long]


def endless_extensions() -> bytes:
    """A sparse file of old: every block of its map says that there is another one."""
    first = bytearray(header("a", 0, tarfile.GNUTYPE_SPARSE))
    first[482] = 1
    checksum = sum(first[:148]) + 8 * 32 + sum(first[156:])
    first[148:156] = b"%06o\0 " % checksum
    block = (b"%011o\0" % 1 + b"%011o\0" % 1) * 21 + b"\1" + bytes(7)
    return bytes(first) + block * (MAX_HEADER_BYTES // BLOCK + 10)


def endless_map() -> bytes:
    """A sparse file of today: its content begins with the map, whose length is its first line."""
    pairs = record("GNU.sparse.major", "1") + record("GNU.sparse.minor", "0")
    pairs += record("GNU.sparse.name", "a") + record("GNU.sparse.realsize", "10")
    data = b"9999999999\n" + b"1\n" * MAX_HEADER_BYTES
    return member("x", pairs, tarfile.XHDTYPE) + member("a", data)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize(
    "data",
    [
        header("x", MAX_HEADER_BYTES + 1, tarfile.XHDTYPE),
        member("x", b"n" * (MAX_HEADER_BYTES // 2), tarfile.GNUTYPE_LONGNAME) * 3,
        endless_extensions(),
        endless_map(),
    ],
)
def test_headers_without_end(data: bytes, pack):
    with pytest.raises(ArchiveInvalid, match="headers of over"):
        read_tar(pack(member("first", b"x") + data + END))
    with pytest.raises(ArchiveInvalid, match="headers of over"):
        read_tar(pack(data + END))


def test_many_headers_before_one_entry_are_no_crash():
    with pytest.raises(DAMAGED):
        read_tar(member("x", b"name\0", tarfile.GNUTYPE_LONGNAME) * 1000 + member("a", b"") + END)


def test_headers_for_all_entries_are_few():
    def file(count: int) -> bytes:
        return b"".join(
            member("g", record(f"key{number}", "v"), tarfile.XGLTYPE) + member(str(number), b"x")
            for number in range(count)
        )

    assert len(read_tar(file(bounded.MAX_GLOBAL_HEADERS) + END)) == bounded.MAX_GLOBAL_HEADERS
    with pytest.raises(ArchiveInvalid, match="global headers"):
        read_tar(file(bounded.MAX_GLOBAL_HEADERS + 1) + END)


def test_sparse_files_are_refused():
    pairs = record("GNU.sparse.map", "0,1") + record("GNU.sparse.size", "1000000000000")
    with pytest.raises(ArchiveInvalid, match="'a' is a sparse file"):
        read_tar(member("x", pairs, tarfile.XHDTYPE) + member("a", b"x") + END)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_what_is_passed_over_counts(pack):
    # The header that counts for the reader says 3 bytes, the one that counts on the way 1 TB.
    lie = member("x", record("size", "1000000000000"), tarfile.XHDTYPE) + header("a", 3)
    with pytest.raises(ArchiveTooLarge, match="unpacks to more than"):
        read_tar(pack(lie + END))


def test_entries_of_a_tar_are_counted():
    folders = b"".join(header(f"{number}", 0, tarfile.DIRTYPE) for number in range(6))
    assert len(read_tar(folders + END, most_entries=6)) == 6
    with pytest.raises(ArchiveTooLarge, match="more than 5 entries"):
        read_tar(folders + END, most_entries=5)


def sample_zip(change) -> bytes:
    array = io.BytesIO()
    np.lib.format.write_array(array, np.arange(2000, dtype=np.float32))
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("input:x.npy", "output:y.npy"):
            archive.writestr(name, change(array.getvalue()))
        archive.writestr("notes.txt", "whatever stands beside them")
    return file.getvalue()


def write_sample(folder: Path, data: bytes) -> Path:
    (folder / "samples").mkdir()
    (folder / "samples" / "0.npz").write_bytes(data)
    return folder


def test_golden_samples_are_read(tmp_path: Path):
    [sample] = read_samples(write_sample(tmp_path, sample_zip(bytes)))
    assert np.array_equal(sample.inputs["x"], np.arange(2000, dtype=np.float32))
    assert set(sample.outputs) == {"y"}


def huge(array: bytes) -> bytes:
    return array.replace(b"(2000,)", b"(9" + b"0" * 15 + b",)").replace(b" " * 11, b"", 1)


def spoilt(data: bytes) -> bytes:
    start = 30 + len("input:x.npy")
    return data[: start + 5] + bytes(b ^ 0x5A for b in data[start + 5 : start + 60]) + data[start:]


def encrypted(data: bytes) -> bytes:
    place = data.find(b"PK\1\2")
    return data[: place + 8] + b"\1" + data[place + 9 :]


@pytest.mark.parametrize(
    "data",
    [
        spoilt(sample_zip(bytes)),
        encrypted(sample_zip(bytes)),
        sample_zip(huge),
        sample_zip(lambda array: array[:40]),
        sample_zip(lambda array: array[:500]),
        b"".join(map(listed, range(5000))) + ending(5000, 5000 * len(listed(0))),
    ],
)
def test_golden_samples_that_cannot_be_read(tmp_path: Path, data: bytes):
    with pytest.raises(GoldenMismatch, match="cannot be read"):
        read_samples(write_sample(tmp_path, data))
