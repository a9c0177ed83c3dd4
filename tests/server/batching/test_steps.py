from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from server.batching.policy import MAX_PRIORITY, PRIORITY_STEP_US
from server.batching.steps import (
    HOLD_AFTER_US,
    LOOK_AHEAD,
    MAX_HANDICAP_US,
    PADDING_SHARE,
    PADDING_TOKENS,
    US_PER_TOKEN,
    StepLimits,
    plan_step,
    sentence_rank,
)

NOW_US = 50_000_000
ROWS = 8


@dataclass(eq=False)
class Item:
    rows: int = 1
    source_tokens: int = 10
    arrived_us: int = NOW_US
    deadline_us: int | None = None
    abandoned: bool = False
    alone: bool = False
    priority: int = 0
    left: int = 3  # steps until it is done, once it runs

    @property
    def rank(self):
        return sentence_rank(
            self.arrived_us, self.deadline_us, self.priority, self.source_tokens * self.rows
        )


def in_order(waiting):
    return sorted(waiting, key=lambda item: item.rank)


def flat(groups):
    return [item for group in groups for item in group]


def ids(items):
    return [id(item) for item in items]


def padded(group):
    return max(item.source_tokens for item in group) * len(group)


items = st.builds(
    Item,
    rows=st.integers(1, ROWS),
    source_tokens=st.integers(1, 200),
    arrived_us=st.integers(NOW_US - 500_000, NOW_US),
    deadline_us=st.none() | st.integers(NOW_US - 1000, NOW_US + 2_000_000),
    abandoned=st.booleans() | st.just(False),
    alone=st.sampled_from([False, False, False, True]),
    priority=st.integers(-12, 12),
    left=st.integers(1, 20),
)
queues = st.lists(items, max_size=30).map(in_order)
limits = st.builds(
    StepLimits,
    rows=st.integers(ROWS, 32),
    sources=st.integers(1, 16),
    encode_tokens=st.sampled_from([1, 64, 512]),
)


@st.composite
def running_within(draw, bounds):
    """Some sentences that fit."""
    rows, chosen = bounds.rows, []
    for item in draw(st.lists(items, max_size=bounds.sources)):
        if item.alone and chosen:
            continue
        if item.rows <= rows and not (chosen and chosen[0].alone):
            chosen.append(item)
            rows -= item.rows
    return chosen


@st.composite
def situations(draw):
    bounds = draw(limits)
    return draw(running_within(bounds)), draw(queues), bounds


def is_late(item):
    return item.deadline_us is not None and item.deadline_us <= NOW_US


@given(situations())
def test_memory_is_bounded_and_nobody_is_named_twice(situation):
    running, waiting, bounds = situation
    plan = plan_step(running, waiting, NOW_US, bounds)
    admitted = flat(plan.admit)
    kept = [item for item in running if id(item) not in set(ids(plan.evict))]
    assert sum(item.rows for item in [*kept, *admitted]) <= bounds.rows
    assert len(kept) + len(admitted) <= bounds.sources
    named = ids(admitted) + ids(plan.dropped)
    assert len(named) == len(set(named))
    assert set(named) <= set(ids(waiting))


@given(situations())
def test_whoever_is_late_or_abandoned_leaves_and_never_joins(situation):
    running, waiting, bounds = situation
    plan = plan_step(running, waiting, NOW_US, bounds)
    over = [item for item in running if item.abandoned or is_late(item)]
    assert ids(plan.evict) == ids(over)
    assert all(item.abandoned or is_late(item) for item in plan.dropped)
    assert not any(item.abandoned or is_late(item) for item in flat(plan.admit))


@given(situations())
def test_an_idle_decoder_always_takes_the_first_in_rank(situation):
    _, waiting, bounds = situation
    plan = plan_step([], waiting, NOW_US, bounds)
    alive = [item for item in waiting if not (item.abandoned or is_late(item))]
    if alive:
        assert plan.admit[0][0] is alive[0]
    else:
        assert not plan.admit


@given(situations())
def test_an_encoder_batch_pads_little_and_keeps_the_budget(situation):
    running, waiting, bounds = situation
    plan = plan_step(running, waiting, NOW_US, bounds)
    for group in plan.admit:
        padding = padded(group) - sum(item.source_tokens for item in group)
        assert padding <= max(PADDING_TOKENS, PADDING_SHARE * padded(group))
    admitted = flat(plan.admit)
    if len(admitted) > 1:
        assert sum(map(padded, plan.admit)) <= bounds.encode_tokens


@given(situations())
def test_a_suspect_runs_alone(situation):
    running, waiting, bounds = situation
    plan = plan_step(running, waiting, NOW_US, bounds)
    kept = [item for item in running if id(item) not in set(ids(plan.evict))]
    together = [*kept, *flat(plan.admit)]
    if any(item.alone for item in together):
        assert len(together) == 1


@given(st.lists(st.integers(1, 60), min_size=1, max_size=60), st.integers(8, 64))
def test_free_rows_are_used_while_the_budget_lasts(lengths, rows):
    waiting = in_order([Item(source_tokens=length) for length in lengths])
    plan = plan_step([], waiting, NOW_US, StepLimits(rows, rows, encode_tokens=10**6))
    assert len(flat(plan.admit)) == min(rows, len(lengths))


