"""Lists: chosen where they help, right under changes and filters, kept on disk."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from server.errors import InvalidInput
from server.index.contract import Metric
from server.index.search import (
    Selection,
    SlotIndex,
    automatic,
    builder,
    derived,
    library,
    plan,
    upkeep,
    worker,
)
from server.index.search.gate import Gate
from server.index.search.inverted import Inverted
from tests.server.index.search.test_exact import METRICS, true_scores

WAIT_S = 100
DIM = 12


@pytest.fixture(autouse=True)
def small_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a few thousand rows be a large collection."""
    monkeypatch.setattr(upkeep, "MIN_ROWS", 1500)
    monkeypatch.setattr(upkeep, "MIN_FLOATS", 1500 * DIM)
    monkeypatch.setattr(automatic, "FEW", 100)


def clustered(count: int, seed: int = 0) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((60, DIM))
    rows = centres[rng.integers(0, 60, count)] + 0.15 * rng.standard_normal((count, DIM))
    return rows.astype(np.float32)


def uniform(count: int, dim: int) -> NDArray[np.float32]:
    return np.random.default_rng(4).standard_normal((count, dim)).astype(np.float32)


@pytest.fixture
def made() -> Iterator[list[SlotIndex]]:
    """Indexes that are closed after the test."""
    indexes: list[SlotIndex] = []
    yield indexes
    for index in indexes:
        index.close()


def index_of(
    rows: NDArray[np.float32],
    made: list[SlotIndex],
    metric: Metric = "cosine",
    path: Path | None = None,
    slots: NDArray[np.int64] | None = None,
) -> SlotIndex:
    index = SlotIndex(rows.shape[1], metric, path)
    made.append(index)
    index.attach(rows, np.arange(len(rows)) if slots is None else slots)
    assert index.settle(WAIT_S)
    return index


def recall(
    index: SlotIndex, queries: NDArray[np.float32], k: int = 10, selection: Selection | None = None
) -> float:
    slots, found = index.search(queries, k, selection)
    _, best = index.search(queries, k, selection, exact=True)
    assert (slots >= 0).sum() == np.isfinite(best).sum(), "an answer is shorter than it may be"
    real = np.isfinite(best)
    return float(
        (found >= np.minimum.reduce(np.where(real, best, np.inf), 1)[:, None] - 1e-4)[real].mean()
    )


@pytest.mark.parametrize("metric", METRICS)
def test_clusters_are_searched_through_lists(metric: Metric, made: list[SlotIndex]) -> None:
    rows, queries = clustered(4000), clustered(100, seed=1)
    index = index_of(rows, made, metric)
    state = index.state()
    assert state.kind == "approximate"
    assert state.recall is not None
    assert state.recall >= 0.985
    assert state.parameters["lists"] == upkeep.lists_for(4000)
    for k in (1, 10, 40):
        assert recall(index, queries, k) >= 0.95
    slots, scores = index.search(queries, 10)
    truth = true_scores(rows, queries, metric)
    np.testing.assert_allclose(scores, np.take_along_axis(truth, slots, 1), rtol=1e-4, atol=1e-4)
    assert (np.diff(scores, axis=1) <= 0).all()
    one, _ = index.search(queries[:1], 10)
    assert one.tolist() == slots[:1].tolist()


def test_noise_is_compared_row_by_row_and_the_state_says_why(made: list[SlotIndex]) -> None:
    index = index_of(uniform(3000, 64), made)
    state = index.state()
    assert state.kind == "exact"
    assert "recall@10 0." in state.reason
    assert "lists were read" in state.reason
    assert state.building is None
    assert index.measure_recall(uniform(5, 64)) == 1.0


def test_few_rows_are_compared_row_by_row(made: list[SlotIndex]) -> None:
    state = index_of(clustered(1000), made).state()
    assert state.kind == "exact"
    assert "few" in state.reason


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("share", [0.5, 0.05, 0.001, 0.0])
def test_filters_never_shorten_an_answer(
    share: float, metric: Metric, made: list[SlotIndex]
) -> None:
    index = index_of(clustered(6000), made, metric)
    assert index.state().kind == "approximate"
    mask = np.random.default_rng(5).random(6000) < share
    selection = Selection(mask)
    slots, _ = index.search(clustered(50, seed=2), 10, selection)
    assert slots.shape == (50, 10)
    assert ((slots >= 0).sum(axis=1) == min(10, mask.sum())).all()
    assert mask[slots[slots >= 0]].all()
    if share:
        assert recall(index, clustered(50, seed=2), 10, selection) >= 0.95


