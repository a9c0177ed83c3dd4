"""Millrace's engine, driven the way a server drives it: sources in, steps, hypotheses out."""

from __future__ import annotations

from pathlib import Path

import engine
from benchmarks.translation.work import Tokens, Work

SOURCE_TOKENS, TARGET_TOKENS = 128, 256


class Millrace:
    """Sentences of a batch start together; each search ends by itself."""

    def __init__(self, folder: Path, precision: str, threads: int, rows: int, start: int) -> None:
        self.model = engine.load_seq2seq(folder, precision=precision, threads=threads)
        self.start = start
        sizes = engine.SlotSizes(rows, rows, SOURCE_TOKENS, TARGET_TOKENS)
        self.decoder = self.model.open(sizes)

    def translate(self, work: Work) -> list[Tokens]:
        """Batch after batch, through the same slots."""
        search = engine.Search(
            start=self.start,
            end=(0,),
            max_new_tokens=work.longest,
            min_new_tokens=work.longest if work.forced else 0,
            beams=work.beams,
            early_stopping=True,
            suppressed=(self.start,),
        )
        found: list[Tokens] = []
        for batch in work.batches():
            sources = self.decoder.add_sources(batch)
            handles = [self.decoder.start(source, search) for source in sources]
            left = set(handles)
            best: dict[int, Tokens] = {}
            while left:
                result = self.decoder.step()
                for handle in result.searches[result.done].tolist():
                    [hypothesis] = self.decoder.hypotheses(handle)
                    best[handle] = [token for token in hypothesis.tokens if token]
                    self.decoder.release(handle)
                    left.discard(handle)
            for source in sources:
                self.decoder.release_source(source)
            found += [best[handle] for handle in handles]
        return found
