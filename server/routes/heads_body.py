"""What may be sent to learn from: an archive, a form, JSON with pictures, or a collection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from server.errors import InvalidInput
from server.learning.examples import Example
from server.learning.orders import FromCollection, Order
from server.routes.bodies import parse_object
from server.routes.multipart import parse_multipart
from server.routes.request_options import wrong_kind
from server.routes.similar_body import read_image

TEXTS = ("name", "version", "base_version", "method")
FLAGS = ("publish", "keep_pictures", "skip_unreadable")
OPTIONS = (*TEXTS, *FLAGS)
SOURCES = ("items", "collection", "labels", "label_field")
ITEM_KEYS = ("image", "label", "name")
_FLAG_WORDS = {"true": True, "1": True, "false": False, "0": False}


def make_order(
    base: str,
    options: Mapping[str, Any],
    pictures: Sequence[Example] | FromCollection,
    ignored: Sequence[str] = (),
) -> Order:
    """Return the order of a request.

    Raises:
        InvalidInput: an option is unknown, or has a value that it cannot have.
    """
    read: dict[str, Any] = {}
    for name, value in options.items():
        if name in FLAGS:
            read[name] = _flag(name, value)
        elif name in TEXTS:
            read[name] = _text(name, value)
        else:
            raise InvalidInput(
                f"unknown option {name[:80]!r}; known: {', '.join(OPTIONS)}",
                field=name[:80],
                expected=list(OPTIONS),
                got=name[:80],
            )
    return Order(base, pictures, ignored=ignored, **read)


def _text(name: str, value: Any) -> str | None:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if value is not None and (not isinstance(value, str) or not value):
        raise wrong_kind(name, "a string", value)
    found: str | None = value
    return found


def _flag(name: str, value: Any) -> bool:
    found = value if isinstance(value, bool) else _FLAG_WORDS.get(str(value).lower())
    if found is None:
        raise wrong_kind(name, "true or false", value)
    return found


def json_order(base: str, options: Mapping[str, Any], body: bytes) -> Order:
    """Read `{"name", ..., "items": [{"image": {"b64"}, "label", "name"?}, ...]}`, or with
    `collection` and `labels` or `label_field` in place of `items`.
    """
    value = parse_object(body) if body else {}
    given = {**options, **{key: part for key, part in value.items() if key not in SOURCES}}
    if "collection" in value:
        if "items" in value:
            raise InvalidInput(
                "give `items` or a `collection`, not both", field="items", expected="one of them"
            )
        return make_order(base, given, _from_collection(value))
    for key in ("labels", "label_field"):
        if key in value:
            raise InvalidInput(f"`{key}` goes with a `collection`", field=key)
    items = value.get("items", [])
    if not isinstance(items, list):
        raise wrong_kind("items", "a list of items", items)
    return make_order(base, given, [_item(item, n) for n, item in enumerate(items)])


def _item(item: Any, number: int) -> Example:
    where = f"items[{number}]"
    if not isinstance(item, dict) or not item.keys() <= set(ITEM_KEYS):
        raise wrong_kind(where, f"an object with the keys {', '.join(ITEM_KEYS)}", item)
    label, name = item.get("label"), item.get("name", where)
    if not isinstance(label, str):
        raise wrong_kind(f"{where}.label", "a string", label)
    if not isinstance(name, str) or not name:
        raise wrong_kind(f"{where}.name", "a string", name)
    return Example.of(name, label, read_image(item.get("image"), f"{where}.image"))


def _from_collection(value: Mapping[str, Any]) -> FromCollection:
    labels, path = value.get("labels"), value.get("label_field")
    if (labels is None) == (path is None):
        raise InvalidInput(
            "a `collection` needs `labels`, {item id: label}, or `label_field`, the metadata key "
            "that holds the label: one of the two",
            field="labels",
            expected="labels or label_field",
        )
    if not isinstance(value["collection"], str) or not value["collection"]:
        raise wrong_kind("collection", "a collection's name", value["collection"])
    if path is not None and (not isinstance(path, str) or not path):
        raise wrong_kind("label_field", "a metadata key", path)
    if labels is not None and (
        not isinstance(labels, dict) or not all(isinstance(each, str) for each in labels.values())
    ):
        raise wrong_kind("labels", "an object of item ids and labels", labels)
    return FromCollection(value["collection"], labels, path)


def form_order(base: str, options: Mapping[str, Any], body: bytes, content_type: bytes) -> Order:
    """Read a form: files in fields that are named after their class, options as plain fields."""
    given = dict(options)
    examples: list[Example] = []
    for part in parse_multipart(body, content_type):
        if part.filename is None:
            given[part.name] = part.data.decode("utf-8", "replace")
        else:
            name = f"{part.name}/{part.filename or len(examples)}"
            examples.append(Example.of(name, part.name, part.data))
    return make_order(base, given, examples)
