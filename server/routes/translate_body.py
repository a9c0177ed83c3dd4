"""What may be sent to `/translate`: JSON, a form, or a raw text; ours, or LibreTranslate's."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl

from server.errors import MalformedRequest, UnsupportedMedia
from server.handlers.call import Call
from server.handlers.translate import TranslateRequest
from server.routes.bodies import parse_json, parse_object
from server.routes.endpoint import read_priority, timeout_seconds
from server.routes.multipart import parse_multipart
from server.routes.request_options import address_of, literal, read_query, request_id, wrong_kind

_TEXTS = ("text", "q")
_FIELDS = ("id", "label", "model", "priority", "timeout_s", "version")  # no parameters
_WORDS = (*_FIELDS, *_TEXTS, "api_key", "format", "source", "target")  # never numbers
_OBJECTS = ("glossary", "parameters")
_FORM = b"application/x-www-form-urlencoded"


def read_fields(body: bytes, content_type: bytes, query: bytes) -> dict[str, Any]:
    """Return the keys and values of a body and its query, whatever form they have.

    Raises:
        MalformedRequest: the body is not what its content type says.
        UnsupportedMedia: a content type that is not read here.
    """
    values: dict[str, Any] = {}
    for name, text in read_query(query):
        _add(values, name, text)
    kind = content_type.partition(b";")[0].strip().lower()
    if kind == b"multipart/form-data":
        for part in parse_multipart(body, content_type):
            _add(values, "text" if part.name == "file" else part.name, _decoded(part.data))
    elif kind == b"text/plain":
        values["text"] = _decoded(body)
    elif kind == _FORM and not body.lstrip().startswith(b"{"):
        for name, text in _form(body):
            _add(values, name, text)
    elif not kind or kind.endswith(b"json") or kind == _FORM:  # `curl -d` calls any body a form
        values |= parse_object(body)
    else:
        raise UnsupportedMedia(
            f"Content-Type {kind.decode('latin-1')[:60]!r} is not read here; send application/json,"
            " a form, or text/plain"
        )
    return values


def _add(values: dict[str, Any], name: str, text: str) -> None:
    """Keep a field that came as text; texts to translate that come more than once are a list."""
    if name in _TEXTS and name in values:
        before = values[name]
        values[name] = [*before, text] if isinstance(before, list) else [before, text]
    elif name in _OBJECTS:
        values[name] = parse_json(text.encode("utf-8", "replace"), f"`{name}`") if text else None
    else:
        values[name] = text if name in _WORDS else literal(text)


def _form(body: bytes) -> list[tuple[str, str]]:
    try:
        text = body.decode()
        return parse_qsl(text, keep_blank_values=True, max_num_fields=4096, errors="strict")
    except UnicodeDecodeError as error:
        raise MalformedRequest(f"the form is not UTF-8: {error.reason}") from None
    except ValueError as error:
        raise MalformedRequest(f"the form cannot be read: {error}") from None


def _decoded(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise MalformedRequest(f"the text is not UTF-8: {error.reason}") from None


def own_request(values: dict[str, Any], call: Call) -> TranslateRequest:
    """Read the fields of our own shape; what is no other field is a parameter.

    Raises:
        InvalidInput: a key that is not known, or has a wrong value.
    """
    parameters = values.pop("parameters", None) or {}
    if not isinstance(parameters, dict):
        raise wrong_kind("parameters", "an object", parameters)
    texts, _ = texts_of(values.pop("text", None), "text")
    fields = {name: values.pop(name, None) for name in _FIELDS}
    if fields["timeout_s"] is not None:
        call.timeout_s = timeout_seconds(fields["timeout_s"], "timeout_s")
    if fields["priority"] is not None:
        call.priority = read_priority(fields["priority"])
    if fields["id"] is not None:
        call.id = request_id(fields["id"])
    model, version, label = address_of(fields)
    return TranslateRequest(texts, model, version, label, values | parameters)


def texts_of(value: Any, field: str) -> tuple[list[str], bool]:
    """Return the texts of a request, and whether they were a list.

    Raises:
        InvalidInput: neither a string nor a list of strings.
    """
    if isinstance(value, str):
        return [value], False
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return value, True
    raise wrong_kind(field, "a string or a list of strings", value)
