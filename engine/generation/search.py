"""What a caller asks of one generation, and what it gets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

EarlyStopping = bool | Literal["never"]


@dataclass(frozen=True)
class Search:
    """How the next tokens are chosen. The words and their meaning are those of Hugging Face's
    `GenerationConfig`, so that the same settings give the same tokens.

    Attributes:
        start: The token that the decoder is fed first.
        end: Tokens that end a sequence.
        max_new_tokens: At most so many tokens come after `start`, the end included.
        beams: 1 is greedy (or sampling), more is beam search.
        n_best: How many hypotheses to return, at most `beams`.
        length_penalty: Scores are sums of log-probabilities over length to this power.
        early_stopping: When a beam search ends; see Hugging Face.
        min_new_tokens: No end before so many tokens.
        repetition_penalty: 1 is off.
        no_repeat_ngram: No n-gram of this size comes twice; 0 is off.
        bad_words: Token sequences that must not come up.
        suppressed: Tokens that never come up.
        forced_first: A token that must come first (a target language, as mBART and M2M-100 have).
        forced_last: The token that must come when the length is used up, or None.
        sample: Draw tokens at random.
        temperature, top_k, top_p: Of sampling; 0 for `top_k` and 1 for `top_p` are off.
        seed: Of sampling; the same seed draws the same tokens, whatever else is in the batch.
        log_probabilities: Also return the log-probability of every token.
        alignment: Also return how much every token looked at each token of the source; of models
            whose attention to it was recognised (`Decoder.aligns`).
    """

    start: int
    end: tuple[int, ...]
    max_new_tokens: int = 128
    beams: int = 1
    n_best: int = 1
    length_penalty: float = 1.0
    early_stopping: EarlyStopping = False
    min_new_tokens: int = 0
    repetition_penalty: float = 1.0
    no_repeat_ngram: int = 0
    bad_words: tuple[tuple[int, ...], ...] = ()
    suppressed: tuple[int, ...] = ()
    forced_first: int | None = None
    forced_last: int | None = None
    sample: bool = False
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    log_probabilities: bool = False
    alignment: bool = False


@dataclass(frozen=True)
class Hypothesis:
    """One generated sequence.

    Attributes:
        tokens: Without the start, with the end if it came.
        score: Sum of the tokens' log-probabilities over (number of tokens) ** length_penalty.
        finished: Whether an end token came; otherwise the length was used up.
        log_probabilities: One per token if asked for.
        alignment: If asked for, per token the weights of the source's tokens, whose sum is 1.
    """

    tokens: tuple[int, ...]
    score: float
    finished: bool
    log_probabilities: tuple[float, ...] | None = None
    alignment: tuple[tuple[float, ...], ...] | None = None


@dataclass(frozen=True)
class SlotSizes:
    """The static memory of a decoder: what fits into it at a time.

    Attributes:
        rows: Sequences under construction; a search takes one per beam.
        sources: Source sentences whose keys and values are held.
        source_tokens: Longest source.
        target_tokens: Longest target, the start included.
    """

    rows: int = 64
    sources: int = 64
    source_tokens: int = 256
    target_tokens: int = 256
