from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import InvalidModel
from tests.engine.ops.single_node import NodeCase, check_node, check_rows, floats, row_states

MATMUL_SHAPES = [
    ((3, 4), (4, 5)),
    ((4,), (4, 5)),
    ((3, 4), (4,)),
    ((4,), (4,)),
    ((2, 3, 4), (4, 5)),
    ((2, 3, 4), (2, 4, 5)),
    ((2, 1, 3, 4), (5, 4, 2)),
    ((1, 4), (4, 1)),
    ((0, 4), (4, 5)),
    ((3, 0), (0, 5)),
    ((2, 3, 4), (4,)),
]


@pytest.mark.parametrize(("a", "b"), MATMUL_SHAPES)
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int32])
def test_matmul(a, b, dtype):
    x, y = (floats(*shape, seed=i, dtype=dtype, scale=3) for i, shape in enumerate((a, b)))
    # Other runtimes round float16 sums as they go.
    tolerance = 2e-2 if dtype == np.float16 else 1e-5
    check_node("MatMul", x, y, rtol=tolerance, atol=tolerance)


def test_matmul_of_transposed_views_uses_whole_values():
    x = floats(2, 3, 4, 5)
    case = NodeCase("MatMul", [x.transpose(3, 0, 2, 1)[::2], floats(3, 6, seed=1)])
    (ours,) = case.run_engine()
    np.testing.assert_allclose(ours, case.run_runtime()[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("trans_a", [0, 1])
@pytest.mark.parametrize("trans_b", [0, 1])
@pytest.mark.parametrize("c", [None, (3, 5), (5,), (1, 5), (3, 1), ()])
def test_gemm(trans_a, trans_b, c):
    a = floats(4, 3) if trans_a else floats(3, 4)
    b = floats(5, 4, seed=1) if trans_b else floats(4, 5, seed=1)
    extra = [] if c is None else [floats(*c, seed=2)]
    check_node("Gemm", a, b, *extra, alpha=0.5, beta=2.0, transA=trans_a, transB=trans_b)


def test_gemm_leaves_c_out_when_beta_is_zero():
    check_node("Gemm", floats(3, 4), floats(4, 5), floats(5), beta=0.0)


def test_gemm_in_half_precision_rounds_once():
    a, b, c = (floats(*s, seed=i, dtype=np.float16) for i, s in enumerate([(3, 64), (64, 5), (5,)]))
    (ours,) = NodeCase("Gemm", [a, b, c]).run_engine()
    exact = (a.astype(np.float64) @ b.astype(np.float64) + c.astype(np.float64)).astype(np.float16)
    np.testing.assert_allclose(ours, exact, rtol=1e-3)


@pytest.mark.parametrize(
    ("op", "shapes"),
    [
        ("MatMul", [(3, 4), (5, 6)]),
        ("MatMul", [(), (4,)]),
        ("Gemm", [(3, 4), (5, 6)]),
        ("Gemm", [(2, 3, 4), (4, 5)]),
        ("MatMul", [(2, 3, 4), (3, 4, 5)]),
    ],
)
def test_shapes_that_do_not_fit_are_refused(op, shapes):
    with pytest.raises(InvalidModel, match=op):
        NodeCase(op, [floats(*s) for s in shapes]).graph()


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("ij,jk->ik", [(3, 4), (4, 5)]),
        ("bij,bjk->bik", [(2, 3, 4), (2, 4, 5)]),
        ("ij->ji", [(3, 4)]),
        ("ij->", [(3, 4)]),
        ("ij,ij->i", [(3, 4), (3, 4)]),
        ("ij,jk", [(3, 4), (4, 5)]),
        ("...ij,...jk->...ik", [(2, 3, 4), (2, 4, 5)]),
        ("bhqd,bhkd->bhqk", [(2, 2, 3, 4), (2, 2, 5, 4)]),
        ("i,j->ij", [(3,), (4,)]),
    ],
)
def test_einsum(equation, shapes):
    check_node("Einsum", *(floats(*s, seed=i) for i, s in enumerate(shapes)), equation=equation)


