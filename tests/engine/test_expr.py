"""Expressions: typing, text, keys; and the array renderer, reusing temporaries or not."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from engine.dtypes import DType
from engine.ir import expr as e
from engine.ir.array_functions import BLOCK, erf, saturating_cast
from engine.ir.expr import Expr, argument, cast, constant, key_of, select
from engine.ir.render import compile_numpy, render_numpy
from engine.ir.types import Dim, symbol
from engine.ops.symbolic import evaluate_symbolic

X, Y = argument(0, DType.FLOAT32), argument(1, DType.FLOAT32)
K = argument(0, DType.INT32)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: X + K, "add: both sides need one type"),
        (lambda: e.exp(K), "exp is not defined on int32"),
        (lambda: e.logical_and(X, Y), "and is not defined on float32"),
        (lambda: e.bit_or(X, Y), "bitor is not defined on float32"),
        (lambda: argument(0, DType.FLOAT16) + 1, "float16 has no arithmetic"),
        (lambda: argument(0, DType.STRING) < argument(1, DType.STRING), "not defined on string"),
        (lambda: select(X, X, Y), "expected a bool condition"),
        (lambda: e.minimum(1, 2), "must be an expression"),  # type: ignore[arg-type]
        (lambda: bool(X < 1), "no truth value"),
    ],
)
def test_ill_typed_expressions_are_refused(build, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(TypeError, match=message):
        build()


@pytest.mark.parametrize(
    ("value", "dtype"),
    [(300, DType.UINT8), (-1, DType.UINT32), (1.5, DType.INT64), (2, DType.INT2)],
)
def test_constants_must_fit(value: float, dtype: DType) -> None:
    with pytest.raises(ValueError, match="is not a value of"):
        constant(value, dtype)


def test_text() -> None:
    tree = select(X > 0, 2 * X, cast(cast(X, DType.INT8), DType.FLOAT32))
    assert (
        str(tree) == "select(lt(0.0, x0:float32), mul(2.0, x0:float32), float32(int8(x0:float32)))"
    )
    assert str(cast(X, DType.FLOAT8E5M2, saturate=True)) == "float8_e5m2!(x0:float32)"


def test_keys_are_equal_when_meanings_are() -> None:
    assert key_of(X * 2 + 1) == key_of(X * 2 + 1)
    different = [X * 0.0, X * -0.0, X * 1, X + 0.0, K + 1, cast(X, DType.BOOL), cast(K, DType.BOOL)]
    assert len({key_of(tree) for tree in different}) == len(different)
    assert compile_numpy(X * 2 + 1, np) is compile_numpy(X * 2 + 1, np)


def test_shared_parts_are_computed_once() -> None:
    shared = e.exp(X)
    assert len(list((shared * shared).walk())) == 3


UNARY = st.sampled_from(
    [
        lambda x: -x,
        e.absolute,
        e.tanh,
        e.floor,
        e.sigmoid,
        e.sign,
        lambda x: x * 0.5,
        lambda x: 1 - x,
    ]
)
BINARY = st.sampled_from(
    [
        Expr.__add__,
        Expr.__sub__,
        Expr.__mul__,
        e.minimum,
        e.maximum,
        lambda a, b: select(a < b, a, b),
    ]
)
TREES = st.recursive(
    st.sampled_from([X, Y]),
    lambda inner: (
        st.builds(lambda f, x: f(x), UNARY, inner)
        | st.builds(lambda f, x, y: f(x, y), BINARY, inner, inner)
    ),
    max_leaves=8,
)
SHAPES = st.sampled_from([((3, 4), (3, 4)), ((3, 4), (4,)), ((), (2,)), ((), ()), ((2, 1), (1, 3))])


@settings(max_examples=80, deadline=None)
@given(TREES, SHAPES, st.integers(0, 99))
def test_reuse_of_temporaries_changes_nothing(
    tree: Expr, shapes: tuple[tuple[int, ...], tuple[int, ...]], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    x, y = (np.asarray(rng.standard_normal(s), dtype=np.float32) for s in shapes)
    kept = x.copy(), y.copy()
    whole = compile_numpy(tree, np, arity=2)(x, y)
    # Element by element everything has rank 0, where nothing can be reused.
    wide = np.broadcast_arrays(x, y)
    single = [
        compile_numpy(tree, np, arity=2)(a, b) for a, b in zip(*map(np.ravel, wide), strict=True)
    ]
    spread = np.broadcast_to(whole, wide[0].shape).ravel()
    assert isinstance(whole, np.ndarray)
    assert_allclose(spread, np.array(single), rtol=1e-6)
    assert_array_equal(x, kept[0])
    assert_array_equal(y, kept[1])


def test_scalar_arguments_take_no_part_in_shapes() -> None:
    function = compile_numpy(e.minimum(e.maximum(X, Y) * 2, 5), np, scalars=frozenset({1}))
    result = function(np.float32([[-1.0, 9.0]]), np.array(0, np.float32))
    assert result.tolist() == [[0.0, 5.0]]


def test_render_once() -> None:
    assert render_numpy(X + Y, np, [np.float32([1]), np.float32([2])]).tolist() == [3.0]


def test_erf_is_as_exact_as_its_type() -> None:
    points = np.concatenate([np.linspace(-6, 6, 4001), [0.0, -0.0, 1e-30, 1e30, -1e30]])
    wanted = np.array([math.erf(v) for v in points.astype(np.float32).astype(np.float64)])
    single = erf(np, points.astype(np.float32))
    assert np.abs(single - wanted).max() < 6e-8
    assert np.signbit(single[-4])
    assert erf(np, points).tolist() == [math.erf(v) for v in points]
    assert np.isnan(erf(np, np.float32([np.nan]))).all()
    long = np.full(BLOCK + 5, 0.5, np.float32)
    assert_allclose(erf(np, long.reshape(-1, 1)), math.erf(0.5), rtol=1e-7)


def test_saturation_keeps_nan() -> None:
    import_type = DType.FLOAT8E4M3FN.numpy
    result = saturating_cast(np, np.float32([1e9, -np.inf, np.nan]), import_type)
    assert result.astype(np.float32).tolist()[:2] == [448.0, -448.0]
    assert np.isnan(result.astype(np.float32)[2])


L, N = symbol("L"), symbol("N")
A, B = argument(0, DType.INT64), argument(1, DType.INT64)


@pytest.mark.parametrize(
    ("tree", "a", "b", "result"),
    [
        (A + B * 2, L, N, L + 2 * N),
        (A / B, 2 * L, 2, L),
        (A / B, -7, 2, -3),
        (-A, L, 0, -L),
        (e.remainder(A, B), L, 4, L % 4),
        (e.minimum(A, B), L, L + 1, L),
        (e.absolute(A), -3, 0, 3),
        (cast(A, DType.INT32), L, 0, L),
        (select(e.equal(A, -1), B, A), L, 7, L),
        (select(e.equal(A, -1), B, A), -1, 7, 7),
        (select(A < B, A, B), L, L + 1, L),
        (select(A <= B, A, B), L + 2, L + 1, L + 1),
        (select(e.logical_not(e.not_equal(A, B)), A, 0), L, L, L),
        (select(e.logical_and(A < B, B > 0), A, 0), 1, 2, 1),
        (select(e.logical_or(A < B, B > 9), A, 0), 3, 2, 0),
    ],
)
def test_known_integers_compute_by_symbol(tree: Expr, a: Dim, b: Dim, result: Dim) -> None:
    inputs = [np.array([a], dtype=object), np.array([b], dtype=object)]
    known = evaluate_symbolic(tree, inputs)
    assert known is not None
    assert known.tolist() == [result]


@pytest.mark.parametrize(
    ("tree", "a", "b"),
    [
        (select(A < B, A, B), L, N),
        (e.equal(A, B), L, 3),
        (e.absolute(A), L, 0),
        (A / B, -7, L),
        (A / B, 7, 0),
        (e.bit_and(A, B), 1, 1),
        (cast(cast(A, DType.FLOAT32), DType.INT64), 1, 1),
    ],
)
def test_what_symbols_cannot_tell_stays_unknown(tree: Expr, a: Dim, b: Dim) -> None:
    inputs = [np.array([a], dtype=object), np.array([b], dtype=object)]
    assert evaluate_symbolic(tree, inputs) is None
    assert evaluate_symbolic(A + B, [inputs[0], None]) is None
