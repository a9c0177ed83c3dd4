import asyncio
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from server.metrics import (
    Histogram,
    LoopLagMonitor,
    Metrics,
    Phase,
    RecentMaximum,
    TranslationMetrics,
)
from server.metrics import model as model_module

DOCUMENT = Path(__file__).parents[2] / "docs" / "metrics.md"


def busy_metrics() -> Metrics:
    """Every family has at least one sample."""
    metrics = Metrics()
    counters = metrics.model("digits", "1")
    for phase in Phase:
        counters.observe(phase, 0.001)
    counters.request("ok", 0.004)
    counters.request("queue_full", 0.001)
    counters.batch(4, 0.0001, 0.002, 0.0001)
    counters.padding(3)
    counters.queue_depth = 7
    decoding = counters.translation = TranslationMetrics(row_slots=64, memory_bytes=1 << 20)
    decoding.step(0.002, 5)
    decoding.encoded([7, 9])
    decoding.sentence("ok", 11)
    decoding.lookup("hit")
    metrics.state("digits", "1", "ready")
    metrics.load("ok", 0.3)
    metrics.rejected("model_not_found")
    metrics.loop_lag.histogram.observe(0.002)
    metrics.loop_lag.maximum.observe(0.002)
    return metrics


def samples(metrics: Metrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    families = text_string_to_metric_families(metrics.render().decode())
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def value(metrics: Metrics, name: str, **labels: str) -> float:
    return samples(metrics)[(name, frozenset(labels.items()))]


def test_counters_appear_in_the_exposition():
    metrics = busy_metrics()
    version = {"model": "digits", "version": "1"}
    assert value(metrics, "millrace_requests_total", code="queue_full", **version) == 1
    assert value(metrics, "millrace_phase_duration_seconds_count", phase="queue", **version) == 1
    assert value(metrics, "millrace_batch_size_rows_bucket", le="4.0", **version) == 1
    assert value(metrics, "millrace_batch_size_rows_bucket", le="2.0", **version) == 0
    assert value(metrics, "millrace_queue_depth_rows", **version) == 7
    assert value(metrics, "millrace_padding_rows_total", **version) == 3
    assert value(metrics, "millrace_decoding_row_steps_total", **version) == 5
    assert value(metrics, "millrace_decoding_slot_steps_total", **version) == 64
    assert value(metrics, "millrace_encoded_tokens_total", **version) == 16
    assert value(metrics, "millrace_encoded_padding_tokens_total", **version) == 2
    assert value(metrics, "millrace_decoded_tokens_total", **version) == 11
    assert value(metrics, "millrace_sentences_total", outcome="ok", **version) == 1
    assert value(metrics, "millrace_model_state", state="ready", **version) == 1
    assert value(metrics, "millrace_event_loop_lag_recent_max_seconds") == 0.002


def test_lanes_are_summed_when_somebody_asks():
    metrics = Metrics()
    whole = metrics.model("words", "1").translation = TranslationMetrics()
    whole.lookup("hit")
    whole.parts = (TranslationMetrics(32, 100), TranslationMetrics(32, 100))
    for lane, part in enumerate(whole.parts):
        part.step(0.002, 5 + lane)
        part.sentence("ok", 10)
    version = {"model": "words", "version": "1"}
    assert value(metrics, "millrace_decoding_row_slots", **version) == 64
    assert value(metrics, "millrace_decoding_slot_steps_total", **version) == 64
    assert value(metrics, "millrace_decoding_rows", **version) == 11
    assert value(metrics, "millrace_decoding_step_duration_seconds_count", **version) == 2
    assert value(metrics, "millrace_sentences_total", outcome="ok", **version) == 2
    assert value(metrics, "millrace_decoded_tokens_total", **version) == 20
    assert value(metrics, "millrace_sentence_cache_lookups_total", result="hit", **version) == 1


def test_every_metric_is_documented_and_every_documented_metric_exists():
    families = text_string_to_metric_families(busy_metrics().render().decode())
    exposed = {
        family.name + ("_total" if family.type == "counter" else "")
        for family in families
        if family.name.startswith("millrace_")
    }
    documented = set(re.findall(r"^\| `(millrace_\w+)`", DOCUMENT.read_text(), re.MULTILINE))
    assert exposed == documented


def test_every_phase_is_documented():
    text = DOCUMENT.read_text()
    assert [phase.label for phase in Phase if f"| `{phase.label}` |" not in text] == []


def test_process_metrics_are_exposed():
    assert b"process_resident_memory_bytes" in Metrics().render()


def test_drop_removes_all_series_of_that_version_only():
    metrics = busy_metrics()
    metrics.model("digits", "2").request("ok", 0.1)
    metrics.state("digits", "2", "ready")
    metrics.drop("digits", "1")
    metrics.drop("digits", "1")  # a second time is harmless
    assert {dict(labels).get("version") for _, labels in samples(metrics)} <= {None, "2"} | {
        dict(labels).get("version") for name, labels in samples(metrics) if "python_info" in name
    }
    assert value(metrics, "millrace_requests_total", model="digits", version="2", code="ok") == 1


def test_dropped_counters_may_still_be_written_to():
    metrics = Metrics()
    held = metrics.model("digits", "1")
    metrics.drop("digits", "1")
    held.request("ok", 0.1)
    assert b'model="digits"' not in metrics.render()


def test_the_same_version_gets_the_same_counters():
    metrics = Metrics()
    assert metrics.model("a", "1") is metrics.model("a", "1")
    assert metrics.model("a", "1") is not metrics.model("a", "2")


def test_statistics_have_tritons_shape():
    [entry] = busy_metrics().statistics()
    assert entry["name"] == "digits"
    assert entry["version"] == "1"
    assert entry["inference_count"] == 4
    assert entry["execution_count"] == 1
    assert entry["last_inference"] > 0
    stats = entry["inference_stats"]
    assert stats["success"] == {"count": 1, "ns": 4_000_000}
    assert stats["fail"] == {"count": 1, "ns": 1_000_000}
    assert stats["compute_infer"] == {"count": 1, "ns": 1_000_000}
    assert stats["compute_input"]["ns"] == 4_000_000  # parse, decode, preprocess, batch
    assert stats["compute_output"]["ns"] == 2_000_000
    assert entry["batch_stats"] == [
        {
            "batch_size": 4,
            "compute_input": {"count": 1, "ns": 100_000},
            "compute_infer": {"count": 1, "ns": 2_000_000},
            "compute_output": {"count": 1, "ns": 100_000},
        }
    ]


def test_batch_statistics_stay_bounded(monkeypatch):
    monkeypatch.setattr(model_module, "MAX_BATCH_SIZES", 3)
    counters = Metrics().model("m", "1")
    for rows in range(1, 10):
        counters.batch(rows, 0.0, 0.0, 0.0)
    entry = counters.statistics()
    assert [stat["batch_size"] for stat in entry["batch_stats"]] == [1, 2, 3]
    assert entry["execution_count"] == 9


def test_request_without_a_duration_counts():
    counters = Metrics().model("m", "1")
    counters.request("ok")
    assert counters.requests == {"ok": 1}
    assert counters.request_seconds.count == 0


def test_observe_many_equals_many_observes():
    one, many = Metrics().model("m", "1"), Metrics().model("m", "1")
    for _ in range(5):
        one.observe(Phase.COMPUTE, 0.25)
    many.observe_many(Phase.COMPUTE, 0.25, 5)
    assert one.phases[Phase.COMPUTE].counts == many.phases[Phase.COMPUTE].counts
    assert one.phases[Phase.COMPUTE].total == many.phases[Phase.COMPUTE].total


@given(st.lists(st.floats(min_value=0, max_value=1e6), max_size=60))
def test_histogram_agrees_with_counting(values):
    histogram = Histogram((0.5, 1.0, 10.0))
    for number in values:
        histogram.observe(number)
    buckets = dict(histogram.cumulative())
    for bound in (0.5, 1.0, 10.0):
        assert buckets[repr(bound)] == sum(number <= bound for number in values)
    assert buckets["+Inf"] == histogram.count == len(values)


def test_quantiles_are_the_bounds_of_their_bucket():
    histogram = Histogram((1.0, 2.0, 3.0))
    assert histogram.quantile(0.99) == 0.0
    for number in [0.5] * 98 + [2.5, 9.0]:
        histogram.observe(number)
    assert histogram.quantile(0.5) == 1.0
    assert histogram.quantile(0.99) == 3.0
    assert histogram.quantile(1.0) == float("inf")


def test_recent_maximum_fades():
    now = [0.0]
    recent = RecentMaximum(window_s=60, clock=lambda: now[0])
    recent.observe(0.5)
    now[0] = 61.0
    recent.observe(0.1)
    assert recent.value == 0.5
    now[0] = 122.0
    assert recent.value == 0.1
    now[0] = 500.0
    assert recent.value == 0.0


async def test_loop_lag_sees_a_blocked_loop():
    monitor = LoopLagMonitor(interval_s=0.001)
    monitor.start()
    monitor.start()  # a second start does not double the probes
    while monitor.histogram.count == 0:
        await asyncio.sleep(0.001)
    blocked_until = asyncio.get_running_loop().time() + 0.06
    while asyncio.get_running_loop().time() < blocked_until:
        pass  # the fault that the monitor is there to see
    seen = monitor.histogram.count
    while monitor.histogram.count == seen:
        await asyncio.sleep(0.001)
    monitor.stop()
    assert monitor.maximum.value >= 0.05
    assert monitor.histogram.count >= seen + 50  # every millisecond in which it was held counts


async def test_a_stopped_monitor_probes_no_more():
    monitor = LoopLagMonitor(interval_s=0.001)
    monitor.start()
    monitor.stop()
    await asyncio.sleep(0.005)
    assert monitor.histogram.count == 0


@pytest.mark.parametrize("name", ["digits\\odd", 'quo"ted', "new\nline"])
def test_odd_model_names_stay_one_label(name):
    metrics = Metrics()
    metrics.model(name, "1").request("ok", 0.1)
    assert value(metrics, "millrace_requests_total", model=name, version="1", code="ok") == 1
