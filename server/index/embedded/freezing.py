"""A collection as it was at one moment, read while it changes.

Rows of slots are written once within a generation, and the files of an older one stay mapped for
as long as somebody reads them: the database's snapshot and the masks of that moment are enough.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

from server.index.archive import ArchivedItem
from server.index.contract import NewItem
from server.index.embedded.numbers import Numbers
from server.index.embedded.table import Mask


class FrozenRows(NamedTuple):
    """The vectors of a space."""

    key: str
    matrix: NDArray[np.float32]  # (slots, dim)
    filled: Mask  # by slot

    def has(self, slot: int) -> bool:
        """Tell whether a slot had a vector."""
        return slot < self.filled.size and bool(self.filled[slot])


def frozen_items(
    reader: sqlite3.Connection, numbers: Numbers, spaces: Sequence[FrozenRows]
) -> Iterator[ArchivedItem]:
    """Read all items in the transaction of `reader`, in the order they came."""
    found = reader.execute(
        "SELECT id, slot, metadata, pictures.data, thumbnails.data FROM items"
        " LEFT JOIN pictures USING (key) LEFT JOIN thumbnails USING (key) ORDER BY items.key"
    )
    for id, number, metadata, picture, thumbnail in found:
        slot = numbers.slot_of(number)
        item = NewItem(id, orjson.loads(metadata), picture, thumbnail)
        rows = {space.key: space.matrix[slot] for space in spaces if space.has(slot)}
        yield ArchivedItem(item, rows)
