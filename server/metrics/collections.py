"""The counters of collections: searches, items, and where the time of a search goes."""

from __future__ import annotations

from server.metrics.histogram import Histogram

MAX_COLLECTIONS = 100  # with series of their own; further ones share the last
OTHERS = "(others)"  # no collection can be called so
SEARCH_PHASES = ("decode", "model", "index", "fetch")


class CollectionMetrics:
    """Of one collection; every method is cheap and called on the event loop."""

    __slots__ = (
        *("bytes", "changes", "items", "missing", "phases", "recall", "search_seconds"),
        "searches",
    )

    def __init__(self) -> None:
        """Start at zero."""
        self.searches: dict[str, int] = {}  # by `ok`, or the error's code
        self.search_seconds = Histogram()
        self.phases = {phase: Histogram() for phase in SEARCH_PHASES}
        self.changes: dict[str, int] = {}  # items, by what became of them
        self.items: int | None = None  # as last counted
        self.bytes: int | None = None
        self.recall: dict[int, float] = {}  # by k, as last measured
        self.missing: dict[str, int] = {}  # items to embed, by the version that will

    def search(self, code: str, seconds: float) -> None:
        """Count one query that was answered."""
        self.searches[code] = self.searches.get(code, 0) + 1
        self.search_seconds.observe(seconds)

    def phase(self, name: str, seconds: float) -> None:
        """Count what one search spent in one phase."""
        self.phases[name].observe(seconds)

    def changed(self, what: str, count: int) -> None:
        """Count items that were added, replaced, failed or deleted."""
        if count:
            self.changes[what] = self.changes.get(what, 0) + count

    def holds(self, items: int, size_bytes: int) -> None:
        """Note how much the collection holds."""
        self.items, self.bytes = items, size_bytes


class CollectionsMetrics:
    """Of all collections, with a bounded number of names."""

    def __init__(self, most: int = MAX_COLLECTIONS) -> None:
        """Start with none."""
        self._most = most
        self.by_name: dict[str, CollectionMetrics] = {}

    def of(self, name: str) -> CollectionMetrics:
        """Return the counters of a collection, made on first use."""
        found = self.by_name.get(name)
        if found is None:
            full = len(self.by_name.keys() - {OTHERS}) >= self._most
            found = self.by_name.setdefault(OTHERS if full else name, CollectionMetrics())
        return found

    def drop(self, name: str) -> None:
        """Remove the series of a collection."""
        self.by_name.pop(name, None)
