"""What the answers of a swap are held against: the vectors that both versions really have."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.common.closed_loop import Answer
from benchmarks.common.server_process import ServerProcess
from benchmarks.similarity.cifar import Pictures, call, class_of
from server.index.embedded import open_store

MODEL, NAME, K = "photos", "cifar", 10
SCORE_SLACK = 2e-3
Vectors = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Reply:
    """What one answer says."""

    query: int
    version: str
    space: str
    hits: list[tuple[str, float]]

    @classmethod
    def read(cls, answer: Answer) -> Reply:
        body = json.loads(answer.note)
        hits = [(hit["id"], hit["score"]) for hit in body["results"][0]["hits"]]
        return cls(int(body["id"].removeprefix("q-")), body["version"], body["space"], hits)


def another_basis(dim: int = 256) -> tuple[Vectors, Vectors]:
    """Return factors (dim,) from 0.6 to 1.4, and an orthogonal matrix (dim, dim)."""
    draw = np.random.default_rng(11)
    turn, _ = np.linalg.qr(draw.standard_normal((dim, dim)))
    return draw.uniform(0.6, 1.4, dim).astype(np.float32), turn.astype(np.float32)


@dataclass(frozen=True)
class Truth:
    """The vectors of both versions, as the store has them and as queries have them."""

    ids: list[str]
    items: dict[str, Vectors]  # by version: (n, dim), of length 1
    queries: dict[str, Vectors]


def embedded(server: ServerProcess, pictures: Pictures) -> Vectors:
    """Return the first version's vectors of pictures."""
    rows = []
    for data in pictures.files:
        answer = call(f"{server.url}/embed?model={MODEL}&version=1", data, "image/jpeg")
        rows.append(answer["results"][0]["embedding"])
    return np.array(rows, np.float32)


def turned(rows: Vectors) -> Vectors:
    """Return what the second version makes of vectors of the first."""
    scale, turn = another_basis(rows.shape[1])
    return unit((rows * scale) @ turn)


def unit(rows: Vectors) -> Vectors:
    """Scale rows to length 1."""
    lengths: Vectors = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / lengths


def read_truth(folder: Path, train: Pictures, queries: Vectors) -> Truth:
    """Read both spaces from the store of a server that has stopped."""
    store = open_store(folder)
    collection = store.open(NAME)
    ids = [train.id(place) for place in range(len(train.files))]
    items = {}
    for key in collection.spaces():
        vectors = collection.space(key, queries.shape[1]).vectors(ids)
        items[key.partition(":")[0].rpartition("@")[2]] = unit(np.stack(vectors))  # type: ignore[arg-type]
    store.close()
    return Truth(ids, items, {"1": unit(queries), "2": turned(queries)})


def mixed(replies: list[Reply], truth: Truth) -> int:
    """Count answers with a score that their version's vectors do not have, or another's space."""
    place = {id: row for row, id in enumerate(truth.ids)}
    count = 0
    for reply in replies:
        rows = truth.items[reply.version][[place[id] for id, _ in reply.hits]]  # (k, dim)
        cosines = rows @ truth.queries[reply.version][reply.query]
        wrong = np.abs(cosines - [score for _, score in reply.hits]).max() > SCORE_SLACK
        named = reply.space.startswith(f"{MODEL}@{reply.version}:")
        count += bool(wrong) or not named or len(reply.hits) != K
    return count


def precision(replies: list[Reply], version: str, test: Pictures) -> float:
    """Return the share of answers of the query's class; each query counts once."""
    first = {reply.query: reply for reply in reversed(replies) if reply.version == version}
    right = [
        sum(class_of(id) == test.classes[test.labels[query]] for id, _ in reply.hits) / K
        for query, reply in first.items()
    ]
    return float(np.mean(right))


def recall(replies: list[Reply], version: str, truth: Truth) -> float:
    """Return the share of an exact search's answers that was found."""
    first = {reply.query: reply for reply in reversed(replies) if reply.version == version}
    items, queries = truth.items[version], truth.queries[version]
    found = 0
    for query, reply in first.items():
        scores = items @ queries[query]  # (n,)
        least = np.partition(scores, -K)[-K]
        place = {id for id, score in reply.hits if score >= least - SCORE_SLACK / 10}
        found += len(place)
    return found / (K * len(first))


def stale(answers: list[Answer], switched_s: float) -> int:
    """Count answers of the first version that were asked for after the switch was reported."""
    late = [each for each in answers if each.status == 200 and each.sent_s > switched_s]
    return sum(Reply.read(each).version == "1" for each in late)
