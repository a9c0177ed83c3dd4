"""Numbers in sentences: which must come out again, and how they are compared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .atoms import Atom, Kind, plain_text
from .patterns import NUMBER, TIME

MIN_DIGITS = 3  # smaller ones may well become words


def numbers_of(text: str, *, every: bool = False) -> list[str]:
    """Return the numbers that a translation of `text` must have, or every number.

    Short numbers may become words, and times of day another time of day: these are left to the
    model.
    """
    found = NUMBER.findall(text)
    return found if every else [number for number in found if _matters(number)]


def digits_of(number: str) -> str:
    """Return the digits alone: separators differ between languages."""
    return "".join(filter(str.isdecimal, number))


def split_numbers(atoms: Sequence[Atom]) -> list[Atom]:
    """Return atoms in which the numbers that matter stand by themselves."""
    return [part for atom in atoms for part in _parts(atom)]


def _parts(atom: Atom) -> Iterator[Atom]:
    if atom.kind is not Kind.TEXT or atom.raw != atom.text:
        yield atom
        return
    at = 0
    for found in NUMBER.finditer(atom.raw):
        if _matters(found[0]):
            if at < found.start():
                yield plain_text(atom.raw[at : found.start()])
            yield Atom(Kind.NUMBER, found[0], found[0])
            at = found.end()
    if at < len(atom.raw):
        yield plain_text(atom.raw[at:])


def _matters(number: str) -> bool:
    return len(digits_of(number)) >= MIN_DIGITS and not TIME.fullmatch(number)
