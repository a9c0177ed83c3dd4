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
from server.metrics.translation import TranslationMetrics

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
        yield from _decoding_families(models)
        yield from _sentence_families(models)
        yield from _collection_families(self._metrics)
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


def _translating(
    models: Sequence[ModelMetrics],
) -> Iterator[tuple[tuple[str, str], TranslationMetrics]]:
    for model in models:
        if model.translation is not None:
            yield (model.model, model.version), model.translation.total()


def _decoding_families(models: Sequence[ModelMetrics]) -> Iterator[Metric]:
    steps = _histograms(
        "millrace_decoding_step_duration_seconds", "One step of all running rows", VERSION_LABELS
    )
    row_steps = CounterMetricFamily(
        "millrace_decoding_row_steps", "Rows in use, summed over the steps", labels=VERSION_LABELS
    )
    slot_steps = CounterMetricFamily(
        "millrace_decoding_slot_steps",
        "Rows that there were, summed over the steps",
        labels=VERSION_LABELS,
    )
    rows = GaugeMetricFamily("millrace_decoding_rows", "Rows in use", labels=VERSION_LABELS)
    slots = GaugeMetricFamily(
        "millrace_decoding_row_slots", "Rows that there are", labels=VERSION_LABELS
    )
    memory = GaugeMetricFamily(
        "millrace_decoding_slot_bytes", "Memory of the slots", labels=VERSION_LABELS
    )
    tokens = CounterMetricFamily(
        "millrace_decoded_tokens", "Tokens of finished sentences", labels=VERSION_LABELS
    )
    encoded = CounterMetricFamily(
        "millrace_encoded_tokens", "Tokens read by the encoder", labels=VERSION_LABELS
    )
    padding = CounterMetricFamily(
        "millrace_encoded_padding_tokens",
        "Tokens read by the encoder only to fill a shape",
        labels=VERSION_LABELS,
    )
    for labels, found in _translating(models):
        _add(steps, labels, found.step_seconds)
        row_steps.add_metric(labels, found.row_steps)
        slot_steps.add_metric(labels, found.slot_steps)
        rows.add_metric(labels, found.rows)
        slots.add_metric(labels, found.row_slots)
        memory.add_metric(labels, found.memory_bytes)
        tokens.add_metric(labels, found.tokens)
        encoded.add_metric(labels, found.encoded_tokens)
        padding.add_metric(labels, found.padding_tokens)
    yield from (steps, row_steps, slot_steps, rows, slots, memory, tokens, encoded, padding)


def _sentence_families(models: Sequence[ModelMetrics]) -> Iterator[Metric]:
    sentences = CounterMetricFamily(
        "millrace_sentences", "Sentences that left", labels=(*VERSION_LABELS, "outcome")
    )
    waiting = GaugeMetricFamily(
        "millrace_sentences_waiting", "Sentences in front of the decoder", labels=VERSION_LABELS
    )
    lookups = CounterMetricFamily(
        "millrace_sentence_cache_lookups",
        "Sentences looked up",
        labels=(*VERSION_LABELS, "result"),
    )
    cached = GaugeMetricFamily(
        "millrace_sentence_cache_bytes", "Size of the cache", labels=VERSION_LABELS
    )
    for labels, found in _translating(models):
        for outcome, count in sorted(found.sentences.items()):
            sentences.add_metric((*labels, outcome), count)
        waiting.add_metric(labels, found.waiting)
        for result, count in sorted(found.lookups.items()):
            lookups.add_metric((*labels, result), count)
        cached.add_metric(labels, found.cache_bytes)
    yield from (sentences, waiting, lookups, cached)


def _collection_families(metrics: Metrics) -> Iterator[Metric]:
    label = ("collection",)
    searches = CounterMetricFamily(
        "millrace_collection_searches",
        "Queries answered, by error code or ok",
        labels=(*label, "code"),
    )
    seconds = _histograms("millrace_collection_search_duration_seconds", "Whole searches", label)
    phases = _histograms(
        "millrace_collection_search_phase_duration_seconds",
        "One phase of a search",
        (*label, "phase"),
    )
    changes = CounterMetricFamily(
        "millrace_collection_changes", "Items, by what became of them", labels=(*label, "what")
    )
    items = GaugeMetricFamily("millrace_collection_items", "Items as last counted", labels=label)
    size = GaugeMetricFamily("millrace_collection_bytes", "Size as last counted", labels=label)
    recall = GaugeMetricFamily(
        "millrace_collection_recall",
        "Share of the exact answers found, as last measured",
        labels=(*label, "k"),
    )
    missing = GaugeMetricFamily(
        "millrace_collection_missing_items",
        "Items that a version has not embedded yet",
        labels=(*label, "version"),
    )
    for name, found in sorted(metrics.collections.by_name.items()):
        for code, count in sorted(found.searches.items()):
            searches.add_metric((name, code), count)
        _add(seconds, (name,), found.search_seconds)
        for phase, histogram in found.phases.items():
            _add(phases, (name, phase), histogram)
        for what, count in sorted(found.changes.items()):
            changes.add_metric((name, what), count)
        if found.items is not None and found.bytes is not None:
            items.add_metric((name,), found.items)
            size.add_metric((name,), found.bytes)
        for k, value in sorted(found.recall.items()):
            recall.add_metric((name, str(k)), value)
        for version, count in sorted(found.missing.items()):
            missing.add_metric((name, version), count)
    yield from (searches, seconds, phases, changes, items, size, recall, missing)


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
