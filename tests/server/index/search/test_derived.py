"""The file of what was derived: damaged anywhere, it is read as it was written, or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from server.index.search import Selection, derived
from server.index.search.builder import moved
from server.index.search.derived import Derived
from server.index.search.inverted import Inverted
from server.index.search.plan import Plan

SAVED = Derived(
    "l2",
    np.arange(6, dtype=np.float32).reshape(2, 3),
    np.array([0, 1, -1, 1], np.int32),
    np.array([5, 6, 0, 8], np.uint32),
    Plan(((10, 1),), 2, 0.99, 3),
    3,
)


def same(one: Derived, other: Derived) -> bool:
    return (
        (one.metric, one.plan, one.centres_for) == (other.metric, other.plan, other.centres_for)
        and np.array_equal(one.centres, other.centres)
        and np.array_equal(one.list_of, other.list_of)
        and np.array_equal(one.fingerprints, other.fingerprints)
    )


def test_a_byte_that_changed_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "lists"
    derived.write(path, SAVED)
    whole = path.read_bytes()
    read = derived.read(path, 3, "l2")
    assert read is not None and same(read, SAVED)
    chance, refused = np.random.default_rng(0), 0
    # In the first header every one: it says how to read on.
    for at in (*range(50), *chance.choice(len(whole), 150, replace=False).tolist()):
        damaged = bytearray(whole)
        damaged[at] ^= int(chance.choice([0x01, 0x08, 0x80, 0xFF]))
        path.write_bytes(damaged)
        read = derived.read(path, 3, "l2")
        refused += read is None
        assert read is None or same(read, SAVED)
    assert refused > 50  # dates and the like nobody reads
    assert derived.read(path, 4, "l2") is None


def test_lists_follow_rows_that_move() -> None:
    after = moved(SAVED, np.array([1, 2, 3, 9]))
    assert after.list_of.tolist() == [1, -1, 1, -1]
    assert after.fingerprints.tolist() == [6, 0, 8, 0]
    assert moved(SAVED, np.empty(0, np.int64)).list_of.tolist() == []


def test_counts_of_other_lists_are_not_used() -> None:
    """An object may get the address of one that is gone: what was counted there is not its own."""
    pytest.importorskip("faiss")
    chosen, seen = Selection(np.ones(4, np.bool_)), []
    for _ in range(20):
        inverted = Inverted(np.eye(2, dtype=np.float32), "l2")
        inverted._allowed_by_list(chosen.within(np.ones(4, np.bool_)))
        assert chosen.counted is not None
        seen.append(chosen.counted[0])
        del inverted
    assert len(set(seen)) == 20
