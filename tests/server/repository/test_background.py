"""Slow work beside the event loop: its result, its failure, and what nobody waits for."""

import asyncio
import threading

import pytest

from server.repository.background import in_background, return_memory
from tests.server.repository.serving import until


async def test_the_result_and_the_failure_come_back():
    assert await in_background(lambda: threading.current_thread().name, name="x") == "millrace-x"

    def fail() -> None:
        raise KeyError("k")

    with pytest.raises(KeyError):
        await in_background(fail)


async def test_the_loop_goes_on_meanwhile():
    gate = threading.Event()
    waiting = asyncio.create_task(in_background(lambda: gate.wait(60)))
    await asyncio.sleep(0)
    gate.set()
    assert await waiting


async def test_what_nobody_waits_for_any_more_is_abandoned():
    gate = threading.Event()
    abandoned: list[bool] = []
    waiting = asyncio.create_task(
        in_background(lambda: gate.wait(60), abandon=lambda result: abandoned.append(result))
    )
    await asyncio.sleep(0.01)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not abandoned
    gate.set()
    await until(lambda: abandoned == [True])


async def test_a_result_that_comes_with_the_cancellation_is_abandoned_too():
    abandoned: list[str] = []
    waiting: list[asyncio.Task] = []

    def work() -> str:
        # Runs on the loop just before the result is delivered: both wait in one tick.
        loop.call_soon_threadsafe(loop.call_soon, waiting[0].cancel)
        return "model"

    loop = asyncio.get_running_loop()
    waiting.append(asyncio.create_task(in_background(work, abandon=abandoned.append)))
    with pytest.raises(asyncio.CancelledError):
        await waiting[0]
    await until(lambda: abandoned == ["model"])


async def test_a_failure_to_abandon_is_logged(caplog: pytest.LogCaptureFixture):
    gate = threading.Event()

    def fail(result: bool) -> None:
        raise ValueError("stuck")

    waiting = asyncio.create_task(in_background(lambda: gate.wait(60), abandon=fail))
    await asyncio.sleep(0.01)
    waiting.cancel()
    gate.set()
    await until(lambda: "could not be freed" in caplog.text)
    with pytest.raises(asyncio.CancelledError):
        await waiting


def test_a_result_after_the_end_of_the_loop_is_abandoned():
    gate, done = threading.Event(), threading.Event()

    async def begin() -> None:
        task = asyncio.create_task(
            in_background(lambda: gate.wait(60), abandon=lambda result: done.set())
        )
        await asyncio.sleep(0.01)
        task.cancel()

    asyncio.run(begin())
    gate.set()
    assert done.wait(60)


def test_returning_memory_is_harmless():
    return_memory()
