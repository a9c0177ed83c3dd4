"""What the tokens so far forbid or discourage: pure functions over one sequence.

The meaning is that of Hugging Face's logits processors; the sequence includes the start token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from engine.generation.search import Search

Tokens = NDArray[np.int32]
WordsByPrefixEnd = Mapping[int, Sequence[tuple[int, ...]]]
NONE: Tokens = np.empty(0, np.int32)


def needs_history(search: Search) -> bool:
    """Whether what a search may choose depends on what it chose before."""
    return (
        search.repetition_penalty != 1.0
        or search.no_repeat_ngram > 0
        or any(len(words) > 1 for words in search.bad_words)
    )


def penalized(search: Search, sequence: Tokens) -> Tokens:
    """Return the tokens whose scores the repetition penalty changes, each once."""
    return np.unique(sequence) if search.repetition_penalty != 1.0 else NONE


def words_by_prefix_end(search: Search) -> WordsByPrefixEnd:
    """Return the forbidden sequences of several tokens by their last but one token."""
    found: dict[int, list[tuple[int, ...]]] = {}
    for word in search.bad_words:
        if len(word) > 1:
            found.setdefault(word[-2], []).append(word)
    return found


def banned(search: Search, words: WordsByPrefixEnd, sequence: Tokens) -> Tokens:
    """Return the tokens that must not come next, beside those that never come."""
    found = [
        *repeating_ngrams(sequence, search.no_repeat_ngram),
        *completing_words(sequence, words.get(int(sequence[-1]), ())),
    ]
    return np.array(sorted(set(found)), np.int32) if found else NONE


def repeating_ngrams(sequence: Tokens, size: int) -> list[int]:
    """Return the tokens that would complete an n-gram that the sequence has already."""
    if size <= 0 or len(sequence) < size:
        return []
    windows = np.lib.stride_tricks.sliding_window_view(sequence, size)
    beginning = sequence[len(sequence) - size + 1 :]
    same = (windows[:, :-1] == beginning).all(axis=1)
    found: list[int] = windows[same, -1].tolist()
    return found


def completing_words(sequence: Tokens, words: Sequence[Sequence[int]]) -> list[int]:
    """Return the tokens that would complete a forbidden sequence of several tokens."""
    return [
        word[-1]
        for word in words
        if 1 < len(word) <= len(sequence) + 1
        and tuple(sequence[len(sequence) - len(word) + 1 :]) == tuple(word[:-1])
    ]
