"""A Millrace server in a process of its own, and what the kernel says about it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

START_LIMIT_S = 120.0


def free_port() -> int:
    """Return a TCP port of the loopback interface that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass(frozen=True)
class Resources:
    """What a process holds: counts, and resident bytes of it and its children."""

    resident_bytes: int
    descriptors: int
    threads: int
    children: int


def _status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def read_resources(pid: int) -> Resources:
    """Read /proc for one process (Linux)."""
    status = _status(pid)
    tasks = Path(f"/proc/{pid}/task")
    children = [(task / "children").read_text().split() for task in tasks.iterdir()]
    return Resources(
        resident_bytes=int(status["VmRSS"].split()[0]) * 1024,
        descriptors=len(os.listdir(f"/proc/{pid}/fd")),  # noqa: PTH208 - only the count is wanted
        threads=int(status["Threads"]),
        children=sum(len(pids) for pids in children),
    )


class ServerProcess:
    """`python -m server serve REPOSITORY` on a free port; a context manager.

    Entering returns when `/v2/health/ready` answers 200; leaving sends SIGTERM and waits.
    """

    def __init__(self, repository: Path, log: Path, **environment: str) -> None:
        self.repository, self.log, self.port = repository, log, free_port()
        self.environment = {**os.environ, **environment}
        self.environment.pop("OPENBLAS_CORETYPE", None)  # numpy chooses its own kernels
        self.exit_code: int | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        return self.process.pid

    def __enter__(self) -> ServerProcess:
        command = [sys.executable, "-m", "server", "serve", str(self.repository)]
        command += ["--host", "127.0.0.1", "--port", str(self.port)]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, env=self.environment
            )
        self._wait_until_ready()
        return self

    def _wait_until_ready(self) -> None:
        limit = time.monotonic() + START_LIMIT_S
        while time.monotonic() < limit:
            if self.process.poll() is not None:
                break
            try:
                with urllib.request.urlopen(f"{self.url}/v2/health/ready", timeout=2) as answer:
                    if answer.status == 200:
                        return
            except (urllib.error.URLError, OSError):
                pass
            time.sleep(0.05)
        self.process.kill()
        self.process.wait()
        tail = self.log.read_text(errors="replace")[-2000:]
        raise RuntimeError(f"not ready within {START_LIMIT_S:g} s; the log ends:\n{tail}")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.exit_code = self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
