"""`POST /collections/{collection}/items`: items in, in many forms, with progress."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

from server.errors import (
    InvalidInput,
    ServerError,
    UnsupportedMedia,
    status_of,
)
from server.handlers.call import Call
from server.handlers.collections import error_dict, progress_dict
from server.routes.answers import JSON, Answer, Receive, Scope, error_headers, json_answer, to_json
from server.routes.connected import while_connected
from server.routes.endpoint import Headers, Runtime, read_priority
from server.routes.event_stream import Event, event_answer, stream_wanted
from server.routes.guard import guarded
from server.routes.items_body import form_items, json_items, line_items, raw_item
from server.routes.request_options import read_query
from server.routes.uploads import spooled, upload
from server.similarity.batches import Entry, Incoming, Refused
from server.similarity.ingest import Progress

MAX_TOLD_ERRORS = 1000  # in one answer or event
MAX_TOLD_IDS = 1000
_CURL = b"application/x-www-form-urlencoded"  # what `curl -d` says of any body
_LINES = (b"application/x-ndjson", b"application/jsonl", b"application/x-jsonlines")
_ARCHIVES = (
    *(b"application/zip", b"application/x-zip-compressed", b"application/x-tar"),
    *(b"application/gzip", b"application/x-gzip", b"application/x-gtar"),
    *(b"application/x-compressed-tar", b"application/octet-stream"),
)


class AddRoute:
    """The answerer that puts items in."""

    def __init__(self, runtime: Runtime) -> None:
        """Keep what every request uses."""
        self._runtime = runtime

    async def __call__(
        self, scope: Scope, headers: Headers, receive: Receive, call: Call
    ) -> Answer:
        """Put the items of one request in."""
        runtime = self._runtime
        require_writer(scope, headers, runtime)
        name: str = scope["path_params"]["collection"]
        options = _options(scope["query_string"])
        if "priority" in options:
            call.priority = read_priority(options["priority"])
        await runtime.handlers.collections.check(name)  # before a body that may be long
        form = stream_wanted(headers.get(b"accept", b""))
        kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        if kind in _LINES or kind in _ARCHIVES:
            told = self._bulk(name, kind in _LINES, headers, receive, call)
            return await _streamed(told, call, form) if form else await _gathered(told, name)
        entries = await self._entries(kind, options, headers, receive)
        if form is None:
            progress = await runtime.handlers.collections.add_all(name, entries, call)
            return _answer(name, progress, entries)
        source = runtime.handlers.collections.add(name, _once(entries), call, len(entries))
        return await _streamed(_counted(while_connected(source, call)), call, form)

    async def _entries(
        self, kind: bytes, options: dict[str, str], headers: Headers, receive: Receive
    ) -> list[Entry | Refused]:
        """Read a body that fits into memory."""
        runtime = self._runtime
        pool = runtime.handlers.pool
        body = await runtime.bodies.read(headers, receive, pool)
        if kind.startswith(b"image/"):
            return [raw_item(body, options)]
        if options.keys() - {"priority"}:
            raise InvalidInput(
                "`id` and `metadata` stand in the query only beside one raw picture",
                field=next(iter(options)),
                expected="image/*",
                got=kind.decode("latin-1")[:60],
            )
        if kind == b"multipart/form-data":
            return await pool.run(form_items, body, headers[b"content-type"])
        if not kind or kind.endswith(b"json") or kind == _CURL:
            return await pool.run(json_items, body, runtime.settings.max_bulk_items)
        raise UnsupportedMedia(
            f"Content-Type {kind.decode('latin-1')[:60]!r} is not read here; send "
            "application/json, application/x-ndjson, multipart/form-data, image/*, "
            "application/zip or application/x-tar"
        )

    async def _bulk(
        self, name: str, lines: bool, headers: Headers, receive: Receive, call: Call
    ) -> AsyncGenerator[Progress]:
        """Put in what comes as a stream or as an archive."""
        runtime = self._runtime
        handlers, settings = runtime.handlers, runtime.settings
        body = upload(headers, receive, settings)
        if lines:
            here = asyncio.Event()
            source = line_items(_noting_its_end(body, here), handlers.pool, settings)
            told = handlers.collections.add(name, source, call)
            async with aclosing(_counted(while_connected(told, call, here=here))) as pieces:
                async for progress in pieces:
                    yield progress
            return
        async with spooled(body, handlers.collections.spool) as file:
            unpacked = handlers.collections.unpacked(file, settings.max_upload_bytes)
            total, pictures = await unpacked
            told = handlers.collections.add(name, pictures, call, total)
            async with aclosing(_counted(while_connected(told, call))) as pieces:
                async for progress in pieces:
                    yield progress


def require_writer(scope: Scope, headers: Headers, runtime: Runtime) -> None:
    """Let a request pass that may change items."""
    if runtime.settings.collections_open != "anyone":
        guarded(scope, headers, runtime.settings)


def _options(query: bytes) -> dict[str, str]:
    options = dict(read_query(query))
    for name in options:
        if name not in ("id", "metadata", "priority"):
            raise InvalidInput(
                f"unknown option {name[:80]!r}; known: id, metadata, priority",
                field=name[:80],
                expected="id, metadata, priority",
                got=name[:80],
            )
    return options


async def _once(entries: Incoming) -> AsyncGenerator[Incoming]:
    yield entries


async def _noting_its_end(
    chunks: AsyncIterator[bytes], here: asyncio.Event
) -> AsyncGenerator[bytes]:
    async for chunk in chunks:
        yield chunk
    here.set()


async def _counted(told: AsyncGenerator[Progress]) -> AsyncGenerator[Progress]:
    """Pass progress on; an error of the work says how far it had come."""
    last = Progress()
    try:
        async with aclosing(told):
            async for last in told:
                yield last
    except ServerError as error:
        counts = {"added": last.added, "replaced": last.replaced, "failed": last.failed}
        error.extra = {**counts, **error.extra}
        raise


# Answers


async def _streamed(told: AsyncGenerator[Progress], call: Call, form: bytes) -> Answer:
    return await event_answer(_with_end(told), _describe, call, form)


async def _with_end(told: AsyncGenerator[Progress]) -> AsyncGenerator[tuple[str, Progress]]:
    last = Progress(total=0)
    async with aclosing(told):
        async for last in told:
            yield "progress", last
    last.errors = []  # they have been told
    yield "done", last


def _describe(told: tuple[str, Progress]) -> Event:
    name, progress = told
    return name, progress_dict(progress, MAX_TOLD_ERRORS)


async def _gathered(told: AsyncGenerator[Progress], name: str) -> Answer:
    last, errors, count = Progress(total=0), list[Refused](), 0
    async with aclosing(told):
        async for last in told:
            errors += last.errors[: MAX_TOLD_ERRORS - len(errors)]
            count += len(last.errors)
    last.errors = errors
    return _answer(name, last, (), count - len(errors))


def _answer(name: str, progress: Progress, entries: Incoming, omitted: int = 0) -> Answer:
    content: dict[str, Any] = {"collection": name, **progress_dict(progress, MAX_TOLD_ERRORS)}
    if omitted:
        content["errors_omitted"] = omitted
    if entries and len(entries) <= MAX_TOLD_IDS:
        failed = {each.id for each in progress.errors}
        ids = (entry.id for entry in entries if isinstance(entry, Entry))
        content["ids"] = [id for id in dict.fromkeys(ids) if id not in failed]
    if progress.done or not progress.errors:
        return json_answer(content)
    failure = progress.errors[0].error  # nothing is in, so the request has failed
    content |= error_dict(progress.errors[0])
    status = status_of(failure)
    return Answer(status, to_json(content), [JSON, *error_headers(failure, status)], failure.code)
