"""A client that takes nothing of its answer is hung up on; one that takes it slowly is not."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import pytest

from server import write_watch
from server.write_watch import WriteWatch
from tests.server.running import RunningServer, running_server, wait_until
from tests.server.small_settings import small_settings


class Loop:
    """A loop whose time is up when the test says so."""

    def __init__(self) -> None:
        self.due: list[object] = []

    def call_later(self, seconds: float, call):
        assert seconds == write_watch.STALL_S
        timer = Timer(self, call)
        self.due.append(timer)
        return timer

    def pass_time(self) -> None:
        due, self.due = self.due, []
        for timer in due:
            timer.call()


class Timer:
    def __init__(self, loop: Loop, call) -> None:
        self.loop, self.call = loop, call

    def cancel(self) -> None:
        self.loop.due.remove(self)


class Transport:
    def __init__(self, left: int) -> None:
        self.left, self.aborted = left, False

    def get_write_buffer_size(self) -> int:
        return self.left

    def abort(self) -> None:
        self.aborted = True


def watched(left: int) -> tuple[WriteWatch, Transport, Loop]:
    transport, loop = Transport(left), Loop()
    return WriteWatch(transport, loop), transport, loop


def test_a_client_that_takes_nothing():
    watch, transport, loop = watched(100)
    watch.begin()
    watch.begin()
    assert len(loop.due) == 1
    loop.pass_time()
    assert transport.aborted and not loop.due


def test_a_client_that_takes_a_little_each_time():
    watch, transport, loop = watched(100)
    watch.begin()
    for transport.left in (99, 50, 1):
        loop.pass_time()
        assert not transport.aborted and len(loop.due) == 1
    transport.left = 0
    loop.pass_time()
    assert not transport.aborted and not loop.due
    transport.left = 10
    watch.begin()
    loop.pass_time()
    assert transport.aborted


def test_a_connection_that_is_gone_or_has_nothing_to_write():
    watch, transport, loop = watched(0)
    watch.begin()
    assert not loop.due
    transport.left = 10
    watch.begin()
    watch.stop()
    watch.stop()
    assert not loop.due and not transport.aborted


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    root = tmp_path_factory.mktemp("nothing")
    with running_server(small_settings(root)) as running:
        yield running


@pytest.mark.parametrize("closing", [b"", b"Connection: close\r\n"])
def test_a_server_does_not_wait_for_whoever_does_not_read(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch, closing: bytes
):
    host, _, port = server.url.removeprefix("http://").partition(":")
    connections = server._server.server_state.connections
    monkeypatch.setattr(write_watch, "STALL_S", 0.2)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect((host, int(port)))
        ask = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n"
        client.sendall((ask + b"\r\n") * 199 + ask + closing + b"\r\n")
        assert client.recv(1)  # the answers have begun
        wait_until(lambda: not connections)


def test_the_loop_of_a_server_has_what_is_asked_of_it():
    async def main() -> int:
        left, right = socket.socketpair()
        with right:
            transport, _ = await asyncio.get_running_loop().create_connection(
                asyncio.Protocol, sock=left
            )
            transport.write(bytes(1 << 24))
            size = transport.get_write_buffer_size()
            transport.close()
            waiting = transport.get_write_buffer_size()
            transport.abort()
            return min(size, waiting)

    assert asyncio.run(main()) > 0
