"""Vectors laid out in the plane."""

import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from server.errors import InvalidInput
from server.similarity import projection
from server.similarity.projection import MAX_POINTS, METHODS, principal, project, sampled


def vectors(n: int, d: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n, d)) * np.geomspace(5, 0.1, d)).astype(np.float32)


def by_svd(rows: np.ndarray, count: int) -> np.ndarray:
    """The same by another way; signs are free."""
    centred = rows.astype(np.float64) - rows.mean(0, dtype=np.float64)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    return left[:, :count] * values[:count]


@pytest.mark.parametrize(("n", "d"), [(40, 7), (7, 40), (30, 30), (3, 2)])
def test_principal_components_are_those_of_a_singular_value_decomposition(n: int, d: int) -> None:
    rows = vectors(n, d).astype(np.float64)
    found, expected = principal(rows, 2), by_svd(rows, 2)
    for k in range(2):
        sign = np.sign(found[:, k] @ expected[:, k])
        assert np.allclose(found[:, k] * sign, expected[:, k], atol=1e-8)


def test_a_large_matrix_is_sketched_and_comes_out_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = vectors(120, 90).astype(np.float64)
    exact = principal(rows, 2)
    monkeypatch.setattr(projection, "EXACT_SIDE", 50)
    assert np.allclose(principal(rows, 2), exact, atol=1e-6)
    assert np.array_equal(principal(rows, 2), principal(rows, 2))


def test_points_keep_their_proportions_and_lie_within_one() -> None:
    rows = vectors(50, 6)
    points = project(rows)
    assert points.dtype == np.float32 and points.shape == (50, 2)
    assert np.abs(points).max() == pytest.approx(1)
    assert np.allclose((points.max(0) + points.min(0)) / 2, 0, atol=1e-6)  # in the middle
    spread = np.ptp(by_svd(rows, 2), axis=0)
    assert np.ptp(points[:, 0]) / np.ptp(points[:, 1]) == pytest.approx(spread[0] / spread[1], 1e-4)


def test_turned_signs_of_all_vectors_turn_the_map_and_rows_may_come_in_any_order() -> None:
    rows = vectors(30, 5)
    assert np.allclose(project(-rows), -project(rows), atol=1e-5)
    assert np.allclose(project(rows[::-1]), project(rows)[::-1], atol=1e-5)


def test_two_groups_stay_apart() -> None:
    rows = vectors(40, 8)
    rows[20:, 3] += 100
    across = project(rows)[:, 0]
    low, high = sorted((across[:20], across[20:]), key=np.mean)
    assert low.max() < -0.5 < 0.5 < high.min()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(0, 4), (0, 0), (1, 4), (2, 1), (4, 0), (4, 1)])
def test_few_points_and_few_dimensions_are_no_error(shape: tuple[int, int], method: str) -> None:
    points = project(np.ones(shape, np.float32), method)
    assert points.shape == (shape[0], 2) and not points.any()


def test_one_dimension_is_a_line() -> None:
    points = project(np.array([[1.0], [2.0], [5.0]]))
    assert np.allclose(points, [[-1, 0], [-0.5, 0], [1, 0]])


@pytest.mark.parametrize("factor", [1e-30, 1e30])
def test_very_small_and_very_large_numbers_are_scaled(factor: float) -> None:
    rows = vectors(20, 4).astype(np.float64)
    assert np.allclose(project(rows * factor), project(rows), atol=1e-5)


def test_equal_vectors_lie_on_one_point() -> None:
    assert not project(np.full((9, 5), 0.1, np.float32)).any()


@pytest.mark.parametrize("bad", [np.zeros(3), np.zeros((2, 2, 2)), 1.0])
def test_what_is_no_matrix_is_refused(bad: Any) -> None:
    with pytest.raises(InvalidInput, match=r"vectors \(n, d\)"):
        project(bad)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(bad: float) -> None:
    with pytest.raises(InvalidInput, match="finite"):
        project(np.array([[0.0, 1.0], [bad, 2.0]]))


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(InvalidInput, match="pca, tsne, umap") as refused:
        project(np.zeros((3, 3)), "mds")
    assert refused.value.body()["field"] == "method"


