"""The counters of one version of one model."""

from __future__ import annotations

import time
from bisect import bisect_left
from enum import IntEnum
from typing import Any

from server.metrics.histogram import COUNT_BOUNDS, SECONDS_BOUNDS, Histogram
from server.metrics.translation import TranslationMetrics

NS_PER_S = 1e9
SUCCESS = "ok"
MAX_BATCH_SIZES = 1024  # distinct sizes kept apart in `statistics`; further ones share the last


class Phase(IntEnum):
    """The stages of a request, in their order; `label` is what Prometheus sees."""

    PARSE = 0, "parse"
    DECODE = 1, "decode"
    PREPROCESS = 2, "preprocess"
    QUEUE = 3, "queue"
    BATCH = 4, "batch"
    COMPUTE = 5, "compute"
    POSTPROCESS = 6, "postprocess"
    SERIALIZE = 7, "serialize"

    label: str  # the value of the Prometheus label; kept, because it is read for every request

    def __new__(cls, value: int, label: str) -> Phase:
        """Make the member an integer that indexes `ModelMetrics.phases`."""
        member = int.__new__(cls, value)
        member._value_ = value
        member.label = label
        return member


class _BatchCost:
    """Runs of one batch size: how many, and what each part of them took."""

    __slots__ = ("collate_s", "compute_s", "count", "split_s")

    def __init__(self) -> None:
        self.count = 0
        self.collate_s = self.compute_s = self.split_s = 0.0


class ModelMetrics:
    """Bound once per (model, version); every method is cheap and called on the event loop."""

    __slots__ = (
        *("_batch_costs", "batch_sizes", "last_inference_ms", "model", "padded_rows", "phases"),
        *("queue_depth", "request_seconds", "requests", "rows", "success_s", "translation"),
        "version",
    )

    def __init__(self, model: str, version: str) -> None:
        """Start at zero."""
        self.model = model
        self.version = version
        self.phases = [Histogram(SECONDS_BOUNDS) for _ in Phase]
        self.batch_sizes = Histogram(COUNT_BOUNDS)
        self.request_seconds = Histogram(SECONDS_BOUNDS)
        self.requests: dict[str, int] = {}
        self.padded_rows = 0
        self.queue_depth = 0  # rows waiting; the batcher sets it
        self.rows = 0
        self.success_s = 0.0
        self.last_inference_ms = 0
        self.translation: TranslationMetrics | None = None  # of a version that translates
        self._batch_costs: dict[int, _BatchCost] = {}

    def observe(self, phase: Phase, seconds: float) -> None:
        """Count what one request spent in one phase."""
        # Written out instead of calling Histogram.observe: this runs eight times a request.
        histogram = self.phases[phase]
        histogram.counts[bisect_left(SECONDS_BOUNDS, seconds)] += 1
        histogram.total += seconds

    def observe_many(self, phase: Phase, seconds: float, requests: int) -> None:
        """Count a phase that all `requests` of one batch went through together."""
        self.phases[phase].observe_many(seconds, requests)

    def batch_size(self, rows: int) -> None:
        """Count one run of the engine with this many rows."""
        self.batch_sizes.observe(rows)

    def batch(self, rows: int, collate_s: float, compute_s: float, split_s: float) -> None:
        """Count one run of the engine with its costs; includes `batch_size(rows)`."""
        self.batch_sizes.observe(rows)
        self.rows += rows
        cost = self._batch_costs.get(rows)
        if cost is None:
            cost = self._new_batch_cost(rows)
        cost.count += 1
        cost.collate_s += collate_s
        cost.compute_s += compute_s
        cost.split_s += split_s

    def padding(self, rows: int) -> None:
        """Count rows that were computed only to fill a shape."""
        self.padded_rows += rows

    def request(self, code: str, seconds: float | None = None) -> None:
        """Count an answered request: `"ok"`, or its error's code; and its whole duration."""
        self.requests[code] = self.requests.get(code, 0) + 1
        if seconds is not None:
            self.request_seconds.observe(seconds)
            if code == SUCCESS:
                self.success_s += seconds
        if code == SUCCESS:
            self.last_inference_ms = int(time.time() * 1000)

    def statistics(self) -> dict[str, Any]:
        """Return this version's entry of Triton's `/stats` answer."""
        succeeded = self.requests.get(SUCCESS, 0)
        failed = sum(self.requests.values()) - succeeded
        failed_s = self.request_seconds.total - self.success_s
        return {
            "name": self.model,
            "version": self.version,
            "last_inference": self.last_inference_ms,
            "inference_count": self.rows,
            "execution_count": self.batch_sizes.count,
            "inference_stats": {
                "success": _duration(succeeded, self.success_s),
                "fail": _duration(failed, max(0.0, failed_s)),
                "queue": self._phase_total(Phase.QUEUE),
                "compute_input": self._phase_total(
                    Phase.BATCH, Phase.PARSE, Phase.DECODE, Phase.PREPROCESS
                ),
                "compute_infer": self._phase_total(Phase.COMPUTE),
                "compute_output": self._phase_total(Phase.POSTPROCESS, Phase.SERIALIZE),
                "cache_hit": _duration(0, 0.0),  # there is no response cache
                "cache_miss": _duration(0, 0.0),
            },
            "batch_stats": [
                {
                    "batch_size": rows,
                    "compute_input": _duration(cost.count, cost.collate_s),
                    "compute_infer": _duration(cost.count, cost.compute_s),
                    "compute_output": _duration(cost.count, cost.split_s),
                }
                for rows, cost in sorted(self._batch_costs.items())
            ],
        }

    def _phase_total(self, counted: Phase, *added: Phase) -> dict[str, int]:
        seconds = sum(self.phases[phase].total for phase in (counted, *added))
        return _duration(self.phases[counted].count, seconds)

    def _new_batch_cost(self, rows: int) -> _BatchCost:
        # A model that runs whole tensors could see any number of rows: keep the table bounded.
        if len(self._batch_costs) >= MAX_BATCH_SIZES:
            rows = max(self._batch_costs)
        return self._batch_costs.setdefault(rows, _BatchCost())


def _duration(count: int, seconds: float) -> dict[str, int]:
    return {"count": count, "ns": int(seconds * NS_PER_S)}
