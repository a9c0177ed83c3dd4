"""Symbolic dims: the algebra holds for all numbers, and equal expressions have one form."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.dtypes import DType
from engine.errors import InvalidModel
from engine.ir.dim_bounds import is_not_negative
from engine.ir.dim_parser import MAX_TEXT
from engine.ir.dims import SymDim
from engine.ir.types import (
    Dim,
    TensorType,
    broadcast_shapes,
    ceildiv,
    dim_broadcast,
    dim_max,
    dim_min,
    element_count,
    evaluate,
    floordiv,
    fresh_symbol,
    is_static,
    mod,
    parse_dim,
    substitute,
    symbol,
    symbols_of,
)

L, N, H = symbol("L"), symbol("N"), symbol("H")
NAMES = ("L", "N", "H")
Sample = tuple[Dim, Callable[[dict[str, int]], int]]  # a dim, and the same thing on plain numbers


def combine(children: st.SearchStrategy[Sample]) -> st.SearchStrategy[Sample]:
    def pair(draw: tuple[str, Sample, Sample]) -> Sample:
        name, (a, f), (b, g) = draw
        dims = {"+": lambda: a + b, "-": lambda: a - b, "*": lambda: a * b}
        dims |= {"min": lambda: dim_min(a, b), "max": lambda: dim_max(a, b)}
        plain = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__, "min": min, "max": max}
        return dims[name](), lambda v: plain[name](f(v), g(v))

    def divide(draw: tuple[str, Sample, int]) -> Sample:
        name, (a, f), k = draw
        if name == "//":
            return floordiv(a, k), lambda v: f(v) // k
        if name == "%":
            return mod(a, k), lambda v: f(v) % k
        return ceildiv(a, k), lambda v: -(-f(v) // k)

    pairs = st.tuples(st.sampled_from(["+", "-", "*", "min", "max"]), children, children)
    quotients = st.tuples(st.sampled_from(["//", "%", "ceil"]), children, st.integers(1, 6))
    return pairs.map(pair) | quotients.map(divide)


def leaf(value: str | int) -> Sample:
    if isinstance(value, int):
        return value, lambda _: value
    return symbol(value), lambda v: v[value]


SAMPLES = st.recursive(
    (st.sampled_from(NAMES) | st.integers(-5, 5)).map(leaf), combine, max_leaves=6
)
BINDINGS = st.fixed_dictionaries({name: st.integers(1, 40) for name in NAMES})


@settings(max_examples=150, deadline=None)
@given(SAMPLES, BINDINGS)
def test_arithmetic_means_what_it_means_on_numbers(
    sample: Sample, bindings: dict[str, int]
) -> None:
    dim, plain = sample
    assert evaluate(dim, bindings) == plain(bindings)


@settings(max_examples=100, deadline=None)
@given(SAMPLES)
def test_text_reads_back(sample: Sample) -> None:
    dim, _ = sample
    assert parse_dim(str(dim)) == dim


@settings(max_examples=100, deadline=None)
@given(SAMPLES, SAMPLES, SAMPLES)
def test_sums_and_products_have_one_form(a: Sample, b: Sample, c: Sample) -> None:
    x, y, z = a[0], b[0], c[0]
    assert x + y == y + x
    assert (x + y) * z == z * y + z * x
    assert hash(x + y - y) == hash(x)
    assert x - x == 0


@settings(max_examples=60, deadline=None)
@given(SAMPLES, BINDINGS, st.integers(1, 9))
def test_substitution_is_evaluation_by_parts(
    sample: Sample, bindings: dict[str, int], number: int
) -> None:
    dim, plain = sample
    partly = substitute(dim, {"L": number, "N": H + 1})
    assert "L" not in symbols_of(partly)
    values = {**bindings, "L": number, "N": bindings["H"] + 1}
    assert evaluate(partly, bindings) == plain(values)


@pytest.mark.parametrize(
    ("dim", "text"),
    [
        (2 * L + 1, "2*L+1"),
        ((2 * L + 4) // 2, "L+2"),
        ((L - 1) // 2 + 1, "(L+1)//2"),
        (((L - 1) // 2 + 1 - 1) // 2 + 1, "(L+3)//4"),
        (N * L // L, "N"),
        (N * L // (N * L), "1"),
        ((N * L + N) // (L + 1), "N"),
        ((4 * L + 3) // 4, "L"),
        ((4 * L + 3) % 4, "3"),
        (7 // L, "7//L"),
        (7 % L, "-(7//L)*L+7"),
        (0 // L, "0"),
        (1 - L, "-L+1"),
        (dim_max(L, L + 1, N), "max(L+1, N)"),
        (dim_min(dim_min(L, N), H), "min(H, L, N)"),
        (dim_max(3, 5), "5"),
        (dim_broadcast(L, dim_broadcast(N, L)), "broadcast(L, N)"),
        (dim_broadcast(L, 1, L), "L"),
        (dim_broadcast(L, 3, N), "3"),
        (dim_broadcast(1, 1), "1"),
        (L % N, "-(L//N)*N+L"),
        ((L + N) // (H + 1), "(L+N)//(H+1)"),
        (-(L // 2), "-(L//2)"),
    ],
)
def test_normal_form(dim: Dim, text: str) -> None:
    assert str(dim) == text
    assert parse_dim(text) == dim


@pytest.mark.parametrize(
    "text",
    [
        "batch size",
        "?",
        "",
        "a.b",
        "f(x)",
        "2**64",
        "L//0",
        "True",
        "x if y else z",
        "1.5",
        r"'\d'",
        "1or x",
    ],
)
def test_odd_text_is_a_name(text: str) -> None:
    dim = parse_dim(text)
    assert isinstance(dim, SymDim)
    assert dim.symbols == {text}
    assert dim.is_symbol


def test_hostile_text_is_a_name_too() -> None:
    for text in ("(" * 500 + "L" + ")" * 500, "L+" * MAX_TEXT + "L", "-" * 900 + "L", "\0"):
        assert isinstance(parse_dim(text), SymDim)


def test_exploding_products_are_refused() -> None:
    total: Dim = 0
    for i in range(40):
        total = total + symbol(f"s{i}")
    with pytest.raises(OverflowError, match="512 terms"):
        total * total


def test_fresh_symbols_differ() -> None:
    assert fresh_symbol("n") != fresh_symbol("n")
    assert not is_static(fresh_symbol())
    assert not (L + 1).is_symbol


def test_missing_binding_is_named() -> None:
    with pytest.raises(KeyError, match="N"):
        (L + N).evaluate({"L": 1})


@pytest.mark.parametrize(
    ("shapes", "result"),
    [
        ([(N, 1, 3), (L, 1)], (N, L, 3)),
        ([(N, 4), (4,)], (N, 4)),
        ([(N,), (7,)], (7,)),
        ([(7,), (N,)], (7,)),
        ([(N,), (N,)], (N,)),
        ([(N,), (L,)], (dim_broadcast(N, L),)),
        ([(2,), None], None),
        ([(), ()], ()),
        ([], ()),
    ],
)
def test_broadcasting(shapes: list[tuple[Dim, ...] | None], result: tuple[Dim, ...] | None) -> None:
    assert broadcast_shapes(*shapes) == result


def test_shapes_that_do_not_broadcast() -> None:
    with pytest.raises(InvalidModel, match="dims 3 and 4 do not broadcast"):
        broadcast_shapes((2, 3), (4,))


def test_tensor_types() -> None:
    kind = TensorType(DType.FLOAT32, (N, 3))
    assert str(kind) == "float32[N, 3]"
    assert str(TensorType(DType.STRING)) == "string[...]"
    assert (kind.rank, TensorType(DType.BOOL).rank) == (2, None)
    assert not kind.is_static
    assert kind.substitute({"N": 2}).is_static
    assert TensorType(DType.BOOL).substitute({"N": 2}) == TensorType(DType.BOOL)
    assert kind.with_shape(None) == TensorType(DType.FLOAT32)
    assert kind.with_dtype(DType.INT8).dtype is DType.INT8
    assert str(element_count((N, 3, L))) == "3*L*N"


@given(st.lists(st.integers(0, 4), min_size=1, max_size=3), st.integers(0, 5))
def test_broadcast_dims_come_to_what_numpy_makes_of_sizes(ones: list[int], size: int) -> None:
    """Sizes that are all the same or 1, among them 0; whether bound now or later."""
    names = [symbol(f"D{i}") for i in range(len(ones))]
    sizes = {f"D{i}": 1 if one % 2 else size for i, one in enumerate(ones)}
    dim = dim_broadcast(*names)
    (expected,) = np.broadcast_shapes(*((n,) for n in sizes.values()))
    assert evaluate(dim, sizes) == expected
    assert substitute(dim, dict(sizes)) == expected
    assert is_not_negative(dim) and parse_dim(str(dim)) == dim


def test_a_length_beside_itself_capped_broadcasts_to_the_length() -> None:
    length = symbol("L")
    assert dim_broadcast(length, dim_min(16, length)) == length
    assert dim_broadcast(dim_min(1, length), length, 1) == length
    other = dim_broadcast(length, dim_min(symbol("M"), length))
    assert other != length  # M may be 0
