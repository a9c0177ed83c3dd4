"""The demo says so when something went wrong."""

from __future__ import annotations

from benchmarks.common.closed_loop import Answer
from demo.swap import problems_of


def answer(sent: float, note: str, status: int = 200) -> Answer:
    return Answer(sent, sent + 0.5, status, note.encode())


GOOD = [answer(0, "1 7"), answer(1, "1 7"), answer(2, "2 7"), answer(4, "2 7")]


def problems(*extra: Answer) -> list[str]:
    return problems_of([*GOOD, *extra], "7", "2", switched_s=3.0)


def test_a_clean_swap():
    assert problems() == []


def test_failed_requests_are_counted_by_status():
    assert problems(answer(2, "", 503), answer(2, "", 0)) == ["2 requests failed: {503: 1, 0: 1}"]


def test_the_old_version_after_the_switch_is_a_problem():
    [problem] = problems(answer(3.1, "1 7"))
    assert problem.startswith("1 requests after the switch")


def test_a_wrong_answer_is_a_problem():
    assert problems(answer(2, "2 9")) == ["1 answers were wrong"]


def test_a_swap_that_nobody_saw_is_a_problem():
    [problem] = problems_of(GOOD[:2], "7", "2", switched_s=3.0)
    assert "only version" in problem
