"""Vocabularies of SentencePiece models, with the numbering that a model gives their pieces."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import sentencepiece

from server.errors import LoadFailed

from .reading import read_bytes

REMEMBERED = 64  # texts
SHORT_TEXT = 2000  # characters up to which they are
SPACE = "\N{LOWER ONE EIGHTH BLOCK}"  # how SentencePiece writes a space


class PieceVocabulary:
    """Pieces of one SentencePiece model looked up in a table, and joined by another.

    Marian has a model per side; a piece that the table lacks is unknown, whatever number
    SentencePiece has for it.
    """

    def __init__(
        self,
        source: sentencepiece.SentencePieceProcessor,
        target: sentencepiece.SentencePieceProcessor,
        numbers: Mapping[str, int],
        *,
        unknown: int,
        hidden: Iterable[int],
        target_numbers: Mapping[str, int] | None = None,
    ) -> None:
        """Join the parts; `hidden` are the ids that leave no trace in text."""
        self._target = target
        self._encode = _encoder(source, numbers, unknown)
        # A text is read several times while it is planned: measured, searched for what the
        # vocabulary lacks, and encoded.
        self._remembered = lru_cache(maxsize=REMEMBERED)(self._encode)
        self._hidden = frozenset(hidden)
        self._pieces = {number: piece for piece, number in (target_numbers or numbers).items()}
        self.unknown: int | None = unknown
        self.size = 1 + max(max(numbers.values()), max(self._pieces))

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`."""
        encode = self._remembered if len(text) <= SHORT_TEXT else self._encode
        return list(encode(text))

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids."""
        pieces, hidden = self._pieces, self._hidden
        known = [pieces[number] for number in ids if number in pieces and number not in hidden]
        text: str = self._target.decode(known)
        return text.replace(SPACE, " ").strip()


def _encoder(
    source: sentencepiece.SentencePieceProcessor, numbers: Mapping[str, int], unknown: int
) -> Callable[[str], tuple[int, ...]]:
    """Return what gives the ids of a text."""
    own = (source.id_to_piece(piece) for piece in range(source.get_piece_size()))
    number_of = [numbers.get(piece, unknown) for piece in own]
    own_unknown = source.unk_id()

    def encode(text: str) -> tuple[int, ...]:
        found = source.encode(text, out_type=int)
        if own_unknown not in found:
            return tuple([number_of[piece] for piece in found])
        # What this side does not know may still be in the table, which has both sides' pieces.
        pieces = source.encode(text, out_type=str)
        return tuple([numbers.get(piece, unknown) for piece in pieces])

    return encode


def read_pieces(path: Path) -> sentencepiece.SentencePieceProcessor:
    """Return the SentencePiece model of a file.

    Raises:
        LoadFailed: It is none.
    """
    data = read_bytes(path)
    try:
        model = sentencepiece.SentencePieceProcessor(model_proto=data)
        model.encode("a")  # an empty file is read without complaint
        for piece in range(model.get_piece_size()):
            model.id_to_piece(piece)  # one that is no text as well
        return model
    except (RuntimeError, ValueError) as error:
        raise LoadFailed(f"{path.name} is not a SentencePiece model") from error