def test_a_filter_for_what_lies_elsewhere(made: list[SlotIndex]) -> None:
    rows = clustered(6000)
    index = index_of(rows, made)
    side = rows[:, 0] > 0.5
    queries = -np.abs(clustered(50, seed=3)) * [1.0] + 0
    assert 600 < side.sum() < 5000
    assert recall(index, queries.astype(np.float32), 10, Selection(side)) >= 0.95


def test_more_answers_than_the_nearest_lists_hold(made: list[SlotIndex]) -> None:
    rows = clustered(2000)
    index = index_of(rows, made)
    for k in (500, 1999, 2000, 5000):
        slots, _ = index.search(rows[:3], k)
        assert slots.shape == (3, min(k, 2000))
        assert [len(set(row)) for row in slots.tolist()] == [min(k, 2000)] * 3


@pytest.mark.parametrize("metric", METRICS)
def test_changes_are_followed(metric: Metric, made: list[SlotIndex]) -> None:
    rows = np.concatenate((clustered(3000), np.zeros((500, DIM), np.float32)))
    rng = np.random.default_rng(8)
    index = index_of(rows, made, metric, slots=np.arange(3000))
    assert index.state().kind == "approximate"
    alive = np.arange(len(rows)) < 3000
    for turn in range(30):
        gone = rng.choice(len(rows), 60)
        index.remove(gone)
        alive[gone] = False
        back = rng.choice(np.flatnonzero(~alive), 40, replace=False)
        rows[back] = clustered(40, seed=turn)
        index.add(back)
        alive[back] = True
        assert len(index) == alive.sum()
        slots, scores = index.search(rows[back], 1)
        if metric != "dot":  # the largest dot product is not with itself
            own = true_scores(rows[back], rows[back], metric).diagonal()
            np.testing.assert_allclose(scores[:, 0], own, atol=1e-3)
        slots, _ = index.search(clustered(20, seed=100 + turn), 10)
        assert alive[slots].all()
    assert index.settle(WAIT_S)
    assert recall(index, clustered(100, seed=1)) >= 0.93


def test_growth_makes_new_lists(made: list[SlotIndex]) -> None:
    index = SlotIndex(DIM, "cosine")
    made.append(index)
    rows = clustered(9000)
    index.attach(rows[:1600].copy(), np.arange(1600))
    assert index.settle(WAIT_S)
    assert index.state().parameters["lists"] == upkeep.lists_for(1600)
    index.grow(rows)
    for first in range(1600, 9000, 500):
        index.add(np.arange(first, min(first + 500, 9000)))
    assert index.settle(WAIT_S)
    assert index.state().parameters["lists"] > upkeep.lists_for(4 * 1600 - 1)
    assert recall(index, clustered(100, seed=1)) >= 0.95
    index.remove(np.arange(500, 9000))
    assert index.settle(WAIT_S)
    assert index.state().kind == "exact"
    assert "few" in index.state().reason


def test_searches_and_changes_go_on_while_lists_are_made(made: list[SlotIndex]) -> None:
    rows = clustered(8000)
    index = SlotIndex(DIM, "cosine")
    made.append(index)
    index.attach(rows, np.arange(4000))
    failures: list[object] = []
    over = threading.Event()

    def search() -> None:
        while not over.wait(0.005):  # lists are made at low priority: leave them some time
            slots, _ = index.search(rows[:4], 10)
            if (slots < 0).any() or [len(set(row)) for row in slots.tolist()] != [10] * 4:
                failures.append(slots)

    searchers = [threading.Thread(target=search) for _ in range(2)]
    for thread in searchers:
        thread.start()
    for first in range(4000, 8000, 100):
        index.add(np.arange(first, first + 100))
        index.remove(np.arange(first - 50, first))
    assert index.settle(WAIT_S)
    over.set()
    for thread in searchers:
        thread.join()
    assert not failures
    assert index.state().kind == "approximate"
    alive = np.ones(8000, np.bool_)
    for first in range(4000, 8000, 100):
        alive[first - 50 : first] = False
    assert len(index) == alive.sum()
    slots, _ = index.search(rows, 1)
    assert (slots[alive][:, 0] == np.flatnonzero(alive)).mean() > 0.99
    assert alive[slots].all()


