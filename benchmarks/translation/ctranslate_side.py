"""CTranslate2 with a converted checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ctranslate2

from benchmarks.translation.work import Tokens, Work

COMPUTE = {"fp32": "float32", "int8": "int8"}


class CTranslate2:
    """One translator, one batch after the other."""

    def __init__(self, folder: Path, precision: str, threads: int, tokens: list[str]) -> None:
        self.tokens = tokens
        self.numbers = {token: number for number, token in enumerate(tokens)}
        self.translator: Any = ctranslate2.Translator(
            str(folder),
            device="cpu",
            inter_threads=1,
            intra_threads=threads,
            compute_type=COMPUTE[precision],
        )

    def translate(self, work: Work) -> list[Tokens]:
        """Tokens go in and come out as text, which is what its interface takes."""
        found: list[Tokens] = []
        for batch in work.batches():
            results = self.translator.translate_batch(
                [[self.tokens[number] for number in sentence] for sentence in batch],
                max_batch_size=0,
                beam_size=work.beams,
                min_decoding_length=work.longest if work.forced else 1,
                max_decoding_length=work.longest,
            )
            found += [[self.numbers[t] for t in result.hypotheses[0]] for result in results]
        return found
