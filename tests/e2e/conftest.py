from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).resolve().parents[2]
START_S = 300.0


class Served:
    """A `millrace serve` process."""

    def __init__(self, repository: Path, *flags: str, **environment: str) -> None:
        settings = {f"MILLRACE_{name.upper()}": value for name, value in environment.items()}
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("MILLRACE_")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "server", "serve", str(repository), "--port", "0", *flags],
            cwd=ROOT,
            # Children that load stand back behind everything else.
            env=inherited
            | {"MILLRACE_SETTLE_S": "0", "MILLRACE_LOAD_TIMEOUT_S": "500", "COLUMNS": "400"}
            | settings,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self.output = ""
        self.url = ""

    def start(self) -> Served:
        found = self.read_until(r"on (http://[^\s]+)")
        self.url = found.group(1)
        self.read_until(r"Ready\. Try:\s+(curl .*)\n")
        assert httpx.get(f"{self.url}/v2/health/ready", timeout=200.0).status_code == 200
        return self

    def read_until(self, pattern: str, seconds: float = START_S) -> re.Match[str]:
        assert self.process.stdout is not None
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            found = re.search(pattern, self.output)
            if found:
                return found
            if select.select([self.process.stdout], [], [], 0.1)[0]:
                data = os.read(self.process.stdout.fileno(), 65536)
                assert data, f"the server ended: {self.output}"
                self.output += data.decode()
        raise AssertionError(f"no {pattern!r} in {self.output}")

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def wait(self, seconds: float) -> int:
        assert self.process.stdout is not None
        status = self.process.wait(seconds)
        self.output += self.process.stdout.read().decode()
        return status

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def serve() -> Iterator[Callable[..., Served]]:
    """Start `millrace serve` on a free port; it has loaded its models when this returns."""
    started: list[Served] = []

    def begin(repository: Path, *flags: str, **environment: str) -> Served:
        served = Served(repository, *flags, **environment)
        started.append(served)
        return served.start()

    yield begin
    for served in started:
        served.close()
