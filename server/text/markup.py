"""HTML into atoms, tolerantly: what is no tag is text, and nothing is ever lost."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from functools import lru_cache

from .atoms import Atom, Kind, Makers, scan
from .glossary import Glossary
from .patterns import CONTROL, EMOJI, INVISIBLE, VALUE


def _names(listed: str) -> frozenset[str]:
    return frozenset(listed.split())


INLINE_NAMES = _names(
    "a abbr acronym b bdi bdo big cite data del dfn em font i ins label mark q s small span strike "
    "strong sub sup time tt u var ruby rb rt rp blink nobr"
)
VOID_NAMES = _names("area base br col embed hr img input link meta param source track wbr")
BLOCK_NAMES = VOID_NAMES | _names(
    "address article aside blockquote body button caption center colgroup dd details dialog div dl "
    "dt fieldset figcaption figure footer form frame frameset h1 h2 h3 h4 h5 h6 head header html "
    "iframe legend li main map menu nav ol optgroup option p picture section select slot summary "
    "table tbody td template tfoot th thead title tr ul video audio canvas object"
)
# Their content is no prose; of the first kind it is part of a sentence all the same.
CODE_NAMES = _names("code kbd samp")
OPAQUE_NAMES = _names("script style pre textarea svg math noscript xmp")

ATTRIBUTES = r"(?:[^<>\"']|\"[^\"<]*+\"|'[^'<]*+')*+"
OPEN = re.compile(rf"<([A-Za-z][A-Za-z0-9:-]*+){ATTRIBUTES}>")
NOT_TRANSLATED = re.compile(
    r"\stranslate\s*=\s*[\"']?no\b|\sclass\s*=\s*(?:\"[^\"]*\bnotranslate\b|'[^']*\bnotranslate\b)",
    re.IGNORECASE,
)
TAG = rf"</?[A-Za-z]{ATTRIBUTES}>|<![A-Za-z\[][^<>]*+>|<\?[^<>]*+>"
ENTITY = r"&(?:\#\d{1,7}|\#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});"


def scan_html(text: str, glossary: Glossary) -> Iterator[Atom]:
    """Yield the atoms of a piece of HTML."""
    at = 0
    plain_from = 0
    closings = _Closings(text)
    for found in re.finditer(r"<!--|<[A-Za-z]", text):
        if found.start() < at:
            continue
        opaque = _opaque(text, found.start(), closings)
        if opaque is None:
            continue
        yield from _scan_prose(text[plain_from : found.start()], glossary)
        yield opaque
        at = plain_from = found.start() + len(opaque.raw)
    yield from _scan_prose(text[plain_from:], glossary)


def escape(text: str) -> str:
    """Return text as it is written in HTML."""
    return html.escape(text, quote=False)


class _Closings:
    """Finds where things end, and remembers what never does: the search stays linear."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._endless: set[str] = set()

    def comment(self, start: int) -> int | None:
        """Return the offset behind a comment."""
        if "-->" in self._endless:
            return None
        end = self._text.find("-->", start + 4)
        if end < 0:
            self._endless.add("-->")
            return None
        return end + 3

    def element(self, name: str, start: int, *, nested: bool) -> int | None:
        """Return the offset behind the element of this name that was opened before `start`."""
        if name in self._endless:
            return None
        depth = 1
        for found in _tags_named(name).finditer(self._text, start):
            if found[1]:
                depth -= 1
            elif nested and not found[0].endswith("/>"):
                depth += 1
            if depth == 0:
                return found.end()
        self._endless.add(name)
        return None


@lru_cache(maxsize=64)
def _tags_named(name: str) -> re.Pattern[str]:
    return re.compile(rf"<(/?){re.escape(name)}(?![\w:-])[^<>]*+>", re.IGNORECASE)


def _opaque(text: str, start: int, closings: _Closings) -> Atom | None:
    """Return what begins at an offset if its content is not for translation."""
    if text.startswith("<!--", start):
        end = closings.comment(start)
        return None if end is None else Atom(Kind.BREAK, text[start:end])
    found = OPEN.match(text, start)
    if found is None:
        return None
    name = found[1].lower()
    untouched = NOT_TRANSLATED.search(found[0]) is not None and name not in VOID_NAMES
    if not untouched and name not in CODE_NAMES and name not in OPAQUE_NAMES:
        return None
    if found[0].endswith("/>"):
        return None
    end = closings.element(name, found.end(), nested=untouched)
    if end is None:
        return None
    inline = name in CODE_NAMES or name in INLINE_NAMES
    return Atom(Kind.VALUE if inline else Kind.BREAK, text[start:end])


@lru_cache(maxsize=32)  # one per glossary
def _prose_scanner(terms: str) -> re.Pattern[str]:
    return re.compile(
        "|".join(
            (
                f"(?P<term>{terms})",
                f"(?P<value>{VALUE})",
                f"(?P<tag>{TAG})",
                f"(?P<entity>{ENTITY})",
                f"(?P<gap>[{CONTROL}]+|{EMOJI})",
                r"(?P<space>[ ]*[\n\r\t\f]\s*|[ ]{2,})",
                f"(?P<invisible>[{INVISIBLE}]+)",
            )
        )
    )


def _scan_prose(text: str, glossary: Glossary) -> Iterator[Atom]:
    makers: Makers = {
        "term": glossary.atom,
        "value": lambda raw: Atom(Kind.VALUE, raw),
        "tag": _tag,
        "entity": _entity,
        "gap": lambda raw: Atom(Kind.BREAK, raw),
        "space": lambda raw: Atom(Kind.TEXT, raw, " "),
        "invisible": lambda raw: Atom(Kind.TEXT, raw),
    }
    yield from scan(text, _prose_scanner(glossary.pattern), makers)


def _tag(raw: str) -> Atom:
    found = re.match(r"</?([A-Za-z][A-Za-z0-9]*)", raw)
    name = found[1].lower() if found else ""
    if name == "wbr":
        return Atom(Kind.TEXT, raw)
    return Atom(Kind.TAG if name in INLINE_NAMES else Kind.BREAK, raw)


def _entity(raw: str) -> Atom:
    meant = html.unescape(raw)
    if meant == "\N{NO-BREAK SPACE}":
        meant = " "
    if any(character in "\u00ad\u200b\u200c\u200d\u200e\u200f" for character in meant):
        meant = ""
    return Atom(Kind.TEXT, raw, meant)
