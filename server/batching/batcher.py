"""The queue of one deployment: takes work on the event loop, runs it in batches, answers.

A batch's life: enqueue -> form_batch -> collate -> run -> split -> resolve. What to run is decided
by `policy`, what a run costs is learned by `cost`; all state here belongs to the loop's thread.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Hashable, Sequence
from functools import partial
from typing import Protocol

from server.batching.alarm import Alarm
from server.batching.collate import Array, batch_key, cut
from server.batching.cost import CostModel
from server.batching.policy import BatchLimits, form_batch, rank_of
from server.batching.queue import WaitingQueue
from server.batching.running import BatchRunner, Outcome, Run
from server.batching.work import Oversized, Part, Work, WorkResult
from server.errors import DeadlineExceeded, InvalidInput, ModelNotReady, QueueFull, ServerError
from server.execution import WorkerPool, as_server_error
from server.metrics import ModelMetrics, Phase
from server.model_config import BatchingConfig

US_PER_S = 1e6
INLINE_US = 2000  # runs known to be shorter stay on the loop's thread; docs/batching.md says why
LONELY_RUNS = 16  # after so many requests that ran alone, the next does not wait for company
PROBE_EVERY = 8  # but one in so many does, to notice when it is no longer alone
GUESSED_RUN_US = 20_000  # until the first run has been measured
LEAST_RETRY_S = 0.01


class InputSpec(Protocol):
    """What is asked of the engine's description of an input."""

    @property
    def name(self) -> str:
        """The input's name."""


class Axes(Protocol):
    """The engine's proof: axis 0 of these inputs and outputs is the batch."""

    @property
    def inputs(self) -> frozenset[str]:
        """Inputs with one row per row of the batch."""

    @property
    def outputs(self) -> frozenset[str]:
        """Outputs whose rows depend on the same rows of those inputs only."""


def monotonic_us() -> int:
    """The batcher's clock: deadlines are given on it."""
    return time.monotonic_ns() // 1000


