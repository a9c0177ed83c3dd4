import asyncio
import random
from contextlib import asynccontextmanager

import numpy as np
import pytest

from server.batching import Batcher, Work, monotonic_us
from server.batching.batcher import LONELY_RUNS, PROBE_EVERY
from server.errors import (
    DeadlineExceeded,
    InternalFault,
    InvalidInput,
    ModelNotReady,
    QueueFull,
    ServerDraining,
)
from server.execution import WorkerPool
from server.metrics import Metrics, Phase
from server.model_config import BatchingConfig
from tests.server.batching.models import POISON, Axes, RowModel, Spec

NEVER_INLINE, ALWAYS_INLINE = 0, 1 << 40


def row(value: float, count: int = 1) -> np.ndarray:
    return np.full((count, 3), value, np.float32) + np.arange(3, dtype=np.float32)


def work(value: float, count: int = 1, **options) -> Work:
    return Work({"x": row(value, count)}, count, **options)


@asynccontextmanager
async def batching(model=None, *, batch=Axes(), inline_us=NEVER_INLINE, **config):  # noqa: B008 - frozen
    """A batcher over a `RowModel`, closed at the end."""
    model = model or RowModel()
    pool = WorkerPool(2)
    options = {key: config.pop(key) for key in ("clock", "outputs") if key in config}
    batcher = Batcher(
        model.run,
        inputs=[Spec("x")],
        batch=batch,
        config=BatchingConfig(**config),
        pool=pool,
        metrics=Metrics().model("m", "1"),
        inline_us=inline_us,
        **options,
    )
    try:
        yield batcher, model
    finally:
        model.gate.set()
        await batcher.close()
        pool.close()


async def held(batcher, model):
    """Occupy the engine with one request, so that everything after it queues."""
    model.gate.clear()
    model.entered.clear()
    first = batcher.submit(work(0))
    assert await asyncio.to_thread(model.entered.wait, 300)
    model.calls.clear()
    return first


def assert_answer(result, value, count=1):
    np.testing.assert_array_equal(result.outputs["y"], row(value, count) * 2 + 1)
    np.testing.assert_array_equal(result.outputs["sum"], row(value, count).sum(axis=1))


@pytest.mark.parametrize("inline_us", [NEVER_INLINE, ALWAYS_INLINE])
async def test_one_request_is_answered(inline_us):
    async with batching(inline_us=inline_us) as (batcher, _):
        for _ in range(3):
            result = await batcher.submit(work(5, 2))
            assert_answer(result, 5, 2)
            assert result.batch_rows == 2
            assert min(result.queue_us, result.batch_us, result.compute_us) >= 0


async def test_an_idle_engine_starts_at_once_and_a_busy_one_lets_a_batch_form():
    async with batching(max_batch_size=8) as (batcher, model):
        first = await held(batcher, model)
        futures = [batcher.submit(work(i)) for i in range(1, 20)]
        model.gate.set()
        results = await asyncio.gather(first, *futures)
        assert model.calls == [8, 8, 3]
        for i, result in enumerate(results):
            assert_answer(result, i)
        assert [result.batch_rows for result in results[1:9]] == [8] * 8


async def test_requests_of_one_turn_of_the_loop_share_the_first_run():
    async with batching(inline_us=ALWAYS_INLINE) as (batcher, model):
        await asyncio.gather(*(batcher.submit(work(i)) for i in range(5)))
        assert model.calls == [5]


async def test_whoever_is_alone_for_long_is_answered_without_a_turn_of_the_loop():
    async with batching(inline_us=ALWAYS_INLINE) as (batcher, _):
        for i in range(LONELY_RUNS + 2):
            assert_answer(await batcher.submit(work(i)), i)
        at_once = batcher.submit(work(7))
        assert at_once.done()
        assert_answer(await at_once, 7)


