"""One request over a connection whose other end may answer before it has been sent whole.

A server that refuses an upload says so at once. Who first sends all of it has wasted the way, and
finds the answer gone if the server has hung up meanwhile.
"""

from __future__ import annotations

import http.client
import select
import ssl
from collections.abc import Iterable, Iterator, Mapping

PIECE_BYTES = 64 * 1024  # between two looks for an answer

Body = bytes | Iterable[bytes]


class BodyFailed(Exception):
    """What was to be sent could not be read; the cause says why."""


def exchange(
    connection: http.client.HTTPConnection,
    method: str,
    target: str,
    body: Body | None,
    headers: Mapping[str, str],
) -> http.client.HTTPResponse:
    """Send a request, stop when its answer comes, and return that.

    A connection whose request was not sent whole closes with the answer. An iterable body is sent
    in chunks, and its iterator closed.

    Raises:
        BodyFailed: the body raised an error of its own.
        OSError, http.client.HTTPException: the server cannot be reached, or does not answer.
    """
    whole = body is None or isinstance(body, bytes)
    connection.putrequest(method, target)
    for name, value in headers.items():
        connection.putheader(name, value)
    if not whole:
        connection.putheader("Transfer-Encoding", "chunked")
    elif body is not None:
        connection.putheader("Content-Length", str(len(body)))  # type: ignore[arg-type]  # whole
    try:
        connection.endheaders()
        sent = _send(connection, _pieces(body) if whole else _chunks(body))  # type: ignore[arg-type]
    except (BrokenPipeError, ConnectionResetError) as error:
        return _last_words(connection, error)
    response = connection.getresponse()
    if not sent:
        _leave(connection)
    return response


def _send(connection: http.client.HTTPConnection, pieces: Iterator[bytes]) -> bool:
    """Send pieces until there is an answer; say whether that were all."""
    for piece in pieces:
        if _is_answered(connection):
            return False
        connection.send(piece)
    return True


def _is_answered(connection: http.client.HTTPConnection) -> bool:
    sock = connection.sock
    # Below TLS something may have come that is no answer, a session's ticket for instance.
    if sock is None or isinstance(sock, ssl.SSLSocket):
        return False
    readable, _, _ = select.select([sock], [], [], 0)
    return bool(readable)


def _last_words(connection: http.client.HTTPConnection, error: OSError) -> http.client.HTTPResponse:
    """Return the answer of a server that hung up, if there is one to be read; else raise."""
    try:
        response = connection.getresponse()
    except (OSError, http.client.HTTPException):
        raise error from None
    _leave(connection)
    return response


def _leave(connection: http.client.HTTPConnection) -> None:
    """Let a connection begin anew; the response keeps the socket until it has been read."""
    sock, connection.sock = connection.sock, None
    if sock is not None:  # else it went with the response's head
        sock.close()


def _pieces(body: bytes | None) -> Iterator[bytes]:
    view = memoryview(body or b"")
    for start in range(0, len(view), PIECE_BYTES):
        yield bytes(view[start : start + PIECE_BYTES])


def _chunks(body: Iterable[bytes]) -> Iterator[bytes]:
    """Yield a body in HTTP's chunks."""
    source = iter(body)
    try:
        while True:
            try:
                data = next(source, None)
            except OSError as error:
                raise BodyFailed(str(error)) from error
            if data is None:
                break
            for start in range(0, len(data), PIECE_BYTES):
                piece = data[start : start + PIECE_BYTES]
                yield b"%x\r\n%b\r\n" % (len(piece), piece)
        yield b"0\r\n\r\n"
    finally:
        close = getattr(source, "close", None)
        if close is not None:
            close()
