"""Items of a collection over HTTP: in, in every form; out; changed; removed; saved."""

from __future__ import annotations

import asyncio
import base64
import gzip
import io
import json
import os
import socket
import tarfile
import zipfile
from contextlib import contextmanager
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest

from server.errors import RequestCancelled
from server.handlers.call import Call
from server.routes.collections_add import _counted
from server.routes.connected import while_connected
from server.similarity.ingest import Progress
from tests.server.running import wait_until
from tests.server.similarity.nets import DIM, png, vector_of

JPEG = {"content-type": "image/jpeg"}
LINES = "application/x-ndjson"


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.fixture
def name(client: httpx.Client, request: pytest.FixtureRequest) -> str:
    """A fresh collection."""
    made = f"c{abs(hash(request.node.nodeid)) % 10**12}-{os.getpid()}"
    assert client.post("/collections", json={"name": made, "model": "eyes"}).status_code == 201
    return made


def zipped(files: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, data in files.items():
            archive.writestr(path, data)
    return file.getvalue()


def tarred(files: dict[str, bytes], extra: list[tarfile.TarInfo] = []) -> bytes:  # noqa: B006
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for path, data in files.items():
            info = tarfile.TarInfo(path)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for info in extra:
            archive.addfile(info)
    return file.getvalue()


def ids_of(client: httpx.Client, name: str) -> list[str]:
    return [item["id"] for item in client.get(f"/collections/{name}/items").json()["items"]]


# Collections


def test_a_collection_from_beginning_to_end(client):
    made = client.post("/collections", json={"name": "life", "model": "eyes", "metric": "l2"})
    assert made.status_code == 201
    told = made.json()
    assert (told["name"], told["model"], told["metric"], told["count"]) == ("life", "eyes", "l2", 0)
    assert told["dim"] == DIM and told["index"]["kind"] == "exact"
    assert "life" in client.get("/collections").json()["collections"]
    again = client.post("/collections", json={"name": "life"})
    assert again.status_code == 409 and again.json()["code"] == "conflict"
    client.post("/collections/life/items?id=a", content=png(1), headers=JPEG)
    told = client.get("/collections/life").json()
    assert (told["count"], told["pictures"], told["version"]) == (1, 1, "1")
    assert told["index"]["vectors"] == 1 and told["pinned"] is None
    assert client.delete("/collections/life").json() == {"name": "life", "deleted": True}
    assert client.get("/collections/life").status_code == 404
    assert client.delete("/collections/life").status_code == 404
    assert client.post("/collections", json={"name": "life"}).json()["count"] == 0
    client.delete("/collections/life")


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 422),
        ({"name": 5}, 422),
        ({"name": "../x"}, 422),
        ({"name": "a" * 65}, 422),
        ({"name": "x", "model": "nobody"}, 404),
        ({"name": "x", "model": "echo"}, 422),
        ({"name": "x", "model": 5}, 422),
        ({"name": "x", "model": "eyes", "dim": 5}, 422),
        ({"name": "x", "dim": 0}, 422),
        ({"name": "x", "dim": "5"}, 422),
        ({"name": "x", "metric": "taxicab"}, 422),
        ({"name": "x", "metric": 1}, 422),
        ({"name": "x", "colour": "red"}, 422),
    ],
)
def test_collections_that_cannot_be_made(client, body, status):
    answer = client.post("/collections", json=body)
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]
    assert "x" not in client.get("/collections").json()["collections"]


# Items in


def test_a_raw_picture(client, name):
    query = {"id": "tom", "metadata": json.dumps({"label": "cat"})}
    path = f"/collections/{name}/items"
    told = client.post(path, params=query, content=png(1), headers=JPEG).json()
    assert (told["added"], told["replaced"], told["ids"]) == (1, 0, ["tom"])
    told = client.post(path, params=query, content=png(2), headers=JPEG).json()
    assert (told["added"], told["replaced"]) == (0, 1)
    item = client.get(f"{path}/tom").json()
    assert item["metadata"] == {"label": "cat"} and item["has_picture"]
    picture = client.get(f"{path}/tom/picture")
    assert picture.content == png(2) and picture.headers["content-type"] == "image/png"
    assert picture.headers["x-content-type-options"] == "nosniff"


