"""What may be sent to `/translate`: JSON, a form, or a raw text; ours, or LibreTranslate's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from server.errors import MalformedRequest
from server.handlers.call import Call
from server.handlers.translate import TranslateRequest
from server.routes.bodies import parse_object
from server.routes.endpoint import read_priority, timeout_seconds
from server.routes.multipart import parse_multipart
from server.routes.request_options import address_of, literal, read_query, request_id, wrong_kind

_TEXTS = ("text", "q")
_FIELDS = ("id", "label", "model", "priority", "timeout_s", "version")  # no parameters


@dataclass(slots=True)
class TranslateBody:
    """A request that has been read, and whether its text was a list."""

    request: TranslateRequest
    listed: bool = False


def read_fields(body: bytes, content_type: bytes, query: bytes) -> dict[str, Any]:
    """Return the keys and values of a body and its query, whatever form they have.

    Raises:
        MalformedRequest: the body is not what its content type says.
        InvalidInput: the form holds a file that is no text.
    """
    values: dict[str, Any] = {name: literal(text) for name, text in read_query(query)}
    kind = content_type.partition(b";")[0].strip().lower()
    if kind == b"multipart/form-data":
        for part in parse_multipart(body, content_type):
            name = "text" if part.name == "file" else part.name
            _add(values, name, _decoded(part.data) if name in _TEXTS else _option(part.data))
    elif kind == b"text/plain":
        values["text"] = _decoded(body)
    elif kind == b"application/x-www-form-urlencoded" and not body.lstrip().startswith(b"{"):
        for name, text in _form(body):
            _add(values, name, text if name in _TEXTS else literal(text))
    else:  # also what `curl -d` sends without saying that it is JSON
        values |= parse_object(body)
    return values


def _add(values: dict[str, Any], name: str, value: Any) -> None:
    """Keep a field of a form; texts that come more than once are a list."""
    if name in _TEXTS and name in values:
        before = values[name]
        values[name] = [*before, value] if isinstance(before, list) else [before, value]
    else:
        values[name] = value


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


def _option(data: bytes) -> Any:
    return literal(data.decode("utf-8", "replace"))


def own_request(values: dict[str, Any], call: Call) -> TranslateBody:
    """Read the fields of our own shape; what is no other field is a parameter.

    Raises:
        InvalidInput: a key that is not known, or has a wrong value.
    """
    parameters = values.pop("parameters", None) or {}
    if not isinstance(parameters, dict):
        raise wrong_kind("parameters", "an object", parameters)
    texts, listed = texts_of(values.pop("text", None), "text")
    fields = {name: values.pop(name, None) for name in _FIELDS}
    if fields["timeout_s"] is not None:
        call.timeout_s = timeout_seconds(fields["timeout_s"], "timeout_s")
    if fields["priority"] is not None:
        call.priority = read_priority(fields["priority"])
    if fields["id"] is not None:
        call.id = request_id(fields["id"])
    model, version, label = address_of(fields)
    request = TranslateRequest(texts, model, version, label, values | parameters)
    return TranslateBody(request, listed)


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
