"""Run slow work on its own thread, behind everything that serves requests.

Each piece of work gets a thread of its own rather than a place in a pool: a load that hangs must
not hold up the next one. Threads are daemons, so that they never hold up the exit either.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import threading
from collections.abc import Callable
from typing import TypeVar

from server.execution import lower_priority

T = TypeVar("T")

# Little, on purpose: a thread that holds the interpreter and gets no core holds up the event loop.
# Beside busy cores, 10 made the loop late by up to 335 ms, 0 by no more than without a load. What
# is heavy about a load runs in a child process, and that is niced by itself.
NICENESS = 2

logger = logging.getLogger(__name__)


async def in_background(
    work: Callable[[], T], *, abandon: Callable[[T], None] | None = None, name: str = "background"
) -> T:
    """Run `work()` on a low-priority thread and return its result.

    When the caller is cancelled the thread goes on, since it cannot be stopped, and `abandon` is
    given the result that nobody waits for any more.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def deliver(result: T | None, error: BaseException | None) -> None:
        if future.cancelled():
            start(lambda: _abandon(result, abandon))  # freeing may take a while
        elif error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]  # None only where T allows it

    def run() -> None:
        lower_priority(NICENESS)
        result: T | None = None
        error: BaseException | None = None
        try:
            result = work()
        except BaseException as caught:  # a thread's failure is its caller's, whatever it is
            error = caught
        try:
            loop.call_soon_threadsafe(deliver, result, error)
        except RuntimeError:  # the loop has ended meanwhile
            _abandon(result, abandon)

    def start(result_of: Callable[[], None]) -> None:
        threading.Thread(target=result_of, name=f"millrace-{name}", daemon=True).start()

    start(run)
    try:
        return await future
    except asyncio.CancelledError:
        # The result may have come in the same tick as the cancellation, and is nobody's then.
        if future.done() and not future.cancelled() and future.exception() is None:
            start(lambda: _abandon(future.result(), abandon))
        raise


def _abandon(result: T | None, abandon: Callable[[T], None] | None) -> None:
    if result is None or abandon is None:
        return
    try:
        abandon(result)
    except Exception:
        logger.exception("what was loaded for nobody could not be freed")


def _load_malloc_trim() -> Callable[[int], int] | None:
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):  # not glibc
        return None
    trim.argtypes = [ctypes.c_size_t]
    trim.restype = ctypes.c_int
    return trim


_MALLOC_TRIM = _load_malloc_trim()


def return_memory() -> None:
    """Give freed memory back to the operating system, where the allocator can."""
    # Without it glibc keeps what a model freed in its arenas: swapping 8 MB models in place, 181 to
    # 217 MB stayed resident instead of 113 to 129 MB. A call takes about a millisecond.
    if _MALLOC_TRIM is not None:
        _MALLOC_TRIM(0)
