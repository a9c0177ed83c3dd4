"""Native code of expressions against the array renderer, for every operator and element type."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from engine.cpu.builder import MEMORY
from engine.cpu.expressions import unsupported
from engine.cpu.native import compile_kernel
from engine.cpu.target import ISAS, host_target, target_for
from engine.dtypes import DType
from engine.ir import expr as e
from engine.ir.expr import Expr, argument, cast
from engine.ir.expr_text import write_expr
from engine.ir.render import render_numpy
from engine.ops.define import Elementwise
from engine.ops.registry import Operator
from tests.engine.cpu.apply import Apply, apply_native
from tests.engine.generated import tensor
from tests.engine.test_elementwise_conformance import OPERATORS, arity, attributes_for, case

TOLERANCE = {
    DType.FLOAT16: 1e-3,
    DType.BFLOAT16: 8e-3,
    DType.FLOAT32: 1e-6,
    DType.FLOAT64: 1e-14,
}
SIZE = 67
X = argument(0, DType.FLOAT32)
# What casts beyond an integer's range give is not specified; neither is an exponent below 0.
LEFT_OPEN = {"Pow", "Shrink"}
# Differences of nearly equal numbers: as far off as the last digits of those.
CANCELLING = {"Gelu": 1e-6, "HardSwish": 1e-6}


def assert_same(
    got: np.ndarray, wanted: np.ndarray, message: str = "", absolute: float = 1e-8
) -> None:
    dtype = DType.from_numpy(wanted.dtype)
    assert got.dtype == wanted.dtype
    if dtype.is_float:
        tolerance = TOLERANCE[dtype]
        pair = got.astype(np.float64), wanted.astype(np.float64)
        assert_allclose(*pair, rtol=tolerance, atol=absolute, err_msg=message)
    else:
        assert_array_equal(got, wanted, err_msg=message)


def types_of(op: Operator) -> list[DType]:
    return [d for d in MEMORY if d in op.definition.types]


def few_types(op: Operator) -> list[DType]:
    """float32, and another by chance: all operators together see all types."""
    types = types_of(op)
    rng = np.random.default_rng(zlib.crc32(op.name.encode()))
    return list(dict.fromkeys([types[0], *(types[i] for i in rng.integers(0, len(types), 1))]))


@pytest.mark.parametrize("op", OPERATORS, ids=lambda op: f"{op.name}-{op.since[0]}")
def test_operators(op: Operator) -> None:
    definition: Elementwise = op.definition
    for dtype in few_types(op):
        inputs = case(op, dtype, [(SIZE,)] * arity(op))
        if op.name in LEFT_OPEN and not dtype.is_float:
            inputs = [np.abs(x) % 4 for x in inputs]
        attributes = {**op.attributes, **attributes_for(op, dtype)}
        expr = definition.trace([DType.from_numpy(x.dtype) for x in inputs], attributes)
        with np.errstate(all="ignore"):
            wanted = render_numpy(expr, np, inputs)
        got = apply_native(expr, *inputs)
        assert_same(got, wanted, f"{op.name} {dtype}", CANCELLING.get(op.name, 1e-8))


@pytest.mark.parametrize("source", [d for d in MEMORY if d is not DType.UINT64], ids=str)
def test_casts(source: DType) -> None:
    rng = np.random.default_rng(1)
    for target in MEMORY:
        x = tensor(source, (SIZE,), rng, special=not source.is_float or target.is_float)
        if source.is_float and not target.is_float:  # beyond the range nothing is specified
            wide = np.nan_to_num(x.astype(np.float64))
            x = np.clip(wide, -100 if target.is_signed else 0, 100).astype(source.numpy)
        expr = cast(cast(argument(0, source), source.compute), target)
        with np.errstate(all="ignore"):
            wanted = render_numpy(expr, np, [x])
        # The processor's own rounding to bfloat16 takes denormals for zero.
        absolute = 1.2e-38 if target is DType.BFLOAT16 else 0.0
        assert_same(apply_native(expr, x), wanted, f"{source} to {target}", absolute)


def test_rounding_in_between_is_kept() -> None:
    x = np.random.default_rng(2).standard_normal(SIZE).astype(np.float32)
    for narrow in (DType.FLOAT16, DType.BFLOAT16):
        expr = cast(cast(X, narrow), DType.FLOAT32) * 3
        assert_array_equal(apply_native(expr, x), render_numpy(expr, np, [x]))


def test_float64_rounds_once_to_narrow_types() -> None:
    """2049 / 2048 lies half way between neighbours in float16; a bit more must round up."""
    x = np.array([1 + 2.0**-11, 1 + 2.0**-11 + 2.0**-40, 1 + 3 * 2.0**-11 - 2.0**-40], np.float64)
    expr = cast(argument(0, DType.FLOAT64), DType.FLOAT16)
    assert_array_equal(apply_native(expr, x), x.astype(np.float16))


@pytest.mark.parametrize("dtype", [DType.INT8, DType.UINT8, DType.INT32, DType.INT64], ids=str)
def test_integers_divided_by_nothing(dtype: DType) -> None:
    """No trap: what the renderer gives. The most negative number by -1 wraps."""
    bounds = np.iinfo(dtype.numpy)
    a = np.array([5, 0, bounds.min, bounds.min, 7, bounds.max], dtype.numpy)
    b = np.array([0, 0, 0, bounds.max if bounds.min == 0 else -1, 2, 3], dtype.numpy)
    x, y = argument(0, dtype), argument(1, dtype)
    for expr in (x / y, e.fmod(x, y), e.remainder(x, y)):
        with np.errstate(all="ignore"):
            wanted = render_numpy(expr, np, [a, b])
        assert_array_equal(apply_native(expr, a, b), wanted)


def test_nan_goes_through_minimum_and_maximum() -> None:
    numbers = np.array([np.nan, 1, -1, 0.0, -0.0, np.inf, -np.inf], np.float32)
    a, b = (each.ravel().copy() for each in np.meshgrid(numbers, numbers))
    y = argument(1, DType.FLOAT32)
    for expr in (e.maximum(X, y), e.minimum(X, y)):
        assert_array_equal(apply_native(expr, a, b), render_numpy(expr, np, [a, b]))
    for expr in (e.clip(X, 0, 6), e.clip(X, None, -0.5)):
        assert_array_equal(apply_native(expr, a), render_numpy(expr, np, [a]))


def test_patterns_are_as_accurate_as_what_they_stand_for() -> None:
    x = np.linspace(-20, 20, 4001, dtype=np.float32)
    wide = x.astype(np.float64)
    for build in (
        lambda v: v * 0.5 * (1 + e.erf(v * 0.7071067811865476)),
        lambda v: v * 0.5 * (1 + e.tanh((v + v * v * v * 0.044715) * 0.7978845608028654)),
        lambda v: v * e.sigmoid(v),
        lambda v: v * e.clip(v / 6 + 0.5, 0, 1),
        lambda v: v * e.tanh(e.maximum(v, 0) + e.log1p(e.exp(-e.absolute(v)))),
        lambda v: e.power(e.absolute(v), 0.5),
        lambda v: e.power(v + 0.001, -1.0),
    ):
        exact = render_numpy(build(argument(0, DType.FLOAT64)), np, [wide])
        assert_allclose(apply_native(build(X), x), exact, rtol=4e-7, atol=1.2e-6)


def test_mish_over_the_whole_range() -> None:
    """Its pattern keeps relative accuracy far below, and what is not finite."""
    x = np.array([-1000, -104, -88, -30, -1, 0, 1, 19, 21, 90, np.inf, -np.inf, np.nan], np.float32)
    expr = e.tanh(e.maximum(X, 0) + e.log1p(e.exp(-e.absolute(X))))
    with np.errstate(all="ignore"):
        exact = np.tanh(np.logaddexp(0, x.astype(np.float64)))
    assert_allclose(apply_native(expr, x), exact, rtol=4e-7, atol=3e-45)


def test_a_deep_expression_needs_no_stack() -> None:
    deep = X
    for _ in range(1000):
        deep = deep + 1
    assert_array_equal(apply_native(deep, np.zeros(3, np.float32)), np.full(3, 1000, np.float32))


def test_lone_numbers_spread() -> None:
    """An expression of constants alone has the width that is asked for."""
    expr = e.constant(2.5, DType.FLOAT32) * 2
    assert_array_equal(apply_native(expr, np.zeros(5, np.float32)), np.full(5, 5, np.float32))


def test_types_without_native_code_are_told() -> None:
    small = cast(X, DType.FLOAT8E4M3FN)
    assert "float8" in unsupported(small, host_target())
    half = cast(X, DType.FLOAT16)
    assert unsupported(half, target_for("sse2")) and not unsupported(half, target_for("avx2"))


def everything() -> list[Expr]:
    parts = (e.exp, e.log, e.erf, e.tanh, e.expm1, e.log1p, e.sigmoid, e.round_even, e.sign, e.sin)
    k = argument(0, DType.INT64)
    flag = e.logical_not(argument(0, DType.BOOL))
    return [
        sum((part(X) for part in parts[1:]), parts[0](X)),
        cast(k / 3 + e.power(k, k), DType.BFLOAT16),
        e.select(flag, cast(flag, DType.FLOAT32), 2),
    ]


@pytest.mark.parametrize("isa", ISAS)
def test_code_for_every_processor(isa: str) -> None:
    target = target_for(isa)
    for expr in everything():
        assert compile_kernel(Apply(write_expr(expr), target.lanes), "kernel", target)
