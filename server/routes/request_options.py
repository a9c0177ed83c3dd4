"""What requests of the simple doors have in common: who answers them, and options as texts."""

from __future__ import annotations

import base64
import binascii
import reprlib
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

from server.errors import InvalidInput, MalformedRequest

MAX_QUERY_FIELDS = 64


def address_of(fields: Mapping[str, Any]) -> tuple[str | None, str | None, str | None]:
    """Return the model, version and label that a request names.

    Raises:
        InvalidInput: one of them is no name.
    """
    model, version, label = (_name(fields.get(key), key) for key in ("model", "version", "label"))
    return model, version, label


def _name(value: Any, key: str) -> str | None:
    if value is None or (isinstance(value, str) and value):
        return value
    if key == "version" and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise InvalidInput(
        f"`{key}` must be a string, got {reprlib.repr(value)}",
        field=key,
        expected="a string",
        got=reprlib.repr(value),
    )


def request_id(value: Any) -> str:
    """Return the id that a client gave its request."""
    text = str(value) if isinstance(value, str | int) else ""
    if not (1 <= len(text) <= 128 and text.isascii() and text.isprintable()):
        raise InvalidInput(
            "`id` must be 1 to 128 printable ASCII characters",
            field="id",
            expected="1 to 128 printable ASCII characters",
            got=reprlib.repr(value),
        )
    return text


def read_query(query: bytes) -> list[tuple[str, str]]:
    """Return the fields of a query, in their order."""
    if not query:
        return []
    try:
        text = query.decode("latin-1")
        return parse_qsl(text, keep_blank_values=True, max_num_fields=MAX_QUERY_FIELDS)
    except ValueError:
        raise MalformedRequest(f"the query has more than {MAX_QUERY_FIELDS} fields") from None


def literal(text: str) -> Any:
    """Return what a text option means: true, false, a number, or itself."""
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            if len(text) <= 40:
                return kind(text)
        except ValueError:
            continue
    return text


def wrong_kind(field_name: str, expected: str, got: Any) -> InvalidInput:
    """Return the error of a value that has another form than it must."""
    shown = reprlib.repr(got)
    return InvalidInput(
        f"`{field_name}` must be {expected}, got {shown}",
        field=field_name,
        expected=expected,
        got=shown,
    )


def read_base64(text: Any, where: str) -> bytes:
    """Return the bytes of base64 text, or of a data URL.

    Raises:
        InvalidInput: it is neither.
    """
    try:
        if not isinstance(text, str):
            raise TypeError
        if text.startswith("data:"):  # what a browser's canvas gives
            text = text.partition(",")[2]
        return base64.b64decode(text, validate=True)
    except (TypeError, ValueError, binascii.Error):
        raise wrong_kind(where, "base64 text", text) from None
