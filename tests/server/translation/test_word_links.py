"""Words of a translation, and the words they come from."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from server.text import Codec
from server.translation.word_links import Read, word_links


class Pieces:
    """A vocabulary of pieces; those that begin a word have a space in front."""

    size, unknown = 100, None

    def __init__(self, pieces: Sequence[str]) -> None:
        self.pieces = pieces

    def encode(self, text: str) -> list[int]:
        raise NotImplementedError

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(self.pieces[number] for number in ids).strip()


CODEC = Codec(Pieces(["", " Wo", " ist", " der", " Bahn", "hof", "?", " Where", " is", " the",
                      " station", " ", " Tom", "'s"]))  # fmt: skip
SOURCE = Read("Wo ist der  Bahnhof?", (1, 2, 3, 4, 5, 6, 0))
TARGET = Read("Where is the station?", (7, 8, 9, 10, 6, 0))


def weights(**looks: int) -> list[list[float]]:
    """Return weights in which each token of the target looks at one token of the source."""
    rows = [[0.01] * 7 for _ in range(6)]
    for target, source in looks.items():
        rows[int(target[1:])][source] = 0.94
    return rows


def test_words_are_linked() -> None:
    found = word_links(SOURCE, TARGET, weights(t0=0, t1=1, t2=2, t3=4, t4=5, t5=6), CODEC)
    assert found is not None
    pairs = [(SOURCE.text[slice(*f.source)], TARGET.text[slice(*f.target)]) for f in found]
    assert pairs == [("Wo", "Where"), ("ist", "is"), ("der", "the"), ("Bahnhof", "station")]
    assert all(0.9 < link.weight <= 1 for link in found)


def test_a_word_may_come_from_two_and_marks_from_none() -> None:
    rows = weights(t0=0, t1=1, t2=2, t4=0, t5=0)
    rows[3] = [0.0, 0.0, 0.35, 0.2, 0.4, 0.0, 0.05]
    found = word_links(SOURCE, TARGET, rows, CODEC)
    assert found is not None
    last = [link for link in found if TARGET.text[slice(*link.target)] == "station"]
    assert [SOURCE.text[slice(*link.source)] for link in last] == ["Bahnhof", "der"]
    assert [link.weight for link in last] == pytest.approx([0.6 / 0.95, 0.35 / 0.95], abs=1e-4)


def test_a_stand_in_of_one_word_is_that_word() -> None:
    source = Read("Wo ist https://a.example/b?", (1, 2, 12, 6, 0))
    target = Read("Where is https://a.example/b?", (7, 8, 12, 6, 0))
    rows = [[float(i == k) for k in range(5)] for i in range(5)]
    found = word_links(source, target, rows, CODEC)
    assert found is not None
    assert source.text[slice(*found[-1].source)] == "https://a.example/b"


def test_words_that_are_not_the_tokens_have_no_links() -> None:
    rows = weights(t0=0)
    assert word_links(Read("Wo ist {der Name} hier?", SOURCE.tokens), TARGET, rows, CODEC) is None
    assert word_links(SOURCE, Read("Where?", TARGET.tokens), rows, CODEC) is None


def test_nothing_to_look_at() -> None:
    rows = [[0.0] * 7 for _ in range(6)]
    assert word_links(SOURCE, TARGET, rows, CODEC) == []
    assert word_links(Read("", (0,)), Read("", (0,)), [[1.0]], CODEC) == []


def test_tokens_that_say_nothing_yet_belong_to_no_word() -> None:
    source = Read("Wo Tom's", (1, 11, 12, 13))
    found = word_links(source, Read("is", (8,)), [[0.1, 0.5, 0.2, 0.2]], CODEC)
    assert found is not None
    assert [source.text[slice(*link.source)] for link in found] == ["Tom's", "Wo"]
    assert found[0].weight == pytest.approx(0.8)
