from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from server.batching.policy import (
    MAX_PRIORITY,
    PATIENCE_US,
    PRIORITY_STEP_US,
    BatchLimits,
    form_batch,
    rank_of,
)

NOW_US = 5_000_000


@dataclass(eq=False)
class Waiting:
    rows: int = 1
    key: object = "a"
    arrived_us: int = NOW_US
    deadline_us: int | None = None
    priority: int = 0

    @property
    def rank(self):
        return rank_of(self.arrived_us, self.deadline_us, self.priority)


def in_order(queue):
    return sorted(queue, key=lambda pending: pending.rank)


waiting = st.builds(
    Waiting,
    rows=st.integers(0, 8),
    key=st.sampled_from(["a", "b", "c"]),
    arrived_us=st.integers(NOW_US - 3_000_000, NOW_US),
    deadline_us=st.none() | st.integers(NOW_US - 1000, NOW_US + 2_000_000),
    priority=st.integers(-20, 20),
)
queues = st.lists(waiting, max_size=40).map(in_order)
limits = st.builds(
    BatchLimits,
    max_rows=st.integers(8, 16),
    max_delay_us=st.sampled_from([0, 100, 5_000_000]),
    cost_us=st.integers(0, 1000),
)


def ids(parts):
    return [id(part) for part in parts]


@given(queues, limits)
def test_a_plan_loses_nothing_and_doubles_nothing(queue, bounds):
    plan = form_batch(queue, NOW_US, bounds)
    named = ids(plan.expired) + ids(plan.batch)
    assert len(named) == len(set(named))
    assert set(named) <= set(ids(queue))


@given(queues, limits)
def test_exactly_the_expired_are_dropped(queue, bounds):
    plan = form_batch(queue, NOW_US, bounds)
    past = [p for p in queue if p.deadline_us is not None and p.deadline_us <= NOW_US]
    assert ids(plan.expired) == ids(past)


@given(queues, limits)
def test_a_batch_keeps_its_bounds_its_key_and_the_order(queue, bounds):
    batch = form_batch(queue, NOW_US, bounds).batch
    assert sum(part.rows for part in batch) <= bounds.max_rows
    assert len({part.key for part in batch}) <= 1
    places = [ids(queue).index(id(part)) for part in batch]
    assert places == sorted(places)


@given(queues, limits)
def test_work_conserving_whenever_something_can_run_something_does(queue, bounds):
    plan = form_batch(queue, NOW_US, bounds)
    runnable = len(queue) - len(plan.expired)
    if bounds.max_delay_us == 0:
        assert bool(plan.batch) == bool(runnable)
        assert plan.wait_us is None
    else:
        assert bool(plan.batch or plan.wait_us) == bool(runnable)


@given(queues, limits)
def test_the_first_in_rank_always_runs(queue, bounds):
    plan = form_batch(queue, NOW_US, bounds)
    alive = [p for p in queue if p not in plan.expired]
    if plan.batch:
        assert plan.batch[0] is alive[0]


@given(queues, limits)
def test_nobody_with_the_same_key_is_left_behind_who_would_have_fitted(queue, bounds):
    plan = form_batch(queue, NOW_US, bounds)
    if not plan.batch:
        return
    room = bounds.max_rows - sum(part.rows for part in plan.batch)
    taken = {*ids(plan.batch), *ids(plan.expired)}
    left = [p for p in queue if id(p) not in taken and p.key == plan.batch[0].key]
    # A part is passed over only where the room at its turn was too small, and room only shrinks.
    assert all(part.rows > room for part in left)


@given(queues, limits, st.integers(1, 100))
def test_draining_a_queue_answers_everyone_within_as_many_turns(queue, bounds, step_us):
    left, now_us, seen = list(queue), NOW_US, []
    for _ in range(3 * len(queue) + 1):
        if not left:
            break
        plan = form_batch(left, now_us, bounds)
        seen += [*plan.expired, *plan.batch]
        gone = set(ids(plan.expired) + ids(plan.batch))
        left = [part for part in left if id(part) not in gone]
        now_us += plan.wait_us or step_us
    assert sorted(ids(seen)) == sorted(ids(queue))


def test_an_idle_engine_waits_only_when_asked_to():
    queue = [Waiting(arrived_us=NOW_US - 30)]
    assert form_batch(queue, NOW_US, BatchLimits(8)).batch == queue
    assert form_batch(queue, NOW_US, BatchLimits(8, max_delay_us=100)).wait_us == 70
    assert form_batch(queue, NOW_US + 70, BatchLimits(8, max_delay_us=100)).batch == queue


def test_a_full_batch_does_not_wait():
    queue = [Waiting(rows=4), Waiting(rows=4)]
    assert form_batch(queue, NOW_US, BatchLimits(8, max_delay_us=1000)).batch == queue


def test_waiting_for_company_leaves_time_to_meet_the_deadline():
    queue = [Waiting(deadline_us=NOW_US + 500)]
    plan = form_batch(queue, NOW_US, BatchLimits(8, max_delay_us=10_000, cost_us=300))
    assert plan.wait_us == 200


def test_a_request_larger_than_the_rest_of_the_room_lets_smaller_ones_by_and_is_next():
    first, large, small = Waiting(rows=5), Waiting(rows=6), Waiting(rows=3)
    plan = form_batch([first, large, small], NOW_US, BatchLimits(8))
    assert plan.batch == [first, small]
    assert form_batch([large], NOW_US, BatchLimits(8)).batch == [large]


def test_what_runs_alone_may_be_larger_than_a_batch():
    alone = Waiting(rows=100, key=object())
    assert form_batch([alone, Waiting()], NOW_US, BatchLimits(8)).batch == [alone]


def test_the_nearest_deadline_is_first_among_equals():
    relaxed = Waiting(arrived_us=NOW_US - 10, deadline_us=NOW_US + 60_000_000)
    urgent = Waiting(arrived_us=NOW_US, deadline_us=NOW_US + 10_000)
    assert in_order([relaxed, urgent]) == [urgent, relaxed]


def test_far_deadlines_leave_first_come_first_served():
    first = Waiting(arrived_us=NOW_US - 10, deadline_us=NOW_US + 60_000_000)
    second = Waiting(arrived_us=NOW_US, deadline_us=NOW_US + 30_000_000)
    assert in_order([second, first]) == [first, second]


def test_priority_overtakes_but_not_for_ever():
    low = Waiting(arrived_us=NOW_US)
    high = Waiting(arrived_us=NOW_US + 1_000_000, priority=1)
    late = Waiting(arrived_us=NOW_US + PRIORITY_STEP_US + 1, priority=1)
    assert in_order([low, high]) == [high, low]
    assert in_order([late, low]) == [low, late]


@given(waiting)
def test_nothing_is_overtaken_by_what_comes_much_later(part):
    longest_us = PATIENCE_US + 2 * MAX_PRIORITY * PRIORITY_STEP_US
    later_us = part.arrived_us + longest_us + 1
    assert rank_of(later_us, later_us + 1, MAX_PRIORITY) > part.rank
