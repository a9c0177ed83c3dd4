"""What rarely happens: busy servers, failing stores, clients and loads that stop halfway."""

from __future__ import annotations

import asyncio
import base64
import errno
import gzip
import http.server
import io
import json
import threading

import httpx
import pytest

from server.commands import client as client_module
from server.commands.client import Client, Unreachable
from server.errors import PayloadTooLarge, QueueFull, StoreUnavailable, UnsupportedMedia
from server.preprocessing import ImageLimits
from server.routes.uploads import spooled, upload
from server.similarity import batches, together
from server.similarity.batches import Entry
from server.similarity.ingest import Ingest
from tests.server.running import wait_until
from tests.server.similarity.conftest import settings_of
from tests.server.similarity.nets import png

LINES = "application/x-ndjson"


# The client of the commands


@pytest.fixture
def answering():
    """A server that gives the answers that it is told, one after the other."""
    answers = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            status, headers, body = answers.pop(0)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield answers, f"127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_busy_server_is_asked_again(answering, monkeypatch):
    answers, address = answering
    slept = []
    monkeypatch.setattr(client_module.time, "sleep", slept.append)
    busy = (429, {"retry-after": "7"}, b"{}")
    answers += [busy, (503, {"retry-after": "soon"}, b"{}"), (200, {}, b'{"ok": true}')]
    client = Client(address, "t0ken")
    assert client.send("GET", "/x") == (200, {"ok": True})
    assert slept[0] == 7.0 and len(slept) == 2
    answers += [(200, {}, b"<html>")]
    with pytest.raises(Unreachable, match="not JSON"):
        client.send("GET", "/x")
    answers += [(503, {}, b"{}")] * client_module.ATTEMPTS
    with pytest.raises(Unreachable, match="it answers 503"):
        client.send("GET", "/x")
    client.close()


# Searches


@pytest.fixture(scope="module")
def many(server):
    with httpx.Client(base_url=server.url, timeout=200.0) as client:
        client.post("/collections", json={"name": "many", "dim": 2, "metric": "l2"})
        for start in (0, 400):
            body = [{"id": f"{n}", "vector": [float(n), 0.0]} for n in range(start, start + 400)]
            assert (
                client.post("/collections/many/items", json={"items": body}).json()["added"] == 400
            )
    return "/collections/many"


def test_long_bodies_and_long_answers(client, many):
    wanted = {"n": {"$nin": [f"{n:030}" for n in range(600)]}}
    body = {"vector": [3.0, 0.0], "k": 700, "filter": wanted}
    told = client.post(f"{many}/similar", json=body).json()["results"][0]["hits"]
    assert len(told) == 700 and told[0] == {"id": "3", "score": 0.0, "metadata": {}}
    packed = gzip.compress(json.dumps(body).encode())
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    again = client.post(f"{many}/similar", content=packed, headers=headers).json()
    assert again["results"][0]["hits"] == told


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [(RuntimeError("boom"), 500, "internal"), (StoreUnavailable("down"), 503, "store_unavailable")],
)
def test_a_search_that_breaks(client, many, monkeypatch, error, status, code):
    def broken(*args):
        raise error

    monkeypatch.setattr(together, "search", broken)
    answer = client.post(f"{many}/similar", json={"vector": [1.0, 0.0]})
    assert answer.status_code == status and answer.json()["code"] == code
    assert "boom" not in answer.text


# Bulk loads


def bulk(client, name, count=300):
    items = (
        json.dumps({"id": f"n{n}", "image": {"b64": base64.b64encode(png(n)).decode()}})
        for n in range(count)
    )
    return client.post(
        f"/collections/{name}/items",
        content="\n".join(items).encode(),
        headers={"content-type": LINES, "accept": LINES},
    )


