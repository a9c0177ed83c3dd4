"""The native loop against the same steps in numpy."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.cpu.native import compile_text, emit_text
from engine.cpu.runtime.layout import MAX_OPERANDS
from engine.cpu.runtime.pool import Pool
from engine.cpu.runtime.program import CancelFlag, Group, NativeProgram, ResolvedStep
from engine.cpu.runtime.walker import Walker
from engine.cpu.target import ISAS, target_for
from tests.engine.cpu.runtime_kernels import WORD, Mix, Scratched, mix, step

BUFFERS = 3
PER_ITEM = 24  # words of a buffer that belong to one item
LOCAL_WORDS = 64


@pytest.fixture(scope="module")
def pool():
    made = Pool(4)
    yield made
    made.close()


@dataclass(frozen=True)
class Draft:
    """A step to be made: buffers by number, 0 is the worker's own memory."""

    y: int
    x: int
    number: int
    tasks: int
    chunk: int


drafts = st.builds(
    Draft,
    y=st.integers(1, BUFFERS),
    x=st.integers(1, BUFFERS),
    number=st.integers(-9, 9),
    tasks=st.integers(0, PER_ITEM),
    chunk=st.integers(0, 5),
)
parts = st.lists(
    st.tuples(st.lists(drafts, min_size=1, max_size=4), st.integers(0, 9)), min_size=1, max_size=4
)


def build(groups: list[tuple[list[Draft], int]]) -> tuple[list[ResolvedStep], list[Group]]:
    steps: list[ResolvedStep] = []
    made: list[Group] = []
    for members, items in groups:
        made.append(Group(len(steps), len(members), items, LOCAL_WORDS * WORD if items else 0))
        for d in members:
            apart = PER_ITEM * WORD if items else 0
            operands = [(d.y, 0, apart), (d.x, 0, apart)]
            steps.append(step(Mix(), operands, d.tasks, numbers=(d.number,), chunk=d.chunk))
    return steps, made


def expected(groups: list[tuple[list[Draft], int]], buffers: list[np.ndarray]) -> None:
    for members, items in groups:
        for item in range(max(items, 1)):
            for d in members:
                part = slice(item * PER_ITEM, item * PER_ITEM + d.tasks)
                mix(buffers[d.y - 1][part], buffers[d.x - 1][part].copy(), d.number)


@settings(max_examples=150, deadline=None)
@given(groups=parts, threads=st.integers(1, 4), runs=st.integers(1, 3))
def test_any_program_computes_what_numpy_does(pool, groups, threads, runs):
    # y == x is fine: every task reads and writes its own element alone
    steps, made = build(groups)
    program = NativeProgram(steps, made, pool=pool)
    start = [np.arange(PER_ITEM * 10) * (k + 1) for k in range(BUFFERS)]
    got, want = [b.copy() for b in start], [b.copy() for b in start]
    for _ in range(runs):
        bases = [0, *(b.ctypes.data for b in got)]
        assert program.run(bases, threads) == 0
        expected(groups, want)
    for k in range(BUFFERS):
        np.testing.assert_array_equal(got[k], want[k])


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
@pytest.mark.parametrize("chunk", [0, 1, 3, 1000])
def test_every_task_is_done_once(pool, threads, chunk):
    y, x = np.zeros(1000, np.int64), np.arange(1000)
    steps = [step(Mix(200), [(1, 0, 0), (2, 0, 0)], 1000, chunk=chunk) for _ in range(6)]
    program = NativeProgram(steps, pool=pool)
    want = np.zeros(1000, np.int64)
    for _ in range(5):
        program.run([0, y.ctypes.data, x.ctypes.data], threads)
        for _ in range(6):
            mix(want, x, 0, 200)
    np.testing.assert_array_equal(y, want)


@pytest.mark.parametrize("items", [1, 2, 3, 5, 8])
def test_items_have_local_memory_of_their_own(pool, items):
    # x -> local -> y; what another item had left in local memory must not be seen
    tasks = 16
    x, y = np.arange(items * tasks) + 5, np.zeros(items * tasks, np.int64)
    zeros = np.zeros(tasks, np.int64)
    apart = tasks * WORD
    clear = step(Mix(0), [(0, 0, 0), (3, 0, 0)], tasks, numbers=(0,))
    steps = [
        step(Scratched(), [(0, 0, 0)], tasks),
        clear,
        step(Mix(300), [(0, 0, 0), (1, 0, apart)], tasks),
        step(Mix(300), [(2, 0, apart), (0, 0, 0)], tasks, numbers=(3,)),
    ]
    local = np.zeros(tasks, np.int64)
    want = np.zeros_like(y)
    for item in range(items):
        part = slice(item * tasks, (item + 1) * tasks)
        local[:] = 2 * np.arange(tasks)
        mix(local, zeros, 0)
        mix(local, x[part], 0, 300)
        mix(want[part], local.copy(), 3, 300)
    program = NativeProgram(
        steps, [Group(0, len(steps), items, tasks * WORD)], scratch_bytes=4096, pool=pool
    )
    for threads in (1, 2, 3, 4):
        y[:] = 0
        program.run([0, x.ctypes.data, y.ctypes.data, zeros.ctypes.data], threads)
        np.testing.assert_array_equal(y, want)


