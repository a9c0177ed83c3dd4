"""Libraries of approximate search, used directly, each in the way its own documentation shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.similarity.data import Vectors

THREADS = 1  # for building as for searching: what remains of the machine serves models
CONNECTIONS, BUILD_EFFORT = 16, 100  # of graphs: what their makers suggest
EFFORTS = (10, 16, 24, 32, 48, 64, 96, 128, 256, 512)


@dataclass
class Peer:
    """An index of one library. Searches return ids (m, k)."""

    name: str
    version: str
    settings: Sequence[int]
    set_to: Callable[[int], None]
    search: Callable[[Vectors, int], NDArray[np.int64]]
    add: Callable[[int, Vectors], None] | None = None  # an id and a row (dim,)
    remove: Callable[[int], None] | None = None
    build_s: float = 0.0
    setting: int = 0

    def use(self, setting: int) -> None:
        self.setting = setting
        self.set_to(setting)


def faiss_inverted(rows: Vectors, lists: int) -> Peer:
    import faiss

    faiss.omp_set_num_threads(THREADS)
    index: Any = faiss.index_factory(rows.shape[1], f"IVF{lists},Flat", faiss.METRIC_INNER_PRODUCT)
    index.train(rows[: 60 * lists])
    index.add(rows)
    index.set_direct_map_type(faiss.DirectMap.Hashtable)
    faiss.omp_set_num_threads(1)

    def set_to(probes: int) -> None:
        index.nprobe = probes

    return Peer(
        "faiss, inverted lists",
        faiss.__version__,
        (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64, 128),
        set_to,
        lambda queries, k: index.search(queries, k)[1],
        lambda id, row: index.add_with_ids(row[None], np.array([id])),
        lambda id: index.remove_ids(np.array([id])),
    )


def faiss_graph(rows: Vectors) -> Peer:
    import faiss

    faiss.omp_set_num_threads(THREADS)
    index: Any = faiss.IndexHNSWFlat(rows.shape[1], CONNECTIONS, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = BUILD_EFFORT
    index.add(rows)
    faiss.omp_set_num_threads(1)

    def set_to(effort: int) -> None:
        index.hnsw.efSearch = effort

    return Peer(
        "faiss, graph (HNSW)",
        faiss.__version__,
        EFFORTS,
        set_to,
        lambda queries, k: index.search(queries, k)[1],
        lambda id, row: index.add(row[None]),
    )


def hnswlib_graph(rows: Vectors) -> Peer:
    import hnswlib

    index: Any = hnswlib.Index("ip", rows.shape[1])
    index.init_index(
        len(rows) + 10_000,
        M=CONNECTIONS,
        ef_construction=BUILD_EFFORT,
        allow_replace_deleted=True,
    )
    index.set_num_threads(THREADS)
    index.add_items(rows)
    index.set_num_threads(1)
    return Peer(
        "hnswlib",
        "0.8.0",
        EFFORTS,
        index.set_ef,
        lambda queries, k: index.knn_query(queries, k)[0].astype(np.int64),
        lambda id, row: index.add_items(row[None], [id]),
        index.mark_deleted,
    )


def usearch_graph(rows: Vectors) -> Peer:
    import usearch
    from usearch.index import Index

    index: Any = Index(
        ndim=rows.shape[1],
        metric="ip",
        dtype="f32",
        connectivity=CONNECTIONS,
        expansion_add=BUILD_EFFORT,
    )
    index.add(np.arange(len(rows)), rows, threads=THREADS)

    def set_to(effort: int) -> None:
        index.expansion_search = effort

    def search(queries: Vectors, k: int) -> NDArray[np.int64]:
        keys = index.search(queries, k, threads=1).keys
        return np.asarray(keys, np.int64).reshape(len(queries), -1)

    return Peer(
        "usearch",
        usearch.__version__,
        EFFORTS,
        set_to,
        search,
        lambda id, row: index.add(id, row),
        lambda id: index.remove(id),
    )


def annoy_trees(rows: Vectors) -> Peer:
    from annoy import AnnoyIndex

    index: Any = AnnoyIndex(rows.shape[1], "dot")
    for id, row in enumerate(rows):
        index.add_item(id, row)
    index.build(50, n_jobs=THREADS)
    effort = [1000]

    def set_to(read: int) -> None:
        effort[0] = read

    def search(queries: Vectors, k: int) -> NDArray[np.int64]:
        found = [index.get_nns_by_vector(row, k, search_k=effort[0]) for row in queries]
        return np.array(found, np.int64)

    settings = (100, 200, 500, 1000, 4000, 10_000, 20_000)
    return Peer("annoy", "1.17.3", settings, set_to, search)
