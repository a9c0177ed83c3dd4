"""Where tags go in a translation.

The words inside a pair of tags are translated a second time by themselves; where these stand in the
translation of the whole sentence, exactly once, the pair goes around them. Other tags go where as
many of the words are before them as in the source.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .atoms import Atom, Kind

WORD = re.compile(r"\w+(?:[^\w\s]+\w+)*")


@dataclass(frozen=True)
class Tag:
    """One tag of a sentence.

    Attributes:
        raw: How it is written.
        closing: Whether it ends something.
        share: How many of the sentence's words stand in front of it, as a share of 1.
        partner: Index among the sentence's tags of the one that belongs to it, or None.
        words: Of an opening tag with a partner: the words between them, as the model reads them.
    """

    raw: str
    closing: bool
    share: float
    partner: int | None
    words: str


def tags_of(atoms: Sequence[Atom], read: Sequence[str]) -> tuple[Tag, ...]:
    """Return the tags among atoms; `read` is what the model reads for each atom."""
    indexes = [index for index, atom in enumerate(atoms) if atom.kind is Kind.TAG]
    order = {index: position for position, index in enumerate(indexes)}
    partners = partners_of(atoms)
    total = max(1, len(WORD.findall("".join(read))))
    tags = []
    for index in indexes:
        partner = partners.get(index)
        inside = "".join(read[index + 1 : partner]) if partner is not None else ""
        closing = is_closing(atoms[index])
        tags.append(
            Tag(
                raw=atoms[index].raw,
                closing=closing,
                share=len(WORD.findall("".join(read[:index]))) / total,
                partner=None if partner is None else order[partner],
                words="" if closing else " ".join(inside.split()),
            )
        )
    return tuple(tags)


def partners_of(atoms: Sequence[Atom]) -> dict[int, int]:
    """Return index -> index of the tags that belong together, both ways."""
    partners: dict[int, int] = {}
    waiting: list[int] = []
    for index, atom in enumerate(atoms):
        if atom.kind is not Kind.TAG:
            continue
        if not is_closing(atom):
            waiting.append(index)
        elif waiting and _name(atoms[waiting[-1]]) == _name(atom):
            first = waiting.pop()
            partners[first], partners[index] = index, first
    return partners


def is_closing(atom: Atom) -> bool:
    """Return whether a tag ends something."""
    return atom.raw.startswith("</")


def place_tags(
    text: str, tags: Sequence[Tag], phrases: dict[int, str]
) -> list[tuple[int, bool, str]]:
    """Return (offset in the translation, whether it closes, tag), in the order of writing.

    Args:
        text: The translation of the sentence.
        tags: Its tags.
        phrases: Index of an opening tag -> translation of the words in its pair.
    """
    places = _guess(text, tags)
    order: list[int] = list(range(len(tags)))
    if all(tag.partner is not None for tag in tags):
        found = places.copy()
        for index, phrase in phrases.items():
            span = find_once(phrase.strip().rstrip(".").rstrip(), text)
            partner = tags[index].partner
            if span is not None and partner is not None:
                found[index], found[partner] = span
        if _consistent(tags, found):
            places = found
            order.sort(key=lambda index: _writing_order(tags, places, index))
    return [(places[index], tags[index].closing, tags[index].raw) for index in order]


def find_words(words: str, text: str, flags: int = 0) -> Iterator[re.Match[str]]:
    """Yield where words stand by themselves."""
    before = r"(?<!\w)" if words[0].isalnum() else ""
    after = r"(?!\w)" if words[-1].isalnum() else ""
    return re.finditer(before + re.escape(words) + after, text, flags)


def find_once(words: str, text: str) -> tuple[int, int] | None:
    """Return where words stand if they do exactly once, in large or small letters."""
    found = list(find_words(words, text, re.IGNORECASE)) if words else []
    return found[0].span() if len(found) == 1 else None


def _guess(text: str, tags: Sequence[Tag]) -> list[int]:
    """Return a place for each tag, none before the one in front of it."""
    words = [found.span() for found in WORD.finditer(text)] or [(0, len(text))]
    behind: list[int] = []  # how many words are in front of each tag
    places: list[int] = []
    for tag in tags:
        count = max(round(tag.share * len(words)), behind[-1] if behind else 0)
        if tag.closing and tag.partner is not None and tags[tag.partner].words:
            count = max(count, behind[tag.partner] + 1)
        count = min(count, len(words))
        behind.append(count)
        if tag.closing or count == len(words):
            place = words[count - 1][1] if count else words[0][0]
        else:
            place = words[count][0]
        places.append(max(place, places[-1] if places else 0))
    return places


def _consistent(tags: Sequence[Tag], found: Sequence[int]) -> bool:
    """Return whether pairs lie in each other and apart from each other as in the source."""
    pairs = [
        (index, tag.partner)
        for index, tag in enumerate(tags)
        if tag.partner is not None and not tag.closing
    ]
    for a, (first, last) in enumerate(pairs):
        for other, end in pairs[a + 1 :]:  # begins later: inside the first pair, or behind it
            if other < last:
                fits = found[first] <= found[other] and found[end] <= found[last]
            else:
                fits = found[last] <= found[other] or found[end] <= found[first]
            if not fits:
                return False
    return all(found[first] < found[last] for first, last in pairs)


def _writing_order(tags: Sequence[Tag], places: Sequence[int], index: int) -> tuple[int, bool, int]:
    """At one place what ends comes first, the inner before the outer; then what begins."""
    return places[index], not tags[index].closing, index


def _name(tag: Atom) -> str:
    found = re.match(r"</?([A-Za-z][\w:.-]*)", tag.raw)
    return found[1].lower() if found else ""
