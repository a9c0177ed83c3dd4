"""Workers that crash, hang or raise harm nobody but their own task."""

from __future__ import annotations

import os
import signal
import time

import pytest

from benchmarks.common.workers import run_all


def work(task: str) -> str:
    match task:
        case "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "exit":
            os._exit(3)
        case "hang":
            time.sleep(600)
        case "raise":
            raise ValueError("no")
    return f"{task} done"


# The workers are forked on purpose: what the parent has loaded is there at once.
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("jobs", [1, 3])
def test_every_task_has_an_outcome(jobs: int) -> None:
    tasks = ["a", "crash", "b", "hang", "c", "raise", "exit", "d"]
    limits = {"hang": 0.3}
    found = dict(run_all(tasks, work, jobs=jobs, limit_s=lambda task: limits.get(task, 60.0)))
    assert found.keys() == set(tasks)
    assert {t: found[t].value for t in "abcd"} == {t: f"{t} done" for t in "abcd"}
    assert found["crash"].lost == "the process ended with signal SIGSEGV"
    assert found["exit"].lost == "the process ended with exit status 3"
    assert found["hang"].lost == "took more than 0.3 s"
    assert found["raise"].lost == "ValueError: no"
    assert all(found[t].value is None for t in ("crash", "exit", "hang", "raise"))


def test_no_tasks() -> None:
    assert not list(run_all([], work, jobs=2, limit_s=lambda _: 1.0))
