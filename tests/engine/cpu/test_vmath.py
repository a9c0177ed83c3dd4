"""Accuracy of the vector functions over all of float32, against float64."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from engine.cpu.target import ISAS, target_for
from engine.dtypes import DType
from engine.ir import expr as e
from engine.ir.expr import argument
from engine.ir.render import render_numpy
from tests.engine.cpu.apply import apply_native
from tests.engine.cpu.harness import skip_where_missing

X = argument(0, DType.FLOAT32)


def sigmoid(x: np.ndarray) -> np.ndarray:
    small = np.exp(-np.abs(x))
    return np.where(x < 0, small, 1) / (1 + small)


# Function, its exact values, the largest error in units of the last place.
FUNCTIONS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], float]] = {
    "exp": (np.exp, 1.0),
    "expm1": (np.expm1, 2.0),
    "log": (np.log, 1.0),
    "log1p": (np.log1p, 2.0),
    "tanh": (np.tanh, 2.0),
    "erf": (np.vectorize(math.erf), 2.0),
    "sigmoid": (sigmoid, 2.5),
    "sin": (np.sin, 2.0),
    "cos": (np.cos, 2.0),
}


def samples() -> np.ndarray:
    """Any bits, dense ranges, and where something happens."""
    rng = np.random.default_rng(0)
    anything = rng.integers(0, 2**32, 30_000, dtype=np.uint64).astype(np.uint32).view(np.float32)
    ranges = [np.linspace(-110, 100, 30_001), np.linspace(-5, 5, 40_001)]
    edges = np.array(
        [
            *(0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, -1.0, 0.625, -0.625, 1e-45, -1e-45),
            *(1.17549435e-38, -1.17549435e-38, 3.4028235e38, -3.4028235e38, 1e-39, 0.70710677),
            *(88.72283, 88.72284, -103.97, -103.98, -87.33654, -87.33655, 88.37627, 2**24),
        ],
        np.float32,
    )
    return np.concatenate([anything, *(r.astype(np.float32) for r in ranges), edges])


def errors(got: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """How far off, in units of the last place; what is not finite must be the same."""
    rounded = exact.astype(np.float32)
    finite = np.isfinite(rounded)
    assert_array_equal(got[~finite], rounded[~finite])
    assert np.isfinite(got[finite]).all()
    unit = np.spacing(np.abs(rounded[finite])).astype(np.float64)
    return np.abs(got[finite].astype(np.float64) - exact[finite]) / unit


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("isa", ISAS)
def test_accuracy(name: str, isa: str) -> None:
    skip_where_missing(isa)
    exact, limit = FUNCTIONS[name]
    x = samples()
    expr = getattr(e, name)(X)
    target = target_for(isa)
    with np.errstate(all="ignore"):
        got = apply_native(expr, x, target=target, lanes=target.lanes)
        # Without a fused multiply-add the last digits are a little worse.
        worst = errors(got, exact(x.astype(np.float64))).max()
    assert worst <= (limit if target.has_fma else limit + 1), worst


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_width_gives_the_same_bits(name: str) -> None:
    x, expr = samples()[-3000:], getattr(e, name)(X)
    wide = apply_native(expr, x)
    for lanes in (1, 8):
        assert_array_equal(apply_native(expr, x, lanes=lanes), wide)


def test_zero_keeps_its_sign() -> None:
    zero = np.array([-0.0, 0.0], np.float32)
    for name in ("expm1", "log1p", "tanh", "erf", "sin"):
        got = apply_native(getattr(e, name)(X), zero)
        assert_array_equal(np.signbit(got), [True, False], err_msg=name)


def test_gelu_vanishes_far_below_and_is_x_far_above() -> None:
    x = np.array([-np.float32(3e38), -100, -6, 6, 100, 3e38], np.float32)
    got = apply_native(X * 0.5 * (1 + e.erf(X * 0.7071067811865476)), x)
    assert_array_equal(got[:3], np.zeros(3, np.float32))
    np.testing.assert_allclose(got[3:], x[3:], rtol=3e-7)


def test_a_coarse_silu_is_good_enough_for_bfloat16() -> None:
    """x * sigmoid(x) for what is rounded to bfloat16 next; everything else stays as it was."""
    x = samples()
    silu = X * (1.0 / (1.0 + e.exp(-X)))
    with np.errstate(all="ignore"):
        exact = x.astype(np.float64) * sigmoid(x.astype(np.float64))
        got = apply_native(silu, x, coarse=True)
        normal = np.isfinite(exact) & (np.abs(exact) > 1e-30)
        assert (np.abs(got[normal] / exact[normal] - 1) < 2e-4).all()
        tiny = np.isfinite(exact) & ~normal
        assert (np.abs(got[tiny]) <= 2e-30).all()
        assert np.isnan(got[np.isnan(x)]).all() and (got[x == np.inf] == np.inf).all()
        other = silu + X  # the sum could magnify what is off
        assert_array_equal(apply_native(other, x, coarse=True), apply_native(other, x))


@pytest.mark.parametrize("name", ["exp", "expm1", "log", "log1p", "tanh", "erf"])
@pytest.mark.parametrize("isa", ISAS)
def test_what_is_rounded_next_has_the_bits_of_the_reference(name: str, isa: str) -> None:
    skip_where_missing(isa)
    x = samples()
    value = getattr(e, name)(X)
    # Rounded, but given as it is: no whole number is a half.
    told = e.select(e.equal(e.round_even(value), 0.5), 0.0, value)
    with np.errstate(all="ignore"):
        want = render_numpy(told, np, [x])
        got = apply_native(told, x, target=target_for(isa))
    same = (got == want) | (np.isnan(got) & np.isnan(want))
    assert (~same).sum() <= 2, x[~same]
    assert_array_equal(np.isnan(got), np.isnan(want))
