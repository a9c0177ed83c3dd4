"""All counters of a server process."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from server.metrics.collections import CollectionsMetrics
from server.metrics.exposition import Exposition
from server.metrics.histogram import Histogram
from server.metrics.lag import LoopLagMonitor
from server.metrics.model import ModelMetrics


class Metrics:
    """One per application; hands out `ModelMetrics` and renders everything for a scrape."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        """Start empty, with the standard process metrics."""
        self.models: dict[tuple[str, str], ModelMetrics] = {}
        self.states: dict[tuple[str, str], str] = {}
        self.loads: dict[str, int] = {}
        self.load_seconds = Histogram()
        self.rejections: dict[str, int] = {}
        self.loop_lag = LoopLagMonitor()
        self.collections = CollectionsMetrics()
        self._registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        GCCollector(registry=self._registry)
        self._registry.register(Exposition(self))

    def model(self, model: str, version: str) -> ModelMetrics:
        """Return the counters of a version, made on first use; bind them once, not per request."""
        key = (model, version)
        found = self.models.get(key)
        return found if found is not None else self.models.setdefault(key, ModelMetrics(*key))

    def state(self, model: str, version: str, state: str) -> None:
        """Set the state that the gauge `millrace_model_state` shows for a version."""
        self.states[(model, version)] = state

    def drop(self, model: str, version: str) -> None:
        """Remove every series of a version; what still holds its counters writes to nowhere."""
        self.models.pop((model, version), None)
        self.states.pop((model, version), None)

    def load(self, outcome: str, seconds: float) -> None:
        """Count a finished attempt to load a version (`"ok"`, or the error's code)."""
        self.loads[outcome] = self.loads.get(outcome, 0) + 1
        self.load_seconds.observe(seconds)

    def rejected(self, code: str) -> None:
        """Count a request that was refused before it was known which model it is for."""
        self.rejections[code] = self.rejections.get(code, 0) + 1

    def statistics(self) -> list[dict[str, object]]:
        """Return Triton's `model_stats` list of all versions, in a stable order."""
        return [self.models[key].statistics() for key in sorted(self.models)]

    def render(self) -> bytes:
        """Return the Prometheus text format (`content_type` is its media type)."""
        return generate_latest(self._registry)
