"""A map of vectors: every vector becomes a point in the plane, near ones near each other.

Principal components need nothing but numpy. t-SNE and UMAP draw neighbourhoods better and come
from libraries that are imported when they are first asked for; without them the error says so.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from server.errors import InvalidInput, how_to_install

Points = NDArray[np.float32]  # (n, 2)
Floats = NDArray[np.float64]

METHODS: Final = ("pca", "tsne", "umap")
# Points beyond which a method takes minutes rather than seconds: draw a sample of so many.
MAX_POINTS: Final = {"pca": 20_000, "tsne": 3_000, "umap": 5_000}
EXACT_SIDE = 768  # the largest matrix whose eigenvectors are computed in full
SKETCH = 12  # directions that the sketch of a larger one follows
SWEEPS = 12
FEWEST = 5  # points below which neighbourhoods say nothing: principal components instead
PERPLEXITY = 30.0  # neighbours that t-SNE weighs, where there are three times as many points
NEIGHBOURS = 15
ROWS_AT_ONCE = 512  # that are compared with all
TSNE_DIMENSIONS = 50  # t-SNE sees so many principal components, as is usual
TSNE_SPREAD = 1e-4


def sampled(count: int, limit: int, seed: int = 0) -> NDArray[np.int64]:
    """Return which of `count` items to draw: all, or `limit` at random, in ascending order."""
    if count <= limit:
        return np.arange(count, dtype=np.int64)
    chosen = np.random.default_rng(seed).choice(count, limit, replace=False)
    return np.sort(chosen).astype(np.int64)


def project(vectors: ArrayLike, method: str = "pca", seed: int = 0) -> Points:
    """Lay vectors (n, d) out in the plane; points (n, 2) float32 lie within [-1, 1].

    One factor scales both axes, so distances compare. The same vectors and seed give the same
    points on one machine; no component turns its sign from run to run.

    Raises:
        InvalidInput: no such method, its library is missing, or vectors that are no finite
            matrix.
    """
    layout = _LAYOUTS.get(method)
    if layout is None:
        raise InvalidInput(
            f"no method is called {method!r}; choose one of {', '.join(METHODS)}",
            field="method",
            expected=list(METHODS),
            got=method,
        )
    rows = _checked(vectors)
    if method != "pca" and len(rows) < FEWEST:
        layout = _principal_pair
    return _scaled(layout(rows, seed))


def principal(rows: Floats, count: int, seed: int = 0) -> Floats:
    """Return the first `count` principal components of rows (n, d), as coordinates (n, count).

    Small matrices by eigenvectors; large ones by the randomized subspace iteration of Halko,
    Martinsson and Tropp (SIAM Review 53, 2011). A direction's largest entry is made positive.
    """
    centred = rows - rows.mean(0)
    n, dim = centred.shape
    kept = min(count, n, dim)
    if min(n, dim) > EXACT_SIDE:
        directions = _sketched(centred, kept, seed)
    elif dim <= n:
        directions = np.linalg.eigh(centred.T @ centred)[1][:, ::-1][:, :kept]
    else:
        directions = centred.T @ np.linalg.eigh(centred @ centred.T)[1][:, ::-1][:, :kept]
        lengths = np.linalg.norm(directions, axis=0)
        directions = directions / np.where(lengths == 0, 1, lengths)
    largest = np.abs(directions).argmax(0)
    signs = np.where(directions[largest, np.arange(kept)] < 0, -1.0, 1.0)
    found = np.zeros((n, count))
    found[:, :kept] = centred @ (directions * signs)
    return found


def _sketched(centred: Floats, kept: int, seed: int) -> Floats:
    start = np.random.default_rng(seed).normal(size=(centred.shape[1], kept + SKETCH))
    basis = np.linalg.qr(start)[0]
    for _ in range(SWEEPS):
        basis = np.linalg.qr(centred.T @ (centred @ basis))[0]
    inside = centred @ basis  # (n, kept + SKETCH)
    turn = np.linalg.eigh(inside.T @ inside)[1][:, ::-1][:, :kept]
    directions: Floats = basis @ turn
    return directions


def _checked(vectors: ArrayLike) -> Floats:
    """Return the vectors as float64, scaled to entries of at most 1: squares cannot overflow."""
    rows = np.asarray(vectors, np.float64)
    if rows.ndim != 2:
        raise InvalidInput(
            f"a map is drawn of vectors (n, d), not of an array of shape {rows.shape}",
            field="vectors",
            expected="(n, d)",
            got=list(rows.shape),
        )
    if not np.isfinite(rows).all():
        raise InvalidInput(
            "a map is drawn of finite vectors; some entries are infinite or no number",
            field="vectors",
            expected="finite numbers",
            got="inf or nan",
        )
    if rows.size == 0:
        return np.zeros((len(rows), 1))
    largest = np.abs(rows).max()
    return rows / largest if largest > 0 else rows


def _scaled(points: Floats) -> Points:
    if len(points) == 0:
        return np.zeros((0, 2), np.float32)
    middle = (points.max(0) + points.min(0)) / 2
    reach = np.abs(points - middle).max()
    # What is left of equal vectors is rounding; blown up it would look like a structure.
    scale = 1 / reach if reach > 1e-12 else 0.0
    scaled: Points = ((points - middle) * scale).astype(np.float32)
    return scaled


def _principal_pair(rows: Floats, seed: int) -> Floats:
    return principal(rows, 2, seed) if len(rows) else np.zeros((0, 2))


def _tsne(rows: Floats, seed: int) -> Floats:
    manifold = _library("sklearn.manifold", "TSNE", "tsne", "scikit-learn", "learning")
    reduced = principal(rows, min(TSNE_DIMENSIONS, rows.shape[1]), seed)
    start = principal(rows, 2, seed)
    spread = start.std()
    start = start * (TSNE_SPREAD / spread if spread > 0 else 1.0)
    tsne = manifold.TSNE(
        n_components=2,
        perplexity=min(PERPLEXITY, (len(rows) - 1) / 3),
        init=start.astype(np.float32),
        learning_rate="auto",
        random_state=seed,
    )
    return np.asarray(tsne.fit_transform(reduced.astype(np.float32)), np.float64)


def _umap(rows: Floats, seed: int) -> Floats:
    umap = _library("umap", "UMAP", "umap", "umap-learn", "map")
    warnings.filterwarnings("ignore", message="precomputed_knn")  # that no points can be added
    count = min(NEIGHBOURS, len(rows) - 1)
    reducer = umap.UMAP(
        n_components=2,
        n_neighbors=count,
        # Comparing so few is quick, where what would look for them takes a minute to compile, anew
        # in every process. The third part is for adding points later, which nobody does.
        precomputed_knn=(*nearest(rows, count), None),
        force_approximation_algorithm=True,  # or of few points it would look by itself
        init="random" if len(rows) < 2 * NEIGHBOURS else "spectral",
        random_state=seed,
        n_jobs=1,  # what a fixed seed asks for anyway
    )
    return np.asarray(reducer.fit_transform(rows.astype(np.float32)), np.float64)


def nearest(rows: Floats, count: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Return the rows (n, d) nearest to each, itself first, and their distances: (n, count)."""
    squares = np.einsum("nd,nd->n", rows, rows)
    indices = np.empty((len(rows), count), np.int32)
    distances = np.empty((len(rows), count), np.float32)
    for start in range(0, len(rows), ROWS_AT_ONCE):
        some = rows[start : start + ROWS_AT_ONCE]
        end = start + len(some)
        apart = squares[start:end, None] + squares - 2 * (some @ rows.T)  # (rows, n), squared
        apart[np.arange(len(some)), np.arange(start, end)] = -np.inf  # itself
        near = np.argpartition(apart, count - 1, axis=1)[:, :count]
        order = np.argsort(np.take_along_axis(apart, near, 1), axis=1, kind="stable")
        indices[start:end] = np.take_along_axis(near, order, 1)
        found = np.take_along_axis(apart, indices[start:end].astype(np.int64), 1)
        distances[start:end] = np.sqrt(np.maximum(found, 0))
    return indices, distances


def _library(name: str, has: str, method: str, package: str, extra: str) -> Any:
    try:
        library = importlib.import_module(name)
        # A folder that stays when a library goes (of compiled code) is a package, if an empty one.
        getattr(library, has)
    except (ImportError, AttributeError):
        raise InvalidInput(
            f"the method {method} needs {package}, which this server lacks; ask for method=pca, or "
            f"install it: {how_to_install(package, extra)}",
            field="method",
            expected="pca",
            got=method,
        ) from None
    return library


_LAYOUTS: Final[dict[str, Callable[[Floats, int], Floats]]] = {
    "pca": _principal_pair,
    "tsne": _tsne,
    "umap": _umap,
}
