"""Numbers in sentences: what a translation must keep of them.

A long number must come out again. A short one may become a word ("ten apples"), but not another
number. Separators differ between languages, so digits alone are compared; and times of day are
told in other ways, so they are left to the model.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from .atoms import Atom, Kind, plain_text
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
    return DIGITS.search(text) is not None and DIGITS.search(TIME.sub(" ", text)) is not None


def numbers_kept(source: str, text: str) -> bool:
    """Return whether a translation has the long numbers of its source, and no others."""
    if not has_numbers(source):
        return True
    found = Counter(_digits(text))
    wanted = Counter(
        digits for digits in _digits(TIME.sub(" ", source)) if len(digits) >= MIN_DIGITS
    )
    if not wanted <= found:
        return False
    return TIME.search(source) is not None or found.keys() <= set(_digits(source))


def split_numbers(atoms: Sequence[Atom]) -> list[Atom]:
    """Return atoms in which numbers stand by themselves, but for times of day."""
    return [part for atom in atoms for part in _parts(atom)]


def respelled(number: str, source: str | None, target: str | None) -> str:
    """Return a number with the separators of the target language: 3.500,75 as 3,500.75."""
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
    times = [found.span() for found in TIME.finditer(atom.raw)]
    at = 0
    for found in NUMBER.finditer(atom.raw):
        if any(start < found.end() and found.start() < end for start, end in times):
            continue
        if at < found.start():
            yield plain_text(atom.raw[at : found.start()])
        yield Atom(Kind.NUMBER, found[0], found[0])
        at = found.end()
    if at < len(atom.raw):
        yield plain_text(atom.raw[at:])
