from __future__ import annotations

import contextlib
import gzip
import json
import socket
import threading
import time
import zlib
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from server.errors import (
    MalformedRequest,
    PayloadTooLarge,
    QueueFull,
    RequestCancelled,
    UnsupportedMedia,
)
from server.execution import WorkerPool
from server.routes.bodies import BodyReader
from server.settings import Settings
from tests.server.running import RunningServer, wait_until

BODY = json.dumps({"model": "echo", "inputs": [{"tensors": {"x": [1.0, 2.0]}}]}).encode()


def connect(server: RunningServer) -> socket.socket:
    host, _, port = server.url.removeprefix("http://").partition(":")
    connection = socket.create_connection((host, int(port)), timeout=200.0)
    connection.settimeout(60.0)
    return connection


def read_answer(connection: socket.socket) -> tuple[int, dict[str, Any]]:
    data = b""
    while chunk := connection.recv(65536):
        data += chunk
        head, separator, body = data.partition(b"\r\n\r\n")
        if separator and len(body) >= int(head.lower().split(b"content-length: ")[1].split()[0]):
            break
    head, _, body = data.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


@pytest.fixture
def hurried(server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> RunningServer:
    """The server of all tests, which waits only a moment for the next piece of a body."""
    monkeypatch.setattr(server.app.runtime.bodies, "_silence_s", 0.3)
    return server


def test_a_body_that_never_begins(hurried: RunningServer) -> None:
    with connect(hurried) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n")
        status, answer = read_answer(connection)
    assert (status, answer["code"]) == (408, "request_timeout")


def test_declared_too_large(client: httpx.Client) -> None:
    answer = client.post("/predict", content=b" " * (2 << 20))
    assert (answer.status_code, answer.json()["code"]) == (413, "payload_too_large")
    assert answer.json()["max_body_bytes"] == 1 << 20


def test_chunked_too_large(client: httpx.Client) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(40):
            yield b" " * 65_536

    answer = client.post("/predict", content=chunks())
    assert (answer.status_code, answer.json()["code"]) == (413, "payload_too_large")


def test_very_many_chunks(server: RunningServer) -> None:
    with connect(server) as connection:
        connection.sendall(
            b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        pieces = [b"1\r\n%c\r\n" % byte for byte in BODY + b" " * 50_000]
        connection.sendall(b"".join(pieces) + b"0\r\n\r\n")
        status, answer = read_answer(connection)
    assert status == 200, answer


@pytest.mark.parametrize(
    ("begin", "piece"),
    [(b"0\r\n", b"x: y\r\n" * 100), (b"0\r\nx: ", b"y" * 1000), (b"5;", b"x" * 1000)],
)
def test_what_stands_around_a_body_is_bounded(
    server: RunningServer, begin: bytes, piece: bytes
) -> None:
    with connect(server) as connection:
        connection.sendall(
            b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n"
        )
        connection.sendall(begin)
        for _ in range(1000):
            connection.sendall(piece)
        status, answer = read_answer(connection)
    assert (status, answer["code"]) == (400, "malformed_request")
    assert "bytes between pieces of the body" in answer["error"]


def test_trailers_are_passed_over(server: RunningServer) -> None:
    with connect(server) as connection:
        connection.sendall(
            b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"%x;name=value\r\n%b\r\n0\r\nContent-Type: text/plain\r\n\r\n" % (len(BODY), BODY)
        )
        status, answer = read_answer(connection)
        assert status == 200, answer
        connection.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n")
        assert read_answer(connection)[0] == 200


def test_so_many_requests_wait_for_those_before_them(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.http_protocol.MAX_PIPELINED", 3)
    request = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n"
    with connect(server) as connection:
        connection.sendall(request * 4)  # the first one does not wait
        received = b""
        while received.count(b"200 OK") < 4:
            received += connection.recv(65536)
        connection.sendall(request * 100)
        with contextlib.suppress(OSError):
            while more := connection.recv(65536):
                received += more
    assert received.count(b"200 OK") < 104


def test_a_body_that_stops_is_408(hurried: RunningServer) -> None:
    with connect(hurried) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        status, answer = read_answer(connection)
    assert (status, answer["code"]) == (408, "request_timeout")


def test_a_client_that_goes_away_while_sending(server: RunningServer) -> None:
    rejections = server.app.runtime.handlers.metrics.rejections
    before = rejections.get("cancelled", 0)
    with connect(server) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        time.sleep(0.1)
    wait_until(lambda: rejections.get("cancelled", 0) > before)


def test_expect_continue_is_refused_before_the_body(server: RunningServer) -> None:
    with connect(server) as connection:
        connection.sendall(
            b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999\r\n"
            b"Expect: 100-continue\r\n\r\n"
        )
        status, answer = read_answer(connection)
    assert (status, answer["code"]) == (413, "payload_too_large")


def test_a_head_that_is_too_large(server: RunningServer) -> None:
    with connect(server) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX-Long: ")
        with_contents = b"a" * 8192
        try:
            for _ in range(40):
                connection.sendall(with_contents)
        except OSError:
            pass  # it hung up while we were sending
        try:
            status, answer = read_answer(connection)
        except (OSError, IndexError):
            return  # and the answer was lost with the connection, as TCP has it
    assert (status, answer["code"]) == (400, "malformed_request")


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x00\x01\x02\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
        b"POST /predict HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nabcde",
        b"POST /predict HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
def test_what_is_not_http_gets_one_error_shape(
    server: RunningServer, client: httpx.Client, garbage: bytes
) -> None:
    with connect(server) as connection:
        connection.sendall(garbage)
        status, answer = read_answer(connection)
    assert status == 400
    assert set(answer) >= {"error", "code"}
    assert client.get("/v2/health/live").status_code == 200


def test_an_unfinished_head_is_not_waited_for_forever(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.http_protocol.HEAD_TIMEOUT_S", 0.2)
    with connect(server) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost:")
        status, answer = read_answer(connection)
    assert status == 400
    assert "took longer" in answer["error"]


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerPool]:
    made = WorkerPool(1)
    yield made
    made.close()


async def body_of(
    reader: BodyReader, messages: list[Any], pool: WorkerPool, **headers: str
) -> bytes:
    queue = list(messages)

    async def receive() -> Any:
        return queue.pop(0)

    named = {k.replace("_", "-").encode(): v.encode() for k, v in headers.items()}
    return await reader.read(named, receive, pool)


def part(body: bytes, *, more: bool = True) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


async def test_pieces_are_joined_and_counted(pool: WorkerPool) -> None:
    reader = BodyReader(Settings(max_body_bytes=10, max_inflight_body_bytes=20))
    assert await body_of(reader, [part(b"ab"), part(b""), part(b"cd", more=False)], pool) == b"abcd"
    with pytest.raises(PayloadTooLarge):
        await body_of(reader, [part(b"a" * 11, more=False)], pool)
    with pytest.raises(PayloadTooLarge):
        await body_of(reader, [part(b"a" * 6), part(b"a" * 6), part(b"", more=False)], pool)
    with pytest.raises(MalformedRequest):
        await body_of(reader, [], pool, content_length="-1")
    with pytest.raises(MalformedRequest):
        await body_of(reader, [], pool, content_length="9" * 40)
    with pytest.raises(RequestCancelled):
        await body_of(reader, [{"type": "http.disconnect"}], pool)
    assert reader.held_bytes == 0


async def test_all_bodies_together_are_bounded(pool: WorkerPool) -> None:
    reader = BodyReader(Settings(max_body_bytes=10, max_inflight_body_bytes=12))
    results: list[bytes] = []

    async def inner() -> Any:
        # While one request holds 8 bytes, another with 8 does not fit.
        with pytest.raises(QueueFull) as caught:
            await body_of(reader, [part(b"b" * 8), part(b"", more=False)], pool)
        assert caught.value.extra["retry_after_s"] > 0
        return part(b"", more=False)

    pending = [part(b"a" * 8)]

    async def receive() -> Any:
        return pending.pop(0) if pending else await inner()

    results.append(await reader.read({}, receive, pool))
    assert results == [b"a" * 8]
    assert reader.held_bytes == 0


@pytest.mark.parametrize(
    ("name", "pack"),
    [("gzip", gzip.compress), (" X-GZip ", gzip.compress), ("deflate", zlib.compress)],
)
async def test_packed_bodies(pool: WorkerPool, name: str, pack: Any) -> None:
    reader = BodyReader(Settings(max_body_bytes=1000, max_inline_json_bytes=100))

    async def read(data: bytes) -> bytes:
        halves = [part(data[:7]), part(data[7:], more=False)]
        return await body_of(reader, halves, pool, content_encoding=name)

    for plain in (b"", b"{}", b"a" * 1000):
        assert await read(pack(plain)) == plain
    with pytest.raises(PayloadTooLarge):
        await read(pack(b"a" * 1001))
    for broken, said in (
        (pack(b"abc")[:-1], "ends too early"),
        (b"", "ends too early"),
        (b"abc", "is not"),
        (pack(b"abc") + pack(b"def"), "goes on after the end"),
    ):
        with pytest.raises(MalformedRequest, match=said):
            await read(broken)
    assert reader.held_bytes == 0


async def test_encodings_that_are_not_read_are_refused_before_the_body(pool: WorkerPool) -> None:
    reader = BodyReader(Settings())
    for name in ("br", "gzip, gzip", "é" * 60):
        with pytest.raises(UnsupportedMedia, match="use gzip, deflate or none"):
            await body_of(reader, [], pool, content_encoding=name)
    for name in ("", "identity"):
        body = [part(b"x", more=False)]
        assert await body_of(reader, body, pool, content_encoding=name) == b"x"


async def test_objects(pool: WorkerPool) -> None:
    reader = BodyReader(Settings(max_inline_json_bytes=100))

    async def read(body: bytes, **how: bool) -> dict[str, Any]:
        async def receive() -> Any:
            return part(body, more=False)

        return await reader.read_object({}, receive, pool, **how)

    assert await read(b'{"a": 1}') == {"a": 1}
    assert await read(b'{"a": "%b"}' % (b"b" * 200)) == {"a": "b" * 200}
    assert await read(b"", may_be_empty=True) == {}
    for broken in (b"", b"[]", b"{", b"[" + b" " * 200 + b"]"):
        with pytest.raises(MalformedRequest):
            await read(broken)


@pytest.mark.parametrize(
    ("door", "kind"),
    [
        ("/predict", "application/json"),
        ("/v1/models/echo:predict", "application/json"),
        ("/v2/models/echo/infer", "application/json"),
        ("/v2/repository/index", "application/json"),
        ("/models/echo/load", "application/json"),
        ("/collections", "application/json"),
        ("/similar", "image/png"),
        ("/translate", "application/json"),
        ("/detect", "application/json"),
        ("/models/echo/heads?name=x", "application/json"),
    ],
)
def test_every_door_unpacks(client: httpx.Client, door: str, kind: str) -> None:
    headers = {"Content-Type": kind, "Content-Encoding": "gzip"}
    answer = client.post(door, content=b"no gzip", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed_request"), answer.text
    assert "is not gzip data" in answer.json()["error"]
    headers["Content-Encoding"] = "br"
    assert client.post(door, content=b"", headers=headers).status_code == 415


def test_pipelined_requests_are_answered_in_order(server: RunningServer) -> None:
    request = (
        b"POST /predict HTTP/1.1\r\nHost: x\r\nX-Request-Id: %d\r\nContent-Length: %d\r\n\r\n%b"
    )
    with connect(server) as connection:
        connection.sendall(b"".join(request % (n, len(BODY), BODY) for n in range(5)))
        received = b""
        while received.count(b'"results"') < 5:
            received += connection.recv(65536)
    ids = [line.split(b": ")[1] for line in received.split(b"\r\n") if b"x-request-id" in line]
    assert ids == [b"0", b"1", b"2", b"3", b"4"]


def test_many_at_once(server: RunningServer) -> None:
    statuses: list[int] = []

    def hammer() -> None:
        with httpx.Client(base_url=server.url, timeout=200.0) as session:
            for value in range(20):
                item = {"tensors": {"x": [float(value), 2.0]}}
                answer = session.post("/predict", json={"model": "echo", "inputs": [item]})
                data = answer.json()["results"][0]["outputs"]["y"]["data"]
                statuses.append(answer.status_code if data == [float(value), 2.0] else 0)

    threads = [threading.Thread(target=hammer) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 160
