"""The `photos` model over HTTP, beside a hand-written FastAPI wrapper around ONNX Runtime.

Both get the same PNG and answer with the five best classes. The wrapper runs in two styles (all
cores in the event loop; a core a run in a thread pool), and at every point the better one counts.
Millrace keeps its defaults. Needs Debian's `wrk`, and

    python -m benchmarks.server.photos [--rounds 5] [--seconds 4]
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import orjson

from benchmarks.common.machine import machine_facts
from benchmarks.common.results import (
    Target,
    at_least,
    at_most,
    markdown_table,
    targets_table,
    write_result,
)
from benchmarks.common.server_process import ServerProcess
from benchmarks.server.compare import Running, peer, post_once
from benchmarks.server.load import Body, Point, run_wrk

PHOTOS = Path(__file__).parents[2] / "model_repo" / "photos"
CONCURRENCIES = (1, 8, 32)
STYLES = ("loop", "threads")
WARM_UP_S = 2

Taken = dict[tuple[str, int], list[Point]]  # (server, concurrency)


def picture() -> bytes:
    """Return a photograph that the model comes with."""
    return min(PHOTOS.glob("*/samples/*.png")).read_bytes()


def start(root: Path, running: ExitStack) -> dict[str, tuple[Running, Body]]:
    """Start Millrace with nothing but `photos`, and the wrapper in its styles."""
    shutil.copytree(PHOTOS, root / "models" / "photos")
    version = max((root / "models" / "photos").glob("*/model.onnx")).parent
    server = running.enter_context(ServerProcess(root / "models", root / "millrace.log"))
    body = Body("/predict?model=photos", picture(), "image/png")
    found = {"millrace": (Running(server.port, server.pid), body)}
    plain = Body("/predict", picture(), "image/png")
    for style in STYLES:
        log = root / f"{style}.log"
        settings = {"STYLE": style, "LABELS": str(version / "labels.txt")}
        made = peer("photos_wrapper.py", version / "model.onnx", plain, log, **settings)
        found[f"wrapper, {style}"] = (running.enter_context(made), plain)
    return found


def first_label(answer: bytes) -> str:
    """Return the best class of either side's answer."""
    found = orjson.loads(answer)
    predictions = found["results"][0]["predictions"] if "results" in found else found["predictions"]
    return str(predictions[0]["label"])


def measure(rounds: int, seconds: int) -> Taken:
    """Load the servers in turn, point by point; all must see the same in the picture."""
    taken: Taken = {}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as running:
        servers = start(Path(folder), running)
        answers = {n: first_label(post_once(s.port, body)) for n, (s, body) in servers.items()}
        if len(set(answers.values())) != 1:
            raise RuntimeError(f"the servers see different things in one picture: {answers}")
        for server, body in servers.values():
            run_wrk(server.port, server.pid, body, max(CONCURRENCIES), WARM_UP_S)
        for _ in range(rounds):
            for concurrency in CONCURRENCIES:
                for name, (server, body) in servers.items():
                    point = run_wrk(server.port, server.pid, body, concurrency, seconds)
                    taken.setdefault((name, concurrency), []).append(point)
                    print(
                        f"{name:16} c={concurrency:<3} {point.requests_per_s:7.0f} req/s  "
                        f"p50 {point.p50_ms:7.2f} ms",
                        flush=True,
                    )
    return taken


def targets(taken: Taken) -> list[Target]:
    """Return the promises; the wrapper's better style counts at each point."""
    rate, wait = medians(taken, "requests_per_s"), medians(taken, "p50_ms")
    wrappers = sorted({name for name, _ in taken if name != "millrace"})
    found = [
        at_least(
            f"c={c}: requests/s over the wrapper's",
            rate["millrace", c] / max(rate[name, c] for name in wrappers),
            1.2,
        )
        for c in CONCURRENCIES
        if c > 1
    ]
    least = min(wait[name, 1] for name in wrappers)
    found.append(at_most("c=1: p50 over the wrapper's", wait["millrace", 1] / least, 1.0))
    errors = sum(point.errors for points in taken.values() for point in points)
    return [*found, at_most("failed requests", errors, 0)]


def medians(taken: Taken, value: str) -> dict[tuple[str, int], float]:
    """Return one value's median over the rounds."""
    return {key: median(getattr(p, value) for p in points) for key, points in taken.items()}


def report(taken: Taken, facts: Mapping[str, object], checked: list[Target]) -> str:
    """Return the page."""
    text = "# `photos` over HTTP, beside a FastAPI wrapper around ONNX Runtime\n\n"
    text += "A 32 x 32 PNG in, the five best classes out; closed loop with wrk on the same "
    text += f"{facts['cores']} cores ({facts['cpu']}). The wrapper's better style counts at each "
    text += "point.\n\n" + targets_table(checked) + "\n"
    header = ["server", "c", "req/s", "p50 ms", "p95 ms", "p99 ms", "CPU ms", "other CPU"]
    columns = ("requests_per_s", "p50_ms", "p95_ms", "p99_ms", "cpu_ms", "other_cpu")
    values = [medians(taken, column) for column in columns]
    forms = (".0f", ".2f", ".2f", ".2f", ".2f", ".0%")
    rows = [
        [*key, *(format(v[key], form) for v, form in zip(values, forms, strict=True))]
        for key in sorted(taken)
    ]
    return text + markdown_table(header, rows)


def main() -> int:
    """Measure and write the results; 0 when every promise is kept."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--dry", action="store_true", help="print only, write nothing")
    arguments = parser.parse_args()
    taken = measure(arguments.rounds, arguments.seconds)
    facts = machine_facts("fastapi", "uvicorn", "uvloop", "onnxruntime", "pillow")
    checked = targets(taken)
    text = report(taken, facts, checked)
    if not arguments.dry:
        details = [
            {"server": name, "concurrency": c, "rounds": [point.as_dict() for point in points]}
            for (name, c), points in taken.items()
        ]
        write_result("photos-http", facts, checked, details, text)
    print(text)
    return 0 if all(target.reached for target in checked) else 1


if __name__ == "__main__":
    sys.exit(main())
