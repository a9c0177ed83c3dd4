"""Filters as sets of slots, remembered for as long as they are asked for and fit in memory."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import orjson

from server.index.embedded.database import Database
from server.index.embedded.filter_sql import Condition, condition
from server.index.embedded.table import Mask, Slots, Table
from server.index.filters import Filter
from server.index.search import Selection

MOST_BYTES = 64 << 20  # of remembered masks, and of the filters they are remembered by
ENTRY_BYTES = 512  # of one, beside its mask and its texts
MOST_TAKEN = 16  # that are kept when slots are numbered anew
MOST_TOUCHED = 512  # changed items that are looked at one by one; beyond, all are


@dataclass(frozen=True, slots=True)
class _Known:
    """A selection, and what of the table it has seen."""

    selection: Selection
    upto: int  # slots below are decided
    position: int  # in `table.touched`


def _size(asked: Condition, known: _Known) -> int:
    texts = len(asked.sql) + sum(map(len, asked.values))
    return known.upto + texts + ENTRY_BYTES


class Selections:
    """The selections of one table.

    An item that is put in gets a new slot, so what was decided about older slots stays true; only
    new slots and those whose metadata was touched are looked at again.
    """

    def __init__(self, database: Database, table: Table) -> None:
        self._database = database
        self._table = table
        self._guard = threading.Lock()
        self._known: OrderedDict[Condition, _Known] = OrderedDict()
        self._bytes = 0

    def of(self, filter: Filter) -> Selection:
        """Return the slots of items that pass; slots of removed items may be among them."""
        asked = condition(filter)
        with self._guard:
            known = self._known.get(asked)
            if known is not None:
                self._known.move_to_end(asked)
        # Read before SQLite is asked: what changes from here on is looked at the next time.
        upto, position = len(self._table.ids), self._table.touched.position
        if known is not None and (known.upto, known.position) == (upto, position):
            return known.selection
        known = _Known(Selection(self._mask(asked, known, upto)), upto, position)
        self._remember(asked, known)
        return known.selection

    def _mask(self, asked: Condition, known: _Known | None, upto: int) -> Mask:
        touched = None if known is None else self._table.touched.since(known.position)
        mask = np.zeros(upto, np.bool_)
        start = 0
        if known is not None and touched is not None and len(touched) <= MOST_TOUCHED:
            mask[: known.upto] = known.selection.mask[:upto]
            start = known.upto
        else:
            touched = []
        numbers = self._table.numbers
        again_at = numbers.of(np.array(touched, np.int64)).tolist()
        with self._database.read() as reader:
            column = "slot" if start else "+slot"  # without the index where all are looked at
            fresh = reader.execute(
                f"SELECT slot FROM items WHERE {column} >= ? AND ({asked.sql})",
                (numbers.of_one(start) if start else -1, *asked.values),
            ).fetchall()
            if touched:
                again = reader.execute(
                    "SELECT slot FROM items WHERE slot IN (SELECT value FROM json_each(?))"
                    f" AND ({asked.sql})",
                    (orjson.dumps(again_at).decode(), *asked.values),
                ).fetchall()
                mask[[slot for slot in touched if slot < upto]] = False
                fresh += again
        # Numbers that came after the last compaction are beyond what this table knows.
        slots = numbers.slots_of(np.fromiter((one for (one,) in fresh), np.int64, len(fresh)))
        mask[slots[(slots >= 0) & (slots < upto)]] = True
        return mask

    def take_over(self, other: Selections, old: Slots) -> None:
        """Remember what `other` does, whose slots `old` (n,) have become 0 to n - 1.

        Nothing may change the items meanwhile.
        """
        with other._guard:
            latest = list(other._known.items())[-MOST_TAKEN:]
        position = other._table.touched.position
        for asked, known in latest:
            if known.position == position:
                mask = known.selection.mask[old[: np.searchsorted(old, known.upto)]]
                now = _Known(Selection(mask), mask.size, self._table.touched.position)
                self._remember(asked, now)

    def _remember(self, asked: Condition, known: _Known) -> None:
        with self._guard:
            old = self._known.pop(asked, None)
            self._bytes += _size(asked, known) - (_size(asked, old) if old is not None else 0)
            self._known[asked] = known
            while self._bytes > MOST_BYTES and len(self._known) > 1:
                self._bytes -= _size(*self._known.popitem(last=False))
