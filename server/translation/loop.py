"""The thread that decodes for one deployment, and its door on the event loop.

Sentences go in through a queue that the thread empties between two steps, and sleeps on when there
is nothing to do; what comes of them goes back through a mailbox that wakes the event loop once for
everything that a step brought.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from functools import partial
from queue import Empty, SimpleQueue

from server.batching import monotonic_us
from server.batching.steps import StepLimits
from server.errors import InternalFault, ModelNotReady, QueueFull
from server.execution import Decoder, LoopMailbox, give_way, lower_priority
from server.metrics import TranslationMetrics
from server.translation.driver import Driver
from server.translation.sentence import Sentence
from server.translation.turn import Turn

NICE = 1  # behind the event loop, as the threads that run batches
GUESSED_US_PER_TOKEN = 500.0  # until sentences have been measured
REMEMBERED_TOKENS = 20_000  # of which the pace is the mean, older ones fading
LEAST_RETRY_S = 0.01

log = logging.getLogger(__name__)

Message = Callable[[], None]


class DecodeLoop:
    """Decodes the sentences of one deployment; every method is called on one event loop."""

    def __init__(
        self,
        decoder: Decoder,
        limits: StepLimits,
        metrics: TranslationMetrics,
        *,
        max_waiting: int,
        guard: bool = True,
        clock: Callable[[], int] = monotonic_us,
        name: str = "translation",
    ) -> None:
        """Start the thread; results come to the running event loop.

        Args:
            decoder: nothing runs in it; the thread alone uses it from now on.
            limits: what runs at a time.
            metrics: what is counted.
            max_waiting: sentences that may wait for their turn.
            guard: end searches that repeat themselves.
            clock: microseconds; deadlines are given on it.
            name: of the thread.
        """
        self._driver = Driver(decoder, limits, metrics, clock, guard=guard)
        self._max_waiting = max_waiting
        self._clock = clock
        self._mailbox = LoopMailbox(asyncio.get_running_loop())
        self._inbox: SimpleQueue[Message] = SimpleQueue()
        self._submitted = 0
        self._submitted_rows = 0
        self._submitted_tokens = 0
        self._pace = _Pace()
        self._closing = False  # finish what there is, then end
        self._aborting = False  # end after the step that runs now
        self._ended = asyncio.Event()
        self._thread = threading.Thread(target=self._work, name=f"millrace-{name}", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Sentences that have not begun."""
        return self._submitted - self._driver.line.taken

    @property
    def rows(self) -> int:
        """Rows of the sentences that run or wait."""
        return self._driver.rows + self._submitted_rows - self._driver.line.taken_rows

    @property
    def backlog_us(self) -> float:
        """How long the sentences that wait will take at the pace of late."""
        tokens = self._submitted_tokens - self._driver.line.taken_tokens
        return tokens * self._pace.us_per_token

    @property
    def closing(self) -> bool:
        """Whether nothing more is taken."""
        return self._closing

    def require_room(self, sentences: int) -> None:
        """Check that so many sentences may be submitted now, all together.

        Raises:
            QueueFull: too many wait; carries `retry_after_s`.
            ModelNotReady: the deployment is being unloaded.
        """
        check_room(
            sentences, self.waiting, self._max_waiting, self.backlog_us, closing=self._closing
        )

    def submit(self, sentences: Sequence[Sentence]) -> None:
        """Queue sentences; their waiters are told on this event loop."""
        self._submitted += len(sentences)
        self._submitted_rows += sum([sentence.rows for sentence in sentences])
        self._submitted_tokens += sum([sentence.source_tokens for sentence in sentences])
        self._inbox.put(partial(self._driver.add, sentences))

    def abandon(self, sentence: Sentence) -> None:
        """Free a sentence's slots at the next step; its waiter may still be told an outcome."""
        sentence.abandoned = True
        self._inbox.put(self._driver.notice_abandoned)

    def stream(self) -> None:
        """Say that the waiter of a sentence under way has become a streaming one."""
        self._inbox.put(self._driver.notice_streams)

    async def close(self) -> None:
        """Take nothing more, finish what there is, and return when the thread has ended.

        Cancelled, it tells all that are left that the version is gone, and frees their slots.
        """
        self._closing = True
        self._inbox.put(_nothing)
        try:
            await self._ended.wait()
        except asyncio.CancelledError:
            self._aborting = True
            self._inbox.put(_nothing)
            raise

    # The thread.

    def _work(self) -> None:
        lower_priority(NICE)
        driver, inbox = self._driver, self._inbox
        while not self._aborting:
            self._read_inbox()
            if driver.busy:
                self._turn()
            elif self._closing and inbox.empty():
                break
            else:
                inbox.get()()  # sleeps
        self._read_inbox()
        gone = ModelNotReady("this version was unloaded meanwhile; send the request again")
        self._tell(driver.abort(gone))
        driver.close()
        self._mailbox.post(self._ended.set)

    def _read_inbox(self) -> None:
        inbox = self._inbox
        try:
            while True:
                inbox.get_nowait()()
        except Empty:
            pass

    def _turn(self) -> None:
        driver = self._driver
        started_us = self._clock()
        try:
            turn = driver.turn()
        except Exception:
            log.exception("the decode loop broke; its sentences are given up")
            turn = driver.abort(InternalFault("translating failed; the server's log has details"))
        tokens = sum([sentence.source_tokens for sentence, _ in turn.outcomes])
        self._pace.learn(self._clock() - started_us, tokens)
        self._tell(turn)

    def _tell(self, turn: Turn) -> None:
        if turn:
            self._mailbox.post(partial(_deliver, turn))
            if turn.tokens:  # somebody reads along: the event loop first, the next step then
                give_way()


class _Pace:
    """What a source token costs from beginning to end, learned by the decoding thread."""

    __slots__ = ("_tokens", "_us", "us_per_token")

    def __init__(self) -> None:
        self.us_per_token = GUESSED_US_PER_TOKEN
        self._us = 0.0
        self._tokens = 0

    def learn(self, us: int, tokens: int) -> None:
        """Take a turn into account, in which sentences with so many tokens came to their end."""
        self._us += us
        if not tokens:
            return
        self._tokens += tokens
        self.us_per_token = self._us / self._tokens
        if self._tokens > REMEMBERED_TOKENS:
            self._us /= 2
            self._tokens //= 2


def check_room(
    new: int, waiting: int, max_waiting: int, backlog_us: float, *, closing: bool
) -> None:
    """Refuse new sentences where there is no room; see `DecodeLoop.require_room`."""
    if closing:
        raise ModelNotReady("this version is being unloaded; send the request again")
    # A request longer than the whole queue may come when nobody is waiting.
    if waiting == 0 or waiting + new <= max_waiting:
        return
    retry_s = max(LEAST_RETRY_S, backlog_us * 1e-6)
    raise QueueFull(
        f"{waiting} sentences wait for this model, the most there may be is {max_waiting}; "
        f"send it again in {retry_s:.2f} s",
        retry_after_s=retry_s,
    )


def _deliver(turn: Turn) -> None:
    for sentence, token in turn.tokens:
        sentence.waiter.token(token)
    for sentence, outcome in turn.outcomes:
        sentence.waiter.done(outcome)


def _nothing() -> None:
    """Wake the thread."""
