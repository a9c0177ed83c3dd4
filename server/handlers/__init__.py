"""What the server can do, whatever protocol asks: a layer without HTTP.

Handlers take and return plain objects and raise `ServerError`s; REST and gRPC are thin skins over
them. One file per noun; `Handlers` is the set of them for one application.
"""

from __future__ import annotations

from server.execution import WorkerPool
from server.handlers.admin import AdminHandler
from server.handlers.collection_map import MapHandler
from server.handlers.collections import CollectionHandler
from server.handlers.flights import Flights
from server.handlers.heads import HeadHandler
from server.handlers.infer import InferHandler
from server.handlers.models import ModelHandler
from server.handlers.predict import PredictHandler
from server.handlers.similar import SimilarHandler
from server.handlers.translate import TranslateHandler
from server.metrics import Metrics
from server.repository.registry import Repository
from server.settings import Settings
from server.similarity.service import Collections
from server.text import LanguageDetector

__all__ = ["Handlers"]


class Handlers:
    """Every handler of an application, over one repository and one pool."""

    def __init__(
        self,
        repository: Repository,
        pool: WorkerPool,
        metrics: Metrics,
        settings: Settings,
        collections: Collections,
        detector: LanguageDetector | None = None,
    ) -> None:
        """Bind the handlers to what they share."""
        self.repository = repository
        self.pool = pool
        self.metrics = metrics
        self.flights = Flights()
        self.predict = PredictHandler(repository, pool, self.flights, settings).predict
        self.infer = InferHandler(repository, pool, self.flights, settings).infer
        detector = detector or LanguageDetector()
        self.translate = TranslateHandler(repository, pool, self.flights, settings, detector)
        self.models = ModelHandler(repository, metrics)
        self.admin = AdminHandler(repository)
        self.collections = CollectionHandler(collections, self.flights)
        self.similar = SimilarHandler(collections, self.flights)
        self.maps = MapHandler(collections, self.flights)
        self.heads = HeadHandler(repository, pool, collections)
