"""A deployment's door for sentences: known ones from the cache, equal ones together, others run."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from server.batching import monotonic_us
from server.batching.steps import sentence_rank
from server.errors import DeadlineExceeded, InvalidInput, ServerError
from server.execution import Search, SlotSizes
from server.metrics import ModelMetrics, Phase, TranslationMetrics
from server.translation.cache import SentenceCache
from server.translation.lanes import Lanes
from server.translation.loop import DecodeLoop
from server.translation.sentence import Sentence, SentenceResult

OnToken = Callable[[int], None]
Result = asyncio.Future[SentenceResult]

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Order:
    """When the sentences of one request came, and how urgent they are."""

    now_us: int
    deadline_us: int | None
    priority: int


class Sentences:
    """Translates token sequences; every method is called on one event loop."""

    def __init__(
        self,
        loop: DecodeLoop | Lanes,
        sizes: SlotSizes,
        cache: SentenceCache,
        metrics: ModelMetrics,
        decoding: TranslationMetrics,
        clock: Callable[[], int] = monotonic_us,
    ) -> None:
        """Stand in front of a decode loop.

        Args:
            loop: where sentences run.
            sizes: of its decoder.
            cache: of this deployment alone.
            metrics: of the deployment's requests.
            decoding: of its sentences.
            clock: the loop's.
        """
        self.sizes = sizes
        self._loop = loop
        self._cache = cache
        self._metrics = metrics
        self.decoding = decoding
        self._clock = clock
        self._flights: dict[Hashable, _Flight] = {}

    def submit(
        self,
        tokens: Sequence[int],
        search: Search,
        *,
        deadline_us: int | None = None,
        priority: int = 0,
        on_token: OnToken | None = None,
    ) -> Result:
        """Translate one sentence; cancelling the future frees its slots at the next step.

        Args:
            tokens: as the model's tokenizer gives them.
            search: how to search.
            deadline_us: on the monotonic clock; past it, the search is given up.
            priority: from -9 to 9, higher is sooner.
            on_token: called with every token but the end, in order, before the future is done. Not
                for beam search, which decides late what comes early. Of a sentence that is ended
                for repeating itself, it has seen tokens that the result lacks.

        Raises:
            InvalidInput: the sentence, or the search, does not fit the model's slots.
            QueueFull: too many wait; carries `retry_after_s`.
            DeadlineExceeded: the deadline is past already.
            ModelNotReady: the deployment is being unloaded.
        """
        if on_token is not None and search.beams > 1:
            raise InvalidInput(
                f"tokens can be streamed of greedy search and sampling, not of {search.beams} "
                "beams; ask for beams=1, or for the whole answer",
                field="parameters.beams",
                expected="1",
                got=search.beams,
            )
        order = _Order(self._clock(), deadline_us, priority)
        self._check_time(order)
        self._check(tokens, search)
        key = _key_of(tokens, search)
        known = self._known(key, order, on_token)
        if known is not None:
            return known
        self._loop.require_room(1)
        self.decoding.lookup("miss")
        return self._launch([(key, tokens)], search, order, on_token)[0]

    def submit_many(
        self,
        sentences: Sequence[Sequence[int]],
        search: Search,
        *,
        deadline_us: int | None = None,
        priority: int = 0,
    ) -> list[Result]:
        """Translate the sentences of one request: all of them are queued, or none.

        Their places are one behind the other, so that others' short requests pass long ones.
        Arguments and errors as of `submit`.
        """
        order = _Order(self._clock(), deadline_us, priority)
        self._check_time(order)
        for tokens in sentences:
            self._check(tokens, search)
        keys = [_key_of(tokens, search) for tokens in sentences]
        first: dict[Hashable, int] = {}  # a sentence that comes twice is translated once
        for index, key in enumerate(keys):
            if key is None:
                first[object()] = index
            elif key not in self._flights and key not in self._cache:
                first.setdefault(key, index)
        if first:
            self._loop.require_room(len(first))
        new = [(keys[index], sentences[index]) for index in first.values()]
        for _ in new:
            self.decoding.lookup("miss")
        launched = dict(zip(first.values(), self._launch(new, search, order, None), strict=True))
        return [
            launched.get(index) or self._surely_known(key, order) for index, key in enumerate(keys)
        ]

    async def close(self) -> None:
        """Take nothing more, finish what there is, and free the slots."""
        await self._loop.close()

    # Before the decode loop.

    def _check(self, tokens: Sequence[int], search: Search) -> None:
        sizes = self.sizes
        if not 1 <= len(tokens) <= sizes.source_tokens:
            raise InvalidInput(
                f"a sentence must have 1 to {sizes.source_tokens} tokens, got {len(tokens)}; "
                "split it, or raise translation.source_tokens",
                expected=f"1..{sizes.source_tokens} tokens",
                got=len(tokens),
            )
        if not 1 <= search.beams <= sizes.rows:
            raise InvalidInput(
                f"beams must be 1 to {sizes.rows}, got {search.beams}; ask for fewer, or raise "
                "translation.rows",
                field="parameters.beams",
                expected=f"1..{sizes.rows}",
                got=search.beams,
            )
        longest = sizes.target_tokens - 1  # the start takes a place
        if not 1 <= search.max_new_tokens <= longest:
            raise InvalidInput(
                f"max_new_tokens must be 1 to {longest}, got {search.max_new_tokens}; ask for "
                "less, or raise translation.target_tokens",
                field="parameters.max_new_tokens",
                expected=f"1..{longest}",
                got=search.max_new_tokens,
            )

    def _check_time(self, order: _Order) -> None:
        if order.deadline_us is not None and order.deadline_us <= order.now_us:
            raise DeadlineExceeded(
                "the request was not run: its deadline was past when it came; allow it more time"
            )

    def _surely_known(self, key: Hashable, order: _Order) -> Result:
        known = self._known(key, order, None)
        assert known is not None  # in the cache or launched, and no turn of the loop since
        return known

    def _known(self, key: Hashable, order: _Order, on_token: OnToken | None) -> Result | None:
        """Answer from the cache, or join a sentence that is under way."""
        if key is None:
            return None
        flight = self._flights.get(key)
        if flight is not None:
            self.decoding.lookup("joined")
            streaming = flight.streaming
            result = flight.join(on_token)
            flight.extend(order.deadline_us)
            if flight.streaming and not streaming:
                self._loop.stream()
            return result
        found = self._cache.get(key)
        if found is None:
            return None
        self.decoding.lookup("hit")
        hypotheses, looped = found
        result = asyncio.get_running_loop().create_future()
        known = SentenceResult(hypotheses, looped=looped, cached=True)
        if on_token is None:
            result.set_result(known)
        else:
            assert isinstance(key, tuple)
            asyncio.get_running_loop().call_soon(_replay, known, key[1].end, on_token, result)
        return result

    def _launch(
        self,
        new: Sequence[tuple[Hashable, Sequence[int]]],
        search: Search,
        order: _Order,
        on_token: OnToken | None,
    ) -> list[Result]:
        results = []
        sentences = []
        tokens_to_end = 0
        for key, tokens in new:
            tokens_to_end += len(tokens) * search.beams
            rank = sentence_rank(order.now_us, order.deadline_us, order.priority, tokens_to_end)
            flight = _Flight(self, key)
            flight.sentence = Sentence(
                tokens,
                search,
                flight,
                arrived_us=order.now_us,
                deadline_us=order.deadline_us,
                rank=rank,
            )
            if key is not None:
                self._flights[key] = flight
            results.append(flight.join(on_token))
            sentences.append(flight.sentence)
        if sentences:
            self._loop.submit(sentences)
        return results

    # What flights tell.

    def landed(self, flight: _Flight, outcome: SentenceResult | ServerError) -> None:
        """Remember a result, and that it is not under way any more."""
        self._gone(flight)
        if isinstance(outcome, ServerError):
            return
        self._metrics.observe(Phase.QUEUE, outcome.queue_us * 1e-6)
        self._metrics.observe(Phase.COMPUTE, outcome.compute_us * 1e-6)
        self._metrics.rows += 1
        if flight.key is not None:
            tokens = flight.sentence.source_tokens
            self._cache.put(flight.key, tokens, outcome.hypotheses, outcome.looped)
            self.decoding.cache_bytes = self._cache.bytes

    def deserted(self, flight: _Flight) -> None:
        """Give up a sentence that nobody waits for any more."""
        self._gone(flight)
        self._loop.abandon(flight.sentence)

    def _gone(self, flight: _Flight) -> None:
        if flight.key is not None and self._flights.get(flight.key) is flight:
            del self._flights[flight.key]


class _Flight:
    """A sentence under way, and all who wait for it; the loop's `Waiter`."""

    sentence: Sentence

    def __init__(self, owner: Sentences, key: Hashable) -> None:
        self.key = key
        self.streaming = False
        self._owner = owner
        self._waiters: list[Result] = []
        self._listeners: dict[Result, OnToken] = {}
        self._tokens: list[int] = []
        self._over = False

    def join(self, on_token: OnToken | None) -> Result:
        future: Result = asyncio.get_running_loop().create_future()
        self._waiters.append(future)
        future.add_done_callback(self._left)
        if on_token is not None:
            self.streaming = True
            for token in self._tokens:
                on_token(token)
            self._listeners[future] = on_token
        return future

    def extend(self, deadline_us: int | None) -> None:
        """Let the sentence live as long as its most patient waiter.

        A waiter with less patience cancels its own future.
        """
        mine = self.sentence.deadline_us
        if mine is not None and (deadline_us is None or deadline_us > mine):
            self.sentence.deadline_us = deadline_us

    def token(self, token: int) -> None:
        self._tokens.append(token)
        for future, listener in tuple(self._listeners.items()):
            try:
                listener(token)
            except Exception:  # others wait for this sentence, and for those told after it
                log.exception("a listener to tokens failed and is told no more")
                del self._listeners[future]

    def done(self, outcome: SentenceResult | ServerError) -> None:
        if self._over:  # deserted while this was on its way
            return
        self._over = True
        self._owner.landed(self, outcome)
        del self.sentence  # which knows this flight: left together, only the collector frees them
        for number, future in enumerate(self._waiters):
            if future.done():
                continue
            if isinstance(outcome, ServerError):
                again = outcome if number == 0 else type(outcome)(outcome.message, **outcome.extra)
                future.set_exception(again)
            else:
                future.set_result(outcome)

    def _left(self, future: Result) -> None:
        if self._over or not future.cancelled():
            return
        self._waiters.remove(future)
        self._listeners.pop(future, None)
        if not self._waiters:
            self._over = True
            self._owner.deserted(self)
            del self.sentence


def _key_of(tokens: Sequence[int], search: Search) -> Hashable:
    """Return what makes two sentences the same; None for one that is like no other."""
    return None if search.sample else (tuple(tokens), search)


def _replay(known: SentenceResult, end: Sequence[int], on_token: OnToken, result: Result) -> None:
    """Tell a known sentence as if it were being decoded now."""
    if result.cancelled():
        return
    for token in known.hypotheses[0].tokens:
        if token not in end:
            on_token(token)
    result.set_result(known)
