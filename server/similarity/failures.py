"""Items that a version cannot turn into vectors: remembered and told, and not tried again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from server.index.contract import Collection, Missing

SHOWN = 20
MAX_KEPT = 5000  # more are tried again after a restart
MAX_REASON = 200


class Failures:
    """What failed in one space, by id; an item that changes gets another try."""

    def __init__(self, known: dict[str, tuple[int, str]] | None = None) -> None:
        """Start with {id: (revision, reason)}."""
        self._known = known or {}
        self._saved = dict(self._known)

    @staticmethod
    def fact(key: str) -> str:
        """Return the name of the fact that keeps a space's failures."""
        return f"failed {key}"

    @classmethod
    def read(cls, collection: Collection, key: str) -> Failures:
        """Read what was remembered. Blocking."""
        try:
            listed = json.loads(collection.fact(cls.fact(key)) or "[]")
            return cls({id: (int(revision), str(reason)) for id, revision, reason in listed})
        except (ValueError, TypeError):  # not what `save` wrote: everything is tried again
            return cls()

    def save(self, collection: Collection, key: str) -> None:
        """Write what is known, if it is new. Blocking."""
        if self._known == self._saved:
            return
        listed = [[id, *found] for id, found in list(self._known.items())[:MAX_KEPT]]
        collection.set_fact(self.fact(key), json.dumps(listed) if listed else None)
        self._saved = dict(self._known)

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._known)

    def has(self, item: Missing) -> bool:
        """Say whether this revision of an item has failed."""
        known = self._known.get(item.id)
        return known is not None and known[0] == item.revision

    def add(self, item: Missing, reason: str) -> None:
        """Remember that an item has failed."""
        self._known[item.id] = (item.revision, reason[:MAX_REASON])

    def keep_only(self, items: Sequence[Missing]) -> None:
        """Forget all that are not among these: they were deleted, or replaced."""
        there = {item.id: item.revision for item in items}
        gone = [id for id, (revision, _) in self._known.items() if there.get(id) != revision]
        for id in gone:
            del self._known[id]

    def shown(self) -> list[dict[str, Any]]:
        """Return the first ones as JSON."""
        listed = list(self._known.items())[:SHOWN]
        return [{"id": id, "reason": reason} for id, (_, reason) in listed]
