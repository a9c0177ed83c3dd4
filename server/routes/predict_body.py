"""What may be sent to the simple door, as a `PredictRequest`: JSON, a form, or one raw item."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from server.errors import InvalidInput, MalformedRequest, ServerError, UnsupportedMedia
from server.handlers.call import Call
from server.handlers.predict import PredictRequest
from server.routes.bodies import parse_object
from server.routes.endpoint import read_priority, timeout_seconds
from server.routes.multipart import Part, parse_multipart
from server.routes.request_options import (
    address_of,
    literal,
    read_base64,
    read_query,
    request_id,
    wrong_kind,
)
from server.tasks import ImageItem, Item, TensorItem, TextItem

BODY_KEYS = (*("id", "inputs", "label", "model", "parameters", "priority", "timeout_s", "version"),)
_FORM_TYPES = (b"application/x-www-form-urlencoded",)  # what `curl -d` says of any body


@dataclass(slots=True)
class _Options:
    """Everything of a request but its items."""

    fields: dict[str, Any] = field(default_factory=dict)  # model, version, label, timeout_s, ...
    parameters: dict[str, Any] = field(default_factory=dict)

    def take(self, name: str, text: str) -> None:
        """Sort a text option, from the query or a form, into its place."""
        if name in BODY_KEYS and name not in ("inputs", "parameters"):
            self.fields[name] = text
        else:
            self.parameters[name] = literal(text)


def read_request(
    body: bytes, content_type: bytes, query: bytes, task: str | None, call: Call
) -> PredictRequest:
    """Read a request of the simple door; a broken item becomes its error, in its place.

    Raises:
        MalformedRequest: the body is not what its content type says.
        InvalidInput: a key that is not known, or has a wrong value.
        UnsupportedMedia: a content type that this door does not read.
    """
    options = _Options()
    for name, text in read_query(query):
        options.take(name, text)
    kind = content_type.partition(b";")[0].strip().lower()
    items: list[Item | ServerError]
    if not kind or kind.endswith(b"json") or kind in _FORM_TYPES:
        items = _from_json(parse_object(body), options)
    elif kind == b"multipart/form-data":
        items = _from_form(parse_multipart(body, content_type), options)
    elif kind.startswith(b"image/") or kind == b"application/octet-stream":
        items = [_image(body)]
    elif kind == b"text/plain":
        items = [_text(body)]
    else:
        raise UnsupportedMedia(
            f"Content-Type {kind.decode('latin-1')[:60]!r} is not read here; send application/json,"
            " multipart/form-data, image/* or text/plain"
        )
    return _request(items, options, task, call)


def _request(
    items: list[Item | ServerError], options: _Options, task: str | None, call: Call
) -> PredictRequest:
    fields = options.fields
    if "timeout_s" in fields:
        call.timeout_s = timeout_seconds(fields["timeout_s"], "timeout_s")
    if "priority" in fields:
        call.priority = read_priority(fields["priority"])
    if "id" in fields:
        call.id = request_id(fields["id"])
    model, version, label = address_of(fields)
    return PredictRequest(items, model, version, label, options.parameters, task)


def _from_json(body: dict[str, Any], options: _Options) -> list[Item | ServerError]:
    for key, value in body.items():
        if key not in BODY_KEYS:
            raise InvalidInput(
                f"unknown key {key[:80]!r}; known: {', '.join(BODY_KEYS)}",
                field=key[:80],
                expected=list(BODY_KEYS),
                got=key[:80],
            )
        if value is not None and key not in ("inputs", "parameters"):
            options.fields[key] = value
    parameters = body.get("parameters") or {}
    items = body.get("inputs")
    if not isinstance(parameters, dict):
        raise wrong_kind("parameters", "an object", parameters)
    if not isinstance(items, list):
        raise wrong_kind("inputs", "a list of items", items)
    options.parameters.update(parameters)
    return [_json_item(item, f"inputs[{place}]") for place, item in enumerate(items)]


def _json_item(item: Any, where: str) -> Item | ServerError:
    try:
        if not isinstance(item, dict) or len(item) != 1:
            raise wrong_kind(where, 'one of {"image"}, {"text"}, {"tensors"}', item)
        [(kind, value)] = item.items()
        if kind == "tensors" and isinstance(value, dict):
            return TensorItem(value, f"{where}.tensors")
        if kind == "text" and isinstance(value, str):
            return TextItem(value, f"{where}.text")
        if kind == "image" and isinstance(value, dict) and set(value) == {"b64"}:
            return ImageItem(read_base64(value["b64"], f"{where}.image.b64"), f"{where}.image")
    except ServerError as error:
        return error
    forms = {
        "tensors": '{"tensors": {name: nested list}}',
        "text": '{"text": "..."}',
        "image": '{"image": {"b64": "..."}}',
    }
    return wrong_kind(where, forms.get(kind, " or ".join(forms.values())), item)


def _from_form(parts: list[Part], options: _Options) -> list[Item | ServerError]:
    items: list[Item | ServerError] = []
    for part in parts:
        if part.filename is not None or part.name == "file":
            if part.name != "file":
                raise InvalidInput(
                    f"files are sent as `file`, got {part.name[:80]!r}",
                    field=part.name[:80],
                    expected="file",
                    got=part.name[:80],
                )
            text = part.content_type.startswith("text/")
            where = f"file[{len(items)}]"
            items.append(_text(part.data, where) if text else _image(part.data, where))
        else:
            options.take(part.name, part.data.decode("utf-8", "replace"))
    if not items:
        raise InvalidInput(
            "the form holds no `file`", field="file", expected="one or more files", got=0
        )
    return items


def _image(data: bytes, where: str = "image") -> ImageItem:
    if not data:
        raise InvalidInput("the picture is empty", field=where, expected="an image", got="0 bytes")
    return ImageItem(data, where)


def _text(data: bytes, where: str = "text") -> TextItem:
    try:
        return TextItem(data.decode(), where)
    except UnicodeDecodeError as error:
        raise MalformedRequest(f"the text is not UTF-8: {error.reason}") from None
