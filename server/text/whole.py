"""A sentence translated as one text, with stand-ins for what must come out unchanged.

A value (an address, a placeholder) is replaced by a name that models copy; tags are left out and
put in again afterwards. Then it is checked that every stand-in is there exactly once, every number
and every term. Where something is missing there is no result.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from .atoms import Atom, Kind
from .clocks import is_clock
from .codec import Codec
from .numbers import has_numbers, numbers_kept, respelled, split_numbers
from .sources import Source, Write, squeezed
from .tags import Tag, find_words, place_tags, tags_of

# What is the same in most languages and common in corpora: of all words that stand on both sides of
# Tatoeba's German-English pairs, these do so most often and nearly always together. Round numbers
# come out as digits where others become words or go wrong.
NAMES = ("Tom", "Mary", "Boston", "London", "John", "Paris")
COUNTS = ("200", "100", "20", "90", "500", "40")
HOURS = ("20", "90", "40", "500", "100", "200")  # what comes out behind "um" and "bis"
MAX_PHRASES = 8  # pairs of tags in one sentence whose words are translated by themselves


@dataclass(frozen=True)
class Span:
    """A piece of a translation, and what is written for it."""

    start: int
    end: int
    written: str


@dataclass(frozen=True)
class Whole:
    """One attempt: `sources[0]` is the sentence, others are words inside tags."""

    sources: tuple[Source, ...]
    stand_ins: dict[str, str]  # -> what is written in the document
    terms: tuple[str, ...]
    tags: tuple[Tag, ...]
    phrases: dict[int, int | str]  # index of an opening tag -> the source of its words, or these
    write: Write
    checked: bool = True  # whether numbers must come out again

    @property
    def certain(self) -> bool:
        """Return whether there is nothing that could be lost."""
        return not self.checked or not (
            self.stand_ins or self.terms or has_numbers(self.sources[0].text)
        )

    def finish(self, texts: Sequence[str]) -> str | None:
        """Return the sentence for the document, or None if the model has lost something."""
        text = texts[0].strip()
        if not self.checked:
            return self.write(text)
        spans = self._spans(text)
        if spans is None or not numbers_kept(self.sources[0].text, text):
            return None
        phrases = {
            index: texts[source] if isinstance(source, int) else source
            for index, source in self.phrases.items()
        }
        return _written(text, spans, place_tags(text, self.tags, phrases), self.write)

    def _spans(self, text: str) -> list[Span] | None:
        spans = []
        for stand_in, written in self.stand_ins.items():
            found = list(find_words(stand_in, text))
            if len(found) != 1:
                return None
            spans.append(Span(*found[0].span(), written))
        for term, wanted in Counter(self.terms).items():
            found = list(find_words(term, text, re.IGNORECASE))
            if len(found) < wanted:
                return None
            spans += [Span(*each.span(), self.write(term)) for each in found]
        spans.sort(key=lambda span: span.start)
        apart = all(a.end <= b.start for a, b in pairwise(spans))
        return spans if apart else None


def build_whole(
    atoms: Sequence[Atom],
    codec: Codec,
    write: Write,
    limit: int,
    protected: Iterable[Kind],
    *,
    numbers_as: Sequence[str] = COUNTS,
) -> Whole | None:
    """Return the attempt, or None where there is none.

    Args:
        atoms: The sentence.
        codec: Of the model.
        write: How text is written in the document.
        limit: How many tokens a source may have.
        protected: The kinds of atoms that get stand-ins.
        numbers_as: Stand-ins for numbers.
    """
    wanted = frozenset(protected)
    if Kind.NUMBER in wanted:
        atoms = split_numbers(atoms)
    readable = _with_stand_ins(atoms, codec, wanted, write, numbers_as)
    if readable is None:
        return None
    read, stand_ins = readable
    tags = tags_of(atoms, read)
    sources = [Source(squeezed("".join(read)), codec)]
    phrases: dict[int, int | str] = {}
    for index, tag in enumerate(tags):
        if not tag.words or len(phrases) == MAX_PHRASES:
            continue
        if tag.words in stand_ins or not any(map(str.isalpha, tag.words)):
            phrases[index] = tag.words
        else:
            phrases[index] = len(sources)
            sources.append(Source(tag.words, codec))
    if any(len(source.tokens) > limit for source in sources):
        return None
    terms = () if Kind.TERM in wanted else tuple(a.text for a in atoms if a.kind is Kind.TERM)
    return Whole(tuple(sources), stand_ins, terms, tags, phrases, write)


def written_as(atom: Atom, codec: Codec, write: Write) -> str:
    """Return what a protected atom is in the translation."""
    if atom.kind is Kind.TERM:
        return write(atom.text)
    if atom.kind is Kind.NUMBER:
        return respelled(atom.raw, codec.source, codec.target)
    return atom.raw


def _with_stand_ins(
    atoms: Sequence[Atom],
    codec: Codec,
    protected: frozenset[Kind],
    write: Write,
    numbers_as: Sequence[str],
) -> tuple[list[str], dict[str, str]] | None:
    """Return what the model reads for each atom, and stand-in -> what is written for it."""
    if not any(atom.kind in protected for atom in atoms):
        return ["" if atom.kind is Kind.TAG else atom.text for atom in atoms], {}
    taken = " ".join(atom.text for atom in atoms).casefold()

    def free(pool: Sequence[str]) -> list[str]:
        used = {*stand_ins}
        return [
            each
            for each in pool
            if each not in used and each.casefold() not in taken and not codec.has_unknown(each)
        ]

    read: list[str] = []
    stand_ins: dict[str, str] = {}
    for atom in atoms:
        if atom.kind not in protected:
            read.append("" if atom.kind is Kind.TAG else atom.text)
            continue
        is_number = atom.kind is Kind.NUMBER or atom.raw.isdecimal()
        is_time = is_number and is_clock(atom.raw) and numbers_as == COUNTS
        pool = free(HOURS if is_time else numbers_as if is_number else NAMES)
        if not pool:
            return None
        stand_ins[pool[0]] = written_as(atom, codec, write)
        read.append(pool[0])
    return read, stand_ins


def _written(text: str, spans: list[Span], tags: list[tuple[int, bool, str]], write: Write) -> str:
    """Return the translation with spans replaced and tags put in."""
    edits = [(span.start, 1, position, span) for position, span in enumerate(spans)]
    written = []
    at = 0
    for position, (place, closing, raw) in enumerate(tags):
        around = next((span for span in spans if span.start < place < span.end), None)
        if around is not None:
            place = around.end if closing else around.start
        edits.append((place, 0, position, Span(place, place, raw)))
    for place, _, _, span in sorted(edits, key=lambda edit: edit[:3]):
        written.append(write(text[at:place]))
        written.append(span.written)
        at = span.end
    return "".join((*written, write(text[at:])))
