"""Answers, whose hits are made when they are looked at."""

from __future__ import annotations

import pytest

from server.index.contract import Hit, Hits


def test_hits_are_a_sequence() -> None:
    plain = [Hit("a", 3.0), Hit("b", 2.0), Hit("c", 1.0)]
    hits = Hits(["a", "b", "c"], [3.0, 2.0, 1.0])
    assert hits == plain and plain == list(hits) and hits == Hits(["a", "b", "c"], [3.0, 2.0, 1.0])
    assert hits != plain[:2] and hits != 7 and Hits([], []) == [] and not Hits([], [])
    assert (hits[0], hits[-1], hits[1:]) == (plain[0], plain[-1], plain[1:])
    assert hits[1].id == "b" and [hit.score for hit in hits] == [3.0, 2.0, 1.0]
    assert Hit("b", 2.0) in hits and len(hits) == 3 and "Hit(id='c'" in repr(hits)
    with pytest.raises(IndexError):
        hits[3]
    with pytest.raises(TypeError):
        hash(hits)
