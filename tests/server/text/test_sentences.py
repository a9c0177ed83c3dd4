"""Where sentences end."""

from __future__ import annotations

from itertools import pairwise

import pytest

from server.text.sentences import cuts_of, sentence_ends


def split(text: str, language: str) -> list[str]:
    ends = [0, *sentence_ends(text, language), len(text)]
    return [text[a:b].strip() for a, b in pairwise(ends)]


@pytest.mark.parametrize(
    "text",
    [
        "Das ist z. B. ein Test.| Dr. M\u00fcller kommt am 3. Oktober um 5.30 Uhr.| Ja!",
        "Er sagte: \u201eIch komme nicht.\u201c| Dann ging er.",
        "Die Fa. Meyer & Co. KG hat ca. 300 Mitarbeiter.| Sie sitzt in der Str. 5.",
        "Siehe Abs. 3 Nr. 2 BGB.| Das gilt u. a. f\u00fcr Mieter.",
        "Im 19. Jahrhundert war das so.| Am 24. Heiligabend.",
        "Kaiser Wilhelm II. regierte bis 1918.| Ludwig XIV. war K\u00f6nig.",
        "Prof. Dr. h.c. Schmidt (geb. 1950) lebt in St. Gallen.| Er war Arzt.",
        "Es kostet 3.500,50 Euro.| Am 12.03.2020 war das.",
        "Wirklich?!| Zweitens...| Oder nicht?",
    ],
)
def test_german_sentences(text: str) -> None:
    assert split(text.replace("|", ""), "de") == [part.strip() for part in text.split("|")]


@pytest.mark.parametrize(
    "text",
    [
        "Mr. Smith went to Washington.| He met Dr. Jones at 5 p.m. in the U.S. Senate.",
        'He said "No."| Then he left.',
        "See fig. 3 for J. R. R. Tolkien.| It was No. 1!",
    ],
)
def test_english_sentences(text: str) -> None:
    assert split(text.replace("|", ""), "en") == [part.strip() for part in text.split("|")]


@pytest.mark.parametrize("language", ["de", "en", "fr", "zh", "xx", "deu_Latn"])
def test_long_texts_are_looked_at_in_windows(language: str) -> None:
    text = "Der Zug kommt heute. " * 1000
    assert sentence_ends(text, language) == [21 * count for count in range(1, 1000)]


def test_text_without_ends_is_one_sentence() -> None:
    assert sentence_ends("wort " * 5000, "de") == []


@pytest.mark.parametrize("limit", [1, 2, 7, 50])
def test_parts_fit_unless_a_character_does_not(limit: int) -> None:
    text = "Ein Satz, der lang ist; und noch l\u00e4nger, als er sein darf. " * 4
    cuts = cuts_of(text, len, limit)
    parts = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert "".join(parts) == text
    assert all(1 <= len(part) <= limit for part in parts)


def test_a_character_that_does_not_fit_stays_alone() -> None:
    assert cuts_of("abc", lambda _: 99, 5) == [1, 2]
