"""`POST /similar` with a JPEG, on a collection of the 50,000 CIFAR-10 training pictures.

    MILLRACE_TEST_DATA=... python -m benchmarks.similarity.served            # about 5 minutes
    MILLRACE_TEST_DATA=... python -m benchmarks.similarity.served --quick    # 2,000 pictures

Starts a server with the model `photos`, fills the collection, and loads it with wrk at concurrency
1, 8 and 32. What a request spends in decode, model, index and fetch comes from the server's own
histograms. `--collections` names a folder or a `postgresql://` URL to keep them in (default: a
temporary folder); a collection that is there already and is complete is used as it is.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common.machine import machine_facts
from benchmarks.common.results import markdown_table, write_result
from benchmarks.common.server_process import ServerProcess
from benchmarks.server.load import Body, Point, run_wrk
from benchmarks.similarity.cifar import (
    Pictures,
    call,
    fill_collection,
    make_collection,
    read_cifar,
)

PHOTOS = Path(__file__).parents[2] / "model_repo" / "photos"
NAME, MODEL = "cifar", "photos"
CONCURRENCIES = (1, 8, 32)
PHASES = ("decode", "model", "index", "fetch")
WARM_UP_S = 2
INDEX_LIMIT_S = 600.0


@dataclass(frozen=True)
class Load:
    """One concurrency: wrk's figures, and the milliseconds of a request in each phase."""

    concurrency: int
    point: Point
    total_ms: float
    phases_ms: dict[str, float]

    @property
    def rest_ms(self) -> float:
        """Everything else: HTTP, hand-overs, waiting for a thread."""
        return max(0.0, self.total_ms - sum(self.phases_ms.values()))


def main(arguments: list[str] | None = None) -> int:
    """Measure, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="2,000 pictures, 1 second a load")
    parser.add_argument("--seconds", type=int, default=8, help="of each load")
    parser.add_argument("--collections", help="folder or postgresql:// URL; default: temporary")
    parser.add_argument("--name", default="similarity-served", help="of the result's files")
    chosen = parser.parse_args(arguments)
    pictures = read_cifar("train")
    pictures = pictures.first(2000) if chosen.quick else pictures
    query = read_cifar("test").files[0]
    seconds = 1 if chosen.quick else chosen.seconds
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        shutil.copytree(PHOTOS, root / "models" / MODEL)
        place = chosen.collections or str(root / "collections")
        log = root / "server.log"
        with ServerProcess(root / "models", log, MILLRACE_COLLECTIONS=place) as server:
            filled_s = fill(server.url, pictures)
            status = indexed(server.url)
            loads = [measure(server, query, each, seconds) for each in CONCURRENCIES]
    facts = machine_facts()
    text = described(loads, status, filled_s, len(pictures.files))
    print(text)
    details = {
        "pictures": len(pictures.files),
        "filled_s": filled_s,
        "index": status["index"],
        "store": "postgresql" if place.startswith("postgres") else "folder",
        "loads": [load_dict(each) for each in loads],
    }
    if not chosen.quick:
        write_result(chosen.name, facts, [], details, text)
    return 1 if any(each.point.errors for each in loads) else 0


def fill(url: str, pictures: Pictures) -> float | None:
    """Fill the collection, unless it is there; returns the seconds that it took."""
    try:
        if call(f"{url}/collections/{NAME}")["count"] == len(pictures.files):
            return None
        request = urllib.request.Request(f"{url}/collections/{NAME}", method="DELETE")
        urllib.request.urlopen(request).close()
    except urllib.error.HTTPError as error:
        if error.code != 404:
            raise
    began = time.monotonic()
    make_collection(url, NAME, MODEL)
    fill_collection(url, NAME, pictures)
    return round(time.monotonic() - began, 1)


def indexed(url: str) -> dict[str, Any]:
    """Return the collection's status once no index is being built."""
    end = time.monotonic() + INDEX_LIMIT_S
    while True:
        status = call(f"{url}/collections/{NAME}")
        if status["index"]["building"] is None or time.monotonic() > end:
            return status
        time.sleep(1.0)


def measure(server: ServerProcess, query: bytes, concurrency: int, seconds: int) -> Load:
    """Load the server, and see where its time went."""
    body = Body(f"/similar?collection={NAME}&k=10", query, "image/jpeg")
    run_wrk(server.port, server.pid, body, concurrency, min(WARM_UP_S, seconds))
    before = sums(server.url)
    point = run_wrk(server.port, server.pid, body, concurrency, seconds)
    after = sums(server.url)
    count = max(1.0, after["count"] - before["count"])
    spent = {name: (after[name] - before[name]) / count * 1e3 for name in after}
    return Load(concurrency, point, spent["total"], {name: spent[name] for name in PHASES})


def sums(url: str) -> dict[str, float]:
    """Return the seconds that searches have spent by now, by phase, and how many they were."""
    with urllib.request.urlopen(f"{url}/metrics") as answer:
        text = answer.read().decode()
    found = dict.fromkeys(PHASES, 0.0)
    prefix = "millrace_collection_search"
    pattern = rf'{prefix}_phase_duration_seconds_sum{{collection="{NAME}",phase="(\w+)"}} (\S+)'
    found |= {phase: float(value) for phase, value in re.findall(pattern, text)}
    for name, part in (("total", "sum"), ("count", "count")):
        value = re.search(rf'{prefix}_duration_seconds_{part}{{collection="{NAME}"}} (\S+)', text)
        found[name] = float(value[1]) if value else 0.0
    return found


def load_dict(load: Load) -> dict[str, Any]:
    """Return one load as plain data."""
    phases = {name: round(value, 4) for name, value in load.phases_ms.items()}
    return {
        "concurrency": load.concurrency,
        **load.point.as_dict(),
        "server_ms": round(load.total_ms, 4),
        "phases_ms": phases | {"rest": round(load.rest_ms, 4)},
    }


def described(loads: list[Load], status: dict[str, Any], filled_s: float | None, count: int) -> str:
    """Return the result as Markdown."""
    index = status["index"]
    header = ["callers", "req/s", "p50 ms", "p95 ms", "p99 ms", "errors", *PHASES, "rest", "other"]
    rows = []
    for load in loads:
        point = load.point
        parts = [*load.phases_ms.values(), load.rest_ms]
        shares = [f"{part / max(load.total_ms, 1e-9):.0%}" for part in parts]
        latencies = [f"{value:.2f}" for value in (point.p50_ms, point.p95_ms, point.p99_ms)]
        first = [load.concurrency, f"{point.requests_per_s:.0f}"]
        rows.append([*first, *latencies, point.errors, *shares, f"{point.other_cpu:.0%}"])
    filled = "was there already" if filled_s is None else f"filled in {filled_s:.0f} s"
    return (
        "# `POST /similar` with a JPEG\n\n"
        f"{count:,} CIFAR-10 training pictures in a collection of `photos` ({index['vectors']:,} "
        f"vectors of {status['dim']}; {filled}), k = 10, metadata with each hit. The search is "
        f"{index['kind']}: {index['reason']}\n\n"
        + markdown_table(header, rows)
        + "\ndecode, model (queue and run), index, fetch and rest (HTTP, hand-overs) are shares of "
        "the time that the server had a request; with several callers at a time most of `model` is "
        "waiting. `other` is the share of the machine that neither server nor wrk had.\n"
    )


if __name__ == "__main__":
    sys.exit(main())