def test_ids_that_are_told_are_those_that_got_in(client, name):
    items = [{"id": id, "image": {"b64": b64(data)}} for id, data in
             (("a", png(1)), ("bad", b"no picture"), ("b", png(2)), ("a", png(3)))]  # fmt: skip
    told = client.post(f"/collections/{name}/items", json={"items": items}).json()
    assert (told["added"], told["failed"], told["ids"]) == (2, 1, ["a", "b"])


@pytest.mark.parametrize("door", ["items", "similar"])
def test_what_is_no_json_is_named(client, name, door):
    option = "metadata" if door == "items" else "filter"
    answer = client.post(
        f"/collections/{name}/{door}", params={option: "{"}, content=png(1), headers=JPEG
    )
    assert answer.status_code == 400
    assert f"`{option}` is not valid JSON" in answer.json()["error"]
    answer = client.get(f"/collections/{name}/items", params={"filter": ""})
    assert answer.status_code == 400 and "`filter` is empty" in answer.json()["error"]


def test_a_picture_without_an_id_is_named_by_its_content(client, name):
    path = f"/collections/{name}/items"
    [first] = client.post(path, content=png(1), headers=JPEG).json()["ids"]
    again = client.post(path, content=png(1), headers=JPEG).json()
    assert again["replaced"] == 1 and again["ids"] == [first]


def test_json_items_fail_alone(client, name):
    items = [
        {"id": "good", "image": {"b64": b64(png(1))}},
        {"id": "text", "image": {"b64": b64(b"hello, world")}},
        {"id": "nothing"},
        {"image": {"b64": b64(png(2))}, "metadata": {"unnamed": True}},
        {"vector": [1.0] * DIM},
        {"id": "odd", "image": {"b64": b64(png(3))}, "colour": 1},
        {"id": "deep", "image": {"b64": b64(png(3))}, "metadata": []},
        {"id": "good", "image": {"b64": b64(png(4))}},
        "item",
        {"id": "\x00", "image": {"b64": b64(png(3))}},
        {"id": "both", "image": {"b64": b64(png(3))}, "vector": [1.0] * DIM},
    ]
    answer = client.post(f"/collections/{name}/items", json={"items": items})
    assert answer.status_code == 200
    told = answer.json()
    assert told["added"] == 2 and told["failed"] == 8
    failed = {error["id"]: error["code"] for error in told["errors"]}
    assert failed["text"] == "unsupported_media" and failed["item"] if "item" in failed else True
    assert {"text", "nothing", "odd", "deep", "both", "items[4]", "items[8]"} <= set(failed)
    assert client.get(f"/collections/{name}/items/good/picture").content == png(4)
    assert len(ids_of(client, name)) == 2


def test_when_nothing_gets_in_the_request_has_failed(client, name):
    answer = client.post(f"/collections/{name}/items", json={"id": "x", "image": {"b64": "aGk="}})
    assert answer.status_code == 415
    told = answer.json()
    assert told["code"] == "unsupported_media" and told["id"] == "x" and told["failed"] == 1
    assert ids_of(client, name) == []


@pytest.mark.parametrize(
    ("content", "kind", "query", "status"),
    [
        (b"{", "application/json", "", 400),
        (b"[]", "application/json", "", 400),
        (b'{"items": 5}', "application/json", "", 422),
        (b'{"items": [], "id": "x"}', "application/json", "", 422),
        (b"", "image/png", "", 422),
        (b"x", "video/mp4", "", 415),
        (b"x", "image/png", "?colour=red", 422),
        (b"x", "image/png", "?metadata=5", 422),
        (b"x", "image/png", "?metadata={", 400),
        (b"x", "image/png", "?priority=high", 422),
        (b"{}", "application/json", "?id=x", 422),
        (b"neither", "application/zip", "", 422),
        (b"PK\x03\x04 but broken", "application/zip", "", 422),
        (b"\x1f\x8b but broken", "application/gzip", "", 422),
        (b"x", "multipart/form-data", "", 400),
    ],
)
def test_bodies_that_are_nothing(client, name, content, kind, query, status):
    answer = client.post(
        f"/collections/{name}/items{query}", content=content, headers={"content-type": kind}
    )
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]
    assert ids_of(client, name) == []


