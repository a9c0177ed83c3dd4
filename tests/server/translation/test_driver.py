import logging

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine import SlotSizes
from server.batching.steps import StepLimits, sentence_rank
from server.errors import DeadlineExceeded, InvalidInput, ServerError
from server.metrics import TranslationMetrics
from server.translation.driver import Driver
from server.translation.sentence import Sentence, SentenceResult
from tests.server.translation.toy import (
    END,
    POISON,
    STUCK,
    UNREADABLE,
    UNSTARTABLE,
    ToyDecoder,
    search,
    translation,
)


class Clock:
    def __init__(self):
        self.us = 1_000_000

    def __call__(self):
        return self.us


class Told:
    """A waiter that keeps what it is told."""

    def __init__(self, streaming=False):
        self.streaming = streaming
        self.tokens = []
        self.outcome = None

    def token(self, token):
        self.tokens.append(token)

    def done(self, outcome):
        assert self.outcome is None, "told twice"
        self.outcome = outcome


class Bench:
    """A driver, and its sentences told by hand."""

    def __init__(self, sizes=None, **limits):
        self.decoder = ToyDecoder(sizes)
        self.clock = Clock()
        self.metrics = TranslationMetrics()
        bounds = {"rows": self.decoder.sizes.rows, "sources": self.decoder.sizes.sources, **limits}
        self.driver = Driver(self.decoder, StepLimits(**bounds), self.metrics, self.clock)

    def sentence(self, tokens, wanted=None, *, deadline_us=None, streaming=False, priority=0):
        return Sentence(
            tokens,
            wanted or search(),
            Told(streaming),
            arrived_us=self.clock.us,
            deadline_us=deadline_us,
            rank=sentence_rank(self.clock.us, deadline_us, priority, len(tokens)),
        )

    def turn(self):
        turn = self.driver.turn()
        self.clock.us += 2000
        for sentence, token in turn.tokens:
            sentence.waiter.token(token)
        for sentence, outcome in turn.outcomes:
            sentence.waiter.done(outcome)

    def run(self, *sentences, most=2000):
        self.driver.add(sentences)
        while self.driver.busy:
            self.turn()
            most -= 1
            assert most, "it never ends"
        return [sentence.waiter.outcome for sentence in sentences]

    def assert_all_free(self):
        assert self.decoder.free_rows == self.decoder.sizes.rows
        assert self.decoder.free_sources == self.decoder.sizes.sources
        assert (self.metrics.rows, self.metrics.waiting) == (0, 0)


texts = st.lists(st.lists(st.integers(2, 600), min_size=1, max_size=40), min_size=1, max_size=25)


def best(outcome):
    assert isinstance(outcome, SentenceResult), outcome
    return outcome.hypotheses[0].tokens


@given(texts, st.integers(1, 8), st.integers(1, 8), st.sampled_from([1, 40, 512]))
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_everybody_gets_their_own_translation(sentences, rows, sources, encode_tokens):
    bench = Bench(SlotSizes(rows, sources, 64, 64), encode_tokens=encode_tokens)
    outcomes = bench.run(*map(bench.sentence, sentences))
    assert [best(outcome) for outcome in outcomes] == [translation(each) for each in sentences]
    assert bench.driver.line.taken == len(sentences)
    assert bench.driver.line.taken_tokens == sum(map(len, sentences))
    assert bench.metrics.encoded_tokens == sum(map(len, sentences))
    assert bench.metrics.tokens == sum(len(each) + 1 for each in sentences)
    assert bench.metrics.sentences == {"ok": len(sentences)}
    bench.assert_all_free()


def test_sentences_join_while_others_run():
    bench = Bench()
    first, second = bench.sentence([5] * 10), bench.sentence([7, 8])
    bench.driver.add([first])
    for _ in range(3):
        bench.turn()
    assert bench.run(second)[0] is not None
    assert 2 in bench.decoder.widths
    assert best(first.waiter.outcome) == translation([5] * 10)
    assert bench.decoder.steps == 11  # the second one cost no step of its own


def test_a_finished_sentence_makes_room_at_the_next_step():
    bench = Bench(SlotSizes(1, 1, 64, 64))
    bench.run(bench.sentence([3, 4]), bench.sentence([5]))
    assert bench.decoder.widths == [1] * 5


def test_the_fault_of_one_is_its_own(caplog):
    bench = Bench()
    good = [bench.sentence([2, 3, k]) for k in range(4, 9)]
    bad = [bench.sentence([2, UNREADABLE, 3]), bench.sentence([2, UNSTARTABLE, 3])]
    outcomes = bench.run(*good[:2], *bad, *good[2:])
    for sentence in good:
        assert best(sentence.waiter.outcome) == translation(sentence.tokens)
    assert [type(sentence.waiter.outcome) for sentence in bad] == [InvalidInput, InvalidInput]
    assert len(outcomes) == 7
    bench.assert_all_free()
    assert not caplog.records


def test_a_step_that_fails_is_the_fault_of_one_sentence_only(caplog):
    bench = Bench()
    before = bench.sentence([2, 3, 4, 5, 6, 7], streaming=True)
    bench.driver.add([before])
    for _ in range(3):
        bench.turn()
    poisoned, good = bench.sentence([9, POISON]), bench.sentence([8, 8, 8])
    with caplog.at_level(logging.WARNING):
        bench.run(poisoned, good)
    assert isinstance(poisoned.waiter.outcome, ServerError)
    assert best(good.waiter.outcome) == translation([8, 8, 8])
    assert best(before.waiter.outcome) == translation(before.tokens)
    assert before.waiter.tokens == [3, 4, 5, 6, 7, 8]  # each once, though it began anew
    assert "tried alone" in caplog.text
    assert bench.driver.line.taken == 3
    bench.assert_all_free()


