"""What may be sent as items of a collection: JSON, lines of JSON, a form, or one raw picture."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any

from server.errors import InvalidInput, MalformedRequest, PayloadTooLarge, ServerError
from server.execution import WorkerPool
from server.index.checks import check_id, metadata_json
from server.routes.bodies import parse_json, parse_object
from server.routes.multipart import parse_multipart
from server.routes.request_options import wrong_kind
from server.routes.similar_body import read_image, read_vector
from server.settings import Settings
from server.similarity.archives import entry_id, folder_of
from server.similarity.batches import Entry, Incoming, Refused

ITEM_KEYS = ("id", "image", "vector", "metadata")
HASH_DIGITS = 32  # of the id of a picture that came without one


def json_items(body: bytes, most: int = 1_000_000) -> list[Entry | Refused]:
    """Read `{"items": [...]}`, or one item.

    Raises:
        MalformedRequest, InvalidInput: it is neither.
        PayloadTooLarge: there are more than `most`.
    """
    value = parse_object(body)
    if "items" not in value:
        return [read_item(value, "item")]
    if set(value) != {"items"} or not isinstance(value["items"], list):
        raise wrong_kind("items", "a list of items, and no other key beside it", value["items"])
    if len(value["items"]) > most:
        raise PayloadTooLarge(
            f"{len(value['items'])} items are more than max_bulk_items = {most}; send them in "
            "several requests",
            max_bulk_items=most,
        )
    return [read_item(each, f"items[{n}]") for n, each in enumerate(value["items"])]


def read_item(value: Any, where: str) -> Entry | Refused:
    """Read one item; what is wrong with it is told under its id, or where it stood."""
    name = where
    try:
        if not isinstance(value, dict):
            raise wrong_kind(where, 'an object such as {"id", "image", "metadata"}', value)
        if isinstance(value.get("id"), str):
            name = value["id"][:512]
        unknown = [key for key in value if key not in ITEM_KEYS]
        if unknown:
            raise wrong_kind(where, f"an object with the keys {', '.join(ITEM_KEYS)}", unknown[0])
        return _entry(value, where)
    except ServerError as error:
        return Refused(name, error)


def _entry(value: Mapping[str, Any], where: str) -> Entry:
    picture = vector = None
    if value.get("image") is not None:
        picture = read_image(value["image"], f"{where}.image")
    if value.get("vector") is not None:
        vector = read_vector(value["vector"], f"{where}.vector")
    given = value.get("metadata")
    metadata: dict[str, Any] = {} if given is None else given
    metadata_json(metadata, f"{where}.metadata")
    if value.get("id") is not None:
        return Entry(check_id(value["id"]), metadata, picture, vector)
    if picture is None:
        raise InvalidInput(
            f"{where} has no `id`; only a picture can do without, it is named by its content",
            field=f"{where}.id",
            expected="a string",
            got=None,
        )
    return Entry(content_id(picture), metadata, picture, vector)


def content_id(picture: bytes) -> str:
    """Return the id of a picture that came without one: the same for the same bytes."""
    return hashlib.sha256(picture).hexdigest()[:HASH_DIGITS]


def raw_item(body: bytes, options: Mapping[str, str]) -> Entry:
    """Read one picture as the whole body; its id and metadata stand in the query."""
    if not body:
        raise InvalidInput("the picture is empty", field="image", expected="an image", got=0)
    id = check_id(options["id"]) if "id" in options else content_id(body)
    return Entry(id, query_metadata(options), body)


def query_metadata(options: Mapping[str, str]) -> dict[str, Any]:
    """Return the metadata of a query or of a form's field."""
    if "metadata" not in options:
        return {}
    value = parse_json(options["metadata"].encode("utf-8", "replace"), "`metadata`")
    metadata_json(value)
    found: dict[str, Any] = value
    return found


def form_items(body: bytes, content_type: bytes) -> list[Entry | Refused]:
    """Read a form: each `file` is an item with its name for an id; `metadata` is for all."""
    files: list[tuple[str, bytes]] = []
    options: dict[str, str] = {}
    for part in parse_multipart(body, content_type):
        if part.filename is not None or part.name == "file":
            files.append((part.filename or "", part.data))
        elif part.name in ("metadata", "id"):
            options[part.name] = part.data.decode("utf-8", "replace")
        else:
            raise InvalidInput(
                f"a form has `file`, `id` and `metadata`, got {part.name[:80]!r}",
                field=part.name[:80],
                expected="file, id, metadata",
                got=part.name[:80],
            )
    if not files:
        raise InvalidInput("the form holds no `file`", field="file", expected="files", got=0)
    if "id" in options and len(files) > 1:
        raise InvalidInput(
            "`id` is for one file; several are named by their file names", field="id"
        )
    metadata = query_metadata(options)
    return [_form_item(name, data, options.get("id"), metadata) for name, data in files]


def _form_item(name: str, data: bytes, id: str | None, metadata: dict[str, Any]) -> Entry | Refused:
    try:
        if not data:
            raise InvalidInput("the picture is empty", field="file", expected="an image", got=0)
        named = check_id(id) if id is not None else entry_id(name) if name else None
        if named is None:
            named = content_id(data)
        return Entry(named, {**folder_of(named), **metadata}, data)
    except ServerError as error:
        return Refused(name[:512] or "file", error)


async def line_items(
    chunks: AsyncIterator[bytes], pool: WorkerPool, settings: Settings
) -> AsyncGenerator[Incoming]:
    """Read one item per line, as they come.

    Raises:
        PayloadTooLarge: a line is longer than `max_body_bytes`, or there are too many.
    """
    buffer = bytearray()
    lines = 0
    async for chunk in chunks:
        searched = len(buffer)
        buffer += chunk
        end = buffer.rfind(b"\n", searched) + 1
        if end:
            block = bytes(buffer[:end])
            del buffer[:end]
            items = await pool.run(_read_lines, block, lines)
            lines += block.count(b"\n")
            _check_count(lines, settings)
            if items:
                yield items
        if len(buffer) > settings.max_body_bytes:
            raise PayloadTooLarge(
                f"line {lines + 1} is longer than {settings.max_body_bytes} bytes",
                max_body_bytes=settings.max_body_bytes,
            )
    if items := await pool.run(_read_lines, bytes(buffer), lines):
        yield items


def _check_count(lines: int, settings: Settings) -> None:
    if lines > settings.max_bulk_items:
        raise PayloadTooLarge(
            f"there are more than max_bulk_items = {settings.max_bulk_items} lines; send them in "
            "several requests",
            max_bulk_items=settings.max_bulk_items,
        )


def _read_lines(block: bytes, before: int) -> list[Entry | Refused]:
    found: list[Entry | Refused] = []
    for number, line in enumerate(block.split(b"\n"), before + 1):
        if line.strip():
            found.append(_read_line(line, f"line {number}"))
    return found


def _read_line(line: bytes, where: str) -> Entry | Refused:
    try:
        return read_item(parse_json(line, "it"), where)
    except MalformedRequest as error:
        return Refused(where, error)