def test_rows_that_come_while_lists_are_made_do_not_count_against_them(
    monkeypatch: pytest.MonkeyPatch, made: list[SlotIndex]
) -> None:
    rows = clustered(4000)
    index = SlotIndex(DIM, "cosine")
    made.append(index)
    planned = worker.planned

    def plan_later(*arguments: object) -> object:
        index.add(np.arange(2500, 4000))
        return planned(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(worker, "planned", plan_later)
    index.attach(rows, np.arange(2500))
    assert index.settle(WAIT_S)
    assert index.state().kind == "approximate"
    assert recall(index, rows[2500:2600]) >= 0.95


@pytest.mark.parametrize("left", [0, 3, 12])
@pytest.mark.parametrize("step", ["built", "planned"])
def test_rows_that_go_while_lists_are_made(
    step: str, left: int, monkeypatch: pytest.MonkeyPatch, made: list[SlotIndex]
) -> None:
    rows = clustered(2000)
    index = SlotIndex(DIM, "cosine")
    made.append(index)
    original = getattr(worker, step)

    def after_removal(*arguments: object) -> object:
        index.remove(np.arange(left, 2000))
        if step == "built":
            arguments = (arguments[0], index._alive.copy(), *arguments[2:])
        return original(*arguments)

    monkeypatch.setattr(worker, step, after_removal)
    index.attach(rows, np.arange(2000))
    assert index.settle(WAIT_S)
    assert index.state().kind == "exact"
    assert "could not" not in index.state().reason
    slots, _ = index.search(rows[:2], 10)
    assert slots.shape == (2, min(left, 10))


def counting_builds(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    calls: list[int] = []

    def train(*arguments: object) -> object:
        calls.append(1)
        return trained(*arguments)  # type: ignore[arg-type]

    trained = builder.train_centres
    monkeypatch.setattr(builder, "train_centres", train)
    return calls


def test_lists_come_back_from_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: list[SlotIndex]
) -> None:
    rows, path = clustered(3000), tmp_path / "lists"
    first = index_of(rows, made, path=path)
    before = first.search(rows[:50], 10)
    first.close()
    assert 0 < path.stat().st_size < rows.nbytes
    builds = counting_builds(monkeypatch)
    second = index_of(rows, made, path=path)
    assert second.state().kind == "approximate"
    assert not builds
    after = second.search(rows[:50], 10)
    assert before[0].tolist() == after[0].tolist()


def test_rows_that_changed_since_are_put_into_their_lists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: list[SlotIndex]
) -> None:
    rows, path = clustered(3200), tmp_path / "lists"
    index_of(rows, made, path=path, slots=np.arange(3000)).close()
    rows[100:300] = clustered(200, seed=6)  # other rows in slots that are known
    builds = counting_builds(monkeypatch)
    now = np.arange(50, 3200)  # 50 are gone, 200 are new
    index = index_of(rows, made, path=path, slots=now)
    assert not builds
    assert index.state().kind == "approximate"
    slots, _ = index.search(rows, 1)
    assert slots.min() >= 50
    assert (slots[50:, 0] == now).mean() > 0.99


