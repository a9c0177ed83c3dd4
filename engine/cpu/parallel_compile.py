"""Compiles many kernels: in this process, and in children that take jobs from the other end.

LLVM works for one thread of a process at a time and writing its text holds the GIL, so more cores
are of use through processes only. Children need a while to start; meanwhile this process goes on,
and what a child fails at is compiled here.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import IO, Final

from engine.cpu.compile_worker import COMMAND, LENGTH
from engine.cpu.kernel import Kernel
from engine.cpu.native import compile_kernel
from engine.cpu.spec_json import NotPlain, write_spec
from engine.cpu.target import Target

KERNELS_PER_CHILD: Final = 6  # fewer are done here before a child has started
MAX_CHILDREN: Final = 7
CHILD_S: Final = 60.0  # how long a child may take for what it has in hand when all else is done
MAX_CODE_BYTES: Final = 64 << 20
LOOK_S: Final = 0.05  # how often it is looked at what children made while this process only waits

Done = Callable[[str, bytes], None]  # name of the function, its object file


def compile_many(
    jobs: Mapping[str, Kernel],
    target: Target,
    done: Done,
    *,
    processes: int = 1,
    aside: bool = False,
) -> None:
    """Compile kernels by the names of their functions; `done` is called from this thread.

    Args:
        jobs: Kernels by name.
        target: The processor.
        done: Is told of each.
        processes: How many may work at the same time, this one included.
        aside: Whether a child does all that it can, and this process what is left.
    """
    work = _Work(jobs, target)
    children = min(processes - 1, len(jobs) // KERNELS_PER_CHILD, MAX_CHILDREN)
    helpers = [_Helper(work) for _ in range(1 if aside else children)]
    try:
        if aside:
            _wait_while_it_goes_on(helpers, work, done)
        while (name := work.take_last()) is not None:
            done(name, compile_kernel(jobs[name], name, target))
            work.report(done)
        for helper in helpers:
            helper.wait()
    finally:
        for helper in helpers:
            helper.end()
    work.report(done)
    for name in jobs.keys() - work.reported - work.own:
        done(name, compile_kernel(jobs[name], name, target))


def _wait_while_it_goes_on(helpers: Sequence[_Helper], work: _Work, done: Done) -> None:
    """Leave the work to children as long as kernels keep coming."""
    seen, since = 0, time.monotonic()
    while any(helper.is_busy for helper in helpers) and time.monotonic() < since + CHILD_S:
        for helper in helpers:
            helper.wait(LOOK_S)
        work.report(done)
        if len(work.reported) > seen:
            seen, since = len(work.reported), time.monotonic()


class _Work:
    """Jobs that nobody has taken, and what children made."""

    def __init__(self, jobs: Mapping[str, Kernel], target: Target) -> None:
        self._waiting = deque(jobs)
        self._made: deque[tuple[str, bytes]] = deque()
        self.reported: set[str] = set()
        self.own: set[str] = set()
        self._jobs, self._target = jobs, target

    def take_last(self) -> str | None:
        """Return a job for this process."""
        try:
            name = self._waiting.pop()
        except IndexError:
            return None
        self.own.add(name)
        return name

    def take_first(self) -> tuple[str, str] | None:
        """Return a job for a child: its name, and the line that asks for it."""
        while True:
            try:
                name = self._waiting.popleft()
            except IndexError:
                return None
            try:
                kernel, target = write_spec(self._jobs[name]), write_spec(self._target)
            except NotPlain:
                continue  # nobody reports it, so this process does it in the end
            return name, json.dumps({"name": name, "target": target, "kernel": kernel})

    def add(self, name: str, code: bytes) -> None:
        """Take in what a child made."""
        self._made.append((name, code))

    def report(self, done: Done) -> None:
        """Pass on what children made since the last time."""
        while self._made:
            name, code = self._made.popleft()
            self.reported.add(name)
            done(name, code)


class _Helper:
    """A child process, and the thread that talks with it. Failing is giving jobs back undone."""

    def __init__(self, work: _Work) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self._thread: threading.Thread | None = None
        try:
            self._child = _start()
            thread = threading.Thread(target=self._serve, args=(work, self._child), daemon=True)
            thread.start()
        except (OSError, RuntimeError):  # no process or thread to be had: the others do the work
            return
        self._thread = thread

    def wait(self, seconds: float = CHILD_S) -> None:
        """Give the child time to finish what it has in hand."""
        if self._thread is not None:
            self._thread.join(seconds)

    @property
    def is_busy(self) -> bool:
        """Whether the child may still bring something."""
        return self._thread is not None and self._thread.is_alive()

    def end(self) -> None:
        """Leave nothing running and nothing to reap."""
        if self._child is None:
            return
        self._child.kill()
        self._child.wait()
        if self._thread is not None:
            self._thread.join()
        for pipe in (self._child.stdin, self._child.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()

    def _serve(self, work: _Work, child: subprocess.Popen[bytes]) -> None:
        assert child.stdin is not None and child.stdout is not None
        with suppress(OSError):  # the child is gone
            while (job := work.take_first()) is not None:
                name, line = job
                child.stdin.write(line.encode() + b"\n")
                child.stdin.flush()
                code = _read_code(child.stdout)
                if code is None:
                    return
                if code:
                    work.add(name, code)


def _start() -> subprocess.Popen[bytes]:
    # In our own process group: who kills that, as `engine.isolate` does, leaves nothing behind.
    kept = {key: value for key, value in os.environ.items() if not key.startswith("MILLRACE_")}
    return subprocess.Popen(
        COMMAND,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env={**kept, "OPENBLAS_NUM_THREADS": "1"},
        close_fds=True,
    )


def _read_code(pipe: IO[bytes]) -> bytes | None:
    """Return the next object file, b"" where the child could not make it, None when it is gone."""
    head = pipe.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    (length,) = LENGTH.unpack(head)
    if length > MAX_CODE_BYTES:
        return None
    code = pipe.read(length)
    return code if len(code) == length else None
