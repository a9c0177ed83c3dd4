"""How late the event loop gets while two models keep all cores busy.

Two copies of `photos` get as many pictures as they can take, each run using every core it may; the
lag is measured inside the server's process by its own probe. Needs Debian's `wrk`.

    python -m benchmarks.server.saturation [--seconds 20]
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.common.machine import machine_facts
from benchmarks.common.results import at_most, markdown_table, targets_table, write_result
from benchmarks.common.server_process import ServerProcess
from benchmarks.server.lag import P99_LIMIT_MS, Buckets, difference, quantile_ms, read_lag
from benchmarks.server.load import Body, Point, run_wrk

PHOTOS = Path(__file__).resolve().parents[2] / "model_repo" / "photos"
MODELS = ("first", "second")
CONCURRENCY = 16


def make_repository(root: Path) -> Path:
    """Write a repository with two copies of the network."""
    for name in MODELS:
        shutil.copytree(PHOTOS, root / "models" / name)
    return root / "models"


def measure(root: Path, seconds: int) -> tuple[Buckets, list[Point], int]:
    """Return the lag's buckets, each model's figures, and the cores that one run may use."""
    picture = next((PHOTOS / "1" / "samples").glob("*.png")).read_bytes()
    bodies = [Body(f"/predict?model={name}", picture, "image/png") for name in MODELS]
    threads = len(os.sched_getaffinity(0))
    with (
        ServerProcess(
            make_repository(root), root / "log", MILLRACE_ENGINE_THREADS=str(threads)
        ) as server,
        ThreadPoolExecutor(len(MODELS)) as callers,
    ):

        def load(body: Body, length: int) -> Point:
            return run_wrk(server.port, server.pid, body, CONCURRENCY, length)

        list(callers.map(lambda body: load(body, 2), bodies))
        before, _ = read_lag(server.url)
        points = list(callers.map(lambda body: load(body, seconds), bodies))
        after, _ = read_lag(server.url)
    return difference(before, after), points, threads


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--dry", action="store_true", help="print only, write nothing")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        lag, points, threads = measure(Path(folder), arguments.seconds)
    targets = [
        at_most("event loop lag, p99, ms", quantile_ms(lag, 0.99), P99_LIMIT_MS),
        at_most("failed requests", sum(point.errors for point in points), 0),
    ]
    facts = machine_facts("uvicorn", "uvloop")
    total = lag[float("inf")]
    text = "# Server: how late the event loop gets while two models saturate the cores\n\n"
    text += f"Two copies of `photos`, {CONCURRENCY} callers each, {threads} cores per run, on "
    text += f"{facts['cores']} cores ({facts['cpu']}) that wrk shares: "
    text += " and ".join(f"{point.requests_per_s:.0f}" for point in points)
    text += " requests/s. p99 is the upper bound of its bucket.\n\n"
    text += targets_table(targets) + "\n"
    rows = [[f"{bound * 1e3:g}", f"{count / total:.3%}"] for bound, count in sorted(lag.items())]
    text += markdown_table(["late by at most, ms", "share of the time"], rows)
    print(text)
    if not arguments.dry:
        details = {
            "buckets_s": {str(bound): count for bound, count in lag.items()},
            "load": [point.as_dict() for point in points],
        }
        write_result("saturation", facts, targets, details, text)
    return 0 if all(target.reached for target in targets) else 1


if __name__ == "__main__":
    sys.exit(main())
