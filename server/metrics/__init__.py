"""What the server counts about itself, cheaply enough for the hot path.

Lower than everything that serves: it knows names and numbers, no requests and no models. Counters
are plain integers and lists that only the event loop's thread writes, so an `observe` takes no
lock; they become Prometheus families when somebody scrapes (`exposition`).
"""

from server.metrics.collections import CollectionMetrics
from server.metrics.histogram import COUNT_BOUNDS, SECONDS_BOUNDS, Histogram
from server.metrics.lag import LoopLagMonitor, RecentMaximum
from server.metrics.model import ModelMetrics, Phase
from server.metrics.registry import Metrics
from server.metrics.translation import TranslationMetrics

__all__ = [
    "COUNT_BOUNDS",
    "SECONDS_BOUNDS",
    "CollectionMetrics",
    "Histogram",
    "LoopLagMonitor",
    "Metrics",
    "ModelMetrics",
    "Phase",
    "RecentMaximum",
    "TranslationMetrics",
]
