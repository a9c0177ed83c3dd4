"""Filters as sets of slots, remembered for as long as they are asked for and fit in memory."""

from __future__ import annotations

import sqlite3
import threading
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import orjson

from server.index.embedded.database import Database
from server.index.embedded.filter_sql import Condition, condition
from server.index.embedded.table import Mask, Table
from server.index.filters import Filter
from server.index.search import Selection

MOST_BYTES = 64 << 20  # of remembered masks
MOST_TOUCHED = 512  # changed items that are looked at one by one; beyond, all are


class MovedError(Exception):
    """The database is a generation ahead of the table: take the new one and ask again."""


@dataclass(frozen=True, slots=True)
class _Known:
    """A selection, and what of the table it has seen."""

    selection: Selection
    upto: int  # slots below are decided
    position: int  # in `table.touched`


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
        """Return the slots of items that pass; slots of removed items may be among them.

        Raises:
            MovedError: files of another generation count by now.
        """
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
        with self._database.read() as reader:
            self._check_generation(reader)
            column = "slot" if start else "+slot"  # without the index where all are looked at
            fresh = reader.execute(
                f"SELECT slot FROM items WHERE {column} >= ? AND ({asked.sql})",
                (start, *asked.values),
            ).fetchall()
            if touched:
                again = reader.execute(
                    "SELECT slot FROM items WHERE slot IN (SELECT value FROM json_each(?))"
                    f" AND ({asked.sql})",
                    (orjson.dumps(touched).decode(), *asked.values),
                ).fetchall()
                mask[[slot for slot in touched if slot < upto]] = False
                fresh += again
        slots = np.fromiter((slot for (slot,) in fresh), np.int64, len(fresh))
        mask[slots[slots < upto]] = True
        return mask

    def _check_generation(self, reader: sqlite3.Connection) -> None:
        found = reader.execute("SELECT value FROM counters WHERE name = 'generation'").fetchone()
        if found != (self._table.generation,):
            raise MovedError

    def _remember(self, asked: Condition, known: _Known) -> None:
        with self._guard:
            old = self._known.pop(asked, None)
            self._bytes += known.upto - (old.upto if old is not None else 0)
            self._known[asked] = known
            while self._bytes > MOST_BYTES and len(self._known) > 1:
                _, dropped = self._known.popitem(last=False)
                self._bytes -= dropped.upto
