"""Long work is stopped when the client that asked for it has gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from typing import Any, TypeVar

from server.errors import RequestCancelled
from server.handlers.call import Call

T = TypeVar("T")


async def while_connected(
    told: AsyncGenerator[T],
    call: Call,
    *,
    here: asyncio.Event | None = None,
    until: Callable[[T], bool] = lambda _: False,
) -> AsyncGenerator[T]:
    """Pass on what the work tells; stop it when the client goes away.

    Args:
        told: the work.
        call: the request.
        here: set once the body has been read; until then its reader sees the client go. None: it
            has been read.
        until: says of what was told whether from then on the work is to be finished in any case.

    Raises:
        RequestCancelled: the client has gone.
    """

    async def gone() -> None:
        if here is not None:
            await here.wait()
        if call.disconnected is None:
            await asyncio.Event().wait()
        else:
            await call.disconnected()

    watch: asyncio.Future[None] | None = asyncio.ensure_future(gone())
    try:
        async with aclosing(told):
            while True:
                step = asyncio.ensure_future(_next(told))
                try:
                    awaited: set[asyncio.Future[Any]] = {step} if watch is None else {step, watch}
                    await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
                except asyncio.CancelledError:
                    await _stopped(step)
                    raise
                # Also when both are done: work that never waits would never be stopped otherwise.
                if watch is not None and watch.done():
                    await _stopped(step)
                    raise RequestCancelled("the client went away before all was done")
                each = step.result()
                if each is None:
                    return
                if watch is not None and until(each):
                    watch.cancel()
                    watch = None
                yield each
    finally:
        if watch is not None:
            watch.cancel()


async def until_gone(pieces: AsyncGenerator[T], call: Call) -> AsyncGenerator[T]:
    """Pass on the pieces of an answer; for a client that has gone no more are made."""
    with suppress(RequestCancelled):
        async with aclosing(while_connected(pieces, call)) as told:
            async for piece in told:
                yield piece


async def _next(told: AsyncGenerator[T]) -> T | None:
    return await anext(told, None)


async def _stopped(step: asyncio.Future[Any]) -> None:
    step.cancel()
    with suppress(asyncio.CancelledError, Exception):
        await step
