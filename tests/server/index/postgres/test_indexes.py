"""Indexes: when one is built, that it is used, and that it never shortens an answer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager

import numpy as np
import pytest
from psycopg import sql

from server.index.contract import CollectionSpec, Metric, NewItem, Query, Vectors
from server.index.filters import Compare
from server.index.postgres import building, judging, open_store, place, space
from server.index.postgres.judging import Judgement, Trial, next_step, verdict_on
from server.index.postgres.space import PostgresSpace
from server.index.postgres.store import PostgresStore
from tests.waiting import wait_until

LIMIT_S = 60.0


@pytest.fixture
def eager(url: str, monkeypatch: pytest.MonkeyPatch) -> PostgresStore:
    """A store that indexes little, and likes its indexes whatever they cost."""
    monkeypatch.setattr(judging, "WORTH", 1e9)
    monkeypatch.setattr(building, "SETTLE_S", 0.01)
    monkeypatch.setattr(building, "SAMPLE", 8)
    monkeypatch.setattr(building, "AGAIN_S", 0.05)
    store = open_store(url + "&index_from=200&options=-c%20enable_seqscan%3Doff")
    assert isinstance(store, PostgresStore)
    return store


def filled(
    store: PostgresStore, rows: Vectors, metric: Metric = "cosine", name: str = "c"
) -> PostgresSpace:
    collection = store.create(CollectionSpec(name, metric))
    items = [NewItem(f"{i:04}", {"n": i, "tenth": i % 10}) for i in range(len(rows))]
    collection.put(items, {"s": rows})
    found = collection.space("s", rows.shape[1])
    assert isinstance(found, PostgresSpace)
    return found


def random_rows(count: int, dim: int) -> Vectors:
    return np.random.default_rng(1).standard_normal((count, dim)).astype(np.float32)


@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
def test_an_index_comes_by_itself_and_is_used(eager: PostgresStore, metric: Metric) -> None:
    rows = random_rows(400, 8)
    searched = filled(eager, rows, metric)
    wait_until(lambda: searched.state().kind == "approximate")
    state = searched.state()
    assert "recall@10" in state.reason and state.parameters["ef_search"] in judging.LADDER
    queries = random_rows(20, 8) + 0.1
    found = searched.search(queries, Query(k=10))
    exact = searched.search(queries, Query(k=10, exact=True))
    shared = sum(len(set(a) & set(b)) for a, b in zip(found, exact, strict=True))
    assert shared >= 190 and all(len(hits) == 10 for hits in found)
    assert searched.measure_recall(queries) >= 0.95
    assert searched.state().recall == pytest.approx(shared / 200, abs=0.05)
    plan = eager._database.rows(
        sql.SQL(
            "EXPLAIN SELECT id FROM {} ORDER BY embedding {} '[1,1,1,1,1,1,1,1]' LIMIT 1"
        ).format(searched.place.vectors, searched.place.operator)
    )
    assert any("hnsw" in line for (line,) in plan)
    eager.close()


def test_filters_by_index_never_shorten_an_answer(
    eager: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(space, "COUNTS_KEPT", 1)
    monkeypatch.setattr(space, "FEW_MATCHES", 0)  # even a filter that little passes goes by index
    rows = random_rows(600, 4)
    searched = filled(eager, rows)
    wait_until(lambda: searched.state().kind == "approximate")
    for filter in (
        Compare(("tenth",), "eq", 3),
        Compare(("n",), "lt", 5),
        Compare(("n",), "eq", 9),
    ):
        matching = [i for i in range(600) if i % 10 == 3]
        if filter.path == ("n",):
            matching = [0, 1, 2, 3, 4] if filter.comparison == "lt" else [9]
        for k in (1, 10, 100):
            found = searched.search(rows[:3], Query(k=k, filter=filter))
            assert [len(hits) for hits in found] == [min(k, len(matching))] * 3
            assert all(int(hit.id) in matching for hits in found for hit in hits)
    everything = searched.search(rows[:2], Query(k=600))
    assert [len({hit.id for hit in hits}) for hits in everything] == [600, 600]
    hits = searched.search(rows[:1], Query(k=5, exclude=frozenset(("0000", "\ud800"))))[0]
    assert len(hits) == 5 and "0000" not in {hit.id for hit in hits}
    eager.close()


def test_vectors_too_long_for_float32_are_indexed_as_halves(eager: PostgresStore) -> None:
    rows = random_rows(250, place.LARGEST_INDEXED_DIM + 1)
    searched = filled(eager, rows)
    wait_until(lambda: searched.state().kind == "approximate")
    (hits,) = searched.search(rows[5:6], Query(k=10))
    (exact,) = searched.search(rows[5:6], Query(k=10, exact=True))
    assert hits[0] == exact[0] and hits[0].score == pytest.approx(1, abs=1e-5)
    eager.close()


def test_vectors_too_long_for_any_index_say_so(eager: PostgresStore) -> None:
    rows = random_rows(3, place.LARGEST_HALF_DIM + 1)
    searched = filled(eager, rows)
    assert "4000" in searched.state().reason
    assert searched.search(rows[1:2], Query(k=1))[0][0].id == "0001"
    assert np.array_equal(searched.vectors(["0002"])[0], rows[2])
    with pytest.raises(Exception, match="16000"):
        eager.open("c").space("longer", 16_001)
    eager.close()


def test_a_broken_index_is_built_anew(eager: PostgresStore) -> None:
    searched = filled(eager, random_rows(300, 4))
    wait_until(lambda: searched.state().kind == "approximate")
    eager._database.execute(
        sql.SQL("UPDATE pg_index SET indisvalid = false WHERE indexrelid = %s::regclass"),
        (searched.place.index_name,),
    )
    assert searched.state().kind == "exact"
    assert len(searched.search(random_rows(1, 4), Query(k=10))[0]) == 10
    searched.wrote(1000)
    wait_until(lambda: searched.state().kind == "approximate")
    eager.close()


def test_an_index_that_is_not_worth_it_goes(
    eager: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judging, "WORTH", 0.0)
    searched = filled(eager, random_rows(300, 4))
    wait_until(lambda: "no faster" in searched.state().reason)
    assert searched.state().kind == "exact"
    indexes = eager._database.rows(
        sql.SQL("SELECT to_regclass(%s) IS NULL"), (searched.place.index_name,)
    )
    assert indexes == [(True,)]
    eager.drop("c")
    eager._builder.attend(searched.place)  # a space that is gone is no error
    eager.close()
    eager._builder.attend(searched.place)
    eager._builder.consider(searched.place)


def test_only_one_server_builds_an_index(eager: PostgresStore) -> None:
    collection = eager.create(CollectionSpec("c"))
    made = collection.space("s", 2)
    wait_until(lambda: not eager._builder._watched[made.place].written)
    lock = f"index of {made.place.number}"
    with eager._builder.locks.held(lock, LIMIT_S) as held:
        assert held
        rows = random_rows(300, 2)
        collection.put([NewItem(str(i)) for i in range(300)], {"s": rows})
        assert not eager._builder.attend(made.place)
        assert made.state().kind == "exact" and made.state().building == 0.0
    wait_until(lambda: made.state().kind == "approximate")
    eager.close()


@contextmanager
def being_built(store: PostgresStore) -> Iterator[PostgresSpace]:
    """Fill a space, and be in the middle of its indexing: that waits for who has read before it."""
    made = store.create(CollectionSpec("large")).space("s", 3)
    assert isinstance(made, PostgresSpace)
    with closing(store._database.connect(statement_timeout=False)) as reader:
        reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        reader.execute("SELECT count(*) FROM spaces")
        store.open("large").put([NewItem(str(i)) for i in range(300)], {"s": random_rows(300, 3)})
        wait_until(lambda: any("old snapshots" in str(phase) for _, phase in progress(store)))
        yield made


def progress(store: PostgresStore) -> list[tuple[object, ...]]:
    return store._database.rows(sql.SQL("SELECT pid, phase FROM pg_stat_progress_create_index"))


def test_a_space_can_go_while_its_index_is_built(eager: PostgresStore) -> None:
    with being_built(eager):
        eager.drop("large")
        assert eager.names() == []
    # It may have been begun again between being stopped and the space's end.
    wait_until(lambda: not progress(eager))
    wait_until(lambda: not eager._builder._watched)
    eager.close()


def test_a_server_that_stops_leaves_its_index_to_the_next(eager: PostgresStore, url: str) -> None:
    with being_built(eager) as made:
        eager.close()
    other = open_store(url + "&index_from=200")
    seen = other.open("large").space("s", made.dim)
    wait_until(lambda: seen.state().kind == "approximate")
    other.close()


@pytest.mark.parametrize(
    ("wanted", "matches", "vectors", "effort"),
    [
        (10, 50_000, 100_000, 80),  # half: nearly as without a filter
        (10, 9_000, 100_000, 445),
        (10, 5_000, 100_000, None),
        (10, 100, 100_000, None),  # few: compared one by one
        (100, 5_000, 100_000, None),  # dearer by index
        (10, 9_000, 1_000_000, None),  # beyond what the index can be asked for at once
        (10, 50_000, 10_000_000, 8000),  # but so many are not compared one by one
        (10, 0, 0, None),
    ],
)
def test_a_filter_is_searched_the_cheaper_way(
    wanted: int, matches: int, vectors: int, effort: int | None
) -> None:
    assert space.filtered_effort(wanted, matches, vectors) == effort


TRIALS = [Trial(40, 0.9, 0.001), Trial(64, 0.97, 0.002), Trial(100, 0.99, 0.003)]


def test_the_least_effort_that_finds_enough_is_chosen() -> None:
    ef_search, recall, reason = verdict_on(TRIALS, 0.03, 1000)
    assert (ef_search, recall) == (100, 0.99) and "0.990" in reason
    assert verdict_on(TRIALS[:2], 0.03, 1000)[0] == 64  # not the goal, but enough
    hardly = Trial(1000, 0.972, 0.009)
    assert verdict_on([*TRIALS[:2], hardly], 0.03, 1000)[0] == 64
    assert verdict_on(TRIALS[:1], 0.03, 1000)[:2] == (None, None)
    slow = verdict_on(TRIALS, 0.0031, 1000)
    assert slow[0] is None and "no faster" in slow[2]


@pytest.mark.parametrize(
    ("judgement", "vectors", "step"),
    [
        (Judgement(0), 99, "nothing"),
        (Judgement(0), 100, "build"),
        (Judgement(0, "broken"), 100, "build"),
        (Judgement(0, "none", None, "not worth it", 100), 199, "nothing"),
        (Judgement(0, "none", None, "not worth it", 100), 200, "build"),
        (Judgement(0, "valid"), 100, "tune"),
        (Judgement(0, "valid", 40, "fine", 100), 150, "nothing"),
        (Judgement(0, "valid", 40, "fine", 100), 200, "tune"),
        (Judgement(0, "valid", 40, "fine", 100, recall=0.9), 150, "tune"),
        (Judgement(0, "none", 40, "somebody dropped it", 100), 150, "build"),
    ],
)
def test_what_a_space_calls_for(judgement: Judgement, vectors: int, step: str) -> None:
    assert next_step(judgement, vectors, 100) == step


def test_people_are_told_what_is_being_done() -> None:
    assert Judgement(9, building=0.5).state(9, 0, 1, True).building == 0.5
    assert "being built" in Judgement(9, building=0.5).state(9, 0, 1, True).reason
    assert "one by one" in Judgement(9).state(9, 0, 1, True).reason
    assert "finds enough" in Judgement(9, "valid", 40, "finds enough").state(9, 0, 1, True).reason


def test_what_an_index_cannot_hold_is_searched_without(eager: PostgresStore) -> None:
    rows = random_rows(250, place.LARGEST_INDEXED_DIM + 1)
    rows[7] *= 1e6  # float16 ends at 65,504
    searched = filled(eager, rows)
    wait_until(lambda: "cannot hold" in searched.state().reason)
    assert searched.state().kind == "exact"
    assert searched.search(rows[7:8], Query(k=1))[0][0].id == "0007"
    assert not eager._database.rows(
        sql.SQL("SELECT 1 WHERE to_regclass(%s) IS NOT NULL"), (searched.place.index_name,)
    )
    eager.close()


def test_a_mistake_over_one_space_does_not_end_the_work_for_all(
    eager: PostgresStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    attend, failed = building.Builder.attend, []

    def fail_first(self: building.Builder, place: object) -> bool:
        if not failed:
            failed.append(place)
            raise IndexError("a mistake")
        return attend(self, place)  # type: ignore[arg-type]

    monkeypatch.setattr(building.Builder, "attend", fail_first)
    monkeypatch.setattr(building, "AGAIN_S", 0.0)
    searched = filled(eager, random_rows(300, 4))
    wait_until(lambda: searched.state().kind == "approximate")
    assert failed and "a mistake" in caplog.text
    eager.close()