def test_what_curl_sends_is_read(client, name):
    body = json.dumps({"id": "a", "image": {"b64": b64(png(1))}}).encode()
    headers = {"content-type": "application/x-www-form-urlencoded"}
    told = client.post(f"/collections/{name}/items", content=body, headers=headers).json()
    assert told["ids"] == ["a"]


def test_no_items_are_no_error(client, name):
    told = client.post(f"/collections/{name}/items", json={"items": []}).json()
    assert (told["done"], told["failed"], told["total"]) == (0, 0, None) or told["done"] == 0


def test_a_form(client, name):
    files = [
        ("file", ("cats/tom.png", png(1))),
        ("file", ("b.png", png(2))),
        ("file", ("../c.png", png(3))),
        ("file", ("empty.png", b"")),
    ]
    path = f"/collections/{name}/items"
    told = client.post(path, files=files, data={"metadata": '{"from": "form"}'}).json()
    assert told["ids"] == ["cats/tom.png", "b.png"] and told["failed"] == 2
    item = client.get(f"{path}/cats/tom.png").json()
    assert item["metadata"] == {"folder": "cats", "from": "form"}
    for data, field in (({"id": "x"}, "id"), ({"what": "x"}, "what")):
        answer = client.post(path, files=files, data=data)
        assert answer.status_code == 422 and answer.json()["field"] == field
    assert client.post(path, files=files[:1], data={"id": "x"}).json()["ids"] == ["x"]
    answer = client.post(path, files={"metadata": (None, "{}")})
    assert answer.status_code == 422 and answer.json()["field"] == "file"


ARCHIVED = {
    "cats/tom.png": png(1),
    "cats/deep/er.png": png(2),
    "top.png": png(3),
    "notes.txt": b"words",
    "__MACOSX/cats/._tom.png": b"x",
    ".DS_Store": b"x",
}


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_archives(client, name, kind):
    body = zipped(ARCHIVED) if kind == "zip" else tarred(ARCHIVED)
    body = gzip.compress(body) if kind == "tar.gz" else body
    path = f"/collections/{name}/items"
    answer = client.post(path, content=body, headers={"content-type": "application/octet-stream"})
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert (told["added"], told["failed"]) == (3, 1)
    assert told["total"] == (4 if kind == "zip" else None)
    [error] = told["errors"]
    assert error["id"] == "notes.txt" and "text" in error["error"]
    assert ids_of(client, name) == ["cats/deep/er.png", "cats/tom.png", "top.png"]
    assert client.get(f"{path}/cats/deep/er.png").json()["metadata"] == {"folder": "cats/deep"}
    assert client.get(f"{path}/top.png").json()["metadata"] == {}


def test_an_archive_with_tricks(client, name):
    link = tarfile.TarInfo("link.png")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    files = {"a.png": png(1), "../b.png": png(2), "/c.png": png(3), "d\x07.png": png(4)}
    body = tarred(files | {"big.png": bytes((1 << 20) + 1)}, [link])
    told = client.post(
        f"/collections/{name}/items", content=body, headers={"content-type": "application/x-tar"}
    ).json()
    assert told["added"] == 1 and told["failed"] == 5
    codes = {error["id"]: error["code"] for error in told["errors"]}
    assert codes["big.png"] == "payload_too_large" and codes["link.png"] == "invalid_input"
    assert ids_of(client, name) == ["a.png"]


