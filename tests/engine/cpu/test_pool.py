"""The pool: who gets cores, and that it survives many callers, forks and the end of the process."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.cpu.runtime.cores import allowed_cores, cgroup_quota
from engine.cpu.runtime.policy import grant
from engine.cpu.runtime.pool import Pool
from engine.cpu.runtime.program import CancelFlag, Group, NativeProgram
from tests.engine.cpu.runtime_kernels import Mix, Occupancy, mix, step

ROOT = Path(__file__).resolve().parents[3]


# ---------------------------------------------------------------------- the policy


@given(st.lists(st.integers(1, 64), max_size=12), st.integers(0, 64))
def test_grants(wanted, free):
    got = grant(wanted, free)
    assert len(got) == min(len(wanted), free), "somebody waits while a core is free"
    assert all(1 <= g <= w for g, w in zip(got, wanted, strict=False))
    assert sum(got) <= free
    left = free - sum(got)
    assert left == 0 or got == wanted, "cores are idle though somebody wanted them"


def test_runs_that_wait_together_share():
    assert grant([2], 2) == [2]
    assert grant([2, 2], 2) == [1, 1]
    assert grant([8, 8], 8) == [4, 4]
    assert grant([1, 8], 8) == [1, 7]
    assert grant([8, 1], 8) == [7, 1]
    assert grant([4, 4, 4], 2) == [1, 1]
    assert grant([4, 4, 4], 4) == [2, 1, 1]
    assert grant([3], 0) == []


# ---------------------------------------------------------------------- how many cores


@pytest.mark.parametrize(
    ("files", "own", "quota"),
    [
        ({}, "0::/\n", None),
        ({"cpu.max": "max 100000\n"}, "0::/\n", None),
        ({"cpu.max": "250000 100000\n"}, "0::/\n", 2.5),
        ({"a/b/cpu.max": "400000 100000", "a/cpu.max": "150000 100000"}, "0::/a/b\n", 1.5),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, "3:cpu:/\n", None),
        (
            {"cpu/x/cpu.cfs_quota_us": "50000", "cpu/x/cpu.cfs_period_us": "100000"},
            "3:cpu:/x\n2:memory:/x\n",
            0.5,
        ),
        ({"cpu.max": "nonsense"}, "0::/../..\nnonsense\n", None),
    ],
)
def test_quotas_of_control_groups(tmp_path, files, own, quota):
    for name, text in files.items():
        path = tmp_path / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "own").write_text(own)
    assert cgroup_quota(tmp_path / "root", tmp_path / "own") == quota
    assert cgroup_quota(tmp_path / "none", tmp_path / "none") is None


def test_a_quota_rounds_down_and_affinity_counts(monkeypatch):
    monkeypatch.setattr("engine.cpu.runtime.cores._affinity", lambda: 4)
    for quota, cores in [(None, 4), (8.0, 4), (3.9, 3), (0.5, 1)]:
        monkeypatch.setattr("engine.cpu.runtime.cores.cgroup_quota", lambda q=quota: q)
        assert allowed_cores() == cores


# ---------------------------------------------------------------------- many callers


def test_many_threads_and_programs_at_once_stay_within_the_cores():
    pool = Pool(3)
    words = np.zeros(64, np.int64)
    failures: list[str] = []

    def call(seed: int) -> None:
        random = np.random.default_rng(seed)
        x, y, want = np.arange(300), np.zeros(300, np.int64), np.zeros(300, np.int64)
        steps = [
            step(Mix(50), [(2, 0, 0), (1, 0, 0)], 100, numbers=(seed,)),
            step(Occupancy(), [(3, 0, 0)], 24, barrier=False),
            step(Mix(50), [(2, 0, 100 * 8), (1, 0, 0)], 100),
        ]
        program = NativeProgram(steps, [Group(0, 2), Group(2, 1, 3)], pool=pool)
        for _ in range(40):
            program.run(
                [0, x.ctypes.data, y.ctypes.data, words.ctypes.data], int(random.integers(1, 5))
            )
            mix(want[:100], x[:100], seed, 50)
            for item in range(3):
                mix(want[item * 100 : item * 100 + 100], x[:100], 0, 50)
        if not np.array_equal(y, want):
            failures.append(f"caller {seed} got wrong numbers")

    threads = [threading.Thread(target=call, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pool.close()
    assert not failures
    assert words[0] == 0
    assert 1 <= words[8] <= pool.cores, f"{words[8]} threads computed on {pool.cores} cores"


def test_who_waits_for_cores_can_be_cancelled():
    pool = Pool(1)
    held = pool.acquire(1, 0, 0)
    x, y = np.arange(4), np.zeros(4, np.int64)
    program = NativeProgram([step(Mix(), [(2, 0, 0), (1, 0, 0)], 4)], pool=pool)
    flag, results = CancelFlag(), []
    bases = [0, x.ctypes.data, y.ctypes.data]
    waiting = threading.Thread(target=lambda: results.append(program.run(bases, 1, None, flag)))
    waiting.start()
    while not pool.waiting:
        pass
    flag.set()
    waiting.join()
    assert results == [1] and not y.any() and not pool.waiting
    pool.release(held)
    assert program.run(bases, 1) == 0
    pool.close()


def test_cores_go_to_who_waits_in_order():
    pool = Pool(2)
    held = pool.acquire(2, 0, 0)
    got: list[tuple[str, int]] = []
    threads = []
    for place, name in enumerate("abc"):

        def call(name: str = name) -> None:
            slots = pool.acquire(2, 0, 0)
            got.append((name, len(slots)))
            pool.release(slots)

        threads.append(threading.Thread(target=call))
        threads[-1].start()
        while pool.waiting <= place:
            pass
    pool.release(held)
    for thread in threads:
        thread.join()
    counts = dict(got)
    assert counts["a"] == counts["b"] == 1, "two that wait together share two cores"
    pool.close()


def test_without_workers_the_caller_does_it_all(monkeypatch):
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    pool = Pool(4)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    x, y, want = np.arange(500), np.zeros(500, np.int64), np.zeros(500, np.int64)
    steps = [step(Mix(), [(2, 0, 0), (1, 0, 0)], 500)] * 3
    assert NativeProgram(steps, pool=pool).run([0, x.ctypes.data, y.ctypes.data], 4) == 0
    for _ in steps:
        mix(want, x, 0)
    np.testing.assert_array_equal(y, want)
    pool.close()


def test_a_closed_pool_still_computes():
    pool = Pool(2)
    x, y = np.arange(5), np.zeros(5, np.int64)
    program = NativeProgram([step(Mix(), [(2, 0, 0), (1, 0, 0)], 5)], pool=pool)
    program.run([0, x.ctypes.data, y.ctypes.data], 2)
    pool.close()
    pool.close()
    y[:] = 0
    program.run([0, x.ctypes.data, y.ctypes.data], 2)
    np.testing.assert_array_equal(y, x)


def test_a_pool_needs_a_core():
    with pytest.raises(ValueError, match="at least one core"):
        Pool(0)


# ---------------------------------------------------------------------- processes

_START = """
import os, sys, threading
import numpy as np
from engine.cpu.runtime.program import NativeProgram
from engine.cpu.runtime.pool import shared_pool
from tests.engine.cpu.runtime_kernels import Mix, step

