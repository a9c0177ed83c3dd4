"""Turns the counters into Prometheus families when somebody scrapes.

To add a metric: count it in `model` or `registry`, add its family here, and its line to the table
of docs/metrics.md (a test compares the two).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from server.metrics.model import ModelMetrics, Phase

if TYPE_CHECKING:
    from server.metrics.histogram import Histogram
    from server.metrics.registry import Metrics

VERSION_LABELS = ("model", "version")


class Exposition(Collector):
    """The custom collector of one `Metrics`."""

    def __init__(self, metrics: Metrics) -> None:
        """Read from `metrics` at every scrape."""
        self._metrics = metrics

    def describe(self) -> Iterable[Metric]:
        """Return nothing: names are checked by tests, not by a registry at start-up."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Yield every family, models in a stable order."""
        models = [found for _, found in sorted(self._metrics.models.items())]
        yield from _request_families(models)
        yield from _batch_families(models)
        yield _state_family(self._metrics)
        yield from _server_families(self._metrics)


def _request_families(models: Sequence[ModelMetrics]) -> Iterator[Metric]:
    requests = CounterMetricFamily(
        "millrace_requests",
        "Requests answered, by error code or ok",
        labels=(*VERSION_LABELS, "code"),
    )
    durations = _histograms("millrace_request_duration_seconds", "Whole requests", VERSION_LABELS)
    phases = _histograms(
        "millrace_phase_duration_seconds", "One phase of a request", (*VERSION_LABELS, "phase")
    )
    for model in models:
        labels = (model.model, model.version)
        for code, count in sorted(model.requests.items()):
            requests.add_metric((*labels, code), count)
        _add(durations, labels, model.request_seconds)
        for phase in Phase:
            _add(phases, (*labels, phase.label), model.phases[phase])
    yield from (requests, durations, phases)


def _batch_families(models: Sequence[ModelMetrics]) -> Iterator[Metric]:
    sizes = _histograms("millrace_batch_size_rows", "Rows in one run of the engine", VERSION_LABELS)
    rows = CounterMetricFamily("millrace_rows", "Rows computed for requests", labels=VERSION_LABELS)
    padding = CounterMetricFamily(
        "millrace_padding_rows", "Rows computed only to fill a shape", labels=VERSION_LABELS
    )
    depth = GaugeMetricFamily("millrace_queue_depth_rows", "Rows waiting", labels=VERSION_LABELS)
    for model in models:
        labels = (model.model, model.version)
        _add(sizes, labels, model.batch_sizes)
        rows.add_metric(labels, model.rows)
        padding.add_metric(labels, model.padded_rows)
        depth.add_metric(labels, model.queue_depth)
    yield from (sizes, rows, padding, depth)


def _state_family(metrics: Metrics) -> Metric:
    family = GaugeMetricFamily(
        "millrace_model_state", "1 for the state a version is in", labels=(*VERSION_LABELS, "state")
    )
    for (model, version), state in sorted(metrics.states.items()):
        family.add_metric((model, version, state), 1)
    return family


def _server_families(metrics: Metrics) -> Iterator[Metric]:
    loads = CounterMetricFamily("millrace_model_loads", "Finished loads", labels=("outcome",))
    for outcome, count in sorted(metrics.loads.items()):
        loads.add_metric((outcome,), count)
    rejections = CounterMetricFamily(
        "millrace_rejected_requests",
        "Requests refused before their model was known",
        labels=("code",),
    )
    for code, count in sorted(metrics.rejections.items()):
        rejections.add_metric((code,), count)
    load_seconds = _histograms("millrace_model_load_duration_seconds", "Loading one version", ())
    _add(load_seconds, (), metrics.load_seconds)
    lag = _histograms("millrace_event_loop_lag_seconds", "Lateness of the event loop", ())
    _add(lag, (), metrics.loop_lag.histogram)
    yield from (loads, rejections, load_seconds, lag)
    yield GaugeMetricFamily(
        "millrace_event_loop_lag_recent_max_seconds",
        "Largest lateness of the last one to two minutes",
        value=metrics.loop_lag.maximum.value,
    )


def _histograms(name: str, text: str, labels: Sequence[str]) -> HistogramMetricFamily:
    return HistogramMetricFamily(name, text, labels=labels)


def _add(family: HistogramMetricFamily, labels: Sequence[str], histogram: Histogram) -> None:
    family.add_metric(labels, histogram.cumulative(), histogram.total)
