"""Remembers what sentences were translated to, within a number of bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

from server.execution import Hypothesis

Hypotheses = tuple[Hypothesis, ...]

# What CPython takes, rounded up: tuples, the key's and the entry's, and their place in the table.
ENTRY_BYTES = 600
HYPOTHESIS_BYTES = 250
TOKEN_BYTES = 8 + 28  # its place in a tuple, and an integer that the interpreter does not share
LOG_PROBABILITY_BYTES = 8 + 24
ROW_BYTES = 8 + 56  # of an alignment, beside its weights


class SentenceCache:
    """The least recently used entries go when the bytes are used up; one deployment's own."""

    __slots__ = ("_entries", "bytes", "limit_bytes")

    def __init__(self, limit_bytes: int) -> None:
        """Start empty; a limit of 0 keeps nothing."""
        self.limit_bytes = limit_bytes
        self.bytes = 0
        self._entries: OrderedDict[Hashable, tuple[Hypotheses, bool, int]] = OrderedDict()

    def __len__(self) -> int:
        """Return the number of entries."""
        return len(self._entries)

    def __contains__(self, key: Hashable) -> bool:
        """Say whether a result is known, without taking it as used."""
        return key in self._entries

    def get(self, key: Hashable) -> tuple[Hypotheses, bool] | None:
        """Return (hypotheses, whether a loop was cut off), or None if it is not known."""
        found = self._entries.get(key)
        if found is None:
            return None
        self._entries.move_to_end(key)
        return found[0], found[1]

    def put(
        self, key: Hashable, source_tokens: int, hypotheses: Hypotheses, looped: bool = False
    ) -> None:
        """Remember a result, unless it alone is larger than the limit."""
        size = entry_bytes(source_tokens, hypotheses)
        if size > self.limit_bytes:
            return
        replaced = self._entries.pop(key, None)
        if replaced is not None:
            self.bytes -= replaced[2]
        self._entries[key] = (hypotheses, looped, size)
        self.bytes += size
        while self.bytes > self.limit_bytes:
            _, (_, _, gone) = self._entries.popitem(last=False)
            self.bytes -= gone


def entry_bytes(source_tokens: int, hypotheses: Hypotheses) -> int:
    """Return what an entry takes, counted generously."""
    size = ENTRY_BYTES + source_tokens * TOKEN_BYTES
    for hypothesis in hypotheses:
        size += HYPOTHESIS_BYTES + len(hypothesis.tokens) * TOKEN_BYTES
        if hypothesis.log_probabilities is not None:
            size += len(hypothesis.log_probabilities) * LOG_PROBABILITY_BYTES
        for row in hypothesis.alignment or ():
            size += ROW_BYTES + len(row) * LOG_PROBABILITY_BYTES
    return size