@pytest.mark.parametrize("damage", ["cut", "flip", "other", "empty", "folder"])
def test_a_damaged_file_is_made_again(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: list[SlotIndex]
) -> None:
    rows, path = clustered(1800), tmp_path / "lists"
    index_of(rows, made, path=path).close()
    whole = bytearray(path.read_bytes())
    if damage == "cut":
        path.write_bytes(whole[: len(whole) // 2])
    elif damage == "flip":
        whole[len(whole) // 2] ^= 255
        path.write_bytes(whole)
    elif damage == "other":
        index_of(rows, made, "l2", path).close()
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        path.unlink()
        path.mkdir()
    builds = counting_builds(monkeypatch)
    index = index_of(rows, made, path=path)
    assert index.state().kind == "approximate"
    assert len(builds) == 1
    assert recall(index, rows[:50]) >= 0.95


def test_many_changes_are_saved_when_closing(tmp_path: Path, made: list[SlotIndex]) -> None:
    rows, path = clustered(2400), tmp_path / "lists"
    index = index_of(rows, made, path=path, slots=np.arange(2000))
    index.add(np.arange(2000, 2400))
    assert index.settle(WAIT_S)
    index.close()
    saved = derived.read(path, DIM, "cosine")
    assert saved is not None
    assert (saved.list_of[:2400] >= 0).all()


def test_a_disk_that_refuses_is_survived(tmp_path: Path, made: list[SlotIndex]) -> None:
    index = index_of(clustered(1800), made, path=tmp_path / "missing" / "lists")
    assert index.state().kind == "approximate"


@pytest.mark.parametrize(("dim", "ends"), [(8, "approximate"), (64, "exact")])
def test_low_recall_makes_it_read_more_and_in_the_end_everything(
    dim: int, ends: str, monkeypatch: pytest.MonkeyPatch, made: list[SlotIndex]
) -> None:
    monkeypatch.setattr(plan, "WANTED", 0.3)  # on its sample it is content with far too little
    index = index_of(uniform(4000, dim), made)
    assert index.state().kind == "approximate"
    before = index.state().parameters["probes"][10]
    queries = uniform(5000, dim)[4000:4100]
    assert recall(index, queries) < 0.95
    for _ in range(8):
        measured = index.measure_recall(queries)
        assert index.state().recall in (None, pytest.approx(measured))
        if measured >= 0.95:
            break
    state = index.state()
    assert state.kind == ends
    assert recall(index, queries) >= 0.95
    if state.kind == "exact":
        assert "recall 0." in state.reason
    else:
        assert state.parameters["probes"][10] > before


def test_without_the_library_everything_is_compared(
    monkeypatch: pytest.MonkeyPatch, made: list[SlotIndex]
) -> None:
    monkeypatch.setattr(library, "is_installed", lambda: False)
    index = index_of(clustered(2000), made)
    state = index.state()
    assert state.kind == "exact"
    assert "similarity" in state.reason


def test_a_build_that_fails_leaves_exact_search(
    monkeypatch: pytest.MonkeyPatch, made: list[SlotIndex]
) -> None:
    def fail(*arguments: object) -> None:
        raise MemoryError("none left")

    monkeypatch.setattr(builder, "train_centres", fail)
    index = index_of(clustered(2000), made)
    state = index.state()
    assert state.kind == "exact"
    assert "none left" in state.reason
    assert index.search(clustered(3), 5)[0].shape == (3, 5)


@pytest.mark.parametrize("step", ["train_centres", "nearest_list", "make_plan"])
def test_closing_stops_a_build(step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    started, go_on = threading.Event(), threading.Event()
    place = Inverted if step == "nearest_list" else builder
    original = getattr(place, step)

    def wait(*arguments: object) -> object:
        started.set()
        assert go_on.wait(WAIT_S)
        return original(*arguments)

    monkeypatch.setattr(builder, "_CHUNK", 500)
    monkeypatch.setattr(place, step, wait)
    index = SlotIndex(DIM, "cosine")
    index.attach(clustered(2000), np.arange(2000))
    assert started.wait(WAIT_S)
    assert not index.settle(0)
    assert index.state().building is not None
    assert "until the lists" in index.state().reason
    closing = threading.Thread(target=index.close)
    closing.start()
    while not index._worker._stop.is_set():
        pass
    go_on.set()
    closing.join(WAIT_S)
    assert index.settle(WAIT_S)
    assert index.state().kind == "exact"


@pytest.mark.parametrize(
    "query",
    [
        np.full((1, DIM), np.nan),
        np.full((2, DIM), np.inf),
        np.full((1, DIM), 1e30),
        np.zeros((1, DIM + 1)),
        np.zeros(DIM),
        np.zeros((1, 0)),
    ],
)
def test_queries_that_cannot_be_compared_are_refused(query: NDArray[np.float64]) -> None:
    index = SlotIndex(DIM, "cosine")
    index.attach(clustered(10), np.arange(10))
    with pytest.raises(InvalidInput, match="query"):
        index.search(query.astype(np.float32), 3)


def test_searches_of_nothing() -> None:
    index = SlotIndex(DIM, "cosine")
    assert index.search(clustered(2), 3)[0].shape == (2, 0)
    index.attach(clustered(10), np.arange(10))
    assert index.search(clustered(0), 3)[0].shape == (0, 3)
    assert index.search(clustered(2), 0)[0].shape == (2, 0)
    assert index.search(clustered(2), -1)[0].shape == (2, 0)


def test_a_writer_waits_for_readers_and_keeps_new_ones_out() -> None:
    gate = Gate()
    order: list[str] = []
    gate.enter()

    def write() -> None:
        with gate.writing():
            order.append("written")

    def read() -> None:
        gate.enter()
        order.append("read")
        gate.leave()

    writer = threading.Thread(target=write)
    writer.start()
    while not gate._entrance.locked():
        time.sleep(0.001)
    reader = threading.Thread(target=read)
    reader.start()
    assert not order
    gate.leave()
    writer.join(WAIT_S)
    reader.join(WAIT_S)
    assert order == ["written", "read"]


def test_rows_removed_in_the_middle_of_a_search_are_not_answered_with() -> None:
    index = SlotIndex(DIM, "cosine")
    index.attach(clustered(50), np.arange(50))
    index.remove([0])
    index._end = index._count  # as a search sees it that read the two at different moments
    slots, _ = index.search(clustered(50)[:1], 10)
    assert 0 not in slots
