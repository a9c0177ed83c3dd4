"""Bounds of dims hold for all sizes, and are told for the forms that exporters need."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from engine.ir.dim_bounds import is_not_negative, least, most
from engine.ir.types import dim_max, dim_min, evaluate, floordiv, symbol
from tests.engine.test_dims import NAMES, SAMPLES, Sample

L, H = symbol("L"), symbol("H")
SIZES = st.fixed_dictionaries({name: st.integers(0, 40) for name in NAMES})


@settings(max_examples=300, deadline=None)
@given(SAMPLES, SIZES)
def test_bounds_hold(sample: Sample, sizes: dict[str, int]) -> None:
    dim = sample[0]
    low, high = least(dim), most(dim)
    assert low is None or low <= evaluate(dim, sizes)
    assert high is None or high >= evaluate(dim, sizes)


def test_bounds_that_are_known() -> None:
    assert least(L * H + 3) == 3
    assert least(floordiv(L + 7, 8) * 2) == 0
    assert least(dim_max(L - 5, 2)) == 2
    assert (least(dim_min(L, 4)), most(dim_min(L, 4))) == (0, 4)
    assert least(10 - dim_min(L, 4)) == 6
    assert is_not_negative(L) and not is_not_negative(L - 1)
    assert most(L) is None and least(5 - L) is None
