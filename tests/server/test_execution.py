import asyncio
import gc
import os
import subprocess
import sys
import threading

import numpy as np
import pytest

import engine
from server.errors import InternalFault, InvalidInput, ModelNotReady, QueueFull, ServerDraining
from server.execution import (
    LoopMailbox,
    WorkerPool,
    as_server_error,
    keep_freed_memory,
    limit_blas_threads,
    lower_priority,
    set_switch_interval,
    settle_heap,
    tuning,
)


@pytest.fixture
def pool():
    made = WorkerPool(2)
    yield made
    made.close()


async def test_a_batch_runs_in_a_thread_and_its_result_comes_back_on_the_loop(pool):
    arrived = asyncio.get_running_loop().create_future()
    here = threading.get_ident()
    pool.submit(
        lambda a, b: (a + b, threading.get_ident()),
        2,
        3,
        done=lambda result, error: arrived.set_result((result, error, threading.get_ident())),
    )
    (total, there), error, back = await arrived
    assert (total, error) == (5, None)
    assert there != here == back


async def test_a_batchs_error_comes_back(pool):
    arrived = asyncio.get_running_loop().create_future()
    pool.submit(lambda: 1 / 0, done=lambda result, error: arrived.set_result((result, error)))
    result, error = await arrived
    assert result is None
    assert isinstance(error, ZeroDivisionError)


async def test_heavy_work_is_awaited(pool):
    assert await pool.run(divmod, 7, 3) == (2, 1)
    with pytest.raises(ZeroDivisionError):
        await pool.run(divmod, 7, 0)


async def test_an_exception_that_futures_refuse_still_comes_back(pool):
    with pytest.raises(RuntimeError, match="StopIteration"):
        await pool.run(next, iter(()))


async def test_batches_do_not_wait_behind_heavy_work(pool):
    gate = threading.Event()
    blocked = [asyncio.ensure_future(pool.run(gate.wait, 30)) for _ in range(4)]
    arrived = asyncio.get_running_loop().create_future()
    await asyncio.sleep(0)
    pool.submit(lambda: "ran", done=lambda result, error: arrived.set_result(result))
    assert await arrived == "ran"
    assert not any(task.done() for task in blocked)
    gate.set()
    assert await asyncio.gather(*blocked) == [True] * 4


async def test_no_more_threads_than_asked_for(pool):
    seen = set()
    await asyncio.gather(*(pool.run(lambda: seen.add(threading.get_ident())) for _ in range(50)))
    assert 1 <= len(seen) <= 2


async def test_the_number_of_threads_is_settled_at_the_start():
    # Threads of other tests in this process come and go meanwhile: those of a pool have a name.
    def of_pools() -> set[threading.Thread]:
        return {t for t in threading.enumerate() if t.name.startswith("millrace-")}

    before = of_pools()
    pool = WorkerPool(2)
    started = of_pools() - before
    await asyncio.gather(*(pool.run(abs, k) for k in range(-50, 50)))
    assert len(started) == 4
    assert of_pools() - before == started
    pool.close()
    assert not of_pools() & started


async def test_cancelled_heavy_work_that_has_not_started_never_runs(pool):
    gate, ran = threading.Event(), []
    blocked = [asyncio.ensure_future(pool.run(gate.wait, 30)) for _ in range(2)]
    await asyncio.sleep(0)
    dropped = asyncio.ensure_future(pool.run(ran.append, 1))
    await asyncio.sleep(0)
    dropped.cancel()
    with pytest.raises(asyncio.CancelledError):
        await dropped
    gate.set()
    await asyncio.gather(*blocked)
    await pool.run(ran.append, 2)
    assert ran == [2]


async def test_cancelling_heavy_work_that_runs_harms_nobody(pool):
    gate, entered = threading.Event(), threading.Event()

    def wait():
        entered.set()
        return gate.wait(30)

    task = asyncio.ensure_future(pool.run(wait))
    await asyncio.to_thread(entered.wait, 30)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    gate.set()
    assert await pool.run(abs, -1) == 1


async def test_waiting_heavy_work_is_bounded():
    pool, gate = WorkerPool(1, max_waiting=2), threading.Event()
    tasks = [asyncio.ensure_future(pool.run(gate.wait, 30)) for _ in range(3)]
    await asyncio.sleep(0)
    assert pool.waiting == 2
    with pytest.raises(QueueFull) as caught:
        await pool.run(abs, 1)
    assert caught.value.extra["retry_after_s"] > 0
    gate.set()
    await asyncio.gather(*tasks)
    assert pool.waiting == 0
    pool.close()


async def test_close_finishes_joins_and_refuses():
    pool, done = WorkerPool(2), []
    pool.submit(lambda: done.append(1), done=lambda result, error: None)
    pool.close()
    assert done == [1]
    assert not [t for t in threading.enumerate() if t in pool._batches._threads]
    with pytest.raises(ServerDraining):
        pool.submit(abs, 1, done=lambda result, error: None)
    with pytest.raises(ServerDraining):
        await pool.run(abs, 1)


