"""What histories forbid, against the definitions spelled out token by token."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.generation import edits
from engine.generation.search import Search

TOKENS = st.integers(0, 3)
SEQUENCES = st.lists(TOKENS, min_size=1, max_size=12)
WORDS = st.lists(st.lists(TOKENS, min_size=1, max_size=4).map(tuple), max_size=5).map(tuple)


@settings(deadline=None, max_examples=60)
@given(SEQUENCES, st.integers(0, 4), WORDS)
def test_banned_is_what_would_repeat_or_complete(
    sequence: list[int], size: int, words: tuple[tuple[int, ...], ...]
) -> None:
    asked = Search(start=0, end=(1,), no_repeat_ngram=size, bad_words=words)
    wanted = set()
    for token in range(4):
        longer = [*sequence, token]
        ngrams = [tuple(longer[k : k + size]) for k in range(len(longer) - size + 1)]
        repeats = size > 0 and len(ngrams) > 1 and ngrams[-1] in ngrams[:-1]
        completes = any(len(w) > 1 and tuple(longer[-len(w) :]) == w for w in words)
        if repeats or completes:
            wanted.add(token)
    array = np.array(sequence, np.int32)
    found = edits.banned(asked, edits.words_by_prefix_end(asked), array)
    assert found.tolist() == sorted(wanted)
    assert edits.needs_history(asked) == (size > 0 or any(len(w) > 1 for w in words))


@settings(deadline=None, max_examples=60)
@given(SEQUENCES, st.sampled_from([1.0, 1.5]))
def test_penalized_is_each_token_once(sequence: list[int], penalty: float) -> None:
    asked = Search(start=0, end=(1,), repetition_penalty=penalty)
    found = edits.penalized(asked, np.array(sequence, np.int32))
    assert found.tolist() == (sorted(set(sequence)) if penalty != 1.0 else [])
