"""Lets a measurement go before everything else that wants the cores."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

TASKS = Path("/proc/self/task")


@contextmanager
def realtime(wanted: bool) -> Iterator[None]:
    """Run all threads of this process, and those they start, at the least real-time priority.

    Linux keeps a share of the time for the others (sched_rt_runtime_us), so that nothing stops.

    Raises:
        RuntimeError: It is wanted, and the system does not permit it.
    """
    if not wanted:
        yield
        return
    _schedule(os.SCHED_RR, 1)
    try:
        yield
    finally:
        _schedule(os.SCHED_OTHER, 0)


def _schedule(policy: int, priority: int) -> None:
    for task in TASKS.iterdir():
        try:
            with suppress(ProcessLookupError):  # a thread may end meanwhile
                os.sched_setscheduler(int(task.name), policy, os.sched_param(priority))
        except PermissionError as error:
            raise RuntimeError(
                "real-time priority is not permitted here: leave --realtime out, or give the "
                "process CAP_SYS_NICE"
            ) from error