class Batcher:
    """Batches the requests of one deployment; every method is called on one event loop."""

    def __init__(
        self,
        run: Run,
        *,
        inputs: Sequence[InputSpec],
        batch: Axes | None,
        config: BatchingConfig,
        pool: WorkerPool,
        metrics: ModelMetrics,
        outputs: Collection[str] | None = None,
        clock: Callable[[], int] = monotonic_us,
        inline_us: int = INLINE_US,
    ) -> None:
        """Batch calls of `run(inputs, fetches)`.

        Args:
            run: the engine; thread-safe, called by at most `config.lanes` threads at a time.
            inputs: the model's inputs.
            batch: which axes are the batch; None runs one request at a time.
            config: limits.
            pool: where runs happen that are not known to be short.
            metrics: the deployment's counters.
            outputs: what a request without fetches gets; default: what can be batched.
            clock: microseconds; replaced in tests.
            inline_us: runs known to be shorter happen on the loop's thread; 0 for never.
        """
        axes = batch if config.enabled else None
        self._batched: frozenset[str] = axes.inputs if axes is not None else frozenset()
        self._shareable: frozenset[str] = axes.outputs if axes is not None else frozenset()
        self._default_shareable = outputs is None or self._shareable.issuperset(outputs)
        unknown = self._batched - {spec.name for spec in inputs}
        if unknown:
            raise ValueError(f"the batch axes name inputs that the model does not have: {unknown}")
        self._config = config
        self._limits = BatchLimits(config.max_batch_size, config.max_queue_delay_us)
        self._runner = BatchRunner(run, self._batched, self._shareable)
        self._pool = pool
        self._metrics = metrics
        self._clock = clock
        self._inline_us = inline_us
        self._cost = CostModel()
        self._queue = WaitingQueue()
        self._running: dict[int, Sequence[Part]] = {}  # batches in threads, by their number
        self._started = 0
        self._dispatching = False  # a dispatch is on its way
        self._lonely = 0  # runs in a row that held one request, with nobody waiting behind it
        self._alarm = Alarm(clock, self._on_alarm)
        self._closing: asyncio.Event | None = None  # set once everything has been answered

    def submit(self, work: Work) -> asyncio.Future[WorkResult]:
        """Queue a request; cancelling the future before its run starts drops it.

        Raises:
            InvalidInput: the tensors do not have `work.rows` rows, or more than fit the queue.
            QueueFull: no room; carries `retry_after_s`.
            DeadlineExceeded: its deadline is past, or will be before its turn can come.
            ModelNotReady: the deployment is being unloaded.
        """
        if self._closing is not None:
            raise ModelNotReady("this version is being unloaded; send the request again")
        loop = asyncio.get_running_loop()
        part = self._part(work, loop.create_future())
        self._require_room(part)
        if part.deadline_us is not None:
            self._require_time(part, part.deadline_us)
        self._queue.add(part)
        self._metrics.queue_depth = self._queue.rows
        if not self._dispatching and len(self._running) < self._config.lanes:
            if self._lonely >= LONELY_RUNS and self._lonely % PROBE_EVERY:
                self._dispatch()
            else:
                # One turn of the loop later, when all requests read in this turn are queued.
                self._dispatching = True
                loop.call_soon(self._dispatch)
        return part.future

    async def close(self) -> None:
        """Take nothing more, finish what is queued and running, and return when it is answered."""
        if self._closing is None:
            self._closing = asyncio.Event()
            self._limits = BatchLimits(self._config.max_batch_size)  # nobody else will come
            self._dispatch()
        await self._closing.wait()
        self._alarm.cancel()

    # From a request to a part of the queue.

    def _part(self, work: Work, future: asyncio.Future[WorkResult]) -> Part:
        now_us = self._clock()
        deadline_us = work.deadline_us
        rank = rank_of(now_us, deadline_us, work.priority)
        key = self._key(work)
        if key is None:
            alone = object()  # equal to nothing else
            return Part(
                work.inputs, work.rows, work.fetches, alone, now_us, deadline_us, rank, future, 1
            )
        inputs, rows, whole = work.inputs, work.rows, None
        if rows > self._limits.max_rows:
            pieces = cut(inputs, self._batched, rows, self._limits.max_rows)
            whole = Oversized(pieces, work.priority, future)
            inputs, rows = pieces[0]
        weight = max(1, work.rows)
        return Part(
            inputs, rows, work.fetches, key, now_us, deadline_us, rank, future, weight, whole
        )

    def _key(self, work: Work) -> Hashable:
        """Return what requests must have in common with it to share its run; None if none can."""
        fetches = work.fetches
        if not self._batched:
            return None
        if not (
            self._default_shareable if fetches is None else self._shareable.issuperset(fetches)
        ):
            return None
        for name, array in work.inputs.items():
            if name in self._batched:
                _require_rows(name, array, work.rows)
        return batch_key(work.inputs, self._batched, fetches)

    def _require_room(self, part: Part) -> None:
        limit = self._config.max_queue_size
        if self._queue.rows + part.weight <= limit:
            return
        if part.weight > limit:
            raise InvalidInput(
                f"the request has {part.weight} rows, the queue holds {limit} at most; "
                "send fewer rows in one request, or raise batching.max_queue_size",
                expected=f"at most {limit} rows",
                got=part.weight,
            )
        self._queue.drop_abandoned()
        if self._queue.rows + part.weight > limit:
            retry_s = self._retry_after_s()
            raise QueueFull(
                f"{self._queue.rows} rows wait for this model, the most there may be is {limit}; "
                f"send it again in {retry_s:.2f} s",
                retry_after_s=retry_s,
            )

    def _require_time(self, part: Part, deadline_us: int) -> None:
        now_us = self._clock()
        if deadline_us <= now_us:
            raise _deadline_exceeded("its deadline was past when it came")
        self._alarm.set(deadline_us)
        if not self._queue.parts:
            return
        # Only what is in front of it counts, at what it costs at the very least: a wrong guess must
        # not turn away a request that could have been answered.
        least_us = self._cost.least_us(self._limits.max_rows)
        if least_us is None:
            return
        per_row_us = least_us / self._limits.max_rows / self._config.lanes
        if self._queue.rows * per_row_us <= deadline_us - now_us:
            return
        if self._queue.rows_before(part.rank) * per_row_us > deadline_us - now_us:
            raise _deadline_exceeded("what waits before it takes longer than its deadline allows")

    def _retry_after_s(self) -> float:
        run_us = self._cost.mean_us(self._limits.max_rows) or GUESSED_RUN_US
        runs = self._queue.rows / self._limits.max_rows / self._config.lanes
        return max(LEAST_RETRY_S, runs * run_us / US_PER_S)

    # From the queue to the engine.

    def _dispatch(self) -> None:
        self._dispatching = False
        queue = self._queue
        while queue.parts and len(self._running) < self._config.lanes:
            queue.drop_abandoned()
            now_us = self._clock()
            plan = form_batch(queue.parts, now_us, self._limits)
            if plan.expired:
                self._expire(plan.expired)
            if plan.batch:
                ran_here = self._start(plan.batch, now_us)
                if ran_here and queue.parts:  # the loop gets its turn before the next batch
                    self._dispatch_soon()
                    break
            elif plan.wait_us is not None:
                self._alarm.set(now_us + plan.wait_us)
                break
        self._metrics.queue_depth = queue.rows
        if self._closing is not None and not queue.parts and not self._running:
            self._closing.set()

    def _start(self, batch: Sequence[Part], now_us: int) -> bool:
        """Run a batch here if it is known to be short, else hand it to a thread; say which."""
        self._queue.remove(batch)
        self._lonely = self._lonely + 1 if len(batch) == 1 and not self._queue.parts else 0
        for part in batch:
            follower = part.successor(now_us) if part.whole is not None else None
            if follower is not None:
                self._queue.add(follower)
        members = [part.inputs for part in batch]
        rows = [part.rows for part in batch]
        if self._is_short(sum(rows)):
            outcome = self._runner.execute(members, rows, batch[0].fetches)
            self._settle(batch, now_us, outcome, undisturbed=True)
            return True
        self._started += 1
        number = self._started
        self._running[number] = batch
        done = partial(self._on_done, number, now_us)
        try:
            self._pool.submit(self._runner.execute, members, rows, batch[0].fetches, done=done)
        except ServerError as error:  # the pool is closed
            self._on_done(number, now_us, None, error)
        return False

    def _is_short(self, rows: int) -> bool:
        least_us = self._cost.least_us(rows)
        return least_us is not None and least_us < self._inline_us

    def _dispatch_soon(self) -> None:
        if not self._dispatching:
            self._dispatching = True
            asyncio.get_running_loop().call_soon(self._dispatch)

    # From the engine to whoever waits.

    def _on_done(
        self, number: int, started_us: int, outcome: Outcome | None, error: BaseException | None
    ) -> None:
        batch = self._running.pop(number)
        if outcome is None:
            fault = error or RuntimeError("a batch ended without an outcome")
            for part in batch:
                part.fail(as_server_error(fault))
        else:
            self._settle(batch, started_us, outcome, undisturbed=False)
        self._dispatch()

    def _settle(
        self, batch: Sequence[Part], started_us: int, outcome: Outcome, *, undisturbed: bool
    ) -> None:
        metrics = self._metrics
        batch_s = compute_s = 0.0
        for cost in outcome.runs:
            metrics.batch(cost.rows, cost.collate_s, cost.compute_s, cost.split_s)
            around_s = cost.collate_s + cost.split_s
            batch_s += around_s
            compute_s += cost.compute_s
            run_us = (around_s + cost.compute_s) * US_PER_S
            self._cost.learn(cost.rows, run_us, undisturbed=undisturbed)
        metrics.observe_many(Phase.BATCH, batch_s, len(batch))
        metrics.observe_many(Phase.COMPUTE, compute_s, len(batch))
        batch_us, compute_us = int(batch_s * US_PER_S), int(compute_s * US_PER_S)
        rows = sum([part.rows for part in batch])
        for part, share in zip(batch, outcome.shares, strict=True):
            queue_us = started_us - part.arrived_us
            metrics.observe(Phase.QUEUE, queue_us / US_PER_S)
            if isinstance(share, ServerError):
                part.fail(share)
            else:
                part.resolve(WorkResult(share, queue_us, batch_us, compute_us, rows))

    # Deadlines.

    def _expire(self, parts: Sequence[Part]) -> None:
        self._queue.remove(parts)
        for part in parts:
            part.fail(_deadline_exceeded("its deadline passed while it waited"))

    def _on_alarm(self) -> None:
        now_us = self._clock()
        self._expire(self._queue.expired(now_us))
        running = [part for batch in self._running.values() for part in batch]
        for part in running:
            if part.deadline_us is not None and part.deadline_us <= now_us:
                part.fail(_deadline_exceeded("its deadline passed while it ran"))
        for part in (*self._queue, *running):
            if part.deadline_us is not None and not part.future.done():
                self._alarm.set(part.deadline_us)
        self._dispatch()


def _require_rows(name: str, array: Array, rows: int) -> None:
    if array.ndim == 0 or array.shape[0] != rows:
        raise InvalidInput(
            f"input {name!r} has shape {list(array.shape)}, expected {rows} rows along axis 0 "
            "like the request's other batched inputs",
            field=name,
            expected=f"{rows} rows",
            got=list(array.shape),
        )


def _deadline_exceeded(why: str) -> DeadlineExceeded:
    return DeadlineExceeded(f"the request was not run: {why}; allow it more time, or send fewer")
