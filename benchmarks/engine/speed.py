"""Figures 1, 2, 3 and 6: time of ONNX Runtime over ours, with the outputs compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.engine import ort_side, our_side
from benchmarks.engine.agreement import compare
from benchmarks.engine.intervals import median_ratio
from benchmarks.engine.load_of_machine import OtherLoad
from benchmarks.engine.networks.table import NETWORKS
from benchmarks.engine.priority import realtime
from benchmarks.engine.rows import Key
from benchmarks.engine.segments import SegmentAgreement, segment_agreement
from benchmarks.engine.settings import Settings
from benchmarks.engine.steps import steps_of_file, within_one_step
from benchmarks.engine.timing import PAUSE_S, REST_S, Contender, Times, alternate, fastest

Array = NDArray[np.generic]
SEED = 3  # whose pictures are typical: a few hundred candidates pass the detector's threshold
OURS, SAME, FP32 = "ours", "ort", "ort fp32"  # groups: ONNX Runtime on our file, and on fp32's


@dataclass(frozen=True)
class Opened:
    """Everything loaded that rows of one network, thread count and precision share."""

    ours: our_side.Run
    theirs: Mapping[tuple[str, bool], our_side.Run]  # by group and spinning


@lru_cache(maxsize=1)
def opened(network: str, threads: int, precision: str, settings: Settings) -> Opened:
    """Load our model and the sessions that it is compared with."""
    path = settings.path(network, precision)
    # The int8 file says by itself what is computed on integers.
    ours = our_side.opened(
        path, threads, "bf16" if precision == "bf16" else "fp32", settings.device
    )
    files = {SAME: path}
    if precision == "int8":
        files[FP32] = settings.path(network)
    theirs = {
        (group, spinning): ort_side.opened(file, threads, spinning=spinning)
        for group, file in files.items()
        for spinning in ort_side.spinnings(threads)
    }
    return Opened(ours.run, theirs)


def measure(key: Key, settings: Settings) -> dict[str, Any]:
    """Return a row's values: outputs are compared first, then all sides are timed in turn; not at
    all where no rounds are asked for.
    """
    network = NETWORKS[key.network]
    feeds = network.feeds(key.batch, key.length, SEED)
    both = opened(key.network, key.threads, key.precision, settings)
    values = _agreement(key, settings, both, feeds)
    if not settings.pairs:
        return values
    contenders = [Contender(OURS, lambda: both.ours(feeds), OURS)]
    contenders += [
        Contender(f"{group}, spinning {'on' if on else 'off'}", lambda run=run: run(feeds), group)  # type: ignore[misc]
        for (group, on), run in both.theirs.items()
    ]
    groups = {c.label: c.group for c in contenders}
    with realtime(settings.realtime), OtherLoad() as load:
        times = alternate(contenders, settings.pairs, PAUSE_S if key.threads > 1 else REST_S)
    values |= _ratios(times, groups)
    return values | {
        "pairs": settings.pairs,
        "waited": times.waited,
        "other_cpu": load.share,
        "realtime": settings.realtime,
    }


def _ratios(times: Times, groups: Mapping[str, str]) -> dict[str, Any]:
    best = fastest(times, groups, SAME)
    ratio, low, high = median_ratio(times.seconds[best], times.seconds[OURS])
    values: dict[str, Any] = {
        "ours_ms": median(times.seconds[OURS]) * 1e3,
        "ort_ms": median(times.seconds[best]) * 1e3,
        "ort": best,
        "ratio": ratio,
        "low": low,
        "high": high,
    }
    if FP32 in groups.values():
        plain = fastest(times, groups, FP32)
        values["ort_fp32_ms"] = median(times.seconds[plain]) * 1e3
        values["ratio_fp32"] = median_ratio(times.seconds[plain], times.seconds[OURS])[0]
    return values


def _agreement(
    key: Key, settings: Settings, both: Opened, feeds: Mapping[str, Array]
) -> dict[str, Any]:
    got = both.ours(feeds)
    if key.precision == "int8":
        # ONNX Runtime rounds at other places than the graph says: the reference does not.
        path = settings.path(key.network, key.precision)
        expected = reference_outputs(path, key.network, key.batch, key.length)
        steps = steps_of_file(path)
        theirs = both.theirs[SAME, True](feeds)
        segments = _segments(path, key.network, key.length, settings.device)
        return {
            "within_step": within_one_step(steps, got, expected),
            "ort_within_step": within_one_step(steps, theirs, expected),
            "segments_equal": segments.equal,
            "segments_within": segments.within,
        }
    expected = both.theirs[SAME, True](feeds)
    found = compare(got, expected, NETWORKS[key.network].rows_named_by)
    return {"error": found.error, "cosine": found.cosine, "unequal": found.unequal}


@lru_cache(maxsize=8)
def _segments(path: Path, network: str, length: int, device: str) -> SegmentAgreement:
    """Return how the segments of one item agree: neither threads nor neighbours change its bits."""
    return segment_agreement(path, NETWORKS[network].feeds(1, length, SEED), 1, device)


@lru_cache(maxsize=8)
def reference_outputs(path: Path, network: str, batch: int, length: int) -> Mapping[str, Array]:
    """Return what the portable definitions make of the row's inputs; rows that differ in threads
    only share it.
    """
    feeds = NETWORKS[network].feeds(batch, length, SEED)
    with our_side.opened(path, 1, "fp32", "reference") as model:
        return model.run(feeds)


def bounds(key: Key) -> dict[str, tuple[str, float]]:
    """Return what a row promises; the figures' geometric means are the report's matter."""
    if key.precision == "bf16":
        return {"cosine": (">=", 0.999)}
    if key.precision == "int8":
        return {
            "within_step": (">=", 0.999),
            "segments_equal": (">=", 0.999),
            "segments_within": (">=", 1.0),
        }
    return {"ratio": (">=", 1.0), "error": ("<=", 1e-4), "unequal": ("<=", 0.01)}
