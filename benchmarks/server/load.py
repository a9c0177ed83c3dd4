"""One closed-loop load with wrk, and what it cost the server."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

POST_LUA = Path(__file__).with_name("post.lua")


@dataclass(frozen=True, slots=True)
class Body:
    """What is posted."""

    path: str
    content: bytes
    content_type: str
    header: str = ""  # one more, "Name: value"


@dataclass(frozen=True, slots=True)
class Point:
    """One load's figures."""

    requests_per_s: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    errors: int
    cpu_ms: float  # of the server's process tree, per request
    other_cpu: float  # share of the machine that neither server nor wrk used

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


def tree_cpu_s(pid: int) -> float:
    """Return the CPU seconds of a process and its living descendants."""
    root = psutil.Process(pid)
    total = 0.0
    for process in (root, *root.children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


def _machine_busy_s() -> float:
    times = psutil.cpu_times()
    return sum(times) - times.idle - times.iowait - times.guest - times.guest_nice


def run_wrk(port: int, pid: int, body: Body, concurrency: int, seconds: int) -> Point:
    """Load a server for some seconds with as many connections as `concurrency`."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(body.content)
        file.flush()
        environment = {
            **os.environ,
            "BODY": file.name,
            "CTYPE": body.content_type,
            "HEADER": body.header,
        }
        command = ["wrk", "-t1", f"-c{concurrency}", f"-d{seconds}s", "--timeout", "30s"]
        command += ["-s", str(POST_LUA), f"http://127.0.0.1:{port}{body.path}"]
        cpu_s, busy_s, own_s = tree_cpu_s(pid), _machine_busy_s(), _wrk_cpu_s()
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        cpu_s, busy_s, own_s = (
            tree_cpu_s(pid) - cpu_s,
            _machine_busy_s() - busy_s,
            _wrk_cpu_s() - own_s,
        )
    lines = [line for line in done.stdout.splitlines() if line.startswith("JSON ")]
    if not lines:
        raise RuntimeError(f"wrk failed: {done.stdout}{done.stderr}")
    report = json.loads(lines[-1][5:])
    good = max(1, report["requests"] - report["errors"])
    elapsed_s = report["us"] / 1e6
    other = max(0.0, busy_s - cpu_s - own_s) / elapsed_s / (psutil.cpu_count() or 1)
    return Point(
        requests_per_s=good / elapsed_s,
        p50_ms=report["p50_ms"],
        p95_ms=report["p95_ms"],
        p99_ms=report["p99_ms"],
        errors=report["errors"],
        cpu_ms=cpu_s / good * 1e3,
        other_cpu=other,
    )


def _wrk_cpu_s() -> float:
    times = os.times()
    return times.children_user + times.children_system