def test_a_damaged_archive_tells_how_far_it_came(client, name):
    files = {f"{n:03}.png": png(n) for n in range(150)}
    body = tarred(files)
    answer = client.post(
        f"/collections/{name}/items",
        content=body[: len(body) // 2] + b"\xff" * 5000,
        headers={"content-type": "application/x-tar"},
    )
    assert answer.status_code == 422
    told = answer.json()
    assert "cannot be read after" in told["error"] and told["field"] == "body"
    assert told["added"] == len(client.get(f"/collections/{name}/items?limit=1000").json()["items"])


def test_too_many_entries(client, name):
    body = zipped({f"{n}.png": b"x" for n in range(501)})
    answer = client.post(
        f"/collections/{name}/items", content=body, headers={"content-type": "application/zip"}
    )
    assert answer.status_code == 413 and answer.json()["max_bulk_items"] == 500
    items = {"items": [{"id": f"{n}"} for n in range(501)]}
    answer = client.post(f"/collections/{name}/items", json=items)
    assert answer.status_code == 413 and answer.json()["max_bulk_items"] == 500
    answer = client.post(
        f"/collections/{name}/items", content=b"{}\n" * 501, headers={"content-type": LINES}
    )
    assert answer.status_code == 413
    assert ids_of(client, name) == []


def no_lease_is_left(server) -> bool:
    async def leases():
        return [each.leases for each in server.app.runtime.handlers.repository.deployments()]

    return not any(server.on_loop(leases))


def lines(items) -> bytes:
    return b"\n".join(json.dumps(item).encode() for item in items)


def test_lines_in_and_lines_out(client, name):
    items = [{"id": f"n{n:03}", "image": {"b64": b64(png(n))}} for n in range(200)]
    body = lines(items[:100]) + b"\n\nnot json\n" + lines(items[100:]) + b"\n[]\n"
    with client.stream(
        "POST",
        f"/collections/{name}/items",
        content=iter([body[:1000], body[1000:30_000], body[30_000:]]),
        headers={"content-type": LINES, "accept": LINES},
    ) as answer:
        assert answer.status_code == 200 and answer.headers["content-type"] == LINES
        told = [json.loads(line) for line in answer.iter_lines()]
    *progress, last = told
    assert len(progress) >= 2 and {each["event"] for each in progress} == {"progress"}
    done = [each["done"] for each in progress]
    assert done == sorted(done) and done[-1] == 200
    assert last["event"] == "done" and (last["done"], last["failed"]) == (200, 2)
    errors = [error["id"] for each in progress for error in each["errors"]]
    assert errors == ["line 102", "line 203"] and last["errors"] == []
    assert len(client.get(f"/collections/{name}/items?limit=300").json()["items"]) == 200


@contextmanager
def connected(server, name, kind, length):
    """A socket on which the head of a request for progress has been sent."""
    url = urlsplit(server.url)
    with socket.create_connection((url.hostname, url.port), timeout=200.0) as wire:
        wire.sendall(
            f"POST /collections/{name}/items HTTP/1.1\r\nHost: {url.netloc}\r\n"
            f"Content-Type: {kind}\r\nAccept: {LINES}\r\n{length}\r\n\r\n".encode()
        )
        yield wire


def test_what_was_acknowledged_is_there_before_the_body_ends(client, server, name):
    """The client waits for each acknowledgement before it sends on."""
    with connected(server, name, LINES, "Transfer-Encoding: chunked") as wire:
        stream = wire.makefile("rb")
        for n in range(3):
            line = lines([{"id": f"n{n}", "image": {"b64": b64(png(n))}}]) + b"\n"
            wire.sendall(b"%x\r\n%b\r\n" % (len(line), line))
            while not (told := stream.readline()).startswith(b"{"):
                assert told, "the server hung up"
            assert json.loads(told)["done"] == n + 1
            assert client.get(f"/collections/{name}/items/n{n}").status_code == 200
        wire.sendall(b"0\r\n\r\n")
        rest = stream.read1(4096)
        while b"done" not in rest:
            rest += stream.read1(4096)


def test_events(client, name):
    items = {"items": [{"id": "a", "image": {"b64": b64(png(1))}}, {"id": "b"}]}
    accept = {"accept": "text/event-stream"}
    text = client.post(f"/collections/{name}/items", json=items, headers=accept).text
    events = [block.split("\n") for block in text.strip().split("\n\n")]
    assert [event[0] for event in events] == ["event: progress", "event: done"]
    told = json.loads(events[0][1].removeprefix("data: "))
    assert (told["added"], told["failed"], told["total"]) == (1, 1, 2)


def test_a_stream_that_breaks_ends_in_an_error(client, server, name):
    body = tarred({f"{n:03}.png": png(n) for n in range(200)})
    with client.stream(
        "POST",
        f"/collections/{name}/items",
        content=body[: len(body) * 4 // 5] + b"\xff" * 5000,
        headers={"content-type": "application/x-tar", "accept": LINES},
    ) as answer:
        told = [json.loads(line) for line in answer.iter_lines()]
    assert answer.status_code == 200 and told[-1]["event"] == "error"
    assert told[-1]["code"] == "invalid_input" and told[-1]["added"] == told[-2]["done"]
    wait_until(lambda: no_lease_is_left(server))


def test_a_client_that_goes_away_keeps_what_was_acknowledged(client, server, name):
    line = lines([{"id": "first", "image": {"b64": b64(png(1))}}]) + b"\n"
    with connected(server, name, LINES, "Content-Length: 100000") as wire:
        wire.sendall(line)
        stream = wire.makefile("rb")
        while not (told := stream.readline()).startswith(b"{"):
            assert told, "the server hung up"
        stream.close()
    assert json.loads(told)["done"] == 1
    assert ids_of(client, name) == ["first"]
    wait_until(lambda: no_lease_is_left(server))


@pytest.mark.parametrize("here", [True, False])
def test_the_work_stops_when_the_client_has_gone(here):
    ended, read = [], asyncio.Event()

    async def work():
        try:
            yield Progress(added=3)
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    async def follow():
        gone = asyncio.Event()
        call = Call("id", disconnected=gone.wait)
        told = []
        if here:
            read.set()
        with pytest.raises(RequestCancelled) as failed:
            async for progress in _counted(while_connected(work(), call, here=read)):
                told.append(progress.added)
                gone.set()
                asyncio.get_running_loop().call_soon(read.set)
        return told, failed.value.extra

    told, extra = asyncio.run(follow())
    assert told == [3] and ended == [True]
    assert extra == {"added": 3, "replaced": 0, "failed": 0}


def test_compressed_bodies(client, name):
    body = gzip.compress(json.dumps({"id": "a", "image": {"b64": b64(png(1))}}).encode())
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    assert (
        client.post(f"/collections/{name}/items", content=body, headers=headers).json()["added"]
        == 1
    )
    headers["content-type"] = LINES
    answer = client.post(f"/collections/{name}/items", content=body, headers=headers)
    assert answer.status_code == 415


# Ready-made vectors


def test_vectors_only(client):
    assert client.post("/collections", json={"name": "given", "model": None}).status_code == 201
    path = "/collections/given"
    empty = client.post(f"{path}/similar", json={"vector": [1.0, 2.0]})
    assert empty.status_code == 200 and empty.json()["results"] == [{"hits": []}]
    rows = np.random.default_rng(0).standard_normal((20, 4)).astype(np.float32)
    items = [
        {"id": f"v{n}", "vector": row.tolist(), "metadata": {"n": n}} for n, row in enumerate(rows)
    ]
    items += [
        {"id": "long", "vector": [1.0] * 5},
        {"id": "zero", "vector": [0.0] * 4},
        {"id": "photo", "image": {"b64": b64(png(1))}},
        {"id": "shown", "vector": [9.0, 9.0, 9.0, 9.0], "image": {"b64": b64(png(1))}},
    ]
    told = client.post(f"{path}/items", json={"items": items}).json()
    assert told["added"] == 21
    assert {error["id"] for error in told["errors"]} == {"long", "zero", "photo"}
    answer = client.post(f"{path}/similar", json={"vector": rows[3].tolist(), "k": 1}).json()
    assert answer["results"][0]["hits"][0]["id"] == "v3" and answer["model"] is None
    assert client.get(path).json()["dim"] == 4
    assert client.get(f"{path}/items/shown/picture").content == png(1)
    assert client.get(f"{path}/items/v1/picture").status_code == 404
    picture = client.post(f"{path}/similar", content=png(1), headers=JPEG)
    assert picture.status_code == 422 and "no model" in picture.json()["error"]
    versioned = client.post(f"{path}/similar", json={"id": "v1", "version": "1"})
    assert versioned.status_code == 422
    client.delete(path)


def test_a_known_length(client):
    client.post("/collections", json={"name": "known", "dim": 3, "metric": "dot"})
    path = "/collections/known"
    answer = client.post(f"{path}/items", json={"id": "a", "vector": [1.0, 2.0]})
    assert answer.status_code == 422 and "3 numbers" in answer.json()["error"]
    assert client.post(f"{path}/items", json={"id": "a", "vector": [1.0, 2.0, 3.0]}).json()["added"]
    hit = client.post(f"{path}/similar", json={"vector": [1, 1, 1]}).json()["results"][0]["hits"][0]
    assert hit["score"] == pytest.approx(6.0)
    client.delete(path)


def test_a_vector_in_a_collection_of_pictures_pins_it(client, name):
    path = f"/collections/{name}"
    client.post(f"{path}/items?id=p", content=png(1), headers=JPEG)
    told = client.post(f"{path}/items", json={"id": "v", "vector": vector_of(png(2)).tolist()})
    assert told.json()["added"] == 1
    status = client.get(path).json()
    assert status["pinned"]["space"].startswith("eyes@1:")
    hits = client.post(f"{path}/similar", content=png(2), headers=JPEG).json()["results"][0]["hits"]
    assert hits[0]["id"] == "v" and hits[0]["score"] == pytest.approx(1.0, abs=1e-4)


# Items out, changed, removed


@pytest.fixture
def filled(client, name):
    items = [{"id": f"n{n}", "image": {"b64": b64(png(n))}, "metadata": {"n": n}} for n in range(7)]
    client.post(f"/collections/{name}/items", json={"items": items})
    return f"/collections/{name}"


def test_pages(client, filled):
    first = client.get(f"{filled}/items?limit=3").json()
    assert [item["id"] for item in first["items"]] == ["n0", "n1", "n2"] and first["next"] == "n2"
    rest = client.get(f"{filled}/items", params={"after": "n2", "limit": 10}).json()
    assert [item["id"] for item in rest["items"]] == ["n3", "n4", "n5", "n6"]
    assert rest["next"] is None
    query = {"filter": json.dumps({"n": {"$in": [1, 5]}})}
    found = client.get(f"{filled}/items", params=query).json()["items"]
    assert [item["metadata"]["n"] for item in found] == [1, 5]
    named = client.get(f"{filled}/items?id=n6&id=nobody&id=n0").json()["items"]
    assert [item["id"] for item in named] == ["n6", "n0"]
    for query in ("limit=0", "limit=1001", "limit=x", "filter={", "what=1", "filter=5"):
        assert client.get(f"{filled}/items?{query}").status_code in (400, 422), query


def test_one_item(client, filled):
    item = client.get(f"{filled}/items/n1").json()
    assert set(item) == {
        "id", "metadata", "revision", "has_picture", "has_thumbnail", "updated_s"
    }  # fmt: skip
    assert client.get(f"{filled}/items/nobody").status_code == 404
    assert client.get(f"{filled}/items/nobody/picture").status_code == 404
    changed = client.patch(f"{filled}/items/n1", json={"metadata": {"new": True}}).json()
    assert changed["metadata"] == {"new": True} and changed["revision"] == item["revision"]
    assert client.patch(f"{filled}/items/nobody", json={"metadata": {}}).status_code == 404
    for body in ({}, {"metadata": 5}, {"metadata": {}, "id": "x"}):
        assert client.patch(f"{filled}/items/n1", json=body).status_code == 422
    assert client.delete(f"{filled}/items/n1").json()["deleted"] == 1
    assert client.delete(f"{filled}/items/n1").status_code == 404
    hits = client.post(f"{filled}/similar", json={"id": "n0", "k": 10}).json()["results"][0]["hits"]
    assert [hit["id"] for hit in hits if hit["id"] == "n1"] == [] and len(hits) == 5


def test_many_are_removed(client, filled):
    def delete(body):
        return client.request("DELETE", f"{filled}/items", json=body)

    assert delete({"ids": ["n0", "n1", "nobody"]}).json()["deleted"] == 2
    assert delete({"filter": {"n": {"$gte": 5}}}).json()["deleted"] == 2
    assert [item["id"] for item in client.get(f"{filled}/items").json()["items"]] == [
        "n2", "n3", "n4"
    ]  # fmt: skip
    for body in ({}, {"filter": {}}, {"ids": "n2"}, {"ids": [5]}, {"filter": {"$x": 1}}):
        assert delete(body).status_code == 422, body
    assert len(client.get(f"{filled}/items").json()["items"]) == 3


def test_thumbnails(client, name):
    path = f"/collections/{name}/items"
    client.post(f"{path}?id=large", content=png(1, (400, 200), "JPEG"), headers=JPEG)
    client.post(f"{path}?id=small", content=png(2), headers=JPEG)
    from PIL import Image

    thumbnail = client.get(f"{path}/large/thumbnail")
    assert thumbnail.headers["content-type"] == "image/webp"
    assert Image.open(io.BytesIO(thumbnail.content)).size == (128, 64)
    assert client.get(f"{path}/small/thumbnail").content == png(2)


def test_the_map(client, filled):
    told = client.get(f"{filled}/map?return=thumbnail&limit=5").json()
    assert told["total"] == 7 and len(told["items"]) == 5 and told["method"] == "pca"
    assert all(-1 <= item["x"] <= 1 and -1 <= item["y"] <= 1 for item in told["items"])
    assert "thumbnail" in told["items"][0] and "metadata" not in told["items"][0]
    picture = client.get(f"{filled}/map?format=png&size=300")
    assert picture.headers["content-type"] == "image/png" and picture.content[:4] == b"\x89PNG"
    for query in ("method=magic", "limit=0", "limit=100000", "format=svg", "size=5&format=png"):
        assert client.get(f"{filled}/map?{query}").status_code == 422, query


def test_the_map_of_nothing(client, name):
    assert client.get(f"/collections/{name}/map").json()["items"] == []
    client.post("/collections", json={"name": "void", "model": None})
    assert client.get("/collections/void/map").json()["items"] == []
    client.delete("/collections/void")


def test_a_snapshot_is_restored_under_another_name(client, filled):
    answer = client.get(f"{filled}/snapshot")
    assert answer.status_code == 200 and answer.headers["content-type"] == "application/x-tar"
    copy = f"{filled.rpartition('/')[2]}-copy"
    told = client.post(f"/collections/{copy}/restore", content=answer.content)
    assert told.status_code == 201, told.text
    assert told.json()["count"] == 7 and told.json()["pictures"] == 7
    body = {"image": {"b64": b64(png(3))}, "k": 7}
    before = client.post(f"{filled}/similar", json=body).json()["results"]
    after = client.post(f"/collections/{copy}/similar", json=body).json()["results"]
    assert [hit["id"] for hit in after[0]["hits"]] == [hit["id"] for hit in before[0]["hits"]]
    again = client.post(f"/collections/{copy}/restore", content=answer.content)
    assert again.status_code == 409
    broken = client.post("/collections/broken-one/restore", content=answer.content[:700])
    assert broken.status_code == 422
    assert client.get("/collections/broken-one").status_code == 404


def test_no_snapshot_of_nothing(client):
    assert client.get("/collections/nobody/snapshot").status_code == 404
    assert client.post("/collections/nobody/items", json={}).status_code == 404


def test_items_are_counted(client, filled):
    text = client.get("/metrics").text
    name = filled.rpartition("/")[2]
    assert f'millrace_collection_changes_total{{collection="{name}",what="added"}} 7.0' in text
