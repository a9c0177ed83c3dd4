"""A search's settings: checked, and as the numbers of its record."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from math import isfinite
from typing import Final

import numpy as np
from numpy.typing import NDArray

from engine.errors import InvalidInput
from engine.generation import state as columns
from engine.generation.edits import Tokens, WordsByPrefixEnd, needs_history, words_by_prefix_end
from engine.generation.search import Search
from engine.generation.state import COLUMNS, MOST_CANDIDATES

REMEMBERED: Final = 256  # searches with different settings
MOST_PENALTY: Final = 16.0  # of `length_penalty`, either way: its powers of a length stay float32


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """What searches with the same settings share.

    Attributes:
        record: The record of one that begins; it has the addresses of `ends` and `bans`.
        norm: What scores are divided by, by length.
        ends, bans: Tokens that end it, and that never come.
        words: Forbidden sequences of several tokens, by the last but one.
        asks: Whether what it may choose depends on what it chose before.
    """

    record: NDArray[np.int64]
    norm: NDArray[np.float32]
    ends: Tokens
    bans: Tokens
    words: WordsByPrefixEnd
    asks: bool


@lru_cache(maxsize=REMEMBERED)
def prepare(search: Search, vocabulary_size: int, positions: int, rows: int) -> Prepared:
    """Check settings for a decoder of this vocabulary and these sizes; return what follows.

    Raises:
        InvalidInput: They make no sense.
    """
    check(search, vocabulary_size, positions, rows)
    ends = np.array(sorted(set(search.end)), np.int32)
    bans = banned_always(search)
    record, norm = record_of(search, ends, bans), norms(search, positions + 1)
    words = words_by_prefix_end(search)
    return Prepared(record, norm, ends, bans, words, needs_history(search))


def check(search: Search, vocabulary_size: int, positions: int, rows: int) -> None:
    """Refuse what cannot be searched for.

    Raises:
        InvalidInput: A token, a number or a combination makes no sense; the message names it.
    """
    _check_tokens(search, vocabulary_size)
    _check_numbers(search)
    if not 1 <= search.max_new_tokens < positions:
        raise InvalidInput(
            f"max_new_tokens: expected 1 to {positions - 1}, as the start and they must fit into "
            f"{positions} positions; got {search.max_new_tokens}"
        )
    if search.beams > rows:
        raise InvalidInput(f"beams: expected at most the decoder's {rows} rows, got {search.beams}")
    if kept_candidates(search) > MOST_CANDIDATES:
        raise InvalidInput(
            f"beams: {search.beams} beams with {len(search.end)} end tokens compare "
            f"{kept_candidates(search)} candidates a step, at most {MOST_CANDIDATES} are possible"
        )


def _check_tokens(search: Search, vocabulary_size: int) -> None:
    named: list[tuple[str, Iterable[int]]] = [
        ("start", (search.start,)),
        ("end", search.end),
        ("suppressed", search.suppressed),
        *(("bad_words", words) for words in search.bad_words),
    ]
    forced = {"forced_first": search.forced_first, "forced_last": search.forced_last}
    named += [(name, (token,)) for name, token in forced.items() if token is not None]
    for name, tokens in named:
        for token in tokens:
            if not 0 <= token < vocabulary_size:
                raise InvalidInput(
                    f"{name}: expected tokens from 0 to {vocabulary_size - 1}, got {token}"
                )
    if not all(search.bad_words):
        raise InvalidInput("bad_words: expected sequences of at least one token, got an empty one")
    for name, one in forced.items():
        if one in search.suppressed:
            raise InvalidInput(f"{name}: token {one} is forced and suppressed; leave one out")


def _check_numbers(search: Search) -> None:
    def expect(holds: bool, name: str, wanted: str) -> None:
        if not holds:
            raise InvalidInput(f"{name}: expected {wanted}, got {getattr(search, name)}")

    def finite_above_0(number: float) -> bool:
        return isfinite(number) and number > 0

    expect(search.beams >= 1, "beams", "at least 1")
    expect(1 <= search.n_best <= search.beams, "n_best", f"1 to {search.beams} (beams)")
    penalty = abs(search.length_penalty)
    expect(penalty <= MOST_PENALTY, "length_penalty", f"a number of at most {MOST_PENALTY:g}")
    expect(search.early_stopping in (False, True, "never"), "early_stopping", "a bool or 'never'")
    expect(search.min_new_tokens >= 0, "min_new_tokens", "0 or more")
    expect(finite_above_0(search.repetition_penalty), "repetition_penalty", "a number above 0")
    expect(search.no_repeat_ngram >= 0, "no_repeat_ngram", "0 or more")
    expect(finite_above_0(search.temperature), "temperature", "a number above 0")
    expect(search.top_k >= 0, "top_k", "0 or more")
    expect(0 < search.top_p <= 1, "top_p", "a number above 0, at most 1")
    expect(search.seed >= 0, "seed", "0 or more")


def kept_candidates(search: Search) -> int:
    """Return how many candidates of a step count.

    So many that, should every one of the end tokens be among them for every beam, there are still
    as many that go on as there are beams.
    """
    return 1 if search.beams == 1 else max(2, 1 + len(set(search.end))) * search.beams


def banned_always(search: Search) -> NDArray[np.int32]:
    """Return the tokens that never come. An end token that is called a bad word still ends."""
    words = (word[0] for word in search.bad_words if len(word) == 1)
    tokens = {*search.suppressed, *(token for token in words if token not in search.end)}
    return np.array(sorted(tokens), np.int32)


def record_of(
    search: Search, ends: NDArray[np.int32], bans: NDArray[np.int32]
) -> NDArray[np.int64]:
    """Return the record of a search that begins; the arrays must live as long as it runs."""
    record = np.zeros(COLUMNS, np.int64)
    record[columns.BEAMS] = search.beams
    record[columns.KEEP] = kept_candidates(search)
    record[columns.MOST] = search.max_new_tokens
    record[columns.LEAST] = search.min_new_tokens
    record[columns.EARLY] = search.early_stopping is True
    if search.early_stopping == "never" and search.length_penalty > 0:
        record[columns.HOPED] = search.max_new_tokens
    record[columns.FIRST] = -1 if search.forced_first is None else search.forced_first
    record[columns.LAST] = -1 if search.forced_last is None else search.forced_last
    record[columns.ENDS], record[columns.END_COUNT] = ends.ctypes.data, ends.size
    record[columns.BANS], record[columns.BAN_COUNT] = bans.ctypes.data, bans.size
    record[columns.SAMPLES] = search.sample
    return record


def norms(search: Search, count: int) -> NDArray[np.float32]:
    """Return what scores of 0 to `count - 1` tokens are divided by."""
    lengths = np.arange(count, dtype=np.float64)
    lengths[0] = 1.0
    powers = lengths**search.length_penalty
    most = np.finfo(np.float32)
    return np.clip(powers, most.tiny, most.max).astype(np.float32)
