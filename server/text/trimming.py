"""What stands around the words of a sentence: white space, and tags that surround all of it."""

from __future__ import annotations

from .atoms import Atom, Kind, plain_text
from .tags import partners_of


def trimmed(atoms: list[Atom]) -> tuple[list[Atom], list[Atom], list[Atom]]:
    """Return what stands before a sentence's words, the words, and what stands behind them.

    A tag at the edge goes outside if its partner is outside as well, or at the other edge.
    """
    first, last = 0, len(atoms)
    partners = partners_of(atoms)
    while True:
        while first < last and _blank(atoms[first]):
            first += 1
        while last > first and _blank(atoms[last - 1]):
            last -= 1
        if first == last:
            break
        start, end = partners.get(first), partners.get(last - 1)
        if atoms[first].kind is Kind.TAG and (start is None or start == last - 1):
            first += 1
            last -= start is not None
        elif atoms[last - 1].kind is Kind.TAG and end is None:
            last -= 1
        else:
            break
    before, inside, after = atoms[:first], atoms[first:last], atoms[last:]
    if inside:
        lead, inside[0] = _without_lead(inside[0])
        before += lead
        inside[-1], tail = _without_tail(inside[-1])
        after = tail + after
    return before, inside, after


def _blank(atom: Atom) -> bool:
    return atom.kind is Kind.TEXT and not atom.text.strip()


def _without_lead(atom: Atom) -> tuple[list[Atom], Atom]:
    if not atom.plain:
        return [], atom
    words = atom.raw.lstrip()
    lead = atom.raw[: len(atom.raw) - len(words)]
    return ([plain_text(lead)] if lead else []), plain_text(words)


def _without_tail(atom: Atom) -> tuple[Atom, list[Atom]]:
    if not atom.plain:
        return atom, []
    words = atom.raw.rstrip()
    tail = atom.raw[len(words) :]
    return plain_text(words), ([plain_text(tail)] if tail else [])
