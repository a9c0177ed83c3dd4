"""The counters of one version that decodes: steps, slots, tokens, sentences and their cache.

Those of the decoder are written by the decoding thread alone, those of the cache by the event
loop's thread alone; a scrape reads numbers that are each whole.
"""

from __future__ import annotations

from server.metrics.histogram import SECONDS_BOUNDS, Histogram

_SUMS = (
    *("row_slots", "memory_bytes", "rows", "row_steps", "slot_steps", "tokens"),
    *("encoded_tokens", "padding_tokens", "waiting", "cache_bytes"),
)


class TranslationMetrics:
    """Bound once per deployment; every method is cheap."""

    __slots__ = (
        *("cache_bytes", "encoded_tokens", "lookups", "memory_bytes", "padding_tokens", "parts"),
        *("row_slots", "row_steps", "rows", "sentences", "slot_steps", "step_seconds", "tokens"),
        "waiting",
    )

    def __init__(self, row_slots: int = 0, memory_bytes: int = 0) -> None:
        """Start at zero; the slots are as many as the decoder has."""
        self.row_slots = row_slots
        self.parts: tuple[TranslationMetrics, ...] = ()  # of the lanes, where there are several
        self.memory_bytes = memory_bytes  # of the decoder's static slots
        self.step_seconds = Histogram(SECONDS_BOUNDS)
        self.rows = 0  # in use now
        self.row_steps = 0  # rows in use, summed over the steps
        self.slot_steps = 0  # rows that there were, likewise
        self.tokens = 0  # of the hypotheses that were handed out, one per search
        self.encoded_tokens = 0
        self.padding_tokens = 0
        self.waiting = 0  # sentences
        self.sentences: dict[str, int] = {}  # by outcome
        self.lookups: dict[str, int] = {}  # of the cache: hit, joined, miss
        self.cache_bytes = 0

    def step(self, seconds: float, rows: int) -> None:
        """Count one step of the decoder with so many rows in use."""
        self.step_seconds.observe(seconds)
        self.rows = rows
        self.row_steps += rows
        self.slot_steps += self.row_slots

    def encoded(self, lengths: list[int]) -> None:
        """Count one batch of the encoder, all of it padded to its longest."""
        real = sum(lengths)
        self.encoded_tokens += real
        self.padding_tokens += max(lengths) * len(lengths) - real

    def sentence(self, outcome: str, tokens: int = 0) -> None:
        """Count a sentence that left: `ok`, `looped`, `cancelled`, or its error's code."""
        self.sentences[outcome] = self.sentences.get(outcome, 0) + 1
        self.tokens += tokens

    def total(self) -> TranslationMetrics:
        """Return the sums over this and its parts."""
        found = TranslationMetrics()
        for each in (self, *self.parts):
            for name in _SUMS:
                setattr(found, name, getattr(found, name) + getattr(each, name))
            for table, into in ((each.sentences, found.sentences), (each.lookups, found.lookups)):
                for key, count in table.copy().items():
                    into[key] = into.get(key, 0) + count
            steps, sums = each.step_seconds, found.step_seconds
            sums.counts = [a + b for a, b in zip(sums.counts, steps.counts, strict=True)]
            sums.total += steps.total
        return found

    def lookup(self, result: str) -> None:
        """Count a look into the cache."""
        self.lookups[result] = self.lookups.get(result, 0) + 1
