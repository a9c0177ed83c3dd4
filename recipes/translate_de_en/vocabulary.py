"""The joint vocabulary: a SentencePiece model and Marian's numbering of its pieces."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import sentencepiece

# Too rare in the corpora to be kept for their number, and yet met in every text.
REQUIRED = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÜabcdefghijklmnopqrstuvwxyzäöüß" + (
    "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~€£§°–—…„“”‚‘’«»éèêáàçñó"  # noqa: RUF001  (they are meant)
)
END, UNKNOWN, PADDING = "</s>", "<unk>", "<pad>"


@dataclass(frozen=True)
class Vocabulary:
    """Pieces and their numbers as Marian lays them out: the end is 0, padding comes last."""

    model: bytes                          # a serialized SentencePiece model
    pieces: tuple[str, ...]               # token id -> piece

    def __post_init__(self) -> None:
        """Index the pieces."""
        processor = sentencepiece.SentencePieceProcessor(model_proto=self.model)
        object.__setattr__(self, "_processor", processor)
        object.__setattr__(self, "_ids", {piece: i for i, piece in enumerate(self.pieces)})

    @property
    def padding(self) -> int:
        """Return the id of padding, which also starts the decoder."""
        return len(self.pieces) - 1

    def encode(self, text: str) -> list[int]:
        """Return the ids of a sentence, the end included."""
        ids: dict[str, int] = self._ids   # type: ignore[attr-defined]
        pieces = self._processor.encode(text, out_type=str)  # type: ignore[attr-defined]
        return [ids.get(piece, ids[UNKNOWN]) for piece in pieces] + [ids[END]]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of token ids, without the end and padding."""
        special = {END, PADDING, UNKNOWN}
        pieces = [self.pieces[i] for i in ids if self.pieces[i] not in special]
        return str(self._processor.decode(pieces))  # type: ignore[attr-defined]

    def save(self, folder: Path) -> None:
        """Write `source.spm`, `target.spm` (the same model) and `vocab.json`, as Marian ships."""
        folder.mkdir(parents=True, exist_ok=True)
        for side in ("source", "target"):
            (folder / f"{side}.spm").write_bytes(self.model)
        numbers = {piece: i for i, piece in enumerate(self.pieces)}
        (folder / "vocab.json").write_text(json.dumps(numbers, ensure_ascii=False, indent=0) + "\n")


def load_vocabulary(folder: Path) -> Vocabulary:
    """Read what `save` wrote."""
    numbers: dict[str, int] = json.loads((folder / "vocab.json").read_text())
    pieces = tuple(sorted(numbers, key=numbers.__getitem__))
    return Vocabulary((folder / "source.spm").read_bytes(), pieces)


def train_vocabulary(sentences: Iterable[str], size: int) -> Vocabulary:
    """Train a unigram model of `size` tokens in all, control tokens and padding included."""
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences),
        model_writer=written,
        model_type="unigram",
        vocab_size=size - 1,              # padding is not a piece of the model
        character_coverage=0.9998,
        required_chars=REQUIRED,
        normalization_rule_name="nmt_nfkc",
        bos_id=-1,
        eos_id=0,
        unk_id=1,
        pad_id=-1,
        num_threads=1,                    # more threads, other sums: not the same pieces
        minloglevel=2,
    )
    processor = sentencepiece.SentencePieceProcessor(model_proto=written.getvalue())
    pieces = [processor.id_to_piece(i) for i in range(processor.get_piece_size())]
    return Vocabulary(written.getvalue(), (*pieces, PADDING))