async def test_company_after_a_lonely_time_soon_shares_runs_again():
    async with batching(inline_us=ALWAYS_INLINE) as (batcher, model):
        for i in range(LONELY_RUNS + 1):
            await batcher.submit(work(i))
        model.calls.clear()
        for _ in range(2):
            futures = [batcher.submit(work(i)) for i in range(20)]
            for i, future in enumerate(futures):
                assert_answer(await future, i)
        assert len(model.calls) <= PROBE_EVERY + 1
        assert model.calls[-1] == 20


async def test_an_idle_engine_waits_for_company_only_when_configured():
    async with batching(max_batch_size=2, max_queue_delay_us=10_000_000) as (batcher, model):
        first = batcher.submit(work(1))
        await asyncio.sleep(0.02)
        assert model.calls == []
        second = batcher.submit(work(2))  # now it is full
        await asyncio.gather(first, second)
        assert model.calls == [2]


async def test_the_wait_for_company_ends():
    async with batching(max_queue_delay_us=5_000) as (batcher, _):
        result = await batcher.submit(work(1))
        assert result.queue_us >= 4_000


async def test_closing_does_not_wait_for_company():
    async with batching(max_queue_delay_us=10_000_000) as (batcher, _):
        future = batcher.submit(work(1))
        await asyncio.sleep(0)
        await batcher.close()
        assert_answer(await future, 1)


@pytest.mark.parametrize("inline_us", [NEVER_INLINE, ALWAYS_INLINE])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("lanes", [1, 3])
async def test_many_random_interleavings_give_everyone_their_own_answer(seed, lanes, inline_us):
    draw = random.Random(seed)
    config = {"max_batch_size": 8, "max_queue_size": 10_000, "lanes": lanes}
    async with batching(inline_us=inline_us, **config) as (batcher, _):

        async def client(number):
            for turn in range(12):
                value, count = number * 100.0 + turn, draw.choice([1, 1, 1, 2, 5, 9, 21])
                future = batcher.submit(work(value, count, priority=draw.randint(-2, 2)))
                if draw.random() < 0.15:
                    await asyncio.sleep(0)
                    future.cancel()
                    continue
                assert_answer(await future, value, count)
                if draw.random() < 0.3:
                    await asyncio.sleep(0)

        await asyncio.gather(*(client(number) for number in range(16)))


async def test_a_row_of_nan_beside_good_rows_changes_nothing_for_them():
    async with batching() as (batcher, model):
        first = await held(batcher, model)
        good = [batcher.submit(work(i)) for i in range(3)]
        bad = batcher.submit(Work({"x": np.full((1, 3), np.nan, np.float32)}, 1))
        model.gate.set()
        results = await asyncio.gather(first, *good)
        for i, result in enumerate(results[1:]):
            assert_answer(result, i)
        assert np.isnan((await bad).outputs["y"]).all()
        assert model.calls == [4]


@pytest.mark.parametrize("poisoned", [{0}, {6}, {3, 4}, {0, 1, 2, 3, 4, 5, 6}])
async def test_only_the_bad_items_of_a_failing_batch_get_the_error(poisoned):
    async with batching() as (batcher, model):
        first = await held(batcher, model)
        futures = [batcher.submit(work(POISON if i in poisoned else i)) for i in range(7)]
        model.gate.set()
        results = await asyncio.gather(first, *futures, return_exceptions=True)
        for i, result in enumerate(results[1:]):
            if i in poisoned:
                assert isinstance(result, InvalidInput)
                assert "node_7" in result.message
            else:
                assert_answer(result, i)


async def test_a_fault_of_the_server_tells_the_client_nothing_about_its_inside(caplog):
    class Broken(RowModel):
        def run(self, inputs, fetches):
            raise ZeroDivisionError("secret path /etc/x")

    async with batching(Broken()) as (batcher, _):
        with pytest.raises(InternalFault) as caught:
            await batcher.submit(work(1))
        assert "secret" not in caught.value.message
        assert "secret" in caplog.text


async def test_a_model_that_takes_its_thread_down_is_a_fault_of_the_server():
    class Fatal(RowModel):
        def run(self, inputs, fetches):
            raise SystemExit(3)

    async with batching(Fatal()) as (batcher, _):
        with pytest.raises(InternalFault):
            await batcher.submit(work(1))