@pytest.mark.parametrize("equation", ["ij,jk->iz", "ijk,jk->i", "ij->i"])
def test_einsum_that_does_not_fit_is_refused(equation):
    with pytest.raises(InvalidModel):
        NodeCase("Einsum", [floats(3, 4), floats(4, 5)], {"equation": equation}).graph()


MATMUL_ROWS = [
    ([(3, 4), (4, 5)], (0,), (0, 1)),
    ([(3, 2, 4), (4, 5)], (0,), (0, 1)),
    ([(3, 2, 4), (3, 4, 5)], (0, 1), (0, 1)),
    ([(3, 4), (4,)], (0,), (0, 1)),
    ([(4, 3), (3, 5)], (1,), None),  # summed over
    ([(3, 2, 4), (3, 4, 5)], (0,), None),  # the other side has one matrix per item
    ([(2, 4), (3, 4, 5)], (1,), (0, 1)),
    ([(3, 3), (3, 3)], (0, 1), None),
]


@pytest.mark.parametrize(("shapes", "items", "expected"), MATMUL_ROWS)
def test_matmul_rows(shapes, items, expected):
    case = NodeCase("MatMul", [floats(*s, seed=i) for i, s in enumerate(shapes)])
    (state,) = check_rows(case, items)
    assert ((state.axis, state.block) if state.is_rows else None) == expected


@pytest.mark.parametrize(
    ("shapes", "attributes", "expected"),
    [
        ([(3, 4), (4, 5), (5,)], {}, True),
        ([(3, 4), (4, 5), (1, 5)], {}, True),
        ([(3, 4), (4, 5), (3, 5)], {}, False),
        ([(3, 4), (3, 5)], {"transA": 1}, False),
    ],
)
def test_gemm_rows(shapes, attributes, expected):
    case = NodeCase("Gemm", [floats(*s, seed=i) for i, s in enumerate(shapes)], attributes)
    (state,) = check_rows(case, (0,)) if expected else row_states(case, (0,))
    assert state.is_rows == expected


@pytest.mark.parametrize(
    ("equation", "shapes", "items", "expected"),
    [
        ("bij,bjk->bik", [(3, 2, 4), (3, 4, 5)], (0, 1), True),
        ("bij,jk->ibk", [(3, 2, 4), (4, 5)], (0,), True),
        ("bi,bj->ij", [(3, 2), (3, 4)], (0, 1), False),
        ("bij,bjk->bik", [(3, 2, 4), (3, 4, 5)], (0,), False),
        ("...ij,jk->...ik", [(3, 2, 4), (4, 5)], (0,), False),
    ],
)
def test_einsum_rows(equation, shapes, items, expected):
    inputs = [floats(*s, seed=i) for i, s in enumerate(shapes)]
    (state,) = check_rows(NodeCase("Einsum", inputs, {"equation": equation}), items)
    assert state.is_rows == expected


dims = st.integers(0, 4)
lead_dims = st.integers(1, 3)  # 0 beside 1 broadcasts to 0, which no symbolic maximum says


@settings(max_examples=25, deadline=None)
@given(
    lead=st.lists(st.tuples(lead_dims, st.booleans(), st.booleans()), max_size=2),
    m=dims,
    k=dims,
    n=dims,
)
def test_matmul_of_any_broadcast_shapes(lead, m, k, n):
    a = floats(*(1 if one else d for d, one, _ in lead), m, k)
    b = floats(*(1 if one else d for d, _, one in lead), k, n, seed=1)
    for kind in ("static", "symbolic"):
        (ours,) = NodeCase("MatMul", [a, b]).run_engine(kind)
        np.testing.assert_allclose(ours, np.matmul(a, b), rtol=1e-5, atol=1e-5)


def test_subscripts_of_two_sizes_are_refused():
    with pytest.raises(InvalidModel, match="subscript"):
        NodeCase("Einsum", [floats(3, 0, 5)], {"equation": "...ii->...i"}).graph()
