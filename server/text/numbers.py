"""Numbers in sentences: what a translation must keep of them.

A long number must come out again. A short one may become a word ("ten apples"), but not another
number. Separators differ between languages, so digits alone are compared. Times of day have rules
of their own (`clocks`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from .atoms import Atom, Kind, plain_text
from .clocks import clock_written, clocks_kept, clocks_of, is_clock
from .languages import base_language
from .patterns import NUMBER, TIME

MIN_DIGITS = 3  # of a number that must come out as digits
# Languages that write a decimal comma; all others are taken to write a point.
COMMA_LANGUAGES = (
    "af az be bg bs ca cs da de el es et eu fi fr gl hr hu hy id is it ka kk lt lv mk nl no pl pt "
    "ro ru sk sl sq sr sv tr uk uz vi"
)
COMMA = frozenset(COMMA_LANGUAGES.split())
COMMA_FORM = re.compile(r"\d{1,3}(?:\.\d{3})+(?:,\d+)?|\d+,\d+")
POINT_FORM = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+\.\d+")
SWAPPED = str.maketrans(".,", ",.")
DIGITS = re.compile(r"\d+(?:[.,'\N{NO-BREAK SPACE}\N{NARROW NO-BREAK SPACE}]\d+)*")


def has_numbers(text: str) -> bool:
    """Return whether a text has numbers that a translation could lose or change."""
    if DIGITS.search(text) is None:
        return False
    return bool(clocks_of(text)) or DIGITS.search(TIME.sub(" ", text)) is not None


def numbers_kept(source: str, text: str) -> bool:
    """Return whether a translation has the times and long numbers of its source, and no others."""
    if not has_numbers(source):
        return True
    if not clocks_kept(source, text):
        return False
    found = Counter(_digits(text))
    wanted = Counter(
        digits for digits in _digits(TIME.sub(" ", source)) if len(digits) >= MIN_DIGITS
    )
    if not wanted <= found:
        return False
    return TIME.search(source) is not None or found.keys() <= set(_digits(source))


def split_numbers(atoms: Sequence[Atom]) -> list[Atom]:
    """Return atoms in which numbers and times of day stand by themselves."""
    return [part for atom in atoms for part in _parts(atom)]


def respelled(number: str, source: str | None, target: str | None) -> str:
    """Return a number as the target language writes it: 3.500,75 as 3,500.75."""
    if is_clock(number):
        return clock_written(number, target)
    comma = [
        base_language(language) in COMMA if language else None for language in (source, target)
    ]
    if None in comma or comma[0] == comma[1]:
        return number
    form = COMMA_FORM if comma[0] else POINT_FORM
    return number.translate(SWAPPED) if form.fullmatch(number) else number


def _digits(text: str) -> Iterator[str]:
    return ("".join(filter(str.isdecimal, number)) for number in DIGITS.findall(text))


def _parts(atom: Atom) -> Iterator[Atom]:
    if atom.kind is not Kind.TEXT or atom.raw != atom.text:
        yield atom
        return
    clocks = [found.span() for found in clocks_of(atom.raw)]
    times = [*clocks, *(found.span() for found in TIME.finditer(atom.raw))]
    numbers = (found.span() for found in NUMBER.finditer(atom.raw))
    others = [
        (first, last)
        for first, last in numbers
        if not any(start < last and first < end for start, end in times)
    ]
    at = 0
    for start, end in sorted([*clocks, *others]):
        if at < start:
            yield plain_text(atom.raw[at:start])
        yield Atom(Kind.NUMBER, atom.raw[start:end], atom.raw[start:end])
        at = end
    if at < len(atom.raw):
        yield plain_text(atom.raw[at:])
