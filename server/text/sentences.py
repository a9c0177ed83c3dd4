"""Where sentences end, and where one that is too long is best cut."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from itertools import pairwise

import sentencex

from .languages import base_language
from .patterns import MONTHS

# The library takes these for the end of a sentence: an ordinal number behind an article or a
# preposition, and abbreviations that German letters and addresses are full of.
GERMAN_GOES_ON = re.compile(
    r"\b(?i:am|im|vom|zum|zur|beim|bis|seit|ab|d(?:er|ie|as|en|em|es)|jede[mnrs]?|ein(?:e[mnrs]?)?)"
    r"\s+\d{1,3}\.\s*$"
    r"|\b(?:Fa|Fr|Hr|Hrn|Std|Mio|Mrd|Tsd|inkl|zzgl|exkl|evtl|ggf|bzgl|geb|verh|Jh|Jhd|Tel|Nr|Abs"
    r"|Abb|Kap|Anm|Aufl|Hrsg|Str|Bhf|Hbf|vgl|sog)\.\s*$"
)
ORDINAL_START = re.compile(rf"\s*(?:{MONTHS})\b")
DIGITS_DOT = re.compile(r"\d{1,3}\.\s*$")
WINDOW_LENGTH = 4000  # the library takes quadratic time for text that has no ends
MAX_TAIL = 40  # characters in front of an end that decide whether it is one

REACH = 0.35  # how far from its ideal place a cut may lie, as a share of a piece
SAFETY = 0.85  # pieces are planned to have so much of what is allowed
CUTS = tuple(
    re.compile(pattern)
    for pattern in (
        r"(?<=[.!?;:\u2026])\s+|(?<=[\u3002\uff01\uff1f\uff1b])",
        r"(?<=[,\u2013\u2014)\]\"\u201c\u201d])\s+|(?<=[\uff0c\u3001])|\s+(?=[(\[\u2013\u2014-])",
        r"\s+(?=(?:und|oder|aber|denn|weil|dass|wenn|and|or|but|because|that|which|when)\b)",
        r"\s+",
        r"(?<=[-/_.,;:])(?=\w)",
        r"(?<=\w)(?=[\w])",
        r"(?=.)",
    )
)


def sentence_ends(text: str, language: str | None) -> list[int]:
    """Return the offsets at which new sentences begin, rising, without 0 and the end."""
    base = base_language(language) if language else "en"
    return list(_ends(text, base))


def _ends(text: str, language: str) -> Iterator[int]:
    at = 0  # where the next window starts
    while at < len(text):
        window = text[at : at + WINDOW_LENGTH]
        parts: list[str] = list(sentencex.segment(language, window))
        if "".join(parts) != window:
            return  # the library has lost its way in this text: one sentence, cut by length only
        is_last = at + len(window) == len(text)
        for part, following in pairwise(parts):
            at += len(part)
            if part.strip() and not (language == "de" and _goes_on(part, following)):
                yield at
        # What may go on behind the window is looked at again, unless it fills all of it.
        if is_last or len(parts) < 2:
            at += len(parts[-1]) if parts else len(window)


def _goes_on(part: str, following: str) -> bool:
    """Return whether German text goes on behind a dot that looks like an end."""
    tail = part[-MAX_TAIL:]
    if GERMAN_GOES_ON.search(tail):
        return True
    return bool(DIGITS_DOT.search(tail) and ORDINAL_START.match(following[:MAX_TAIL]))


def cuts_of(text: str, count: Callable[[str], int], limit: int) -> list[int]:
    """Return where to cut a text so that no part has more than `limit` tokens.

    Cuts are near equal distances, at the best kind of place that is there: behind a mark, before a
    conjunction, between words, and inside a word only where nothing else is.

    Args:
        text: One sentence.
        count: How many tokens a text has, special ones included.
        limit: How many are allowed. A single character that has more stays a part of its own.
    """
    return sorted(_cuts(text, 0, count, limit))


def _cuts(text: str, at: int, count: Callable[[str], int], limit: int) -> Iterator[int]:
    tokens = count(text)
    if tokens <= limit or len(text) < 2:
        return
    parts = max(2, math.ceil(tokens / max(1.0, SAFETY * limit)))
    places = _places(text, min(parts, len(text)))
    yield from (at + place for place in places)
    for start, end in zip([0, *places], [*places, len(text)], strict=True):
        yield from _cuts(text[start:end], at + start, count, limit)


def _places(text: str, parts: int) -> list[int]:
    length = len(text) / parts
    places: list[int] = []
    for index in range(1, parts):
        ideal = index * length
        first = max(int(ideal - REACH * length), (places[-1] if places else 0) + 1)
        last = min(int(ideal + REACH * length), len(text) - 1)
        if first <= last:
            places.append(_best_place(text, first, last, ideal))
    return places


def _best_place(text: str, first: int, last: int, ideal: float) -> int:
    """Return the offset of the best cut in `first..last`."""
    for kind in CUTS:
        ends = (found.end() for found in kind.finditer(text, first - 1, last + 1))
        near = [end for end in ends if first <= end <= last]
        if near:
            return min(near, key=lambda end: abs(end - ideal))
    return first
