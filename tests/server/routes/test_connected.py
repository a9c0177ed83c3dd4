"""Work stops when its client has gone, as far as it may be stopped."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import AsyncGenerator

import pytest

from server.errors import RequestCancelled
from server.handlers.call import Call
from server.learning.orders import Step
from server.routes.connected import while_connected
from server.similarity.ingest import Progress
from tests.server.running import RunningServer, running_server, wait_until
from tests.server.similarity.nets import add_eyes
from tests.server.small_settings import small_settings


async def test_what_is_told_is_passed_on() -> None:
    async def work() -> AsyncGenerator[int]:
        yield 1
        yield 2

    for call in (Call("id"), Call("id", disconnected=asyncio.Event().wait)):
        assert [each async for each in while_connected(work(), call)] == [1, 2]


@pytest.mark.parametrize("last", [2, 9])
async def test_from_some_point_on_it_is_finished_in_any_case(last: int) -> None:
    gone, ended = asyncio.Event(), []

    async def work() -> AsyncGenerator[int]:
        try:
            for number in range(1, 5):
                yield number
                if number == 2:
                    gone.set()
                    # Not by the clock where it must be stopped: a late timer rings with the rest.
                    await (asyncio.sleep(0.01) if last == 2 else asyncio.Event().wait())
        finally:
            ended.append(True)

    told = 0
    call = Call("id", disconnected=gone.wait)
    follow = while_connected(work(), call, until=lambda number: number == last)
    if last == 2:
        assert [each async for each in follow] == [1, 2, 3, 4]
    else:
        with pytest.raises(RequestCancelled):
            async for each in follow:
                told = each
        assert told == 2
    assert ended == [True]


async def test_work_that_never_waits_is_stopped_too() -> None:
    gone, ended = asyncio.Event(), []

    async def work() -> AsyncGenerator[int]:
        try:
            for number in range(1, 1_000_000):
                yield number
        finally:
            ended.append(True)

    told = 0
    with pytest.raises(RequestCancelled):
        async for each in while_connected(work(), Call("id", disconnected=gone.wait)):
            told = each
            if told == 3:
                gone.set()
    assert 3 <= told < 10 and ended == [True]


async def test_who_is_cancelled_stops_the_work() -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def work() -> AsyncGenerator[int]:
        try:
            begun.set()
            await asyncio.Event().wait()
            yield 1
        finally:
            ended.set()

    async def follow() -> None:
        async for _ in while_connected(work(), Call("id")):
            pass

    task = asyncio.ensure_future(follow())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> RunningServer:
    root = tmp_path_factory.mktemp("connected")
    add_eyes(root / "models")
    settings = small_settings(
        root / "models", device="reference", collections=str(root / "collections")
    )
    with running_server(settings) as running:
        yield running


def begin(server: RunningServer, target: str, body: object, lines: bool) -> socket.socket:
    """Send a request, and wait for its first line if it is answered in lines."""
    host, _, port = server.url.removeprefix("http://").partition(":")
    wire = socket.create_connection((host, int(port)), timeout=200.0)
    data = json.dumps(body).encode()
    accept = b"application/x-ndjson" if lines else b"*/*"
    wire.sendall(
        b"POST %b HTTP/1.1\r\nContent-Type: application/json\r\nAccept: %b\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (target.encode(), accept, len(data), data)
    )
    received = b""
    while lines and b'"event"' not in received:
        piece = wire.recv(65_536)
        assert piece, received
        received += piece
    return wire


def test_items_that_came_in_one_body(server: RunningServer, monkeypatch: pytest.MonkeyPatch):
    ended = threading.Event()

    async def add(*_: object) -> AsyncGenerator[Progress]:
        try:
            yield Progress(added=1)
            await asyncio.Event().wait()
        finally:
            ended.set()

    collections = server.app.runtime.handlers.collections

    async def check(_: str) -> None:
        return None

    monkeypatch.setattr(collections, "add", add)
    monkeypatch.setattr(collections, "check", check)
    begin(server, "/collections/c/items", {"items": []}, True).close()
    wait_until(ended.is_set)


@pytest.mark.parametrize("lines", [True, False])
def test_a_lesson(server: RunningServer, monkeypatch: pytest.MonkeyPatch, lines: bool):
    begun, ended = threading.Event(), threading.Event()

    async def teach(_: object) -> AsyncGenerator[Step]:
        try:
            yield Step("embedding", 0, 4)
            begun.set()
            await asyncio.Event().wait()
        finally:
            ended.set()

    monkeypatch.setattr(server.app.runtime.handlers.heads, "teach", teach)
    wire = begin(server, "/models/eyes/heads?name=x", {"items": []}, lines)
    wait_until(begun.is_set)
    assert not ended.is_set()
    wire.close()
    wait_until(ended.is_set)


def test_a_lesson_that_is_being_published_is_finished(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
):
    begun, hung_up, ended = threading.Event(), threading.Event(), []

    async def teach(_: object) -> AsyncGenerator[Step]:
        yield Step("publishing")
        begun.set()
        while not hung_up.is_set():
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        ended.append("loading")
        yield Step("loading")
        ended.append("through")

    monkeypatch.setattr(server.app.runtime.handlers.heads, "teach", teach)
    wire = begin(server, "/models/eyes/heads?name=x", {"items": []}, True)
    wait_until(begun.is_set)
    wire.close()
    hung_up.set()
    wait_until(lambda: ended == ["loading", "through"])


def test_a_snapshot(server: RunningServer, monkeypatch: pytest.MonkeyPatch):
    ended = threading.Event()

    async def snapshot(_: str) -> AsyncGenerator[bytes]:
        try:
            while True:
                yield bytes(1 << 16)
        finally:
            ended.set()

    monkeypatch.setattr(server.app.runtime.handlers.collections, "snapshot", snapshot)
    host, _, port = server.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=200.0) as wire:
        wire.sendall(b"GET /collections/c/snapshot HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert wire.recv(65_536).startswith(b"HTTP/1.1 200")
    wait_until(ended.is_set)
    assert not server.app.runtime.draining
