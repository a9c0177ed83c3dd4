"""Drives one decoder: admits, steps, collects, evicts. Synchronous, for one thread.

Python touches a step once for all rows: a step after which nobody is done, nobody streams and
nobody waits costs the decoder's own call and a few additions here.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence

from server.batching.steps import StepLimits, is_over, plan_step
from server.errors import DeadlineExceeded, InternalFault, ServerError
from server.execution import Decoder, Hypothesis, StepResult, as_server_error
from server.metrics import TranslationMetrics
from server.translation.line import WaitingLine
from server.translation.repetition import LEAST_TOKENS, loop_start, without_loop
from server.translation.sentence import Sentence, SentenceResult
from server.translation.turn import Turn

GUARD_EVERY = 32  # steps between two looks for loops
SWEEP_EVERY_US = 50_000  # at most so often the waiting are searched for those that are too late
CANCELLED = "cancelled"
NO_TOKEN = -1  # what a search takes whose probabilities are not numbers

log = logging.getLogger(__name__)


class Driver:
    """The sentences of one decoder, waiting and running."""

    def __init__(
        self,
        decoder: Decoder,
        limits: StepLimits,
        metrics: TranslationMetrics,
        clock: Callable[[], int],
        *,
        guard: bool = True,
    ) -> None:
        """Take over a decoder in which nothing runs.

        Args:
            decoder: driven by this object alone.
            limits: what runs at a time; no more than the decoder has.
            metrics: counters that this object alone writes, but for those of the cache.
            clock: microseconds, as deadlines are.
            guard: end searches that repeat themselves.
        """
        self._decoder = decoder
        self._limits = limits
        self._metrics = metrics
        self._clock = clock
        self._guard = guard
        self.line = WaitingLine()
        self._running: dict[int, Sentence] = {}  # by handle
        self._rows = 0
        self._steps = 0
        self._streams = 0  # running sentences whose tokens somebody wants
        self._admit_more = False  # somebody came or left: a plan may find one who fits
        self._evict = False  # somebody may be abandoned or too late
        self._next_due_us: int | None = None  # of all deadlines
        self._next_sweep_us = 0

    @property
    def busy(self) -> bool:
        """Whether anything waits or runs."""
        return bool(self._running or self.line)

    @property
    def running(self) -> int:
        """Sentences in the decoder."""
        return len(self._running)

    @property
    def rows(self) -> int:
        """Rows that running sentences take."""
        return self._rows

    @property
    def waiting(self) -> int:
        """Sentences in front of it."""
        return len(self.line)

    def add(self, sentences: Iterable[Sentence]) -> None:
        """Let sentences wait for their turn."""
        for sentence in sentences:
            self.line.add(sentence)
            due_us = sentence.deadline_us
            if due_us is not None and (self._next_due_us is None or due_us < self._next_due_us):
                self._next_due_us = due_us
        self._admit_more = True
        self._metrics.waiting = len(self.line)

    def notice_abandoned(self) -> None:
        """Let the next turn drop what has been marked as abandoned."""
        gone = [sentence for sentence in self.line if sentence.abandoned]
        self._take(gone)
        for _ in gone:
            self._metrics.sentence(CANCELLED)
        self._evict = True

    def notice_streams(self) -> None:
        """Look whose tokens are wanted: a waiter has become a streaming one."""
        self._streams = len(self._running)

    def turn(self) -> Turn:
        """Admit and evict, then step once if anything runs; never raises."""
        turn = Turn()
        now_us = self._clock()
        if self._next_due_us is not None and now_us >= self._next_due_us:
            self._sweep(now_us, turn)
        if self._evict or (self._admit_more and self.line and self._has_room()):
            self._admit_and_evict(now_us, turn)
        if self._running:
            self._step(turn)
        return turn

    def abort(self, error: ServerError) -> Turn:
        """Give everybody an error and free every slot."""
        turn = Turn()
        for sentence in self.line:
            self._fail(turn, sentence, error)
        self._take(list(self.line))
        for sentence in list(self._running.values()):
            self._leave(sentence)
            self._fail(turn, sentence, error)
        return turn

    def close(self) -> None:
        """Let go of the decoder, whose memory goes with it; nothing may come after this."""
        del self._decoder

    # Who waits.

    def _take(self, sentences: Sequence[Sentence]) -> None:
        self.line.take(sentences)
        self._metrics.waiting = len(self.line)

    def _has_room(self) -> bool:
        return self._rows < self._limits.rows and len(self._running) < self._limits.sources

    def _sweep(self, now_us: int, turn: Turn) -> None:
        """Find who is too late, and when to look again."""
        self._evict = True
        if now_us < self._next_sweep_us:
            self._next_due_us = self._next_sweep_us
            return
        self._next_sweep_us = now_us + SWEEP_EVERY_US
        late = [sentence for sentence in self.line if is_over(sentence, now_us)]
        self._drop(late, turn)
        dues = [
            sentence.deadline_us
            for sentence in (*self.line, *self._running.values())
            if sentence.deadline_us is not None and sentence.deadline_us > now_us
        ]
        self._next_due_us = min(dues, default=None)

    def _drop(self, late: Sequence[Sentence], turn: Turn) -> None:
        self._take(late)
        for sentence in late:
            if sentence.abandoned:
                self._metrics.sentence(CANCELLED)
            else:
                self._fail(turn, sentence, _too_late("it waited for its turn"))

    # Who joins and who leaves.

    def _admit_and_evict(self, now_us: int, turn: Turn) -> None:
        plan = plan_step(self._running.values(), self.line.sentences, now_us, self._limits)
        self._evict = False
        # The encoder's share of one step may be used up, or what the plan looks at.
        self._admit_more = bool(plan.admit or plan.dropped)
        for sentence in plan.evict:
            self._leave(sentence)
            if sentence.abandoned:
                self._metrics.sentence(CANCELLED)
            else:
                self._fail(turn, sentence, _too_late("it was being translated"))
        self._drop(plan.dropped, turn)
        if plan.admit:
            self._take([sentence for group in plan.admit for sentence in group])
            for group in plan.admit:
                self._admit(group, now_us, turn)

    def _admit(self, group: list[Sentence], now_us: int, turn: Turn) -> None:
        """Encode a batch; halves one that fails, so that only the sentence at fault does."""
        try:
            sources = self._decoder.add_sources([sentence.tokens for sentence in group])
        except Exception as error:
            if len(group) == 1:
                self._fail(turn, group[0], self._told(error))
                return
            half = len(group) // 2
            self._admit(group[:half], now_us, turn)
            self._admit(group[half:], now_us, turn)
            return
        self._metrics.encoded([sentence.source_tokens for sentence in group])
        for sentence, source in zip(group, sources, strict=True):
            self._start(sentence, source, now_us, turn)

    def _start(self, sentence: Sentence, source: int, now_us: int, turn: Turn) -> None:
        try:
            handle = self._decoder.start(source, sentence.search)
        except Exception as error:
            self._decoder.release_source(source)
            self._fail(turn, sentence, self._told(error))
            return
        sentence.handle, sentence.source = handle, source
        sentence.started_us = now_us
        sentence.first_step = self._steps
        self._running[handle] = sentence
        self._rows += sentence.rows
        self._streams += sentence.waiter.streaming

    def _leave(self, sentence: Sentence) -> None:
        """Free a sentence's slots."""
        del self._running[sentence.handle]
        self._rows -= sentence.rows
        self._admit_more = True
        if not self._running:
            self._streams = 0
            self._metrics.rows = 0
        try:
            self._decoder.release(sentence.handle)
            self._decoder.release_source(sentence.source)
        except Exception:
            log.exception("the slots of a sentence could not be freed")

    # One step.

    def _step(self, turn: Turn) -> None:
        began = time.perf_counter()
        try:
            result = self._decoder.step()
        except Exception as error:
            self._recover(error, turn)
            return
        self._metrics.step(time.perf_counter() - began, self._rows)
        self._steps += 1
        if self._streams:
            self._stream(result, turn)
        done = result.done
        if done.any():
            for handle in result.searches[done].tolist():
                self._finish(self._running[handle], turn)
        if self._guard and self._steps % GUARD_EVERY == 0:
            self._end_loops(turn)

    def _stream(self, result: StepResult, turn: Turn) -> None:
        streams = 0
        for handle, token in zip(result.searches.tolist(), result.tokens.tolist(), strict=True):
            sentence = self._running[handle]
            if not sentence.waiter.streaming:
                continue
            streams += 1
            taken = self._steps - sentence.first_step
            missing = [token]
            if taken != sentence.sent + 1:  # somebody joined late, or it began anew
                missing = self._decoder.running_tokens(handle)[sentence.sent : taken]
            sentence.sent = max(sentence.sent, taken)
            hidden = (NO_TOKEN, *sentence.search.end)
            turn.tokens += [(sentence, each) for each in missing if each not in hidden]
        self._streams = streams

    def _finish(self, sentence: Sentence, turn: Turn) -> None:
        try:
            hypotheses = tuple(self._decoder.hypotheses(sentence.handle))
        except Exception as error:
            self._leave(sentence)
            self._fail(turn, sentence, self._told(error))
            return
        self._leave(sentence)
        looped = False
        if self._guard and not hypotheses[0].finished:
            cut = tuple(without_loop(hypothesis, sentence.tokens) for hypothesis in hypotheses)
            looped, hypotheses = cut != hypotheses, cut
        self._succeed(turn, sentence, hypotheses, looped)

    def _end_loops(self, turn: Turn) -> None:
        for sentence in list(self._running.values()):
            if self._steps - sentence.first_step < LEAST_TOKENS:
                continue
            tokens = self._decoder.running_tokens(sentence.handle)
            if loop_start(tokens, sentence.tokens) is not None:
                self._finish_loop(sentence, turn)

    def _finish_loop(self, sentence: Sentence, turn: Turn) -> None:
        """End a search that repeats itself, with what of it makes sense."""
        hypotheses = tuple(self._decoder.hypotheses(sentence.handle))
        self._leave(sentence)
        # A beam search may have come to good ends before: those stand as they are.
        finished = tuple(hypothesis for hypothesis in hypotheses if hypothesis.finished)
        cut = tuple(without_loop(each, sentence.tokens) for each in hypotheses)
        self._succeed(turn, sentence, finished or cut, True)

    # When the decoder fails.

    def _recover(self, error: Exception, turn: Turn) -> None:
        """Free everything; one sentence is at fault, and each gets to show that it is not."""
        sentences = list(self._running.values())
        for sentence in sentences:
            self._leave(sentence)
        if len(sentences) == 1:
            self._fail(turn, sentences[0], self._told(error))
            return
        log.warning("a decoding step failed; its %d sentences are tried alone", len(sentences))
        for sentence in sentences:
            sentence.alone = True
            self.line.put_back(sentence)
        self._metrics.waiting = len(self.line)

    def _told(self, error: Exception) -> ServerError:
        told = as_server_error(error)
        if isinstance(told, InternalFault):
            log.error("decoding failed", exc_info=error)
        return told

    # What to tell.

    def _succeed(
        self, turn: Turn, sentence: Sentence, hypotheses: tuple[Hypothesis, ...], looped: bool
    ) -> None:
        self._metrics.sentence("looped" if looped else "ok", len(hypotheses[0].tokens))
        result = SentenceResult(
            hypotheses,
            looped=looped,
            queue_us=sentence.started_us - sentence.arrived_us,
            compute_us=self._clock() - sentence.started_us,
        )
        turn.outcomes.append((sentence, result))

    def _fail(self, turn: Turn, sentence: Sentence, error: ServerError) -> None:
        self._metrics.sentence(error.code)
        turn.outcomes.append((sentence, error))


def _too_late(when: str) -> DeadlineExceeded:
    return DeadlineExceeded(
        f"the request's deadline passed while {when}; allow it more time, or send less text"
    )
