"""A sentence translated as one text, with stand-ins for what must come out unchanged.

A value (an address, a placeholder) is replaced by a name that models copy; a tag is left out, the
words inside it are translated a second time by themselves, and the tag goes around them where
they are found in the translation of the sentence. All of it is checked afterwards: every stand-in
exactly once, every number, every term, every tag. Where something is missing there is no result.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from .atoms import Atom, Kind
from .codec import Codec
from .numbers import digits_of, numbers_of, split_numbers
from .patterns import NUMBER
from .sources import Source, Write, squeezed

# What is the same in most languages and common in corpora: of all words that stand on both sides of
# Tatoeba's German-English pairs, these do so most often and nearly always together.
NAMES = ("Tom", "Mary", "Boston", "London", "John", "Paris")
COUNTS = ("300", "200", "500", "100", "30", "40")
MAX_PAIRS = 8  # tags in one sentence; more are kept by translating around them


@dataclass(frozen=True)
class Pair:
    """An opening and a closing tag around some words of a sentence."""

    first: int  # index of the opening tag among the atoms
    last: int  # of the closing one
    opening: str
    closing: str
    phrase: int | None  # which source its words are, if they are translated by themselves
    words: str


@dataclass(frozen=True)
class Span:
    """A piece of a translation and what is written for it; a tag's pair surrounds its span."""

    start: int
    end: int
    written: str = ""
    pair: Pair | None = None


@dataclass(frozen=True)
class Whole:
    """One attempt: `sources[0]` is the sentence, others are words inside tags."""

    sources: tuple[Source, ...]
    stand_ins: dict[str, str]  # -> what is written in the document
    terms: tuple[str, ...]
    pairs: tuple[Pair, ...]
    write: Write

    @property
    def certain(self) -> bool:
        """Return whether there is nothing that could be lost."""
        return not (self.stand_ins or self.terms or self.pairs or numbers_of(self.sources[0].text))

    def finish(self, texts: Sequence[str]) -> str | None:
        """Return the sentence for the document, or None if the model has lost something."""
        text = texts[0].strip()
        if self.certain:
            return self.write(text)
        spans = self._spans(text)
        if spans is None or not self._has_numbers(text):
            return None
        pairs = self._pair_spans(texts)
        return None if pairs is None else _written(text, spans, pairs, self.write)

    def _spans(self, text: str) -> list[Span] | None:
        spans = []
        for stand_in, written in self.stand_ins.items():
            found = list(_find(stand_in, text))
            if len(found) != 1:
                return None
            spans.append(Span(*found[0].span(), written))
        for term, wanted in Counter(self.terms).items():
            found = list(_find(term, text, re.IGNORECASE))
            if len(found) < wanted:
                return None
            spans += [Span(*each.span(), self.write(term)) for each in found]
        spans.sort(key=lambda span: span.start)
        apart = all(a.end <= b.start for a, b in pairwise(spans))
        return spans if apart else None

    def _has_numbers(self, text: str) -> bool:
        wanted = Counter(digits_of(n) for n in numbers_of(self.sources[0].text))
        for stand_in in self.stand_ins:
            wanted.pop(stand_in, None)
        return wanted <= Counter(digits_of(n) for n in numbers_of(text, every=True))

    def _pair_spans(self, texts: Sequence[str]) -> list[Span] | None:
        spans: list[Span] = []
        for pair in self.pairs:
            words = pair.words if pair.phrase is None else texts[pair.phrase]
            words = words.strip().rstrip(".").rstrip()
            found = list(_find(words, texts[0].strip(), re.IGNORECASE)) if words else []
            if len(found) != 1:
                return None
            spans.append(Span(*found[0].span(), pair=pair))
        return spans if all(_lie_alike(a, b) for a in spans for b in spans if a is not b) else None


def build_whole(
    atoms: Sequence[Atom], codec: Codec, write: Write, limit: int, protected: Iterable[Kind]
) -> Whole | None:
    """Return the attempt, or None where there is none.

    Args:
        atoms: The sentence.
        codec: Of the model.
        write: How text is written in the document.
        limit: How many tokens a source may have.
        protected: The kinds of atoms that get stand-ins.
    """
    wanted = frozenset(protected)
    if Kind.NUMBER in wanted:
        atoms = split_numbers(atoms)
    readable = _with_stand_ins(atoms, codec, wanted, write)
    if readable is None:
        return None
    read, stand_ins = readable
    pairs = pairs_of(atoms)
    if pairs is None or len(pairs) > MAX_PAIRS:
        return None
    sources = [Source(_joined(read), codec)]
    placed = []
    for pair in pairs:
        words = _joined(read[pair.first + 1 : pair.last])
        if not words:
            return None
        fixed = words in stand_ins or not any(map(str.isalpha, words))
        placed.append(replace(pair, words=words, phrase=None if fixed else len(sources)))
        sources += [] if fixed else [Source(words, codec)]
    if any(len(source.tokens) > limit for source in sources):
        return None
    terms = () if Kind.TERM in wanted else tuple(a.text for a in atoms if a.kind is Kind.TERM)
    return Whole(tuple(sources), stand_ins, terms, tuple(placed), write)


