"""What translations are worth: BLEU, and how many are the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import sacrebleu
import sentencepiece

from benchmarks.translation.work import Tokens


@dataclass(frozen=True)
class Quality:
    """Figures of all sentences of a split.

    Attributes:
        bleu: By engine.
        same: Share of sentences with the same tokens in all engines.
    """

    bleu: dict[str, float]
    same: float


def compared(
    found: Mapping[str, Sequence[Tokens]],
    pieces: sentencepiece.SentencePieceProcessor,
    references: Sequence[str],
) -> Quality:
    """Compare every engine's translations with the references and with each other."""
    bleu = {}
    for name, translations in found.items():
        texts = [pieces.decode(tokens) for tokens in translations]
        bleu[name] = round(sacrebleu.BLEU().corpus_score(texts, [list(references)]).score, 2)
    groups = list(zip(*found.values(), strict=True))
    same = sum(all(each == group[0] for each in group) for group in groups) / len(groups)
    return Quality(bleu, round(same, 4))
