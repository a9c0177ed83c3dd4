from hypothesis import given
from hypothesis import strategies as st

from server.batching.cost import CostModel


def test_nothing_is_known_at_first():
    assert CostModel().mean_us(4) is None
    assert CostModel().least_us(4) is None


def test_one_run_is_believed_until_there_are_more():
    cost = CostModel()
    cost.learn(4, 100.0)
    assert cost.mean_us(4) == cost.least_us(4) == 100.0


def test_an_unseen_size_costs_in_proportion_to_the_next_smaller():
    cost = CostModel()
    cost.learn(1, 10.0)
    assert cost.mean_us(8) == 80.0
    cost.learn(64, 200.0)
    assert cost.mean_us(128) == 400.0
    assert cost.mean_us(0) == 10.0  # nothing smaller is known: what the smallest costs


def test_waits_for_the_interpreter_do_not_hide_what_a_run_costs():
    cost = CostModel()
    for us in [5000.0, 5000.0, 120.0, 5000.0, 5000.0, 5000.0]:
        cost.learn(32, us)
    assert cost.least_us(32) < 500
    assert cost.mean_us(32) > 3000


def test_a_run_that_really_became_slow_is_noticed():
    cost = CostModel()
    cost.learn(32, 100.0)
    for _ in range(20):
        cost.learn(32, 5000.0, undisturbed=True)
    assert cost.least_us(32) > 4000


@given(st.lists(st.tuples(st.integers(0, 2000), st.floats(0, 1e7)), min_size=1, max_size=60))
def test_what_is_expected_lies_within_what_was_seen(runs):
    cost = CostModel()
    for rows, us in runs:
        cost.learn(rows, us)
    seen = [us for _, us in runs]
    for rows, _ in runs:
        assert min(seen) - 1e-6 <= cost.least_us(rows) <= cost.mean_us(rows) + 1e-6
        assert cost.mean_us(rows) <= max(seen) * (1 + 1e-9) + 1e-6
