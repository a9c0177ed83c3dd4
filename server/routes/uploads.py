"""Bodies that are too long for memory: read as they arrive, or kept in a file without a name."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, TypeVar, TypeVarTuple

from server.errors import PayloadTooLarge, StoreUnavailable, UnsupportedMedia
from server.routes.answers import Receive
from server.routes.bodies import next_message
from server.settings import Settings

R = TypeVar("R")
Ts = TypeVarTuple("Ts")

WRITTEN_AT_ONCE = 1 << 20


async def upload(
    headers: Mapping[bytes, bytes], receive: Receive, settings: Settings
) -> AsyncIterator[bytes]:
    """Yield a body as it arrives: an upload is never whole in memory.

    Raises:
        PayloadTooLarge: it is longer than `max_upload_bytes`.
        UnsupportedMedia: it has a content encoding.
        RequestTimeout, RequestCancelled: it stopped arriving.
    """
    encoding = headers.get(b"content-encoding", b"identity").strip().lower()
    if encoding not in (b"", b"identity"):
        raise UnsupportedMedia(
            f"Content-Encoding {encoding.decode('latin-1')[:40]!r} is not read here; send the "
            "archive as it is"
        )
    left = settings.max_upload_bytes
    declared = headers.get(b"content-length", b"")
    if declared.isdigit() and int(declared[:18]) > left:
        raise _too_large(left)
    more = True
    while more:
        message = await next_message(receive, settings.body_timeout_s)
        chunk = message.get("body", b"")
        more = message.get("more_body", False)
        left -= len(chunk)
        if left < 0:
            raise _too_large(settings.max_upload_bytes)
        if chunk:
            yield chunk


@asynccontextmanager
async def spooled(chunks: AsyncIterator[bytes], folder: Path | None) -> AsyncIterator[IO[bytes]]:
    """Give a body as a file, which is gone afterwards, however this ends.

    Args:
        chunks: the body.
        folder: where to keep it; None: where temporary files are.

    Raises:
        StoreUnavailable: there is no room for it, or the folder cannot be written to.
    """

    async def to_disk(fn: Callable[[*Ts], R], *args: *Ts) -> R:
        try:
            return await asyncio.to_thread(fn, *args)
        except OSError as error:
            raise StoreUnavailable(
                f"the upload cannot be kept in {folder or tempfile.gettempdir()} while it is read: "
                f"{error.strerror or error}"
            ) from error

    # Without a name nothing is left behind by a process that is killed.
    with await to_disk(lambda: tempfile.TemporaryFile(dir=folder)) as file:
        pending = bytearray()
        async for chunk in chunks:
            pending += chunk
            if len(pending) >= WRITTEN_AT_ONCE:
                full, pending = pending, bytearray()
                await to_disk(file.write, full)
        await to_disk(file.write, pending)
        await to_disk(file.flush)
        yield file


def path_of(file: IO[bytes]) -> Path:
    """Return a path by which this process can open a file that has no name."""
    return Path(f"/dev/fd/{file.fileno()}")


def _too_large(most: int) -> PayloadTooLarge:
    return PayloadTooLarge(
        f"the upload is larger than {most} bytes; raise MILLRACE_MAX_UPLOAD_BYTES to allow it",
        max_upload_bytes=most,
    )
