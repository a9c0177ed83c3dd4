"""Prepared runs find out how many cores pay."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from engine.cpu.runtime import program
from engine.cpu.runtime.pool import Pool
from engine.cpu.runtime.program import SETTLED_RUNS, TRIALS, NativeProgram, PreparedRun
from tests.engine.cpu.runtime_kernels import Mix, step


class Clocked:
    """A program that takes the time it is told to, and notes on how many cores it ran."""

    width = 4
    has_company = False

    def __init__(self, alone: int, together: int) -> None:
        self.times = {True: alone, False: together}
        self.now = 0
        self.cores: list[int] = []

    def walk(self, context: object, threads: int) -> int:
        self.cores.append(threads)
        self.now += self.times[threads == 1]
        return 0


def prepared(native: Any, threads: int, monkeypatch: pytest.MonkeyPatch) -> PreparedRun:
    monkeypatch.setattr(program, "perf_counter_ns", lambda: native.now)
    context: Any = None
    return PreparedRun(native, context, threads, None)


@pytest.mark.parametrize(("alone", "together", "chosen"), [(100, 60, 4), (100, 98, 1), (50, 80, 1)])
def test_cores_are_taken_where_they_save_time(
    alone: int, together: int, chosen: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    native = Clocked(alone, together)
    run = prepared(native, 8, monkeypatch)
    for _ in range(TRIALS + 5):
        run()
    assert sorted(set(native.cores[:TRIALS])) == [1, 4]
    assert native.cores[TRIALS:] == [chosen] * 5
    native.times = {True: 1, False: 100}  # the world changes
    for _ in range(SETTLED_RUNS + TRIALS):
        run()
    assert native.cores[-1] == 1


def test_one_core_asks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    native = Clocked(10, 1)
    run = prepared(native, 1, monkeypatch)
    for _ in range(3):
        run()
    assert native.cores == [1, 1, 1] and native.now == 30


def test_beside_other_runs_one_core_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    native = Clocked(100, 60)
    run = prepared(native, 8, monkeypatch)
    native.has_company = True
    for _ in range(TRIALS):
        run()
    assert native.cores == [1] * TRIALS
    native.has_company = False  # what ran beside others told nothing about this
    for _ in range(TRIALS + 1):
        run()
    assert native.cores[TRIALS:-1] == [4, 1] * (TRIALS // 2) and native.cores[-1] == 4


def test_runs_are_company_while_they_hold_cores() -> None:
    pool = Pool(cores=2)
    native = NativeProgram([step(Mix(), [(2, 0, 0), (1, 0, 0)], 50)], pool=pool)
    assert not native.has_company
    slots = pool.acquire(1, 0, 0)
    assert native.has_company and pool.lent == 1
    pool.release(slots)
    assert not native.has_company


def test_trials_compute_like_all_runs() -> None:
    x, y = np.arange(50), np.zeros(50, np.int64)
    native = NativeProgram([step(Mix(), [(2, 0, 0), (1, 0, 0)], 50)])
    run = native.prepare([0, x.ctypes.data, y.ctypes.data], 2, (x, y))
    expected = np.zeros(50, np.int64)
    for _ in range(TRIALS + 2):
        run()
        expected = expected * 7 + x
        np.testing.assert_array_equal(y, expected)