def test_deadlines_end_waiting_and_running_sentences():
    bench = Bench(SlotSizes(1, 1, 64, 64))
    start_us = bench.clock.us
    runs = bench.sentence([4] * 50, deadline_us=start_us + 30_000)
    waits = bench.sentence([4] * 3, deadline_us=start_us + 20_000)
    patient = bench.sentence([6, 7])
    patient.rank = max(runs.rank, waits.rank, patient.rank) + 1
    runs.rank = start_us - 1
    bench.run(runs, waits, patient)
    assert isinstance(runs.waiter.outcome, DeadlineExceeded)
    assert isinstance(waits.waiter.outcome, DeadlineExceeded)
    assert best(patient.waiter.outcome) == translation([6, 7])
    assert bench.decoder.steps < 25
    assert bench.metrics.sentences == {"deadline_exceeded": 2, "ok": 1}
    bench.assert_all_free()


def test_the_abandoned_leave_at_the_next_turn():
    bench = Bench(SlotSizes(1, 1, 64, 64))
    runs, waits, other = (bench.sentence([4] * 50), bench.sentence([4] * 20), bench.sentence([9]))
    bench.driver.add([runs])
    bench.turn()
    bench.driver.add([waits, other])
    for sentence in (runs, waits):
        sentence.abandoned = True
    bench.driver.notice_abandoned()
    bench.turn()
    assert bench.driver.waiting == 0
    assert [row.source for row in bench.decoder.rows.values()] == [other.source]
    bench.run()
    assert best(other.waiter.outcome) == translation([9])
    assert runs.waiter.outcome is None
    assert waits.waiter.outcome is None
    assert bench.metrics.sentences == {"cancelled": 2, "ok": 1}
    bench.assert_all_free()


def test_a_thousand_abandoned_ones_in_front_do_not_stop_the_queue():
    bench = Bench(SlotSizes(1, 1, 64, 64))
    gone = [bench.sentence([4]) for _ in range(1000)]
    last = bench.sentence([9, 9, 9])
    for sentence in gone:
        sentence.abandoned = True
    assert best(bench.run(*gone, last)[-1]) == translation([9, 9, 9])


def test_streaming_tells_every_token_once_and_no_end():
    bench = Bench()
    stream, quiet = bench.sentence([4, 5, 6], streaming=True), bench.sentence([4, 5, 6, 7])
    bench.run(stream, quiet)
    assert stream.waiter.tokens == [5, 6, 7]
    assert quiet.waiter.tokens == []


@given(st.integers(0, 12))
def test_who_begins_to_listen_late_gets_what_came_before(steps):
    bench = Bench()
    sentence = bench.sentence([20 + k for k in range(10)])
    bench.driver.add([sentence])
    for _ in range(steps):
        bench.turn()
    sentence.waiter.streaming = True
    bench.driver.notice_streams()
    bench.run()
    heard = [token for token in translation(sentence.tokens) if token != END]
    assert sentence.waiter.tokens == (heard if steps < 11 else [])


def test_a_loop_is_ended_and_said_so():
    bench = Bench(SlotSizes(8, 8, 64, 2000))
    wanted = search(max_new_tokens=1900, n_best=2, beams=2, log_probabilities=True)
    stuck, good = bench.sentence([STUCK, 5], wanted), bench.sentence([4] * 40)
    bench.run(stuck, good)
    assert bench.decoder.steps < 100
    outcome = stuck.waiter.outcome
    assert outcome.looped
    assert best(outcome) == (11, 12, 13)
    assert [len(h.log_probabilities) for h in outcome.hypotheses] == [3, 3]
    assert not outcome.hypotheses[0].finished
    # What the source repeats is no loop, and ends by itself.
    assert best(good.waiter.outcome) == translation([4] * 40)
    assert not good.waiter.outcome.looped
    assert bench.metrics.sentences == {"ok": 1, "looped": 1}
    bench.assert_all_free()


def test_a_loop_at_the_end_of_the_length_is_cut_too():
    bench = Bench()
    outcome = bench.run(bench.sentence([STUCK], search(max_new_tokens=25)))[0]
    assert (best(outcome), outcome.looped) == ((11, 12, 13), True)


def test_without_the_guard_the_length_ends_it():
    bench = Bench()
    bench.driver._guard = False
    outcome = bench.run(bench.sentence([STUCK], search(max_new_tokens=50)))[0]
    assert len(best(outcome)) == 50
    assert not outcome.looped


def test_aborting_tells_everybody():
    bench = Bench(SlotSizes(2, 2, 64, 64))
    sentences = [bench.sentence([4] * 30) for _ in range(5)]
    bench.driver.add(sentences)
    bench.turn()
    gone = ServerError("gone")
    assert sorted(map(id, sentences)) == sorted(
        id(sentence) for sentence, error in bench.driver.abort(gone).outcomes if error is gone
    )
    assert not bench.driver.busy
    bench.assert_all_free()


@pytest.mark.parametrize("beams", [1, 3, 8])
def test_rows_are_never_more_than_there_are(beams):
    bench = Bench(SlotSizes(8, 8, 64, 64))
    wanted = search(beams=beams)
    mixed = [bench.sentence([5] * (k % 7 + 1), wanted if k % 2 else None) for k in range(30)]
    bench.run(*mixed)
    assert all(isinstance(sentence.waiter.outcome, SentenceResult) for sentence in mixed)
    assert bench.metrics.row_steps <= 8 * bench.decoder.steps
    bench.assert_all_free()