@pytest.mark.parametrize(
    ("method", "module", "package", "extra"),
    [
        ("tsne", "sklearn.manifold", "scikit-learn", "learning"),
        ("umap", "umap", "umap-learn", "map"),
    ],
)
def test_a_missing_library_is_named_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch, method: str, module: str, package: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InvalidInput, match=rf"{package}.*method=pca.*'\.\[{extra}\]'"):
        project(vectors(10, 3), method)
    monkeypatch.setitem(sys.modules, module, ModuleType(module))  # what is left of one
    with pytest.raises(InvalidInput, match=rf"{package}.*method=pca"):
        project(vectors(10, 3), method)
    project_file = Path(__file__).parents[3] / "pyproject.toml"
    extras = tomllib.loads(project_file.read_text())["project"]["optional-dependencies"]
    assert any(each.startswith(package) for each in extras[extra])


class Layout:
    """Stands in for a library: keeps what it was asked, and answers with the first two columns."""

    def __init__(self, **settings: Any) -> None:
        self.settings = settings
        type(self).latest = self

    def fit_transform(self, rows: np.ndarray) -> np.ndarray:
        self.rows = rows
        return rows[:, :2]

    latest: "Layout"


@pytest.mark.parametrize(("n", "perplexity"), [(7, 2.0), (400, 30.0)])
def test_tsne_gets_principal_components_and_a_perplexity_that_fits(
    monkeypatch: pytest.MonkeyPatch, n: int, perplexity: float
) -> None:
    library = ModuleType("sklearn.manifold")
    library.TSNE = Layout  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sklearn.manifold", library)
    points = project(vectors(n, 80), "tsne", seed=5)
    asked = Layout.latest
    assert asked.settings["perplexity"] == pytest.approx(perplexity)
    assert asked.settings["random_state"] == 5
    assert asked.settings["init"].shape == (n, 2)
    assert 0 < asked.settings["init"].std() < 1e-3
    assert asked.rows.shape == (n, 50) and asked.rows.dtype == np.float32
    assert np.abs(points).max() == pytest.approx(1)


@pytest.mark.parametrize(("n", "neighbours", "start"), [(8, 7, "random"), (60, 15, "spectral")])
def test_umap_gets_as_many_neighbours_as_there_are(
    monkeypatch: pytest.MonkeyPatch, n: int, neighbours: int, start: str
) -> None:
    library = ModuleType("umap")
    library.UMAP = Layout  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "umap", library)
    points = project(vectors(n, 6), "umap", seed=3)
    asked = Layout.latest.settings
    assert (asked["n_neighbors"], asked["init"], asked["random_state"]) == (neighbours, start, 3)
    assert points.shape == (n, 2)
    indices, distances, _ = asked["precomputed_knn"]
    assert indices.shape == distances.shape == (n, neighbours)


@pytest.mark.parametrize(("n", "count"), [(5, 4), (40, 15), (1100, 3)])
def test_the_nearest_rows_are_those_of_a_comparison_of_all(n: int, count: int) -> None:
    rows = vectors(n, 6).astype(np.float64)
    rows[1] = rows[0]
    apart = np.linalg.norm(rows[:, None] - rows[None], axis=2)
    indices, distances = projection.nearest(rows, count)
    assert np.array_equal(indices[:, 0], np.arange(n)) and not distances[:, 0].any()
    assert np.allclose(distances, np.sort(apart, axis=1)[:, :count], atol=1e-5)
    assert np.allclose(np.take_along_axis(apart, indices.astype(int), 1), distances, atol=1e-5)
    assert all(len(set(row)) == count for row in indices.tolist())


@pytest.mark.filterwarnings("ignore")  # the library's own
def test_tsne_itself_keeps_groups_together() -> None:
    pytest.importorskip("sklearn.manifold", reason="t-SNE comes with scikit-learn")
    rows = vectors(40, 8)
    rows[20:, 3] += 100
    points = project(rows, "tsne")
    first, second = points[:20].mean(0), points[20:].mean(0)
    near = np.linalg.norm(points - first, axis=1) < np.linalg.norm(points - second, axis=1)
    assert near[:20].all() and not near[20:].any()


def test_a_sample_is_ordered_repeatable_and_without_repeats() -> None:
    chosen = sampled(1000, 100, seed=4)
    assert len(set(chosen.tolist())) == 100 and (np.diff(chosen) > 0).all()
    assert chosen.max() < 1000
    assert np.array_equal(chosen, sampled(1000, 100, seed=4))
    assert not np.array_equal(chosen, sampled(1000, 100, seed=5))
    assert sampled(3, 100).tolist() == [0, 1, 2]
    assert sampled(0, 100).tolist() == []


def test_every_method_has_a_limit() -> None:
    assert set(MAX_POINTS) == set(METHODS)