async def test_a_cancelled_request_never_runs():
    async with batching() as (batcher, model):
        first = await held(batcher, model)
        dropped, kept = batcher.submit(work(1)), batcher.submit(work(2))
        dropped.cancel()
        model.gate.set()
        assert_answer(await kept, 2)
        await first
        assert model.calls == [1]


async def test_cancelling_a_running_request_harms_nobody():
    async with batching() as (batcher, model):
        running = await held(batcher, model)
        running.cancel()
        kept = batcher.submit(work(2))
        model.gate.set()
        assert_answer(await kept, 2)


async def test_a_full_queue_refuses_and_says_when_to_come_back():
    async with batching(max_batch_size=4, max_queue_size=8) as (batcher, model):
        for _ in range(3):
            await batcher.submit(work(1))
        first = await held(batcher, model)
        futures = [batcher.submit(work(1, 4)), batcher.submit(work(2, 4))]
        with pytest.raises(QueueFull) as caught:
            batcher.submit(work(3))
        assert 0 < caught.value.extra["retry_after_s"] < 60
        model.gate.set()
        await asyncio.gather(first, *futures)
        assert_answer(await batcher.submit(work(3)), 3)


async def test_cancelled_requests_make_room():
    async with batching(max_queue_size=2) as (batcher, model):
        first = await held(batcher, model)
        dropped, kept = batcher.submit(work(1)), batcher.submit(work(2))
        dropped.cancel()
        third = batcher.submit(work(3))
        with pytest.raises(QueueFull):
            batcher.submit(work(4))
        model.gate.set()
        await asyncio.gather(first, kept, third)


async def test_a_request_that_could_never_fit_the_queue_is_wrong_not_early():
    async with batching(max_queue_size=8) as (batcher, _):
        with pytest.raises(InvalidInput, match="max_queue_size") as caught:
            batcher.submit(work(1, 9))
        assert caught.value.extra["got"] == 9


async def test_an_oversized_request_is_split_and_joined():
    async with batching(max_batch_size=4) as (batcher, model):
        x = np.arange(33, dtype=np.float32).reshape(11, 3)
        result = await batcher.submit(Work({"x": x}, 11))
        np.testing.assert_array_equal(result.outputs["y"], x * 2 + 1)
        assert model.calls == [4, 4, 3]
        assert result.batch_rows == 4


async def test_an_oversized_request_takes_turns_with_small_ones():
    async with batching(max_batch_size=4) as (batcher, model):
        first = await held(batcher, model)
        order = []
        large = batcher.submit(work(1, 40))
        small = [batcher.submit(work(2)) for _ in range(4)]
        large.add_done_callback(lambda _: order.append("large"))
        small[-1].add_done_callback(lambda _: order.append("small"))
        model.gate.set()
        await asyncio.gather(first, large, *small)
        assert order == ["small", "large"]
        assert model.calls[:3] == [4, 4, 4]
        assert sum(model.calls) == 44


async def test_one_bad_piece_fails_its_whole_request_and_the_rest_is_not_run():
    async with batching(max_batch_size=2) as (batcher, model):
        x = row(1, 20)
        x[0] = POISON
        with pytest.raises(InvalidInput):
            await batcher.submit(Work({"x": x}, 20))
        await batcher.close()
        assert len(model.calls) < 5
        assert batcher._queue.rows == 0


async def test_a_deadline_that_is_past_is_refused_at_once():
    async with batching() as (batcher, model):
        with pytest.raises(DeadlineExceeded):
            batcher.submit(work(1, deadline_us=monotonic_us() - 1))
        assert model.calls == []


async def test_a_deadline_passes_while_waiting_though_the_engine_is_busy():
    now = [1_000_000]
    async with batching(clock=lambda: now[0]) as (batcher, model):
        first = await held(batcher, model)
        future = batcher.submit(work(1, deadline_us=now[0] + 20_000))
        now[0] += 20_000
        with pytest.raises(DeadlineExceeded):
            await future  # the engine is still held: the alarm answered
        model.gate.set()
        await first
        assert model.calls == []


