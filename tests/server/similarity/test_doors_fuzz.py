"""Whatever is sent to collections, it is read or refused with an error of ours."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.errors import ServerError, status_of
from server.handlers.call import Call
from server.repository import bounded_archives
from server.routes.items_body import form_items, json_items, raw_item
from server.routes.similar_body import read_similar
from server.similarity import archives
from server.similarity.archives import ArchiveLimits, PictureArchive
from server.similarity.batches import Entry, Refused
from tests.server.similarity.nets import png

quick = settings(max_examples=60, deadline=None)

numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
scalars = st.none() | st.booleans() | numbers | st.text(max_size=8)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=8,
)
images = st.fixed_dictionaries({"b64": st.sampled_from(["AAAA", "?", "", "data:x,AAAA"]) | scalars})
queries = st.dictionaries(
    st.sampled_from(["image", "id", "vector"]),
    values | images | st.lists(numbers, max_size=4),
    max_size=2,
)
searches = st.dictionaries(
    st.sampled_from(
        ["k", "offset", "min_score", "filter", "exact", "return", "collection", "version", "what"]
    ),
    values,
    max_size=3,
)
names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20) | st.sampled_from(
    [
        "../a.png",
        "/a.png",
        "a//b.png",
        "./a.png",
        "a\\b.png",
        ".a.png",
        "a.png",
        "b/../a",
        "é/ü.png",
    ]
)
contents = st.binary(max_size=40) | st.sampled_from([png(0), png(1)[:50]])


def dumped(value):
    return json.dumps(value).encode()


@quick
@given(
    queries | st.fixed_dictionaries({"queries": st.lists(queries | values, max_size=3)}), searches
)
def test_any_search_is_read_or_refused(query, options):
    body = dumped({**options, **query})
    try:
        request = read_similar(body, b"application/json", b"", Call("id"))
    except ServerError as error:
        assert 400 <= status_of(error) < 500 and error.message
        return
    assert request.queries and request.wanted.query.k >= 1
    for each in request.queries:
        if isinstance(each, np.ndarray):
            assert each.dtype == np.float32 and np.isfinite(each).all()


@quick
@given(st.binary(max_size=60), st.sampled_from([b"application/json", b"image/png", b"", b"x"]))
def test_any_bytes_are_read_or_refused(body, kind):
    for read in (
        lambda: read_similar(body, kind, b"k=1", Call("id")).queries,
        lambda: json_items(body),
        lambda: [raw_item(body, {"id": "x"})],
        lambda: form_items(body, b"multipart/form-data; boundary=x"),
    ):
        try:
            assert isinstance(read(), list)
        except ServerError as error:
            assert 400 <= status_of(error) < 500


@quick
@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(["id", "image", "vector", "metadata", "what"]),
            values | images,
            max_size=4,
        )
        | values,
        max_size=4,
    )
)
def test_any_items_are_entries_or_refusals(items):
    found = json_items(dumped({"items": items}))
    assert len(found) == len(items)
    for each in found:
        if isinstance(each, Refused):
            assert each.id and each.error.message
        else:
            assert 1 <= len(each.id) <= 512


def zip_of(files):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files:
            archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
    return file.getvalue()


def tar_of(files):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


LIMITS = ArchiveLimits(1000, 100_000, 50)


def read_all(data, limits=LIMITS):
    archive = PictureArchive(io.BytesIO(data), limits)
    found = []
    while not archive.ended:
        found += archive.batch()
    return found


@pytest.mark.filterwarnings("ignore:Duplicate name")
@quick
@given(
    st.sampled_from([zip_of, tar_of]),
    st.lists(st.tuples(names, contents), max_size=5),
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=4),
)
def test_any_archive_is_read_or_refused(pack, files, flips):
    data = bytearray(pack(files))
    for place, value in flips:
        data[int(place * (len(data) - 1))] = value
    try:
        found = read_all(bytes(data))
    except ServerError as error:
        assert 400 <= status_of(error) < 500
        return
    ids = [each.id for each in found if isinstance(each, Entry)]
    assert len(ids) == len(set(ids))
    for id in ids:
        assert not id.startswith("/") and ".." not in id.split("/")


def test_what_unpacks_to_too_much_is_refused():
    bomb = zip_of([(f"{n}.png", bytes(900)) for n in range(40)])
    assert len(bomb) < 6000
    with pytest.raises(ServerError, match="unpacks to more than") as failed:
        read_all(bomb, ArchiveLimits(1000, 10_000, 50))
    assert status_of(failed.value) == 413
    [one] = read_all(zip_of([("a.png", bytes(5000))]))
    assert isinstance(one, Refused) and status_of(one.error) == 413
    with pytest.raises(ServerError, match="max_bulk_items"):
        read_all(tar_of([(f"{n}.png", b"x") for n in range(60)]))


def test_a_tar_that_lies_about_its_length():
    info = tarfile.TarInfo("a.png")
    info.size = 1 << 40
    with pytest.raises(ServerError, match="unpacks to more than"):
        read_all(info.tobuf() + bytes(1024))


def test_a_list_of_entries_that_claims_to_be_long():
    data = bytearray(zip_of([("a.png", b"x")]))
    end = data.rfind(b"PK\x05\x06")
    data[end + 12 : end + 16] = (1 << 31).to_bytes(4, "little")
    with pytest.raises(ServerError) as failed:
        read_all(bytes(data))
    assert status_of(failed.value) in (413, 422)


@pytest.mark.parametrize("pack", [zip_of, tar_of])
def test_nobody_waits_for_all_that_is_passed_over(pack, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(archives, "PASSED_AT_ONCE", 10)
    files = [(f"__MACOSX/{n}", b"") for n in range(35)]
    archive = PictureArchive(io.BytesIO(pack([*files, ("a.png", b"x")])), LIMITS)
    batches = []
    while not archive.ended:
        batches.append(archive.batch())
    assert [len(batch) for batch in batches] == [0, 0, 0, 1]


def test_more_entries_of_any_kind_than_are_read(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(archives, "ENTRIES_BESIDE", 0)
    limits = ArchiveLimits(1000, 100_000, 2)
    folders = [(f".hidden/{n}", b"") for n in range(5)]
    for pack in (zip_of, tar_of):
        assert read_all(pack(folders[:4]), limits) == []
        with pytest.raises(ServerError, match=r"more than 4 entries; send it in parts$") as failed:
            read_all(pack(folders), limits)
        assert status_of(failed.value) == 413
    monkeypatch.setattr(archives, "MAX_ZIP_ENTRIES", 3)
    monkeypatch.setattr(bounded_archives, "MAX_ZIP_ENTRIES", 3)
    assert read_all(tar_of(folders[:4]), limits) == []
    with pytest.raises(ServerError, match="or as a tar file: of a zip at most 3 entries"):
        read_all(zip_of(folders[:4]), limits)


@pytest.mark.parametrize("pack", [zip_of, tar_of])
def test_a_picture_of_any_length_that_is_allowed(pack):
    data = bytes(range(256)) * (5 << 12)  # 5 MiB
    [one] = read_all(pack([("a.bmp", data)]), ArchiveLimits(len(data), 2 * len(data), 5))
    assert isinstance(one, Entry) and one.picture == data


def test_encrypted_and_special_entries():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        link = zipfile.ZipInfo("link.png")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("good.png", png(1))
        secret = zipfile.ZipInfo("secret.png")
        archive.writestr(secret, b"x")
    data = bytearray(file.getvalue())
    entry = data.find(b"PK\x01\x02", data.find(b"good.png", data.find(b"PK\x01\x02")))
    data[entry + 8] |= 1  # encrypted, in the list of entries
    by_id = {each.id: each for each in read_all(bytes(data))}
    assert isinstance(by_id["good.png"], Entry)
    assert "link" in by_id["link.png"].error.message
    assert "encrypted" in by_id["secret.png"].error.message


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    values,
    st.sampled_from(["POST", "PATCH", "DELETE"]),
    st.sampled_from(["", "/items", "/items/x"]),
)
def test_any_json_over_http_is_answered_by_us(client: httpx.Client, body, method, path):
    answer = client.request(method, f"/collections{path and '/none' + path}", content=dumped(body))
    assert 400 <= answer.status_code < 500
    assert set(answer.json()) >= {"error", "code"}
