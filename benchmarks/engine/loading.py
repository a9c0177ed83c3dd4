"""Figure 5: how long loading takes and how much memory a fresh process holds, on both sides."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.engine.environment import clean_environment
from benchmarks.engine.priority import realtime
from benchmarks.engine.rows import Key
from benchmarks.engine.settings import Settings

COLD, ROUNDS = 3, 5
LIMIT_S = 300.0


def fresh(side: str, path: Path, threads: int, cache: Path | None = None) -> dict[str, float]:
    """Load and run in a new process; return what it says of itself.

    Raises:
        RuntimeError: The process failed; holds the end of what it said.
    """
    command = [sys.executable, "-m", "benchmarks.engine.fresh", side, str(path), str(threads)]
    command += [str(cache)] if cache else []
    done = subprocess.run(
        command,
        # Machine code has a cache of its own, which other runs have filled.
        env={**clean_environment(), **({"MILLRACE_CACHE_DIR": str(cache)} if cache else {})},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"loading on {side!r} failed: {done.stderr[-500:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(key: Key, settings: Settings) -> dict[str, Any]:
    """Return medians: cold loads with an empty cache each, then cached loads and ORT's in turn."""
    path = settings.path(key.network, key.precision)
    # The new processes have the priority of the one that starts them.
    with realtime(settings.realtime), tempfile.TemporaryDirectory() as root:
        folders = [Path(root) / str(number) for number in range(COLD)]
        cold = [fresh(settings.device, path, key.threads, folder) for folder in folders]
        cached, theirs = [], []
        for _ in range(ROUNDS):
            cached.append(fresh(settings.device, path, key.threads, folders[0]))
            theirs.append(fresh("ort", path, key.threads))
    values: dict[str, Any] = {
        "cold_s": _median(cold, "load_s"),
        "pairs": ROUNDS,
        "realtime": settings.realtime,
    }
    for name, unit in (("load", "s"), ("import", "s"), ("peak", "mb"), ("steady", "mb")):
        values[f"{name}_{unit}"] = _median(cached, f"{name}_{unit}")
        values[f"ort_{name}_{unit}"] = _median(theirs, f"{name}_{unit}")
    for name in ("load_s", "peak_mb", "steady_mb"):
        values[f"{name}_over_ort"] = values[name] / values[f"ort_{name}"]
    return values


def _median(found: list[dict[str, float]], name: str) -> float:
    return median(one[name] for one in found)


def bounds(key: Key) -> dict[str, tuple[str, float]]:
    """Return what the row promises."""
    return {
        "cold_s": ("<=", 3.0),
        "load_s": ("<=", 0.15),
        "load_s_over_ort": ("<=", 1.0),
        "peak_mb_over_ort": ("<=", 1.0),
        "steady_mb_over_ort": ("<=", 1.0),
    }
