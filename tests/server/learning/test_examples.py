from __future__ import annotations

import numpy as np
import pytest

from server.errors import InvalidInput, PayloadTooLarge
from server.learning import examples as module
from server.learning.examples import Example, joined, make_lesson, unreadable


def of(name: str, label: str, data: str | None = None) -> Example:
    return Example.of(name, label, (data or name).encode())


FOUR = [of("1", "a"), of("2", "a"), of("3", "b"), of("4", "b")]


def test_order_does_not_matter():
    lesson = make_lesson(FOUR)
    assert make_lesson(FOUR[::-1]) == lesson
    assert lesson.labels == ("a", "b") and lesson.targets == [0, 0, 1, 1]


def test_copies_count_once():
    lesson = make_lesson([*FOUR, of("5", "a", "1")])
    assert len(lesson.examples) == 4 and lesson.duplicates == ("5",)


@pytest.mark.parametrize(
    ("examples", "words"),
    [
        ([], "there are no pictures"),
        (FOUR[:2], "all pictures are of one class, 'a'"),
        ([*FOUR, of("5", "c")], "of 'c' there is one picture only; each class needs"),
        ([*FOUR, of("5", "c"), of("6", "c", "5")], r"one picture only \(not counting 1 copies\)"),
        ([*FOUR, of("5", "b", "1")], r"'1' \(a\) is '5' \(b\); keep it in one"),
        ([*FOUR, of("5", "")], "picture '5' has the label ''"),
        ([*FOUR, of("5", "x\ny")], "expected 1 to 200 printable characters"),
        ([*FOUR, of("5", " x")], "begins or ends with a space"),
        ([of(f"{n}", f"{n}") for n in range(502)], "502 classes are more than 500"),
    ],
)
def test_what_cannot_be_learned_from(examples: list[Example], words: str):
    with pytest.raises(InvalidInput, match=words):
        make_lesson(examples)


def test_many_faults_are_cut_short():
    torn = [of(f"{label}{n}", label, str(n)) for label in "ab" for n in range(30)]
    with pytest.raises(InvalidInput, match="and 10 more; keep it in one") as told:
        make_lesson(torn)
    assert len(told.value.extra["duplicates"]) == 30
    with pytest.raises(InvalidInput, match="and 10 more"):
        make_lesson([*FOUR, *(of(f"x{n}", f"c{n:02}") for n in range(30))])
    error = unreadable([(f"{n}", "broken") for n in range(30)])
    assert "; and 10 more; take them out" in error.message
    assert len(error.extra["unreadable"]) == 30


def test_too_much(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "MAX_BYTES", 3)
    with pytest.raises(PayloadTooLarge, match="more than 3 bytes"):
        make_lesson(FOUR)
    monkeypatch.setattr(module, "MAX_PICTURES", 3)
    with pytest.raises(PayloadTooLarge, match="4 pictures are more than the 3"):
        make_lesson(FOUR)


def test_new_examples_join_kept_ones():
    kept = [Example("1", "a", of("1", "a").digest, None, np.ones(3, np.float32)), *FOUR[1:]]
    new = [of("9", "b", "1"), of("2", "a", "new"), of("2", "b", "newer")]
    together, relabelled = joined(kept, new)
    assert relabelled == ["1"]
    assert [(each.name, each.label) for each in together] == [
        *(("1", "b"), ("2", "a"), ("3", "b"), ("4", "b"), ("2 (2)", "a"), ("2 (3)", "b")),
    ]
    assert together[0].features is not None


def test_a_correction_that_contradicts_itself_is_refused():
    kept = [of("1", "a")]
    with pytest.raises(InvalidInput, match=r"'x' \(b\) is 'y' \(c\)"):
        joined(kept, [of("x", "b", "1"), of("y", "c", "1")])
    with pytest.raises(InvalidInput, match="in two classes"):
        joined([], [of("x", "b", "1"), of("y", "c", "1")])


def test_many_pictures_of_one_name_are_numbered():
    class Counting(dict[str, int]):
        looks = 0

        def __contains__(self, name: object) -> bool:
            self.looks += 1
            return super().__contains__(name)

    taken = Counting({"p (3)": 2})
    names = [module._renamed(of("p", "a", str(n)), taken).name for n in range(500)]
    assert names[:4] == ["p", "p (2)", "p (4)", "p (5)"]
    assert len(set(names)) == 500 and taken.looks < 2000