async def test_a_deadline_passes_while_running():
    now = [1_000_000]
    async with batching(clock=lambda: now[0]) as (batcher, model):
        model.gate.clear()
        future = batcher.submit(work(1, deadline_us=now[0] + 20_000))
        assert await asyncio.to_thread(model.entered.wait, 300)
        now[0] += 20_000
        with pytest.raises(DeadlineExceeded):
            await future
        model.gate.set()


async def test_expired_requests_are_dropped_when_a_batch_is_formed():
    now = [1_000_000]
    async with batching(clock=lambda: now[0]) as (batcher, model):
        first = await held(batcher, model)
        late = batcher.submit(work(1, deadline_us=now[0] + 60_000_000))
        kept = batcher.submit(work(2))
        now[0] += 61_000_000
        model.gate.set()
        with pytest.raises(DeadlineExceeded):
            await late
        assert_answer(await kept, 2)
        await first
        assert model.calls == [1]


async def test_a_deadline_that_the_queue_cannot_meet_is_refused_before_queueing():
    now = [1_000_000]
    async with batching(max_batch_size=2, clock=lambda: now[0]) as (batcher, model):
        batcher._cost.learn(2, 100_000.0)
        first = await held(batcher, model)
        futures = [batcher.submit(work(i)) for i in range(10)]
        with pytest.raises(DeadlineExceeded, match="longer than its deadline"):
            batcher.submit(work(1, deadline_us=now[0] + 400_000, priority=-9))
        fits = batcher.submit(work(1, deadline_us=now[0] + 900_000))
        # Urgent ones overtake, so what waits behind them does not count against them.
        urgent = batcher.submit(work(1, deadline_us=now[0] + 400_000))
        model.gate.set()
        await asyncio.gather(first, fits, urgent, *futures)


async def test_priority_goes_first():
    async with batching(max_batch_size=1) as (batcher, model):
        first = await held(batcher, model)
        order = []
        futures = []
        for name, priority in (("low", -1), ("normal", 0), ("high", 1)):
            future = batcher.submit(work(1, priority=priority))
            future.add_done_callback(lambda _, name=name: order.append(name))
            futures.append(future)
        model.gate.set()
        await asyncio.gather(first, *futures)
        assert order == ["high", "normal", "low"]


async def test_a_model_that_cannot_batch_runs_one_request_at_a_time_whole():
    async with batching(batch=None, max_batch_size=2) as (batcher, model):
        first = await held(batcher, model)
        futures = [batcher.submit(work(i, 5)) for i in range(3)]
        model.gate.set()
        for i, future in enumerate(futures):
            assert_answer(await future, i, 5)
        await first
        assert model.calls == [5, 5, 5]


async def test_batching_can_be_switched_off():
    async with batching(enabled=False) as (batcher, model):
        first = await held(batcher, model)
        futures = [batcher.submit(work(i)) for i in range(3)]
        model.gate.set()
        await asyncio.gather(first, *futures)
        assert model.calls == [1, 1, 1]


async def test_requests_for_an_output_that_cannot_be_shared_run_alone():
    async with batching(max_batch_size=4) as (batcher, model):
        first = await held(batcher, model)
        alone = [batcher.submit(work(i, 6, fetches=("mean",))) for i in range(2)]
        together = [batcher.submit(work(i, fetches=("y",))) for i in range(2)]
        model.gate.set()
        means = [(await future).outputs["mean"] for future in alone]
        assert means == [row(0, 6).mean(), row(1, 6).mean()]
        await asyncio.gather(first, *together)
        assert sorted(model.calls) == [2, 6, 6]


async def test_a_default_output_that_cannot_be_shared_keeps_requests_alone():
    async with batching(outputs=("y", "mean")) as (batcher, model):
        first = await held(batcher, model)
        futures = [batcher.submit(work(i)) for i in range(2)]
        model.gate.set()
        await asyncio.gather(first, *futures)
        assert model.calls == [1, 1]


