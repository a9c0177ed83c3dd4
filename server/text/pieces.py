"""Vocabularies of SentencePiece models, with the numbering that a model gives their pieces."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import sentencepiece

from server.errors import LoadFailed

from .reading import read_bytes

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
        self._source, self._target = source, target
        self._numbers = numbers
        self._hidden = frozenset(hidden)
        self._pieces = {number: piece for piece, number in (target_numbers or numbers).items()}
        self.unknown: int | None = unknown
        self.size = 1 + max(max(numbers.values()), max(self._pieces))

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`."""
        numbers, unknown = self._numbers, self.unknown
        assert unknown is not None
        return [numbers.get(piece, unknown) for piece in self._source.encode(text, out_type=str)]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids."""
        pieces, hidden = self._pieces, self._hidden
        known = [pieces[number] for number in ids if number in pieces and number not in hidden]
        text: str = self._target.decode(known)
        return text.replace(SPACE, " ").strip()


def read_pieces(path: Path) -> sentencepiece.SentencePieceProcessor:
    """Return the SentencePiece model of a file.

    Raises:
        LoadFailed: It is none.
    """
    data = read_bytes(path)
    try:
        model = sentencepiece.SentencePieceProcessor(model_proto=data)
        model.encode("a")  # an empty file is read without complaint
        return model
    except (RuntimeError, ValueError) as error:
        raise LoadFailed(f"{path.name} is not a SentencePiece model") from error
