"""What a process that is going to be killed does, and what must be there after it.

Everything about an item follows from its id and the turn it was put in, so that a vector or a
picture that belongs to another item, or to another turn of the same, is seen at once.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.index.contract import CollectionSpec, NewItem, Query
from server.index.embedded import EmbeddedStore
from server.index.embedded.collection import EmbeddedCollection

MAIN, COPY = "main", "copy"
DIMS = {"old": 8, "new": 5}
IDS = 60
COMPACT_FROM = 40  # slots: a compaction every few changes


@dataclass(frozen=True)
class Item:
    turn: int
    label: int
    spaces: frozenset[str]


@dataclass
class State:
    """What both collections hold; `copy` is None where there is none."""

    main: dict[str, Item] = field(default_factory=dict)
    copy: dict[str, Item] | None = None

    def after(self, change: dict[str, Any] | None) -> State:
        """Return the state that a change makes of this one."""
        if change is None:
            return self
        main, copy = dict(self.main), self.copy
        match change["kind"]:
            case "put":
                item = Item(change["turn"], change["turn"], frozenset(change["spaces"]))
                main.update(dict.fromkeys(change["ids"], item))
            case "delete":
                for id in change["ids"]:
                    main.pop(id, None)
            case "label":
                for id in change["ids"]:
                    main[id] = replace(main[id], label=change["turn"])
            case "fill":
                for id in change["ids"]:
                    main[id] = replace(main[id], spaces=main[id].spaces | {"new"})
            case "drop space":
                main = {
                    id: replace(item, spaces=item.spaces - {"new"}) for id, item in main.items()
                }
            case "restore":
                copy = main
            case "drop":
                copy = None
        return State(main, copy)


def vector_of(id: str, turn: int, space: str) -> NDArray[np.float32]:
    seed = [int(id[1:]), turn, DIMS[space]]
    return np.random.default_rng(seed).standard_normal(DIMS[space]).astype(np.float32)


def picture_of(id: str, turn: int) -> bytes:
    return f"{id} {turn} ".encode() * (1 + turn % 97)


# -- the process that is killed -----------------------------------------------------------------


def work(
    root: Path, seed: int, begun: Callable[[dict[str, Any]], None], done: Callable[[], None]
) -> None:
    """Change the collections until killed, and tell before and after each change."""
    chance = random.Random(seed)
    store = EmbeddedStore(root, compact_from=COMPACT_FROM)
    for step in range(10_000):
        change = {"turn": seed * 10_000 + step, **_choose(chance, store)}
        begun(change)
        _apply(store, root, change)
        done()
        if chance.random() < 0.1:
            store.close()
            store = EmbeddedStore(root, compact_from=COMPACT_FROM)


def _choose(chance: random.Random, store: EmbeddedStore) -> dict[str, Any]:
    collection = store.open(MAIN)
    present = [item.id for item in collection.page(limit=IDS)]
    any_ids = [f"i{n}" for n in chance.sample(range(IDS), chance.randint(1, 30))]
    some = chance.sample(present, min(len(present), chance.randint(1, 10)))
    drawn = chance.random()
    if drawn < 0.5:
        return {"kind": "put", "ids": any_ids, "spaces": chance.choice([["old"], ["old", "new"]])}
    if drawn < 0.65 and some:
        return {"kind": "delete", "ids": some}
    if drawn < 0.7 and some:
        return {"kind": "label", "ids": some[:1]}
    if drawn < 0.85:
        missing = collection.space("new", DIMS["new"]).missing(chance.randint(1, 40))
        return {"kind": "fill", "ids": [each.id for each in missing]}
    if drawn < 0.88:
        return {"kind": "drop space"}
    return {"kind": "drop" if COPY in store.names() else "restore"}


def _apply(store: EmbeddedStore, root: Path, change: dict[str, Any]) -> None:
    collection, ids, turn = store.open(MAIN), change.get("ids", []), change["turn"]
    match change["kind"]:
        case "put":
            collection.put(
                [NewItem(id, _metadata(id, turn, turn), picture_of(id, turn), b"t") for id in ids],
                {
                    space: np.stack([vector_of(id, turn, space) for id in ids])
                    for space in change["spaces"]
                },
            )
        case "delete":
            collection.delete(ids)
        case "label":
            for item in collection.get(ids):
                assert item is not None
                changed = _metadata(item.id, item.metadata["turn"], turn)
                collection.update_metadata(item.id, changed)
        case "fill":
            space = collection.space("new", DIMS["new"])
            missing = space.missing(len(ids))
            turns = [int((picture or b"").split()[1]) for picture in collection.pictures(ids)]
            rows = [vector_of(id, made, "new") for id, made in zip(ids, turns, strict=True)]
            if rows:
                space.fill(missing, np.stack(rows))
        case "drop space":
            collection.drop_space("new")
        case "restore":
            path = root.parent / "snapshot.tar"
            with store.snapshot(MAIN) as pieces:
                path.write_bytes(b"".join(pieces))
            store.restore(COPY, path)
        case "drop":
            store.drop(COPY)


def _metadata(id: str, turn: int, label: int) -> dict[str, Any]:
    return {"id": id, "turn": turn, "label": label}


# -- what is found after it ---------------------------------------------------------------------


def prepare(root: Path) -> None:
    store = EmbeddedStore(root)
    store.create(CollectionSpec(MAIN, "l2"))
    store.close()


def found(root: Path) -> State:
    """Read the state, and check that each item is whole and its own."""
    store = EmbeddedStore(root)
    try:
        names = store.names()
        assert set(names) <= {MAIN, COPY}
        left = {path.name for path in root.iterdir()} - {".lock", *names}
        assert not left, f"left behind: {left}"
        state = State(dict(_items(store.open(MAIN))))
        if COPY in names:
            state.copy = dict(_items(store.open(COPY)))
        return state
    finally:
        store.close()


def _items(collection: EmbeddedCollection) -> Iterator[tuple[str, Item]]:
    page = collection.page(limit=10 * IDS)
    ids = [item.id for item in page]
    assert collection.size().items == len(page) == collection.size().pictures
    rows = {key: collection.space(key, DIMS[key]).vectors(ids) for key in collection.spaces()}
    for i, (item, picture) in enumerate(zip(page, collection.pictures(ids), strict=True)):
        turn = item.metadata["turn"]
        assert item.metadata["id"] == item.id and item.has_thumbnail
        assert picture == picture_of(item.id, turn)
        held = {key: found[i] for key, found in rows.items() if found[i] is not None}
        for key, row in held.items():
            assert row is not None and np.array_equal(row, vector_of(item.id, turn, key))
        yield item.id, Item(turn, item.metadata["label"], frozenset(held))
    for key in collection.spaces():
        space, with_row = collection.space(key, DIMS[key]), sum(r is not None for r in rows[key])
        (hits,) = space.search(np.zeros((1, DIMS[key]), np.float32), Query(k=1000))
        assert len(hits) == with_row == space.state().vectors
        assert {m.id for m in space.missing(1000)} == set(ids) - {hit.id for hit in hits}