@pytest.mark.parametrize("error", [StoreUnavailable("the disk is full"), RuntimeError("boom")])
def test_a_store_that_fails_in_the_middle(client, server, monkeypatch, error):
    name = f"fails-{type(error).__name__}"
    client.post("/collections", json={"name": name})
    put, calls = batches._put, []

    def failing(*args):
        calls.append(args)
        if len(calls) == 2:
            raise error
        return put(*args)

    monkeypatch.setattr(batches, "_put", failing)
    told = [json.loads(line) for line in bulk(client, name).iter_lines()]
    assert told[-1]["event"] == "error" and "boom" not in told[-1]["error"]
    count = client.get(f"/collections/{name}").json()["count"]
    assert told[-2]["event"] == "progress" and told[-2]["done"] == count > 0

    async def leases():
        return [each.leases for each in server.app.runtime.handlers.repository.deployments()]

    wait_until(lambda: not any(server.on_loop(leases)))


@pytest.mark.parametrize("after", [0, 1])
def test_a_load_that_is_stopped(client, server, after):
    name = f"stopped{after}"
    client.post("/collections", json={"name": name})

    async def stopped():
        handler = server.app.runtime.handlers.collections
        collections = handler._collections
        collection = await collections.open(name)

        async def endless():
            n = 0
            while True:
                yield [Entry(f"n{n + k}", {}, png(k)) for k in range(64)]
                n += 64

        told = Ingest(collections, collection).run(endless())
        work = asyncio.ensure_future(anext(told))
        if after:
            await work
        else:
            await asyncio.sleep(0)
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
        await told.aclose()
        leases = [each.leases for each in collections.repository.deployments()]
        return leases, len(asyncio.all_tasks())

    leases, _ = server.on_loop(stopped)
    assert not any(leases)
    count = client.get(f"/collections/{name}").json()["count"]
    assert (count > 0) == bool(after)


async def test_thumbnails_wait_until_threads_have_room():
    calls = []

    class Busy:
        async def run(self, fn, *args):
            calls.append(fn)
            if len(calls) < 3:
                raise QueueFull("full", retry_after_s=0.001)
            return fn(*args)

    entries = [Entry("a", {}, png(1)), Entry("b")]
    assert await batches._thumbnails(Busy(), ImageLimits(), entries) == [None, None]
    assert len(calls) == 3


# Uploads


async def read(headers, pieces, tmp_path, **keys):
    left = list(pieces)

    async def receive():
        body = left.pop(0)
        return {"type": "http.request", "body": body, "more_body": bool(left)}

    settings = settings_of(tmp_path, tmp_path, max_upload_bytes=10, **keys)
    return b"".join([chunk async for chunk in upload(headers, receive, settings)])


async def test_uploads_are_bounded(tmp_path):
    assert await read({}, [b"1234", b"", b"567890"], tmp_path) == b"1234567890"
    with pytest.raises(PayloadTooLarge, match="MAX_UPLOAD_BYTES"):
        await read({}, [b"123456", b"78901"], tmp_path)
    with pytest.raises(PayloadTooLarge):
        await read({b"content-length": b"11"}, [b"x"], tmp_path)
    with pytest.raises(UnsupportedMedia):
        await read({b"content-encoding": b"gzip"}, [b"x"], tmp_path)


def test_a_line_that_is_too_long(client):
    client.post("/collections", json={"name": "long"})
    body = b'{"id": "a", "image": {"b64": "' + b"A" * (3 << 19)
    answer = client.post("/collections/long/items", content=body, headers={"content-type": LINES})
    assert answer.status_code == 413 and "line 1" in answer.json()["error"]
    assert client.get("/collections/long").json()["count"] == 0


async def test_an_upload_that_does_not_fit_on_the_disk(tmp_path, monkeypatch):
    async def chunks():
        yield b"a" * 10

    class Full(io.BytesIO):
        def write(self, data):
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StoreUnavailable, match=r"cannot be kept in .*none.*: No such file"):
        async with spooled(chunks(), tmp_path / "none"):
            pass
    monkeypatch.setattr("server.routes.uploads.tempfile.TemporaryFile", lambda dir: Full())
    with pytest.raises(StoreUnavailable, match="No space left"):
        async with spooled(chunks(), tmp_path):
            pass
    monkeypatch.undo()
    with pytest.raises(OSError, match="not of the disk"):  # what its reader raises is not ours
        async with spooled(chunks(), tmp_path) as file:
            assert file.seek(0) == 0 and file.read() == b"a" * 10
            raise OSError("not of the disk")
    assert list(tmp_path.iterdir()) == []
