"""The worker process from outside: gives it rows, replaces it when it dies or hangs."""

from __future__ import annotations

import json
import select
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import IO

from benchmarks.engine.environment import clean_environment
from benchmarks.engine.rows import Key, Row, row_from_dict
from benchmarks.engine.settings import Settings

ROW_LIMIT_S = 900.0


class Runner:
    """Measures rows one after another in a worker process; a context manager that ends it."""

    def __init__(self, settings: Settings, limit_s: float = ROW_LIMIT_S) -> None:
        self._settings, self._limit_s = settings, limit_s
        self._process: subprocess.Popen[str] | None = None
        self._log: IO[bytes] | None = None

    def measure(self, key: Key) -> Row:
        """Return the row; a crash or a time-out is a row too."""
        process = self._process or self._start()
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(task_line(key, self._settings))
            process.stdin.flush()
        except BrokenPipeError:
            return Row(key, failed=self._crash(process))
        ready, _, _ = select.select([process.stdout], [], [], self._limit_s)
        line = process.stdout.readline() if ready else ""
        if line:
            return row_from_dict(json.loads(line))
        if not ready:
            process.kill()
            self._crash(process)
            return Row(key, failed=f"took more than {self._limit_s:g} s")
        return Row(key, failed=self._crash(process))

    def _start(self) -> subprocess.Popen[str]:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed when the process has ended
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.engine.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=clean_environment(),
            cwd=Path(__file__).parents[2],
        )
        return self._process

    def _crash(self, process: subprocess.Popen[str]) -> str:
        """Clear away a worker that ends; return how it ended and its last words."""
        code = self._end(process)
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
        words = ""
        if self._log is not None:
            self._log.seek(0)
            words = self._log.read().decode(errors="replace").strip()[-300:]
            self._log.close()
        return f"the process ended with {how}: {words}"

    def _end(self, process: subprocess.Popen[str]) -> int:
        self._process = None
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()
        try:
            return process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()

    def __enter__(self) -> Runner:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process is not None:
            self._end(self._process)
        if self._log is not None:
            self._log.close()


def task_line(key: Key, settings: Settings) -> str:
    """Return what the worker reads for one row."""
    return json.dumps({"key": asdict(key), "settings": asdict(settings)}) + "\n"
