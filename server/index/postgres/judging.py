"""Whether a space needs an index, and how hard it is to be searched. No connection, no clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from server.index.contract import IndexState
from server.index.postgres.place import LARGEST_HALF_DIM

LADDER = (40, 64, 100, 160, 250, 400, 640, 1000)  # values of hnsw.ef_search
GOAL = 0.99  # recall on the sample at which the ladder is left
HARDLY_MORE = 0.005  # recall for which no harder search is worth its time
LEAST = 0.95  # below, no index answers
WORTH = 0.8  # of the time of an exact search that one with the index may take
GROWN = 2  # times as many vectors call for another look

Step = Literal["nothing", "build", "tune"]


@dataclass(frozen=True, slots=True)
class Judgement:
    """What is known of a space's index."""

    vectors: int  # as estimated by the database
    index: Literal["none", "broken", "valid"] = "none"
    tuned_to: int | None = None  # hnsw.ef_search
    verdict: str | None = None
    judged_at: int = 0  # vectors, when the verdict was given
    recall: float | None = None
    building: float | None = None  # share done

    @property
    def ef_search(self) -> int | None:
        """Return how hard to search the index; None where there is none to be used."""
        return self.tuned_to if self.index == "valid" else None

    def state(self, vectors: int, missing: int, size: int, can_be_indexed: bool) -> IndexState:
        """Return what people are told."""
        if self.ef_search is not None:
            reason = self.verdict or "the index was tuned to enough recall"
        elif not can_be_indexed:
            reason = f"pgvector indexes vectors of up to {LARGEST_HALF_DIM} elements"
        elif self.building is not None:
            reason = "the index is being built; until then every vector is compared"
        else:
            reason = self.verdict or f"{vectors} vectors are compared one by one soon enough"
        parameters = {} if self.ef_search is None else {"index": "hnsw", "ef_search": self.tuned_to}
        return IndexState(
            kind="exact" if self.ef_search is None else "approximate",
            reason=reason,
            vectors=vectors,
            missing=missing,
            bytes=size,
            building=self.building,
            recall=self.recall if self.ef_search is not None else 1.0,
            parameters=parameters,
        )


@dataclass(frozen=True, slots=True)
class Trial:
    """One value of hnsw.ef_search, tried on a sample."""

    ef_search: int
    recall: float
    seconds: float  # a query


def next_step(judgement: Judgement, vectors: int, index_from: int) -> Step:
    """Return what a space with so many vectors calls for."""
    grown = vectors >= GROWN * judgement.judged_at
    if judgement.index == "valid":
        poor = judgement.recall is not None and judgement.recall < LEAST
        return "tune" if judgement.tuned_to is None or grown or poor else "nothing"
    if vectors < index_from or not (grown or judgement.tuned_to is not None):
        return "nothing"  # few, or the last judgement was that an index is not worth it
    return "build"


def good_enough(trial: Trial) -> bool:
    """Whether no harder search has to be tried."""
    return trial.recall >= GOAL


def verdict_on(
    trials: Sequence[Trial], exact_seconds: float, vectors: int
) -> tuple[int | None, float | None, str]:
    """Return hnsw.ef_search, the recall that it had, and a sentence for people."""
    most = max(trial.recall for trial in trials)
    best = next(t for t in trials if good_enough(t) or t.recall >= most - HARDLY_MORE)
    figures = (
        f"recall@10 {best.recall:.3f} at ef_search {best.ef_search} in {best.seconds * 1000:.2f} "
        f"ms a query, exact in {exact_seconds * 1000:.2f} ms, measured on {vectors} vectors"
    )
    if best.recall < LEAST:
        return None, None, f"an index does not find enough here: {figures}"
    if best.seconds > WORTH * exact_seconds:
        return None, None, f"an index is no faster here: {figures}"
    return best.ef_search, best.recall, f"the index finds enough: {figures}"