x, y = np.arange(200), np.zeros(200, np.int64)
program = NativeProgram([step(Mix(2000), [(2, 0, 0), (1, 0, 0)], 200)] * 3)

def run():
    y[:] = 0
    assert program.run([0, x.ctypes.data, y.ctypes.data], 4) == 0
    return y.copy()

first = run()
"""


def script(body: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(_START) + textwrap.dedent(body)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )


def test_a_forked_child_has_a_pool_of_its_own():
    done = script(
        """
        stop = False
        def busy():
            while not stop: run_other()
        z = np.zeros(200, np.int64)
        def run_other(): program.run([0, x.ctypes.data, z.ctypes.data], 4)
        threads = [threading.Thread(target=busy) for _ in range(3)]
        for t in threads: t.start()
        for _ in range(5):
            child = os.fork()
            if not child:
                os._exit(0 if all(np.array_equal(run(), first) for _ in range(20)) else 3)
            assert os.waitpid(child, 0)[1] == 0
            assert np.array_equal(run(), first)
        stop = True
        for t in threads: t.join()
        """
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "ending",
    [
        "",
        "sys.exit(0)",
        """
        def busy():
            while True: program.run([0, x.ctypes.data, y.ctypes.data], 4)
        for _ in range(3): threading.Thread(target=busy, daemon=True).start()
        z = np.zeros(200, np.int64)
        for _ in range(20): program.run([0, x.ctypes.data, z.ctypes.data], 4)
        """,
    ],
    ids=["at the end of the program", "by sys.exit", "while daemon threads compute"],
)
def test_the_process_ends_cleanly(ending):
    done = script(ending)
    assert done.returncode == 0, done.stderr
    assert not done.stderr


def test_the_pool_of_the_process_is_made_once():
    done = script(
        """
        pools = []
        threads = [threading.Thread(target=lambda: pools.append(shared_pool())) for _ in range(8)]
        for t in threads: t.start()
        for t in threads: t.join()
        assert len(pools) == 8 and len(set(map(id, pools))) == 1
        workers = [t for t in threading.enumerate() if t.name.startswith("millrace-core")]
        assert len(workers) < pools[0].cores
        """
    )
    assert done.returncode == 0, done.stderr
