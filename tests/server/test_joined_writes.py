"""An answer's head and body leave together, in order, and nothing stays behind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest

from server.joined_writes import JoinedWrites

HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n"


class Transport(asyncio.Transport):
    """Keeps what reaches the kernel, one entry a call."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[bytes] = []
        self.paused = False
        self.closing = False

    def write(self, data: bytes) -> None:  # type: ignore[override]
        self.calls.append(data)

    def writelines(self, pieces: Sequence[bytes]) -> None:  # type: ignore[override]
        self.calls.append(b"".join(pieces))

    def write_eof(self) -> None:
        self.calls.append(b"eof")

    def can_write_eof(self) -> bool:
        return True

    def close(self) -> None:
        self.calls.append(b"closed")
        self.closing = True

    def pause_reading(self) -> None:
        self.paused = True

    def is_closing(self) -> bool:
        return self.closing

    def get_write_buffer_size(self) -> int:
        return 0


def after(work: Callable[[JoinedWrites], None], turns: int = 0) -> list[bytes]:
    """Return what was written after `work` and some turns of the loop."""

    async def main() -> list[bytes]:
        transport = Transport()
        work(JoinedWrites(transport, asyncio.get_running_loop()))
        for _ in range(turns):
            await asyncio.sleep(0)
        return list(transport.calls)

    return asyncio.run(main())


def write(*pieces: bytes) -> Callable[[JoinedWrites], None]:
    return lambda writes: [writes.write(piece) for piece in pieces] and None


@pytest.mark.parametrize(
    ("pieces", "calls"),
    [
        ((HEAD, b"ok"), [HEAD + b"ok"]),
        ((HEAD, b"o", b"k"), [HEAD + b"o", b"k"]),
        ((HEAD, b"ok", HEAD, b"no"), [HEAD + b"ok", HEAD + b"no"]),
        ((HEAD, HEAD), [HEAD + HEAD]),
        ((HEAD + b"ok",), [HEAD + b"ok"]),
        ((b"HTTP/1.1 100 Continue\r\n\r\n",), [b"HTTP/1.1 100 Continue\r\n\r\n"]),
        ((b"plain", b"\r\n\r\n"), [b"plain", b"\r\n\r\n"]),
    ],
)
def test_a_head_goes_with_what_follows(pieces: tuple[bytes, ...], calls: list[bytes]) -> None:
    assert after(write(*pieces)) == calls
    assert after(write(*pieces), turns=2) == calls


def test_a_head_alone_leaves_in_the_next_turn() -> None:
    assert after(write(HEAD)) == []
    assert after(write(HEAD), turns=1) == [HEAD]


def test_closing_writes_what_is_held_first() -> None:
    def work(writes: JoinedWrites) -> None:
        writes.write(HEAD)
        writes.close()

    assert after(work, turns=1) == [HEAD, b"closed"]


def test_everything_else_is_the_transports() -> None:
    def work(writes: JoinedWrites) -> None:
        writes.pause_reading()
        assert writes._transport.paused  # type: ignore[attr-defined]
        assert not writes.is_closing()

    after(work)


def lingering() -> tuple[Transport, JoinedWrites, asyncio.AbstractEventLoop]:
    """Close a connection whose client is sending."""
    loop = asyncio.new_event_loop()
    transport = Transport()
    writes = JoinedWrites(transport, loop, lambda: True)
    writes.write(HEAD)
    writes.close()
    return transport, writes, loop


def test_a_client_that_is_sending_is_let_finish(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.joined_writes.LINGER_S", 0.0)
    transport, writes, loop = lingering()
    assert transport.calls == [HEAD, b"eof"]
    assert writes.is_lingering and writes.is_closing()
    loop.run_until_complete(asyncio.sleep(0.01))
    assert transport.calls == [HEAD, b"eof", b"closed"]
    loop.close()


def test_closing_twice_waits_no_longer() -> None:
    transport, writes, loop = lingering()
    writes.close()
    assert transport.calls == [HEAD, b"eof", b"closed"]
    writes.close()  # of one that is closing already nothing is left to wait for
    assert transport.calls[2:] == [b"closed", b"closed"]
    loop.close()