def test_steps_without_a_barrier_between_them_all_count_before_the_next_barrier(pool):
    # four independent steps, then one that reads all of what they wrote
    x, y, z = np.arange(64), np.zeros((4, 64), np.int64), np.zeros(256, np.int64)
    steps = [
        step(Mix(500), [(2, 64 * WORD * k, 0), (1, 0, 0)], 64, numbers=(k,), barrier=False)
        for k in range(4)
    ]
    steps.append(step(Mix(), [(3, 0, 0), (2, 0, 0)], 256))
    program = NativeProgram(steps, pool=pool)
    for threads in (1, 2, 4):
        for _ in range(50):
            y[:], z[:] = 0, 0
            program.run([0, x.ctypes.data, y.ctypes.data, z.ctypes.data], threads)
            want = np.zeros((4, 64), np.int64)
            for k in range(4):
                mix(want[k], x, k, 500)
            np.testing.assert_array_equal(z, want.reshape(-1))


def test_threads_have_scratch_memory_of_their_own(pool):
    y = np.zeros(5000, np.int64)
    program = NativeProgram([step(Scratched(), [(1, 0, 0)], 5000)], None, 4096, pool=pool)
    for _ in range(20):
        y[:] = -1
        program.run([0, y.ctypes.data], 4)
        np.testing.assert_array_equal(y, 2 * np.arange(5000))


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("columns", [2, 3])
def test_stamps_lie_within_the_run_and_in_order(pool, threads, columns):
    x, y = np.arange(400), np.zeros(400, np.int64)
    operands = [(2, 0, 0), (1, 0, 0)]
    steps = [step(Mix(300), operands, 400), step(Mix(), operands, 0), step(Mix(300), operands, 400)]
    stamps = np.full((3, columns), -1, np.int64)
    program = NativeProgram(steps, pool=pool)
    before = time.monotonic_ns()
    program.run([0, x.ctypes.data, y.ctypes.data], threads, stamps)
    after = time.monotonic_ns()
    assert before <= stamps[:, :2].min() and stamps[:, :2].max() <= after
    assert (stamps[:, 1] >= stamps[:, 0]).all()
    assert stamps[2, 0] >= stamps[0, 1], "a step began before the one that it needs had ended"
    assert stamps[1, 0] == stamps[1, 1] == stamps[:, 0].min(), "a step without tasks took time"
    if columns == 3:
        assert 0 < stamps[0, 2] <= threads * (stamps[0, 1] - stamps[0, 0])
        assert stamps[1, 2] == 0


@pytest.mark.parametrize("threads", [1, 4])
def test_stamps_of_items_do_not_overlap(pool, threads):
    x, y = np.arange(200), np.zeros(200, np.int64)
    operands = [(2, 0, 20 * WORD), (1, 0, 20 * WORD)]
    turns = (3000, 1, 9000)
    steps = [step(Mix(t), operands, 20) for t in turns]
    stamps = np.zeros((3, 3), np.int64)
    program = NativeProgram(steps, [Group(0, 3, 10)], pool=pool)
    before = time.monotonic_ns()
    program.run([0, x.ctypes.data, y.ctypes.data], threads, stamps)
    after = time.monotonic_ns()
    assert before <= stamps[0, 0] and stamps[2, 1] <= after
    assert (stamps[1:, 0] == stamps[:-1, 1]).all()
    took = stamps[:, 1] - stamps[:, 0]
    np.testing.assert_allclose(took / took.sum(), stamps[:, 2] / stamps[:, 2].sum(), atol=0.01)


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("items", [0, 50])
def test_a_cancelled_run_ends_early(pool, threads, items):
    count = 4000  # far more than anybody waits for, should the timer be late
    x, y = np.arange(2000), np.zeros(2000, np.int64)
    steps = [step(Mix(200_000), [(2, 0, 0), (1, 0, 0)], 64) for _ in range(count)]
    program = NativeProgram(steps, [Group(0, count, items)] if items else None, pool=pool)
    bases = [0, x.ctypes.data, y.ctypes.data]
    flag = CancelFlag()
    flag.set()
    assert program.run(bases, threads, None, flag) == 1
    assert not y.any(), "a run that was cancelled before it began did something"
    flag = CancelFlag()
    timer = threading.Timer(0.02, flag.set)
    timer.start()
    stamps = np.zeros((count, 2), np.int64)
    assert program.run(bases, threads, stamps, flag) == 1
    timer.join()
    left = y.copy()
    assert program.run(bases, threads, None, flag) == 1  # the flag stays set
    np.testing.assert_array_equal(y, left)
    # and the program is as good as before
    short = NativeProgram(steps[:1], pool=pool)
    y[:] = 0
    assert short.run(bases, threads, None, CancelFlag()) == 0
    assert (y[:64] != 0).all()


def test_what_cannot_be_packed_is_refused(pool):
    good = step(Mix(), [(1, 0, 0), (2, 0, 0)], 1)
    with pytest.raises(ValueError, match="cover"):
        NativeProgram([good, good], [Group(0, 1)], pool=pool)
    with pytest.raises(ValueError, match="cover"):
        NativeProgram([good, good], [Group(1, 1), Group(0, 1)], pool=pool)
    with pytest.raises(ValueError, match="operands"):
        NativeProgram([step(Mix(), [(1, 0, 0)] * (MAX_OPERANDS + 1), 1)], pool=pool)
    with pytest.raises(ValueError, match="negative"):
        NativeProgram([step(Mix(), [(1, 0, 0)], -1)], pool=pool)
    program = NativeProgram([good], pool=pool)
    with pytest.raises(ValueError, match="3 bases"):
        program.run([0, 1], 1)
    with pytest.raises(ValueError, match="at least one thread"):
        program.run([0, 1, 2], 0)


def test_a_program_without_steps_does_nothing(pool):
    assert NativeProgram([], pool=pool).run([0], 4) == 0
    assert NativeProgram([], [], pool=pool).run([0], 4) == 0


@pytest.mark.parametrize("isa", ISAS)
def test_the_loop_compiles_for_every_target(isa):
    target = target_for(isa)
    assert len(compile_text(emit_text(Walker(), "runtime", target), target)) > 1000