def test_one_pool_serves_one_loop_after_the_other(pool):
    for _ in range(2):
        assert asyncio.run(pool.run(abs, -3)) == 3


def test_a_pool_needs_a_thread():
    with pytest.raises(ValueError, match="at least 1"):
        WorkerPool(0)


async def test_posts_that_come_together_wake_the_loop_once():
    loop = asyncio.get_running_loop()
    wakes, order, finished = [], [], asyncio.Event()

    class CountingLoop:
        def call_soon_threadsafe(self, callback):
            wakes.append(callback)
            loop.call_soon_threadsafe(callback)

    mailbox = LoopMailbox(CountingLoop())

    def post_all():
        for number in range(100):
            mailbox.post(lambda number=number: order.append(number))
        mailbox.post(finished.set)

    thread = threading.Thread(target=post_all)
    thread.start()
    thread.join()  # the loop cannot deliver before this: all posts wait together
    await finished.wait()
    assert order == list(range(100))
    assert len(wakes) == 1


async def test_no_post_is_lost_between_threads():
    mailbox, count = LoopMailbox(asyncio.get_running_loop()), [0]

    def bump():
        count[0] += 1

    def post_many():
        for _ in range(2000):
            mailbox.post(bump)

    threads = [threading.Thread(target=post_many) for _ in range(4)]
    for thread in threads:
        thread.start()
    while count[0] < 8000:
        await asyncio.sleep(0.001)
    for thread in threads:
        thread.join()
    assert count[0] == 8000


async def test_a_callback_that_fails_does_not_take_the_others_along():
    loop = asyncio.get_running_loop()
    reported, arrived = [], asyncio.Event()
    loop.set_exception_handler(lambda loop, context: reported.append(context["exception"]))
    mailbox = LoopMailbox(loop)
    mailbox.post(lambda: 1 / 0)
    mailbox.post(arrived.set)
    await arrived.wait()
    assert [type(error) for error in reported] == [ZeroDivisionError]


def test_posts_to_a_closed_loop_are_dropped():
    loop = asyncio.new_event_loop()
    loop.close()
    LoopMailbox(loop).post(lambda: None)


@pytest.mark.skipif(sys.platform != "linux", reason="threads have priorities of their own on Linux")
def test_a_worker_stands_behind_the_loop():
    seen = {}

    def work():
        seen["lowered"] = lower_priority(2)
        seen["nice"] = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    before = os.getpriority(os.PRIO_PROCESS, 0)
    assert seen == {"lowered": True, "nice": min(19, before + 2)}


def test_no_priority_to_lower_is_no_error(monkeypatch):
    assert lower_priority(0) is False
    monkeypatch.setattr(sys, "platform", "darwin")
    assert lower_priority(5) is False


def test_a_forbidden_priority_is_no_error(monkeypatch):
    def forbidden(*args):
        raise PermissionError

    monkeypatch.setattr(os, "setpriority", forbidden)
    assert lower_priority(1) is False


def test_blas_threads_can_be_limited_and_products_stay_right():
    assert limit_blas_threads(1) is True
    a = np.arange(600.0).reshape(20, 30)
    np.testing.assert_allclose(a @ a.T, np.einsum("ij,kj->ik", a, a))


def test_no_known_blas_is_no_error(monkeypatch):
    tuning._blas_setter.cache_clear()
    monkeypatch.setattr(tuning, "_blas_libraries", list)
    assert limit_blas_threads(1) is False
    tuning._blas_setter.cache_clear()


@pytest.mark.skipif(sys.platform != "linux", reason="the option is glibc's")
def test_the_allocator_can_keep_what_is_freed():
    # In a process of its own: it would change how this one uses memory.
    code = "from server.execution import keep_freed_memory as k; raise SystemExit(0 if k() else 1)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=300).returncode == 0


def test_an_allocator_without_options_is_no_error(monkeypatch):
    monkeypatch.setattr(tuning.ctypes, "CDLL", lambda name: object())
    assert keep_freed_memory() is False


def test_a_settled_heap_is_left_alone_by_the_collector():
    try:
        settle_heap()
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()


def test_switch_interval():
    before = sys.getswitchinterval()
    try:
        set_switch_interval(0.002)
        assert sys.getswitchinterval() == pytest.approx(0.002)
    finally:
        set_switch_interval(before)


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (engine.InvalidInput("input 'x': expected float32, got int8"), InvalidInput),
        (engine.RunFailed("n", "Gather", "index 9 is out of range"), InvalidInput),
        (engine.ResourceLimit("n", "9 GiB", "1 GiB"), InvalidInput),
        (engine.ModelClosed("closed"), ModelNotReady),
        (ValueError("inside"), InternalFault),
        (MemoryError(), InternalFault),
    ],
)
def test_what_clients_are_told(raised, told):
    assert type(as_server_error(raised)) is told


def test_server_errors_pass_through():
    error = InvalidInput("x")
    assert as_server_error(error) is error
