"""Figure 4: what share of the machine's measured peak ResNet-50 reaches, without Winograd."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

import engine
from benchmarks.engine import our_side
from benchmarks.engine.load_of_machine import OtherLoad
from benchmarks.engine.networks.table import NETWORKS
from benchmarks.engine.peak import best_peak
from benchmarks.engine.priority import realtime
from benchmarks.engine.rows import Key
from benchmarks.engine.settings import Settings
from benchmarks.engine.speed import SEED
from benchmarks.engine.timing import REST_S, burst
from engine.cpu.lower import conv

# Fewer products than the definition has would make the share a figure of something else.
WINOGRAD = "winograd_of"
CONTRACTIONS = ("Conv", "Gemm", "MatMul")


def count_flops(key: Key, settings: Settings) -> int:
    """Return the arithmetic of convolutions and products: a multiply-add counts as two.

    Counted on the reference device, which computes the graph as it stands: no transform makes the
    number smaller than what the definition asks for.
    """
    feeds = NETWORKS[key.network].feeds(1, key.length, SEED)
    with our_side.opened(settings.path(key.network), 1, "fp32", "reference") as model:
        report = model.profile(feeds, repeat=1)
    counted = [n.flops or 0 for n in report.nodes if n.op.endswith(CONTRACTIONS)]
    return key.batch * sum(counted)


@contextmanager
def without_winograd() -> Iterator[None]:
    """Compile convolutions from the products that their definition has."""
    kept = getattr(conv, WINOGRAD)
    setattr(conv, WINOGRAD, lambda *_, **__: None)
    try:
        yield
    finally:
        setattr(conv, WINOGRAD, kept)


def opened_without_winograd(key: Key, settings: Settings) -> engine.Model:
    """Return our model."""
    with without_winograd():
        return our_side.opened(settings.path(key.network), key.threads, "fp32", settings.device)


def measure(key: Key, settings: Settings) -> dict[str, Any]:
    """Return the share; network and peak are timed in turn, so that both meet the same clock."""
    flops = count_flops(key, settings)
    feeds = NETWORKS[key.network].feeds(key.batch, key.length, SEED)
    peak = best_peak()
    shares, seconds, peaks = [], [], []
    with opened_without_winograd(key, settings) as model:
        model.run(feeds)
        with realtime(settings.realtime), OtherLoad() as load:
            for _ in range(settings.pairs):
                peaks.append(peak.flops(key.threads))
                seconds.append(burst(lambda: model.run(feeds), 1, REST_S).seconds)
                shares.append(flops / seconds[-1] / peaks[-1])
    return {
        "share": median(shares),
        "gflops": flops / median(seconds) / 1e9,
        "peak_gflops": median(peaks) / 1e9,
        "vector": peak.width,
        "ours_ms": median(seconds) * 1e3,
        "pairs": settings.pairs,
        "other_cpu": load.share,
        "realtime": settings.realtime,
    }


def bounds(key: Key) -> dict[str, tuple[str, float]]:
    """Return what the row promises."""
    return {"share": (">=", 0.85 if key.threads == 1 else 0.80)}