async def test_an_unforeseen_output_that_cannot_be_shared_is_computed_alone():
    class Surprising(RowModel):
        def run(self, inputs, fetches):
            return super().run(inputs, ("y", "mean"))

    async with batching(Surprising()) as (batcher, model):
        first = await held(batcher, model)
        futures = [batcher.submit(work(i)) for i in range(2)]
        model.gate.set()
        for i, future in enumerate(futures):
            assert (await future).outputs["mean"] == row(i).mean()
        await first


@pytest.mark.parametrize("shape", [(3, 3), (), (0, 3)])
async def test_rows_that_do_not_match_are_refused_before_they_mix_with_others(shape):
    async with batching() as (batcher, _):
        with pytest.raises(InvalidInput, match="'x'") as caught:
            batcher.submit(Work({"x": np.zeros(shape, np.float32)}, 2))
        assert caught.value.extra["field"] == "x"


async def test_no_rows_are_answered_with_no_rows():
    async with batching() as (batcher, _):
        result = await batcher.submit(Work({"x": np.zeros((0, 3), np.float32)}, 0))
        assert result.outputs["y"].shape == (0, 3)


async def test_lanes_run_at_the_same_time():
    async with batching(max_batch_size=1, lanes=2) as (batcher, model):
        model.gate.clear()
        futures = [batcher.submit(work(i)) for i in range(2)]
        while len(model.calls) < 2:
            await asyncio.sleep(0.001)
        model.gate.set()
        await asyncio.gather(*futures)


async def test_short_runs_move_to_the_loop_and_long_ones_back_to_threads():
    async with batching(inline_us=1000) as (batcher, _):
        loop_thread = asyncio.get_running_loop()
        threads = []
        original = batcher._runner._run

        def noting(inputs, fetches):
            try:
                threads.append(asyncio.get_running_loop() is loop_thread)
            except RuntimeError:
                threads.append(False)
            return original(inputs, fetches)

        batcher._runner._run = noting
        await batcher.submit(work(1))
        assert threads == [False]  # unknown cost: never on the loop
        batcher._cost._least_us.update(dict.fromkeys(batcher._cost._least_us, 10.0))
        await batcher.submit(work(1))
        assert threads == [False, True]
        batcher._cost._least_us.update(dict.fromkeys(batcher._cost._least_us, 5000.0))
        await batcher.submit(work(1))
        assert threads == [False, True, False]


async def test_closing_finishes_what_is_queued_and_refuses_what_comes():
    async with batching(max_batch_size=2) as (batcher, model):
        first = await held(batcher, model)
        futures = [batcher.submit(work(i)) for i in range(5)]
        closing = asyncio.create_task(batcher.close())
        await asyncio.sleep(0)
        with pytest.raises(ModelNotReady):
            batcher.submit(work(9))
        assert not closing.done()
        model.gate.set()
        await closing
        assert first.done()
        assert all(future.done() for future in futures)
        await batcher.close()  # a second time is harmless


async def test_a_closed_pool_is_told_to_everyone_who_waits():
    async with batching() as (batcher, _):
        batcher._pool.close()
        with pytest.raises(ServerDraining):
            await batcher.submit(work(1))


async def test_batch_axes_must_name_inputs_of_the_model():
    with pytest.raises(ValueError, match="does not have"):
        async with batching(batch=Axes(inputs=frozenset({"nope"}))):
            pass


@pytest.mark.parametrize("inline_us", [NEVER_INLINE, ALWAYS_INLINE])
async def test_metrics_count_runs_requests_and_the_queue(inline_us):
    async with batching(inline_us=inline_us) as (batcher, model):
        await batcher.submit(work(1))
        futures = [batcher.submit(work(i)) for i in range(4)]
        metrics = batcher._metrics
        assert metrics.queue_depth == 4
        await asyncio.gather(*futures)
        await batcher.close()
        assert metrics.queue_depth == 0
        assert metrics.rows == sum(model.calls) == 5
        for phase in (Phase.QUEUE, Phase.BATCH, Phase.COMPUTE):
            assert metrics.phases[phase].count == 5
        assert metrics.statistics()["execution_count"] == len(model.calls)
