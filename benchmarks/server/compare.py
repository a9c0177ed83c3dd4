"""Millrace beside a hand-written FastAPI wrapper and LitServe: the same net, the same load.

All servers run side by side and are loaded with wrk in turn, point by point; the figures are
medians over the rounds. They share one environment, so one FastAPI, uvicorn and numpy. Needs
Debian's `wrk`, and

    python3 -m venv .venv-bench && .venv-bench/bin/pip install -e ".[bench]"
    .venv-bench/bin/python -m benchmarks.server.compare [--rounds 3] [--seconds 5]
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import median

import numpy as np
import orjson

from benchmarks.common.machine import machine_facts
from benchmarks.common.models import dense_net
from benchmarks.common.results import (
    Target,
    at_least,
    at_most,
    markdown_table,
    targets_table,
    write_result,
)
from benchmarks.common.server_process import ServerProcess, free_port
from benchmarks.server.load import Body, Point, run_wrk

PEERS = Path(__file__).with_name("peers")
CONCURRENCIES = (1, 8, 32, 64)
WARM_UP_S = 2
START_LIMIT_S = 60.0
ROW = np.random.default_rng(1).random(784, np.float32).round(5)
MULTIPART = "multipart/form-data; boundary=xxbenchxx"

Figures = dict[tuple[str, str, int], Point]  # (body, server, concurrency)


@dataclass(frozen=True)
class Running:
    port: int
    pid: int


def json_bodies() -> dict[str, Body]:
    values = [round(float(value), 5) for value in ROW]
    plain = Body("/json", orjson.dumps({"input": values}), "application/json")
    ours = orjson.dumps({"model": "tiny", "inputs": [{"tensors": {"input": [values]}}]})
    return {
        "millrace": Body("/predict", ours, "application/json"),
        "wrapper": plain,
        "litserve": Body("/predict", plain.content, "application/json"),
    }


def v2_binary_body() -> Body:
    header = orjson.dumps(
        {
            "inputs": [
                {
                    "name": "input",
                    "datatype": "FP32",
                    "shape": [1, 784],
                    "parameters": {"binary_data_size": ROW.nbytes},
                }
            ],
            "outputs": [{"name": "logits", "parameters": {"binary_data": True}}],
        }
    )
    return Body(
        "/v2/models/tiny/infer",
        header + ROW.tobytes(),
        "application/octet-stream",
        f"Inference-Header-Content-Length: {len(header)}",
    )


def binary_bodies() -> dict[str, Body]:
    part = b'--xxbenchxx\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n'
    part += b"Content-Type: application/octet-stream\r\n\r\n"
    multipart = part + ROW.tobytes() + b"\r\n--xxbenchxx--\r\n"
    return {
        "millrace": v2_binary_body(),
        "wrapper": Body("/binary", ROW.tobytes(), "application/octet-stream"),
        "litserve": Body("/predict", multipart, MULTIPART),
    }


BODIES = {"JSON": json_bodies, "binary": binary_bodies}


def post_once(port: int, body: Body) -> bytes:
    """Return one answer; raises unless it is a success."""
    headers = {"Content-Type": body.content_type}
    if body.header:
        name, _, value = body.header.partition(": ")
        headers[name] = value
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{body.path}", data=body.content, headers=headers
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        content: bytes = answer.read()
        return content


@contextmanager
def peer(script: str, model: Path, body: Body, log: Path, **settings: str) -> Iterator[Running]:
    """Run a script of `peers/` until it answers; stop its whole process group at the end."""
    port = free_port()
    environment = {**os.environ, "PORT": str(port), "MODEL": str(model), **settings}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, str(PEERS / script)],
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            process_group=0,  # not a session: Linux would schedule it as a group of its own
        )
    try:
        limit = time.monotonic() + START_LIMIT_S
        while True:
            try:
                post_once(port, body)
                break
            except (urllib.error.URLError, OSError):
                if process.poll() is not None or time.monotonic() > limit:
                    raise RuntimeError(
                        f"{script} did not start: {log.read_text()[-2000:]}"
                    ) from None
                time.sleep(0.1)
        yield Running(port, process.pid)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextmanager
def millrace(repository: Path, log: Path) -> Iterator[Running]:
    """Run Millrace with the settings that a one-thread comparison needs, all else by default."""
    with ServerProcess(repository, log, MILLRACE_ENGINE_THREADS="1") as server:
        yield Running(server.port, server.pid)


def check_and_warm_up(name: str, server: Running, body: Body) -> None:
    answer = post_once(server.port, body)
    if b"logits" not in answer:
        raise RuntimeError(f"{name} answered {answer[:300]!r}, which holds no logits")
    run_wrk(server.port, server.pid, body, 32, WARM_UP_S)


def run_rounds(rounds: int, seconds: int, only: list[str]) -> Figures:
    """Load the servers in turn, point by point, so that what else the machine does meets all."""
    bodies = {(kind, name): make()[name] for kind, make in BODIES.items() for name in only}
    taken: dict[tuple[str, str, int], list[Point]] = {}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as running:
        servers = start_servers(Path(folder), only, running)
        for (_, name), body in bodies.items():
            check_and_warm_up(name, servers[name], body)
        for _ in range(rounds):
            for (kind, concurrency), name in product(product(BODIES, CONCURRENCIES), only):
                server = servers[name]
                body = bodies[kind, name]
                point = run_wrk(server.port, server.pid, body, concurrency, seconds)
                taken.setdefault((kind, name, concurrency), []).append(point)
                print(describe(kind, name, concurrency, point), flush=True)
    return {key: _medians(points) for key, points in sorted(taken.items())}


def start_servers(root: Path, only: list[str], running: ExitStack) -> dict[str, Running]:
    model = root / "models" / "tiny" / "1" / "model.onnx"
    model.parent.mkdir(parents=True)
    model.write_bytes(dense_net())
    bodies = json_bodies()
    starts = {
        "millrace": lambda: millrace(root / "models", root / "millrace.log"),
        "wrapper": lambda: peer("wrapper.py", model, bodies["wrapper"], root / "wrapper.log"),
        "litserve": lambda: peer("litserve_app.py", model, bodies["litserve"], root / "lit.log"),
    }
    return {name: running.enter_context(starts[name]()) for name in only}


def describe(kind: str, name: str, concurrency: int, point: Point) -> str:
    return (
        f"{name:9} {kind:7} c={concurrency:<3} {point.requests_per_s:8.0f} req/s  p50 "
        f"{point.p50_ms:7.3f} ms  cpu {point.cpu_ms:6.3f} ms  errors {point.errors}"
    )


def _medians(points: list[Point]) -> Point:
    columns = {
        name: median(point.as_dict()[name] for point in points) for name in points[0].as_dict()
    }
    columns["errors"] = sum(point.errors for point in points)
    return Point(**columns)  # type: ignore[arg-type]  # errors is the only integer


def targets(figures: Figures) -> list[Target]:
    found = []
    for kind in BODIES:
        ours = {c: figures[kind, "millrace", c] for c in CONCURRENCIES}
        wrapper = {c: figures[kind, "wrapper", c] for c in CONCURRENCIES}
        litserve = {c: figures[kind, "litserve", c] for c in CONCURRENCIES}
        for c in CONCURRENCIES:
            ratio = ours[c].requests_per_s / litserve[c].requests_per_s
            found.append(at_least(f"{kind}, c={c}: requests/s over LitServe's", ratio, 1.0))
        latency = ours[1].p50_ms / wrapper[1].p50_ms
        found.append(at_most(f"{kind}, c=1: p50 over the wrapper's", latency, 1.2))
        for c, bound in ((1, 1.3), (32, 0.8), (64, 0.8)):
            cpu = ours[c].cpu_ms / wrapper[c].cpu_ms
            found.append(at_most(f"{kind}, c={c}: CPU per request over the wrapper's", cpu, bound))
    errors = sum(figures[kind, "millrace", c].errors for kind in BODIES for c in CONCURRENCIES)
    found.append(at_most("failed requests of Millrace", errors, 0))
    return found


def report(figures: Figures, facts: Mapping[str, object], checked: list[Target]) -> str:
    text = "# Server: Millrace beside a hand-written wrapper and LitServe\n\n"
    text += (
        "Net: 784-512-512-10, one thread for inference in every server; closed loop with wrk on "
    )
    text += f"the same {facts['cores']} cores ({facts['cpu']}). CPU: of the server's process tree, "
    text += "per request. Other CPU: share of the machine used meanwhile by neither.\n\n"
    text += targets_table(checked)
    header = ["server", "c", "req/s", "p50 ms", "p95 ms", "p99 ms", "errors", "CPU ms", "other CPU"]
    for kind in BODIES:
        rows = [
            [
                name,
                c,
                f"{p.requests_per_s:.0f}",
                f"{p.p50_ms:.3f}",
                f"{p.p95_ms:.2f}",
                f"{p.p99_ms:.2f}",
                p.errors,
                f"{p.cpu_ms:.3f}",
                f"{p.other_cpu:.0%}",
            ]
            for (body, name, c), p in figures.items()
            if body == kind
        ]
        text += f"\n## {kind} bodies\n\n" + markdown_table(header, rows)
    return text


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument(
        "--only",
        nargs="+",
        default=["millrace", "wrapper", "litserve"],
        help="measure and print only these, write nothing",
    )
    arguments = parser.parse_args()
    figures = run_rounds(arguments.rounds, arguments.seconds, arguments.only)
    if len(arguments.only) < 3:
        return 0
    facts = machine_facts("fastapi", "uvicorn", "uvloop", "onnxruntime", "litserve", "orjson")
    checked = targets(figures)
    details = [
        {"body": kind, "server": name, "concurrency": c, **point.as_dict()}
        for (kind, name, c), point in figures.items()
    ]
    text = report(figures, facts, checked)
    write_result("server", facts, checked, details, text)
    print(text)
    return 0 if all(target.reached for target in checked) else 1


if __name__ == "__main__":
    sys.exit(main())