def pairs_of(atoms: Sequence[Atom]) -> list[Pair] | None:
    """Return the pairs of tags, the inner before the outer; None if a tag has no partner."""
    pairs = []
    open_tags: list[int] = []
    for index, atom in enumerate(atoms):
        if atom.kind is not Kind.TAG:
            continue
        if not atom.raw.startswith("</"):
            open_tags.append(index)
            continue
        if not open_tags or tag_name(atoms[open_tags[-1]]) != tag_name(atom):
            return None
        first = open_tags.pop()
        pairs.append(Pair(first, index, atoms[first].raw, atom.raw, None, ""))
    return None if open_tags else pairs


def tag_name(atom: Atom) -> str:
    """Return the name in a tag."""
    found = re.match(r"</?([A-Za-z][\w:.-]*)", atom.raw)
    return found[1].lower() if found else ""


def _with_stand_ins(
    atoms: Sequence[Atom], codec: Codec, protected: frozenset[Kind], write: Write
) -> tuple[list[str], dict[str, str]] | None:
    """Return what the model reads for each atom, and stand-in -> what is written for it."""
    if not any(atom.kind in protected for atom in atoms):
        return ["" if atom.kind is Kind.TAG else atom.text for atom in atoms], {}
    taken = " ".join(atom.text for atom in atoms).casefold()
    names, counts = (
        [each for each in pool if each.casefold() not in taken and not codec.has_unknown(each)]
        for pool in (NAMES, COUNTS)
    )
    read: list[str] = []
    stand_ins: dict[str, str] = {}
    for atom in atoms:
        if atom.kind not in protected:
            read.append("" if atom.kind is Kind.TAG else atom.text)
            continue
        pool = counts if NUMBER.fullmatch(atom.raw) else names
        if not pool:
            return None
        stand_in = pool.pop(0)
        stand_ins[stand_in] = write(atom.text) if atom.kind is Kind.TERM else atom.raw
        read.append(stand_in)
    return read, stand_ins


def _joined(read: Sequence[str]) -> str:
    return squeezed("".join(read))


def _find(words: str, text: str, flags: int = 0) -> Iterator[re.Match[str]]:
    """Yield where words stand by themselves."""
    before = r"(?<!\w)" if words[0].isalnum() else ""
    after = r"(?!\w)" if words[-1].isalnum() else ""
    return re.finditer(before + re.escape(words) + after, text, flags)


def _lie_alike(a: Span, b: Span) -> bool:
    """Return whether two pairs lie in the translation as they do in the source: in or apart."""
    assert a.pair is not None and b.pair is not None
    inside = b.pair.first < a.pair.first and a.pair.last < b.pair.last
    around = a.pair.first < b.pair.first and b.pair.last < a.pair.last
    if inside:
        return b.start <= a.start and a.end <= b.end
    if around:
        return a.start <= b.start and b.end <= a.end
    return a.end <= b.start or b.end <= a.start


def _written(text: str, spans: list[Span], pairs: list[Span], write: Write) -> str | None:
    """Return the translation with stand-ins replaced and tags put in."""
    # At one place, tags that end come before tags that begin; outer tags begin first, end last.
    marks = []
    for span in pairs:
        assert span.pair is not None
        size = span.pair.last - span.pair.first
        marks.append((span.start, 1, -size, span.pair.opening))
        marks.append((span.end, 0, size, span.pair.closing))
    if any(span.start < mark[0] < span.end for mark in marks for span in spans):
        return None
    written = []
    at = 0
    edits = [(s.start, 2, 0, s) for s in spans] + [(*mark[:3], mark[3]) for mark in marks]
    for place, _, _, what in sorted(edits, key=lambda edit: edit[:3]):
        written.append(write(text[at:place]))
        written.append(what.written if isinstance(what, Span) else what)
        at = what.end if isinstance(what, Span) else place
    return "".join((*written, write(text[at:])))
