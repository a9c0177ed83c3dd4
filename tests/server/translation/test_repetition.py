import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.translation.repetition import (
    LEAST_TOKENS,
    SLACK_TOKENS,
    longest_repetition,
    loop_start,
)

tokens = st.lists(st.integers(0, 5), max_size=40)


@given(
    st.lists(st.integers(0, 9), max_size=20),
    st.lists(st.integers(10, 19), min_size=1, max_size=20, unique=True),
    st.integers(0, 19),
)
def test_a_loop_is_found_and_its_piece_is_left_once(before, piece, rest):
    times = max(4, -(-LEAST_TOKENS // len(piece)))
    looped = [*before, *piece * times, *piece[: rest % len(piece)]]
    assert loop_start(looped, [1, 2, 3]) == len(before) + len(piece)


@given(st.lists(st.integers(0, 10**6), max_size=80, unique=True))
def test_tokens_that_never_repeat_are_no_loop(sequence):
    assert loop_start(sequence, []) is None
    assert longest_repetition(sequence) == 0


@given(tokens, tokens)
def test_a_cut_is_within_the_sequence_and_what_is_cut_repeats_what_is_left(sequence, source):
    cut = loop_start(sequence, source)
    if cut is not None:
        assert 0 < cut < len(sequence)
        assert set(sequence[cut:]) <= set(sequence[:cut])


@pytest.mark.parametrize("piece", [[7], [7, 8], [7, 8, 9, 7]])
def test_what_the_source_repeats_may_be_repeated(piece):
    looped = piece * (LEAST_TOKENS // len(piece) + 4)
    said = piece * (len(looped) // 2 // len(piece))
    assert loop_start(looped, []) is not None
    assert loop_start(looped, said) is None
    endless = piece * (2 * len(said) + SLACK_TOKENS + 1)
    assert loop_start(endless, said) is not None


def test_a_few_dots_or_a_repeated_word_are_no_loop():
    assert loop_start([5, 6, *[3] * 12], [5, 6]) is None
    assert loop_start([4, 8, 4, 8, 4, 8], [1]) is None


def test_a_loop_that_ended_is_none():
    assert loop_start([*[1, 2] * 20, 3, 4, 5], []) is None
    assert longest_repetition([9, *[1, 2] * 20, 3]) == 40
