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
from .patterns import NUMBER, TIME

MIN_DIGITS = 3  # of a number that must come out as digits
DIGITS = re.compile(r"\d+(?:[.,'\N{NO-BREAK SPACE}\N{NARROW NO-BREAK SPACE}]\d+)*")


def has_numbers(text: str) -> bool:
    """Return whether a text has numbers that a translation could lose or change."""
    return any(character.isdecimal() for character in text) and bool(
        DIGITS.search(TIME.sub(" ", text))
    )


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
