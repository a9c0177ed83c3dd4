"""Translations by beam search, and their BLEU and chrF."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sacrebleu
import torch
from transformers import GenerationConfig, MarianMTModel

from recipes.translate_de_en.batching import Example, collate
from recipes.translate_de_en.corpus import Pair
from recipes.translate_de_en.vocabulary import Vocabulary

BATCH = 50                                # sentences of similar length


@dataclass(frozen=True)
class Scores:
    """What sacrebleu says of translations, and how it counted."""

    bleu: float
    chrf: float
    signature: str


def generation_config(vocabulary: Vocabulary, positions: int) -> GenerationConfig:
    """Return the settings that travel with the model."""
    return GenerationConfig(
        num_beams=4,
        early_stopping=True,
        length_penalty=1.0,
        max_length=positions,
        bad_words_ids=[[vocabulary.padding]],
        decoder_start_token_id=vocabulary.padding,
        pad_token_id=vocabulary.padding,
        eos_token_id=0,
        forced_eos_token_id=0,
    )


@torch.no_grad()
def translate(
    model: MarianMTModel, vocabulary: Vocabulary, texts: Sequence[str], config: GenerationConfig
) -> list[list[int]]:
    """Return the tokens of the best translation of each text: no start, the end included."""
    model.eval()
    sources = [vocabulary.encode(text) for text in texts]
    order = sorted(range(len(texts)), key=lambda k: len(sources[k]))
    found: dict[int, list[int]] = {}
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        batch = collate([Example(sources[k], [0]) for k in rows], vocabulary.padding)
        written = model.generate(
            input_ids=batch.source, attention_mask=batch.source_mask, generation_config=config
        )
        for k, row in zip(rows, written.tolist(), strict=True):
            tokens = [token for token in row[1:] if token != vocabulary.padding]
            found[k] = tokens
    return [found[k] for k in range(len(texts))]


def score(translations: Sequence[str], pairs: Sequence[Pair]) -> Scores:
    """Compare translations with the English side of the pairs."""
    references = [[pair.english for pair in pairs]]
    bleu, chrf = sacrebleu.BLEU(), sacrebleu.CHRF()
    return Scores(
        round(bleu.corpus_score(list(translations), references).score, 2),
        round(chrf.corpus_score(list(translations), references).score, 2),
        f"{bleu.get_signature()}; {chrf.get_signature()}",
    )
