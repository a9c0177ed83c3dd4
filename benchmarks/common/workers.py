"""Runs tasks in worker processes that may crash or hang without harm to the others.

Each task has a time limit of its own. A worker that dies or outlasts the limit is replaced, and its
task counts as lost. Workers are forked, so what the caller has loaded need not be loaded again.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")

ORPHAN_CHECK_S = 5.0
_FORK = multiprocessing.get_context("fork")


@dataclass(frozen=True)
class Outcome(Generic[R]):
    """What became of a task.

    Attributes:
        value: What the task returned; None when it was lost.
        lost: Why there is no value, "" when there is one.
        seconds: Wall-clock time from handing the task out.
    """

    value: R | None
    lost: str
    seconds: float


class _Worker(Generic[T, R]):
    """One forked process and the pipe to it."""

    def __init__(self, work: Callable[[T], R], start: Callable[[], None]) -> None:
        self.pipe, far = _FORK.Pipe()
        self.process = _FORK.Process(target=_serve, args=(far, work, start), daemon=True)
        self.process.start()
        far.close()
        self.task: T | None = None
        self.began_s = 0.0

    def give(self, task: T) -> None:
        self.task, self.began_s = task, time.monotonic()
        self.pipe.send(task)

    def left_s(self, limit_s: float) -> float:
        return max(0.0, self.began_s + limit_s - time.monotonic())

    def outcome(self, value: R | None, lost: str) -> Outcome[R]:
        return Outcome(value, lost, time.monotonic() - self.began_s)

    def end(self) -> None:
        if self.process.is_alive():
            self.process.kill()
        self.process.join()
        self.pipe.close()


def run_all(
    tasks: Iterable[T],
    work: Callable[[T], R],
    *,
    jobs: int,
    limit_s: Callable[[T], float],
    start: Callable[[], None] = lambda: None,
) -> Iterator[tuple[T, Outcome[R]]]:
    """Yield every task with its outcome, in the order in which they end.

    Args:
        tasks: What to do, in this order; must pickle.
        work: Does one task in a worker; what it returns must pickle.
        jobs: Worker processes.
        limit_s: Seconds that a task may take before its worker is killed.
        start: Called once in each new worker.
    """
    waiting = iter(tasks)
    workers: list[_Worker[T, R]] = []
    try:
        for _ in range(jobs):
            if (task := next(waiting, None)) is None:
                break
            workers.append(_Worker(work, start))
            workers[-1].give(task)
        while workers:
            worker, outcome = _next_ended(workers, limit_s)
            assert worker.task is not None
            yield worker.task, outcome
            if outcome.lost:
                workers.remove(worker)
                worker.end()
            if (task := next(waiting, None)) is None:
                if worker in workers:
                    workers.remove(worker)
                    worker.end()
                continue
            if outcome.lost:
                worker = _Worker(work, start)
                workers.append(worker)
            worker.give(task)
    finally:
        for worker in workers:
            worker.end()


def _next_ended(
    workers: list[_Worker[T, R]], limit_s: Callable[[T], float]
) -> tuple[_Worker[T, R], Outcome[R]]:
    """Wait until one worker has answered, died, or run out of time."""
    while True:
        left = {w: w.left_s(limit_s(w.task)) for w in workers if w.task is not None}
        ready = multiprocessing.connection.wait([w.pipe for w in workers], min(left.values()))
        for worker in workers:
            if worker.pipe in ready:
                return worker, _received(worker)
            if left[worker] <= 0.0:
                assert worker.task is not None
                return worker, worker.outcome(None, f"took more than {limit_s(worker.task):g} s")


def _received(worker: _Worker[T, R]) -> Outcome[R]:
    try:
        value, fault = worker.pipe.recv()
    except (EOFError, OSError):
        worker.process.join()
        code = worker.process.exitcode or 0
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
        return worker.outcome(None, f"the process ended with {how}")
    return worker.outcome(value, fault)


def _serve(pipe: Any, work: Callable[[T], R], start: Callable[[], None]) -> None:
    """Do tasks until the other end closes; native libraries get nowhere to chatter."""
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 1)
    os.dup2(sink, 2)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = os.getppid()
    start()
    while True:
        # The pipe's far end was inherited too: it never closes, so the parent is looked for.
        while not pipe.poll(ORPHAN_CHECK_S):
            if os.getppid() != parent:
                return
        try:
            task = pipe.recv()
        except EOFError:
            return
        try:
            answer: tuple[R | None, str] = work(task), ""
        except Exception as error:
            answer = None, f"{type(error).__name__}: {error}"[:500]
        pipe.send(answer)
