"""The smallest parts of a document: what the model reads, and what only travels along."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto

STAND_IN = "Tom"  # how a value counts while sentences are found and measured


class Kind(Enum):
    """What an atom is to the translation."""

    TEXT = auto()  # read by the model
    TERM = auto()  # a word whose translation the caller decides
    NUMBER = auto()  # read by the model; its digits must come out again
    VALUE = auto()  # a part of the sentence that must come out unchanged: an address, a placeholder
    TAG = auto()  # markup inside a sentence; it has a place but no meaning
    BREAK = auto()  # between sentences: line ends, list markers, block tags


@dataclass(frozen=True, slots=True)
class Atom:
    """One part; the `raw` of all atoms of a document joined are the document.

    Attributes:
        kind: What it is.
        raw: How it stands in the document.
        text: What the model reads for it, where the model reads it; of a TERM its translation.
        plain: Whether `raw` and `text` agree character by character, so that it may be cut.
    """

    kind: Kind
    raw: str
    text: str = ""
    plain: bool = False

    @property
    def shadow(self) -> str:
        """Return what stands for it in a text in which sentences are found."""
        if self.kind is Kind.VALUE:
            return STAND_IN
        return "" if self.kind in (Kind.TAG, Kind.BREAK) else self.text


Makers = dict[str, Callable[[str], Atom]]  # name of a group -> what its matches become


def plain_text(raw: str) -> Atom:
    """Return an atom of ordinary text."""
    return Atom(Kind.TEXT, raw, raw, plain=True)


def scan(text: str, scanner: re.Pattern[str], makers: Makers) -> Iterator[Atom]:
    """Yield what the groups of a pattern find as their makers say, and text between it."""
    at = 0
    for found in scanner.finditer(text):
        start, end = found.span()
        if at < start:
            yield plain_text(text[at:start])
        yield makers[str(found.lastgroup)](found[0])
        at = end
    if at < len(text):
        yield plain_text(text[at:])


def raw_of(atoms: Iterable[Atom]) -> str:
    """Return how atoms stand in the document."""
    return "".join(atom.raw for atom in atoms)


def shadow_of(atoms: Iterable[Atom]) -> str:
    """Return the text in which sentences are found."""
    return "".join(atom.shadow for atom in atoms)


def blocks_of(atoms: Iterable[Atom]) -> Iterator[list[Atom]]:
    """Yield the runs of atoms between breaks; breaks come as runs of their own."""
    run: list[Atom] = []
    for atom in atoms:
        if run and (atom.kind is Kind.BREAK) != (run[-1].kind is Kind.BREAK):
            yield run
            run = []
        run.append(atom)
    if run:
        yield run


def cut(atoms: Sequence[Atom], offsets: Sequence[int]) -> list[list[Atom]]:
    """Cut atoms at rising offsets into their shadow; what cannot be cut stays with the left part.

    Atoms without a shadow at an offset stay left as well, unless they open something.
    """
    parts: list[list[Atom]] = [[]]
    at = 0  # of the atom in the shadow
    next_cut = 0
    for atom in atoms:
        size = len(atom.shadow)
        done = 0  # how much of the atom the parts have
        while next_cut < len(offsets) and offsets[next_cut] < at + size:
            place = offsets[next_cut] - at
            next_cut += 1
            if place > done and atom.plain:
                parts[-1].append(_slice(atom, done, place))
                done = place
            if place <= done:
                parts.append([])
        if _opens(atom) and next_cut < len(offsets) and offsets[next_cut] == at:
            next_cut += 1
            parts.append([])
        parts[-1].append(_slice(atom, done, size) if done else atom)
        at += size
    return [part for part in parts if part]


def _slice(atom: Atom, start: int, stop: int) -> Atom:
    return Atom(atom.kind, atom.raw[start:stop], atom.text[start:stop], plain=True)


def _opens(atom: Atom) -> bool:
    return atom.kind is Kind.TAG and not atom.raw.startswith("</")
