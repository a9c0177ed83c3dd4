"""The threads that run batches and everything heavy.

Two crews, so that neither waits behind the other: *batches* of a model, and *heavy* work of a
request (decoding pictures, parsing large bodies). They may use more threads than there are cores;
the operating system shares the cores, and both stand behind the event loop in priority. Loading
models has threads of its own, in the repository. What a hand-over costs: docs/batching.md.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar, TypeVarTuple

from server.errors import QueueFull, ServerDraining
from server.execution.mailbox import LoopMailbox
from server.execution.tuning import lower_priority

R = TypeVar("R")
Ts = TypeVarTuple("Ts")
Done = Callable[[Any, BaseException | None], None]

# Little, on purpose: a thread that holds the interpreter and gets no core holds up the event loop.
BATCH_NICE = 1
HEAVY_NICE = 1
MAX_WAITING = 512  # heavy jobs; each may hold a whole request body
GUESSED_JOB_S = 0.05  # until the first job has been measured
SMOOTHING = 0.1


class WorkerPool:
    """OS threads in two crews; everything but the jobs themselves happens on one event loop."""

    def __init__(
        self,
        threads: int,
        *,
        max_waiting: int = MAX_WAITING,
        batches: int | None = None,
        name: str = "heavy",
    ) -> None:
        """Start the threads of `threads` heavy jobs and as many batches at a time.

        Args:
            threads: of heavy jobs.
            max_waiting: heavy jobs that may wait.
            batches: threads of batches, if they are to be more or fewer.
            name: what the threads of heavy jobs are called.
        """
        if threads < 1:
            raise ValueError(f"a worker pool needs at least 1 thread, got {threads}")
        self.threads = threads
        self.max_waiting = max_waiting
        self._mailbox: LoopMailbox | None = None
        self._batches = _Crew("batch", threads if batches is None else batches, BATCH_NICE)
        self._heavy = _Crew(name, threads, HEAVY_NICE)
        self._unfinished = 0  # heavy jobs, waiting or running
        self._closed = False

    @property
    def waiting(self) -> int:
        """Heavy jobs that no thread has taken yet."""
        return max(0, self._unfinished - self.threads)

    def submit(self, fn: Callable[[*Ts], R], *args: *Ts, done: Done) -> None:
        """Run a batch: `fn(*args)` in a thread, then `done(result, error)` on the calling loop."""
        self._refuse_if_closed()
        mailbox = self._mailbox_here()

        def job() -> None:
            result, error = _outcome(fn, args)
            mailbox.post(lambda: done(result, error))

        self._batches.put(job)

    async def run(self, fn: Callable[[*Ts], R], *args: *Ts) -> R:
        """Run heavy work of a request; cancelling the caller drops it if it has not started.

        Raises:
            QueueFull: `max_waiting` jobs are waiting; carries `retry_after_s`.
        """
        if self.waiting >= self.max_waiting:
            wait_s = self._heavy.job_s * self.waiting / self.threads
            raise QueueFull(
                f"{self.waiting} requests wait for a thread, the most there may be; "
                f"send it again in {wait_s:.1f} s",
                retry_after_s=wait_s,
            )
        self._unfinished += 1
        try:
            return await self._run_heavy(fn, args)
        finally:
            self._unfinished -= 1

    def close(self) -> None:
        """Finish what was handed over and join the threads; blocks until then."""
        self._closed = True
        for crew in (self._batches, self._heavy):
            crew.close()

    async def _run_heavy(self, fn: Callable[[*Ts], R], args: tuple[*Ts]) -> R:
        self._refuse_if_closed()
        mailbox = self._mailbox_here()
        future: asyncio.Future[R] = mailbox.loop.create_future()

        def job() -> None:
            if future.cancelled():
                return
            result, error = _outcome(fn, args)
            mailbox.post(lambda: _resolve(future, result, error))

        self._heavy.put(job)
        return await future

    def _mailbox_here(self) -> LoopMailbox:
        loop = asyncio.get_running_loop()
        if self._mailbox is None or self._mailbox.loop is not loop:
            self._mailbox = LoopMailbox(loop)
        return self._mailbox

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise ServerDraining("the server is shutting down and takes no new work")


class _Crew:
    """Threads behind one queue, all started at once: how many a server has says nothing later."""

    def __init__(self, name: str, size: int, nice: int) -> None:
        self._nice = nice
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self.job_s = GUESSED_JOB_S  # smoothed
        self._threads = [
            threading.Thread(target=self._work, name=f"millrace-{name}-{k}", daemon=True)
            for k in range(size)
        ]
        for thread in self._threads:
            thread.start()

    def put(self, job: Callable[[], None]) -> None:
        self._jobs.put(job)

    def close(self) -> None:
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        lower_priority(self._nice)
        while (job := self._jobs.get()) is not None:
            started = time.perf_counter()
            job()
            self.job_s += SMOOTHING * (time.perf_counter() - started - self.job_s)
            del job  # or the last batch's tensors live until the next one comes


def _outcome(fn: Callable[[*Ts], R], args: tuple[*Ts]) -> tuple[R | None, BaseException | None]:
    try:
        return fn(*args), None
    except StopIteration as error:  # the one exception that a future refuses
        return None, RuntimeError(f"the job raised {error!r}")
    except BaseException as error:
        return None, error


def _resolve(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.done():  # cancelled while it ran
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
