"""Where labelled pictures come from: a folder per class, or a collection."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from server.errors import InvalidInput, PayloadTooLarge
from server.index.contract import Collection, StoredItem
from server.learning.examples import MAX_PICTURES, Example, check_bytes
from server.learning.orders import FromCollection
from server.similarity.spaces import SpaceName

PAGE_ITEMS: Final = 1000
PICTURES_AT_ONCE: Final = 16  # so that too many bytes are noticed before they fill the memory
SHOWN: Final = 20
# What people keep beside pictures. Anything else is taken for a picture, and told if it is none.
OTHER_SUFFIXES: Final = frozenset(
    (
        *(".txt", ".md", ".json", ".jsonl", ".csv", ".tsv", ".xml", ".html", ".yaml", ".yml"),
        *(".toml", ".pdf", ".ini", ".db", ".log", ".py", ".ipynb", ".npz", ".npy", ".onnx"),
    )
)


def read_folder(folder: Path) -> tuple[list[Example], list[str]]:
    """Return the pictures of a folder with a folder per class, and what was passed over. Blocking.

    The class is the first folder's name, however deep its pictures lie.

    Raises:
        InvalidInput: pictures lie beside the classes' folders, or there are no folders.
        PayloadTooLarge: more pictures than can be learned from.
    """
    examples: list[Example] = []
    ignored: list[str] = []
    loose: list[str] = []
    total = 0
    for path in _files(folder):
        name = path.relative_to(folder).as_posix()
        label, inside, _ = name.partition("/")
        if path.suffix.lower() in OTHER_SUFFIXES:
            ignored.append(name)
        elif not inside:
            loose.append(name)
        else:
            _check_room(examples)
            total += path.stat().st_size
            check_bytes(total)
            examples.append(Example.of(name, label, path.read_bytes()))
    if loose:
        listed = ", ".join(repr(name) for name in loose[:SHOWN])
        raise InvalidInput(
            f"{len(loose)} files lie outside of any class's folder: {listed}; expected "
            "one folder per class (cats/1.jpg, dogs/1.jpg, ...), at least two",
            field="body",
            expected="a folder per class",
            got=loose[:SHOWN],
        )
    return examples, ignored


def is_class(folder: Path) -> bool:
    """Say whether a folder that stands alone is a class, and not around folders of classes."""
    return any(
        path.is_file() and path.suffix.lower() not in OTHER_SUFFIXES for path in folder.iterdir()
    )


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.is_file() and not hidden:
            yield path


def _check_room(examples: list[Example]) -> None:
    if len(examples) >= MAX_PICTURES:
        raise PayloadTooLarge(
            f"more than the {MAX_PICTURES} pictures that one classifier learns from; send fewer of "
            "each class",
            limit=MAX_PICTURES,
        )


# Collections


def read_collection(
    collection: Collection, order: FromCollection, space: SpaceName
) -> tuple[list[Example], list[str]]:
    """Return a collection's labelled items, and the ids of those without a label. Blocking.

    Vectors that the base model has made already are taken as they are.

    Raises:
        InvalidInput: an id of `labels` is not there, a label is no text, or an item has neither a
            picture nor a vector of the base model.
        PayloadTooLarge: more items, or larger pictures, than can be learned from.
    """
    known = collection.space(*space) if space.key in collection.spaces() else None
    examples: list[Example] = []
    unlabelled: list[str] = []
    total = 0
    for items in _pages(collection, order):
        labels = {item.id: _label_of(item, order) for item in items}
        unlabelled += [id for id, label in labels.items() if label is None]
        chosen = [item for item in items if labels[item.id] is not None]
        ids = [item.id for item in chosen]
        vectors = known.vectors(ids) if known is not None else [None] * len(ids)
        pictures = _pictures(collection, ids)
        for item, picture, vector in zip(chosen, pictures, vectors, strict=True):
            _check_room(examples)
            total += len(picture or b"")
            check_bytes(total)
            examples.append(_example(item, str(labels[item.id]), picture, vector))
    return examples, unlabelled


def _pictures(collection: Collection, ids: Sequence[str]) -> Iterator[bytes | None]:
    for start in range(0, len(ids), PICTURES_AT_ONCE):
        yield from collection.pictures(ids[start : start + PICTURES_AT_ONCE])


def _example(
    item: StoredItem, label: str, picture: bytes | None, vector: NDArray[np.float32] | None
) -> Example:
    if picture is not None:
        return replace(Example.of(item.id, label, picture), features=vector)
    if vector is None:
        raise InvalidInput(
            f"item {item.id!r} has neither a picture nor a vector of the base model; leave it out, "
            "or add its picture",
            field="collection",
            expected="items with pictures",
            got=item.id,
        )
    return Example(item.id, label, f"item {item.id} {item.revision}", None, vector)


def _pages(collection: Collection, order: FromCollection) -> Iterator[list[StoredItem]]:
    if order.labels is not None:
        ids = list(order.labels)
        for start in range(0, len(ids), PAGE_ITEMS):
            asked = ids[start : start + PAGE_ITEMS]
            items = collection.get(asked)
            missing = [id for id, item in zip(asked, items, strict=True) if item is None]
            if missing:
                raise InvalidInput(
                    f"collection {order.collection!r} has no item {missing[0]!r}"
                    + (f" and {len(missing) - 1} more of `labels`" if len(missing) > 1 else ""),
                    field="labels",
                    expected="ids of the collection's items",
                    got=missing[:SHOWN],
                )
            yield [item for item in items if item is not None]
        return
    after: str | None = None
    while items_there := collection.page(after, PAGE_ITEMS):
        yield items_there
        after = items_there[-1].id


def _label_of(item: StoredItem, order: FromCollection) -> str | None:
    """Return an item's label; None if its metadata has none."""
    if order.labels is not None:
        return order.labels[item.id]
    path = (order.label_field or "").removeprefix("metadata.").split(".")
    value: Any = item.metadata
    for part in path:
        value = value.get(part) if isinstance(value, Mapping) else None
    if isinstance(value, int):
        return str(value).lower()
    if value is not None and not isinstance(value, str):
        raise InvalidInput(
            f"item {item.id!r}: {order.label_field!r} is {type(value).__name__}, expected a text "
            "or a whole number",
            field="label_field",
            expected="a text",
            got=type(value).__name__,
        )
    return value
