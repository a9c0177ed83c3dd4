"""What is done quickly for ordinary text gives what the long way gives."""

from __future__ import annotations

import json
from typing import Any

import pytest
import sentencepiece
from hypothesis import example, given, settings
from hypothesis import strategies as st

from server.text.glossary import Glossary
from server.text.numbers import has_numbers
from server.text.scanning import PLAIN, scan_text
from tests.server.text.tokenizers import DATA, tokenizer

ELSEWHERE = Glossary({"zzzzqzzzz": "y"})  # a term that no text has: the scanner looks at all of it
PIECES = st.sampled_from(
    [
        *("a", "Der Zug", "größer", "www", "com", "e", "Tom", "-", " - ", "usw.", ". ", '."', ".'"),
        *(
            " ",
            "  ",
            "   ",
            ", ",
            ";",
            "!",
            "?",
            "„",
            "“",
            "\u2019",
            "\u2026",
            "z. B.",
            ".",
            "a)",
            "\u2013",
            "\u00d7",
        ),
        *("1", "12:30", "_", "@", "\n", "\u00a0", "\u00ad", "/", "%", "\u200b", "\u2019s", "ẞ"),
    ]
)


@given(pieces=st.lists(PIECES, max_size=9))
@example(pieces=[" - ", "a"])
@example(pieces=["www", '."', "a"])
@example(pieces=["a", "   ", "a"])
@settings(max_examples=300, deadline=None)
def test_plain_sentences_hold_nothing_that_the_scanner_would_find(pieces: list[str]) -> None:
    text = "".join(pieces)
    assert list(scan_text(text, Glossary())) == list(scan_text(text, ELSEWHERE))


def test_ordinary_sentences_are_plain() -> None:
    for text in ("Wo ist der Bahnhof?", 'Er sagte: "Nein." Dann ging er, z. B. heim...'):
        assert PLAIN.fullmatch(text.replace(":", "").replace("...", "…"))
    for text in ("www.a.de", "a   b", "- a", "um 12 Uhr", "a_b", "x\ty", "a/b"):
        assert not PLAIN.fullmatch(text)


@pytest.mark.parametrize("text", ["", "Wo ist der Bahnhof?", "Łukasz \u4f60 kommt.", "a" * 2500])
def test_ids_are_those_of_the_pieces_one_by_one(text: str) -> None:
    vocabulary = tokenizer("marian").vocabulary
    first = vocabulary.encode(text)
    first.append(-1)  # what is remembered belongs to nobody
    again = vocabulary.encode(text)
    assert again == first[:-1]
    source = _source()
    numbers = _numbers()
    unknown = numbers["<unk>"]
    assert again == [numbers.get(piece, unknown) for piece in source.encode(text, out_type=str)]


@pytest.mark.parametrize(
    ("text", "found"), [("", False), ("٣ mal", True), ("um 10:30", True), ("am 12.03", False)]
)
def test_numbers_are_seen(text: str, found: bool) -> None:
    assert has_numbers(text) is found


def _source() -> Any:
    return sentencepiece.SentencePieceProcessor(model_file=str(DATA / "marian" / "source.spm"))


def _numbers() -> dict[str, int]:
    text = (DATA / "marian" / "vocab.json").read_text(encoding="utf-8")
    numbers: dict[str, int] = json.loads(text)
    return numbers
