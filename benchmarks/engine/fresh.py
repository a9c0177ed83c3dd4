"""One load in a process of its own: `python -m benchmarks.engine.fresh SIDE MODEL THREADS [CACHE]`.

Prints a line of JSON: seconds of importing and of loading, and the memory of the process at its
peak and after some runs. SIDE is `ort`, or the name of one of our devices; CACHE is our cache's
folder.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from pathlib import Path

from benchmarks.engine.networks.table import NETWORKS

RUNS = 5
SEED = 7


def memory_mb(name: str) -> float:
    """Return a line of /proc/self/status, in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError(f"/proc/self/status has no line {name}; this figure needs Linux")


def measure(side: str, path: Path, threads: int, cache: Path | None) -> dict[str, float]:
    """Import, load and run one side; the other's libraries never enter the process."""
    feeds = NETWORKS[path.stem].feeds(1, max(NETWORKS[path.stem].lengths), SEED)
    start = time.perf_counter()
    if side == "ort":
        theirs = importlib.import_module("benchmarks.engine.ort_side")
        imported = time.perf_counter()
        run = theirs.opened(path, threads)
    else:
        ours = importlib.import_module("benchmarks.engine.our_side")
        ours.import_device(side)
        imported = time.perf_counter()
        run = ours.opened(path, threads, device=side, cache=cache).run
    loaded = time.perf_counter()
    for _ in range(RUNS):
        run(feeds)
    return {
        "import_s": imported - start,
        "load_s": loaded - imported,
        "peak_mb": memory_mb("VmHWM"),
        "steady_mb": memory_mb("VmRSS"),
    }


if __name__ == "__main__":
    folder = Path(sys.argv[4]) if len(sys.argv) > 4 else None
    print(json.dumps(measure(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), folder)))
