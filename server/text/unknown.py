"""Characters that a model's vocabulary lacks, and what is done about them.

A model that reads its unknown token makes up or drops what stood there. Marks are replaced by
simpler ones; words and symbols become values, which travel around the model.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from itertools import groupby

from .atoms import Atom, Kind, shadow_of
from .codec import Codec
from .patterns import NUMBER

WORD = re.compile(rf"{NUMBER.pattern}|\w+(?:['\N{{RIGHT SINGLE QUOTATION MARK}}-]\w+)*")
SIMPLER = str.maketrans(
    {
        **dict.fromkeys("\u201e\u201c\u201d\u201f\u00ab\u00bb\u300c\u300d", '"'),
        **dict.fromkeys("\u201a\u2018\u2019\u201b\u2039\u203a`\u00b4", "'"),
        **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2022\u00b7", "-"),
        "\u2026": "...",
    }
)
MEANT = frozenset(
    "&%@#*/\\\N{SECTION SIGN}\N{PILCROW SIGN}\N{PER MILLE SIGN}"
)  # marks that are words
MOSTLY = 0.5  # a sentence with more of its letters unknown is not of the model's language


def with_known_text(atoms: Sequence[Atom], codec: Codec) -> list[Atom] | None:
    """Return atoms whose text the vocabulary has; None where it lacks most of the letters."""
    shadow = shadow_of(atoms)
    if not codec.has_unknown(shadow):
        return list(atoms)
    unknown = {character for character in set(shadow) if codec.has_unknown(character)}
    letters = [character for character in shadow if character.isalnum()]
    if sum(letter in unknown for letter in letters) > MOSTLY * len(letters):
        return None
    return [part for atom in atoms for part in _known_parts(atom, unknown)]


def _known_parts(atom: Atom, unknown: set[str]) -> Iterator[Atom]:
    """Yield an atom as parts that are known, and values for what is not."""
    if atom.kind is not Kind.TEXT or unknown.isdisjoint(atom.text):
        yield atom
    elif not atom.plain:
        yield Atom(Kind.VALUE, atom.raw)
    else:
        at = 0
        for found in WORD.finditer(atom.raw):
            yield from _marks(atom.raw[at : found.start()], unknown)
            known = unknown.isdisjoint(found[0])
            yield Atom(Kind.TEXT, found[0], found[0]) if known else Atom(Kind.VALUE, found[0])
            at = found.end()
        yield from _marks(atom.raw[at:], unknown)


def _marks(text: str, unknown: set[str]) -> Iterator[Atom]:
    """Yield what stands between words: unknown symbols are values, unknown marks become simpler."""
    for is_value, run in groupby(text, lambda c: c in unknown and not _replaceable(c)):
        raw = "".join(run)
        if is_value:
            yield Atom(Kind.VALUE, raw)
        else:
            known = "".join(c.translate(SIMPLER) if c in unknown else c for c in raw)
            yield Atom(Kind.TEXT, raw, "".join(c for c in known if c not in unknown))


def _replaceable(character: str) -> bool:
    return character not in MEANT and (
        unicodedata.category(character)[0] in "PZM" or character.translate(SIMPLER) != character
    )
