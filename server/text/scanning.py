"""Plain text into atoms."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

from .atoms import Atom, Kind, Makers, plain_text, scan
from .glossary import Glossary
from .markup import BLOCK_NAMES, INLINE_NAMES
from .patterns import (
    CONTROL,
    EMOJI,
    GAP,
    INVISIBLE,
    LIST_MARKS,
    VALUE,
)

SURROGATE = re.compile("[\ud800-\udfff]")
TEXT_TAG = (
    r"</?[A-Za-z][\w:.-]{0,60}(?:\s[^<>\n]{0,500})?/?>|<\d{1,4}/?>|</\d{1,4}>|<!--[^<>\n]{0,500}-->"
)
# What is nothing but Latin words and marks between them: most sentences, in which the scanner would
# look for everything at every character and find nothing.
PLAIN = re.compile(
    r"(?! *-)"  # a list mark
    r"(?:[A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u017f,;!?'\"\u2018-\u201f\u2026-]"
    r"| (?!  )"  # three are a gap
    r"|\.(?=[ \"']|\Z))*"  # else it may be inside of a name or an address
)
TAG_NAME = re.compile(r"</?([A-Za-z][A-Za-z0-9]*)")


@lru_cache(maxsize=32)  # one per glossary
def text_scanner(terms: str) -> re.Pattern[str]:
    """Return the pattern that finds everything in plain text that is more than text."""
    return re.compile(
        "|".join(
            (
                f"(?P<marks>{LIST_MARKS})",
                f"(?P<gap>{GAP}|[{CONTROL}]+|{EMOJI})",
                f"(?P<term>{terms})",
                f"(?P<value>{VALUE})",
                f"(?P<tag>{TEXT_TAG})",
                f"(?P<invisible>[{INVISIBLE}]+)",
            )
        )
    )


def scan_text(text: str, glossary: Glossary) -> Iterator[Atom]:
    """Yield the atoms of plain text."""
    if glossary.is_empty and PLAIN.fullmatch(text):
        if text:
            yield plain_text(text)
        return
    scanner = text_scanner(glossary.pattern)
    makers: Makers = {
        "marks": _break,
        "gap": _break,
        "term": glossary.atom,
        "value": lambda raw: Atom(Kind.VALUE, raw),
        "tag": _tag,
        "invisible": lambda raw: Atom(Kind.TEXT, raw),
    }
    yield from scan(text, scanner, makers)


def well_formed(text: str) -> str:
    """Return text that can be written as UTF-8: U+FFFD in the place of unpaired surrogates."""
    return SURROGATE.sub("\N{REPLACEMENT CHARACTER}", text)


def _break(raw: str) -> Atom:
    return Atom(Kind.BREAK, raw)


def _tag(raw: str) -> Atom:
    """Return markup as such where its name is HTML's, else a placeholder: "Hallo <name>"."""
    name = TAG_NAME.match(raw)
    known = name is not None and name[1].lower() in INLINE_NAMES
    if name is not None and name[1].lower() in BLOCK_NAMES:
        return Atom(Kind.BREAK, raw)
    return Atom(Kind.TAG if known else Kind.VALUE, raw)
