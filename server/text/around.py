"""A sentence translated in pieces around what must come out unchanged: clumsy, but nothing is lost.

The last resort where a model has dropped or doubled a stand-in.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .atoms import Atom, Kind
from .codec import Codec
from .numbers import has_numbers, numbers_kept, split_numbers
from .sentences import cuts_of
from .sources import Source, Write, squeezed
from .whole import written_as

# White space and marks around a fragment stay where they are; the marks that end a sentence are
# read by the model.
FRAGMENT = re.compile(r"([\W_]*)(.*?)([\s,;:(\[{\N{EN DASH}\N{EM DASH}-]*)", re.DOTALL)
END_MARKS = (".", "!", "?", "\N{HORIZONTAL ELLIPSIS}")


@dataclass(frozen=True)
class Around:
    """One attempt: fragments are sources, everything else is written as it is.

    Attributes:
        parts: What is written, or the index of the source whose translation is.
        may_fail: Whether a lost number makes the attempt fail.
    """

    sources: tuple[Source, ...]
    parts: tuple[str | int, ...]
    write: Write
    may_fail: bool

    @property
    def certain(self) -> bool:
        """Return whether there is nothing that could be lost."""
        return not (self.may_fail and any(has_numbers(source.text) for source in self.sources))

    def finish(self, texts: Sequence[str]) -> str | None:
        """Return the sentence for the document, or None if a number was lost that may not be."""
        pairs = zip(self.sources, texts, strict=True)
        if self.may_fail and not all(numbers_kept(source.text, text) for source, text in pairs):
            return None
        first = next((part for part in self.parts if isinstance(part, int)), None)
        written = []
        for part in self.parts:
            if isinstance(part, str):
                written.append(part)
                continue
            text = _as_fragment(self.sources[part].text, texts[part].strip(), part == first)
            written.append(self.write(text))
        return "".join(written)


def build_around(
    atoms: Sequence[Atom], codec: Codec, write: Write, limit: int, protected: Iterable[Kind]
) -> Around:
    """Return the attempt; for the arguments see `build_whole`. TAG is always protected."""
    kinds = frozenset((*protected, Kind.TAG))
    if Kind.NUMBER in kinds:
        atoms = split_numbers(atoms)
    sources: list[Source] = []
    parts: list[str | int] = []
    fragment = ""
    for atom in atoms:
        if atom.kind not in kinds:
            fragment += atom.text
            continue
        _add(fragment, codec, write, limit, sources, parts)
        fragment = ""
        parts.append(written_as(atom, codec, write))
    _add(fragment, codec, write, limit, sources, parts)
    return Around(tuple(sources), tuple(parts), write, Kind.NUMBER not in kinds)


def _add(
    fragment: str,
    codec: Codec,
    write: Write,
    limit: int,
    sources: list[Source],
    parts: list[str | int],
) -> None:
    """Add a fragment in pieces that fit, with what surrounds its words."""
    found = FRAGMENT.fullmatch(fragment)
    if found is None or not any(map(str.isalpha, found[2])):
        parts.append(write(fragment))
        return
    parts.append(write(found[1]))
    words = squeezed(found[2])
    cuts = cuts_of(words, codec.count, limit)
    for start, end in zip([0, *cuts], [*cuts, len(words)], strict=True):
        piece = words[start:end]
        parts.append(len(sources))
        sources.append(Source(piece.strip(), codec))
        if piece != piece.rstrip():
            parts.append(" ")
    parts.append(write(found[3]))


def _as_fragment(source: str, text: str, is_first: bool) -> str:
    """Return a translation without what the model adds to make a sentence of a fragment."""
    if text.endswith(".") and not source.endswith(END_MARKS):
        text = text[:-1].rstrip()
    word = text.split(maxsplit=1)[0] if text else ""
    starts_small = source[:1].islower() and not is_first
    is_name_for_oneself = word.startswith(("I'", "I\N{RIGHT SINGLE QUOTATION MARK}"))
    if starts_small and word[:1].isupper() and word[1:].islower() and not is_name_for_oneself:
        text = text[:1].lower() + text[1:]
    return text
