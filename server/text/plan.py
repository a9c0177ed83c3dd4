"""A document as sentences to translate and everything between them, and back again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from server.errors import PayloadTooLarge

from .around import Around, build_around
from .atoms import Atom, Kind, blocks_of, cut, plain_text, raw_of, shadow_of
from .codec import Codec
from .glossary import Glossary
from .markup import escape, scan_html
from .numbers import has_numbers
from .scanning import scan_text, well_formed
from .sentences import cuts_of, sentence_ends
from .sources import Source, Write, squeezed
from .trimming import trimmed
from .unknown import with_known_text
from .whole import COUNTS, NAMES, Whole, build_whole

Format = Literal["text", "html"]
Attempt = Whole | Around
MARKED_PER_SENTENCE = 8  # so many values, terms and tags count as a sentence of their own


@dataclass(frozen=True)
class PlanOptions:
    """How a document is read, and how much of it.

    Attributes:
        format: "html" keeps tags and entities; "text" keeps tags as well, but not entities.
        language: Of the document, for where sentences end; None for the codec's.
        glossary: Terms and their translations.
        max_tokens: Longest source in tokens, special ones included; longer sentences are cut.
        max_characters: Longest document.
        max_sentences: Most sentences in a document.
        verbatim: The text is one sentence that the model reads as it is: nothing is looked for in
            it, nothing checked afterwards. It is cut only where it is too long.
    """

    format: Format = "text"
    language: str | None = None
    glossary: Mapping[str, str] = field(default_factory=dict)
    max_tokens: int = 256
    max_characters: int = 100_000
    max_sentences: int = 5_000
    verbatim: bool = False


@dataclass(frozen=True)
class Sentence:
    """What is translated at a time.

    Attributes:
        atoms: Its parts; the vocabulary has all of their text.
        source: How it stands in the document.
        start: Its offset in the document.
        split: Whether it is a piece of a sentence that was too long.
        codec: Of the model.
        write: How text is written in the document.
        max_tokens: Longest source.
        verbatim: Whether the model reads it as it is, once.
    """

    atoms: tuple[Atom, ...]
    source: str
    start: int
    split: bool
    codec: Codec
    write: Write
    max_tokens: int
    verbatim: bool = False

    @property
    def streamable(self) -> bool:
        """Return whether a translation of it may be shown while it grows: there is one way only."""
        plain = all(atom.kind is Kind.TEXT for atom in self.atoms)
        return self.verbatim or (plain and not has_numbers(shadow_of(self.atoms)))

    @property
    def has_tags(self) -> bool:
        """Return whether there is markup between its words."""
        return any(atom.kind is Kind.TAG for atom in self.atoms)

    def attempts(self) -> Iterator[Attempt]:
        """Yield ways to translate it: the best first, and one that always succeeds last.

        Each has `sources`, texts for the model, and `finish`, which takes their translations and
        returns the sentence for the document, or None where the model has lost something that had
        to come out again.
        """
        if self.verbatim:
            source = Source(squeezed(shadow_of(self.atoms)), self.codec)
            yield Whole((source,), {}, (), (), {}, self.write, checked=False)
            return
        kinds = {atom.kind for atom in self.atoms}
        numbers = has_numbers(shadow_of(self.atoms))
        everything = {Kind.VALUE, Kind.TERM, Kind.NUMBER}
        whole = self._whole({Kind.VALUE})
        if whole is not None:
            yield whole
            if whole.certain:
                return
        pools = (COUNTS, NAMES) if numbers else (COUNTS,) if Kind.TERM in kinds else ()
        for pool in pools:
            careful = self._whole(everything, pool)
            if careful is not None and (whole is None or careful.stand_ins != whole.stand_ins):
                yield careful
        if not numbers or kinds != {Kind.TEXT}:
            around = self._around({Kind.VALUE, Kind.TERM})
            yield around
            if around.certain:
                return
        yield self._around(everything)

    def _whole(self, protected: set[Kind], pool: Sequence[str] = COUNTS) -> Whole | None:
        return build_whole(
            self.atoms, self.codec, self.write, self.max_tokens, protected, numbers_as=pool
        )

    def _around(self, protected: set[Kind]) -> Around:
        return build_around(self.atoms, self.codec, self.write, self.max_tokens, protected)


@dataclass(frozen=True, slots=True)
class Gap:
    """What is not translated.

    Attributes:
        source: How it stands in the document.
        written: How it stands in the translation; differs only by terms of the glossary.
        foreign: Whether it has words, but in letters that the model does not know.
    """

    source: str
    written: str
    foreign: bool = False


@dataclass(frozen=True)
class Plan:
    """A document taken apart; `source` of all pieces joined is the document."""

    pieces: tuple[Gap | Sentence, ...]

    @property
    def sentences(self) -> tuple[Sentence, ...]:
        """Return what is to be translated, in order."""
        return tuple(piece for piece in self.pieces if isinstance(piece, Sentence))

    @property
    def split(self) -> int:
        """Return how many sentences are pieces of longer ones."""
        return sum(sentence.split for sentence in self.sentences)

    @property
    def foreign(self) -> int:
        """Return how many characters stay as they are, in letters that the model does not know."""
        return sum(len(p.source) for p in self.pieces if isinstance(p, Gap) and p.foreign)

    def join(self, translations: Sequence[str]) -> str:
        """Return the translated document.

        Args:
            translations: Of all sentences, in order.
        """
        given = iter(translations)
        return "".join(
            piece.written if isinstance(piece, Gap) else next(given) for piece in self.pieces
        )

    def join_prefix(self, translations: Sequence[str | None], partial: str = "") -> str:
        """Return the translated document up to the first sentence that is not there yet.

        Args:
            translations: Of the sentences, None or missing for those that are not there.
            partial: What there is of the first of these.
        """
        written = []
        given = iter(translations)
        for piece in self.pieces:
            text = piece.written if isinstance(piece, Gap) else next(given, None)
            if text is None:
                written.append(partial)
                break
            written.append(text)
        return "".join(written)


def plan_document(text: str, codec: Codec, options: PlanOptions | None = None) -> Plan:
    """Take a document apart.

    Unpaired surrogates become U+FFFD, as the result could not be written otherwise.

    Raises:
        PayloadTooLarge: The document has too many characters or sentences.
        InvalidInput: The glossary has too many terms, or one that cannot be.
    """
    options = options or PlanOptions()
    if len(text) > options.max_characters:
        raise _too_large("characters", len(text), options.max_characters)
    text = well_formed(text)
    planner = _Planner(codec, options)
    if options.verbatim:
        planner.add_sentence([plain_text(text)])
        return planner.finish()
    glossary = Glossary(options.glossary)
    scan = scan_html if options.format == "html" else scan_text
    for block in blocks_of(scan(text, glossary)):
        planner.add_block(block)
    return planner.finish()


class _Planner:
    """Collects the pieces of one document."""

    def __init__(self, codec: Codec, options: PlanOptions) -> None:
        self.pieces: list[Gap | Sentence] = []
        self._codec, self._options = codec, options
        self._language = options.language or codec.source
        self._write: Write = escape if options.format == "html" else str
        self._gap: list[tuple[str, str]] = []
        self._at = 0
        self._sentences = 0

    def add_block(self, atoms: list[Atom]) -> None:
        """Add the atoms between two breaks, or the breaks between two such runs."""
        if atoms[0].kind is Kind.BREAK:
            self._add_gap(raw_of(atoms))
            return
        shadow = shadow_of(atoms)
        if not any(map(str.isalpha, shadow)):
            self._add_gap(raw_of(atoms))
            return
        for sentence in cut(atoms, sentence_ends(shadow, self._language)):
            self.add_sentence(sentence)

    def add_sentence(self, atoms: list[Atom]) -> None:
        """Add a sentence with what stands around it, cut if it is too long."""
        before, inside, after = trimmed(atoms)
        self._add_gap(raw_of(before))
        cuts = cuts_of(shadow_of(inside), self._codec.count, self._options.max_tokens)
        pieces = cut(inside, cuts) if inside else []
        for piece in pieces:
            self._add_piece(piece, split=len(pieces) > 1)
        self._add_gap(raw_of(after))

    def _add_piece(self, atoms: list[Atom], *, split: bool) -> None:
        before, inside, after = trimmed(atoms)
        self._add_gap(raw_of(before))
        if not any(a.kind is Kind.TEXT and any(map(str.isalpha, a.text)) for a in inside):
            self._add_gap(raw_of(inside), "".join(map(self._written, inside)))
        else:
            self._add_words(inside, split=split)
        self._add_gap(raw_of(after))

    def _add_words(self, atoms: list[Atom], *, split: bool) -> None:
        source = raw_of(atoms)
        verbatim = self._options.verbatim
        known = atoms if verbatim else with_known_text(atoms, self._codec)
        marked = sum(atom.kind is not Kind.TEXT for atom in known or atoms)
        self._sentences += 1 + marked // MARKED_PER_SENTENCE
        if self._sentences > self._options.max_sentences:
            raise _too_large("sentences", self._sentences, self._options.max_sentences)
        if known is None:
            self._add_gap(source, foreign=True)
            return
        self._end_gap()
        self.pieces.append(
            Sentence(
                atoms=tuple(known),
                source=source,
                start=self._at,
                split=split,
                codec=self._codec,
                write=self._write,
                max_tokens=self._options.max_tokens,
                verbatim=verbatim,
            )
        )
        self._at += len(source)

    def _add_gap(self, raw: str, written: str | None = None, *, foreign: bool = False) -> None:
        if raw and foreign:
            self._end_gap()
            self.pieces.append(Gap(raw, raw, foreign=True))
        elif raw:
            self._gap.append((raw, raw if written is None else written))
        self._at += len(raw)

    def _end_gap(self) -> None:
        """Make one piece of what is not translated since the last sentence."""
        if self._gap:
            sources, written = zip(*self._gap, strict=True)
            self.pieces.append(Gap("".join(sources), "".join(written)))
            self._gap.clear()

    def finish(self) -> Plan:
        """Return the plan of everything that was added."""
        self._end_gap()
        return Plan(tuple(self.pieces))

    def _written(self, atom: Atom) -> str:
        return self._write(atom.text) if atom.kind is Kind.TERM else atom.raw


def _too_large(what: str, count: int, most: int) -> PayloadTooLarge:
    return PayloadTooLarge(
        f"the text has {count} {what}, at most {most} are translated at a time; "
        "send it in several parts",
        field="text",
        expected=f"at most {most} {what}",
        got=count,
    )
