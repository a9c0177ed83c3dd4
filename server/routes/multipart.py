"""`multipart/form-data`, out of a body that is already in memory and bounded.

The body is cut with `bytes.find`, because a parser that walks it would hold the interpreter for
tens of milliseconds on a photograph.
"""

from __future__ import annotations

from dataclasses import dataclass

from python_multipart.multipart import parse_options_header

from server.errors import MalformedRequest

MAX_PARTS = 4096
MAX_PART_HEADER_BYTES = 8192


@dataclass(slots=True)
class Part:
    """One part of a form; `filename` is None for a plain field."""

    name: str
    data: bytes
    filename: str | None = None
    content_type: str = ""


def parse_multipart(body: bytes, content_type: bytes) -> list[Part]:
    """Cut a form into its parts.

    Raises:
        MalformedRequest: no boundary, a broken part, or too many parts.
    """
    _, options = parse_options_header(content_type)
    boundary = options.get(b"boundary", b"")
    if not 1 <= len(boundary) <= 256:
        raise MalformedRequest("multipart/form-data without a boundary; let the client set it")
    mark = b"--" + boundary
    start = body.find(mark)
    if start < 0:
        raise MalformedRequest("the multipart body does not contain its boundary")
    parts: list[Part] = []
    position = start + len(mark)
    while not body.startswith(b"--", position):
        if len(parts) >= MAX_PARTS:
            raise MalformedRequest(f"the form has more than {MAX_PARTS} parts")
        end = body.find(b"\r\n" + mark, position)
        if end < 0:
            raise MalformedRequest("the multipart body ends before its closing boundary")
        parts.append(_part(body, position, end))
        position = end + 2 + len(mark)
    return parts


def _part(body: bytes, start: int, end: int) -> Part:
    # The line of the boundary may end in spaces; headers end with an empty line.
    break_at = body.find(b"\r\n\r\n", start, min(end + 4, start + MAX_PART_HEADER_BYTES))
    if break_at < 0:
        raise MalformedRequest("a part of the form has no headers, or too long ones")
    headers = _headers(body[start:break_at])
    _, options = parse_options_header(headers.get(b"content-disposition", b""))
    if b"name" not in options:
        raise MalformedRequest('a part of the form has no `name="..."`')
    filename = options.get(b"filename")
    return Part(
        options[b"name"].decode("utf-8", "replace"),
        body[min(break_at + 4, end) : end],
        None if filename is None else filename.decode("utf-8", "replace"),
        headers.get(b"content-type", b"").decode("latin-1").strip().lower(),
    )


def _headers(block: bytes) -> dict[bytes, bytes]:
    pairs = (line.partition(b":") for line in block.split(b"\r\n"))
    return {name.strip().lower(): value.strip() for name, _, value in pairs}