def play(waiting, bounds, arrivals=None, *, now_us=NOW_US, step_us=5000, turns=3000):
    """Run the policy against an invented decoder; return when each sentence left, by id."""
    running, left = [], {}
    waiting = list(waiting)
    for _ in range(turns):
        if arrivals is not None:
            waiting = in_order([*waiting, *arrivals(now_us)])
        plan = plan_step(running, waiting, now_us, bounds)
        admitted = flat(plan.admit)
        gone = set(ids(admitted) + ids(plan.dropped))
        waiting = [item for item in waiting if id(item) not in gone]
        evicted = set(ids(plan.evict))
        running = [item for item in running if id(item) not in evicted] + admitted
        for item in [*plan.dropped, *plan.evict]:
            left[id(item)] = now_us
        now_us += step_us
        for item in running:
            item.left -= 1
            if item.left <= 0:
                left[id(item)] = now_us
        running = [item for item in running if item.left > 0]
        if arrivals is None and not waiting and not running:
            break
    return left


@given(queues, limits)
def test_everybody_comes_to_an_end(waiting, bounds):
    assert set(play(waiting, bounds)) == set(ids(waiting))


def test_a_long_sentence_does_not_starve_behind_short_ones():
    long = Item(source_tokens=200, left=200)
    shorts = []

    def arrivals(now_us):  # more short ones than the rows can take, for ever
        shorts.append([Item(source_tokens=3, arrived_us=now_us, left=4) for _ in range(4)])
        return shorts[-1]

    bounds = StepLimits(rows=8, sources=8)
    left = play([long], bounds, arrivals, turns=800)
    began_us = left[id(long)] - 200 * 5000
    assert began_us - NOW_US <= 200 * US_PER_TOKEN + 4 * 5000


def test_many_beams_do_not_starve_behind_single_rows():
    wide = Item(rows=8, source_tokens=10, left=5)
    keep = []

    def arrivals(now_us):
        keep.append([Item(source_tokens=5, arrived_us=now_us, left=6) for _ in range(3)])
        return keep[-1]

    busy = [Item(source_tokens=5, arrived_us=NOW_US - 10, left=7) for _ in range(8)]
    left = play([*busy, wide], StepLimits(rows=8, sources=8), arrivals, turns=400)
    waited_us = left[id(wide)] - NOW_US
    assert waited_us <= 80 * US_PER_TOKEN + HOLD_AFTER_US + (7 + 5 + 3) * 5000


def test_a_short_sentence_passes_a_long_request_that_came_before():
    document = []
    for index in range(400):
        item = Item(source_tokens=25, arrived_us=NOW_US - 1000, left=20)
        rank = sentence_rank(item.arrived_us, None, 0, 25 * (index + 1))
        document.append((rank, item))
    short = Item(source_tokens=5, arrived_us=NOW_US, left=5)
    queue = sorted([*document, (short.rank, short)], key=lambda pair: pair[0])
    assert [item for _, item in queue].index(short) == 0
    later = Item(source_tokens=5, arrived_us=NOW_US + 8_000_000)
    behind = [rank for rank, _ in document if rank > later.rank]
    assert behind == []  # the document's end is due by then, however many short ones come


def test_short_sentences_wait_less_than_long_ones_that_came_with_them():
    mixed = [Item(source_tokens=n, left=n) for n in [60, 50, 5, 4, 60, 3, 50, 60] * 8]
    left = play(in_order(mixed), StepLimits(rows=4, sources=4))
    mean = {
        short: sum(left[id(item)] for item in mixed if (item.source_tokens < 10) == short)
        / sum((item.source_tokens < 10) == short for item in mixed)
        for short in (True, False)
    }
    assert mean[True] < mean[False]


def test_priority_is_ten_seconds_and_bounded():
    plain = sentence_rank(NOW_US, None, 0, 10)
    assert sentence_rank(NOW_US, None, 1, 10) == plain - PRIORITY_STEP_US
    assert sentence_rank(NOW_US, None, 99, 10) == sentence_rank(NOW_US, None, MAX_PRIORITY, 10)


@given(st.integers(0, 10**7), st.none() | st.integers(0, 10**9), st.integers(-9, 9))
def test_a_rank_is_never_later_than_what_comes_after_the_longest_handicap(tokens, due, priority):
    rank = sentence_rank(NOW_US, due, priority, tokens)
    later_us = NOW_US + MAX_HANDICAP_US + 2 * MAX_PRIORITY * PRIORITY_STEP_US + 1
    assert rank < sentence_rank(later_us, None, MAX_PRIORITY, 0)


def test_a_deadline_brings_a_long_sentence_forward():
    long = sentence_rank(NOW_US, NOW_US + 1000, 0, 1000)
    assert long == NOW_US + 1000


def test_a_plan_looks_at_a_bounded_part_of_the_queue():
    wide = [Item(rows=8, arrived_us=NOW_US) for _ in range(LOOK_AHEAD)]
    last = Item(arrived_us=NOW_US + 1)
    running = [Item()]
    plan = plan_step(running, [*wide, last], NOW_US, StepLimits(8, 8))
    assert not plan.admit
