"""Kernels specialised for one node give what the unspecialised definition gives, bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from engine.dtypes import BOOLS, DType
from engine.ir.graph import Node
from engine.ir.types import TensorType, symbol
from engine.ops import REGISTRY
from engine.ops.contexts import ComputeContext
from engine.ops.define import Elementwise
from engine.ops.define_reduction import Reduction
from engine.ops.registry import Operator
from tests.engine.generated import tensor

N = symbol("N")
ELEMENTWISE = [
    op
    for op in REGISTRY.operators()
    if isinstance(op.definition, Elementwise) and op.domain != "millrace"
]
REDUCTIONS = [op for op in REGISTRY.operators() if isinstance(op.definition, Reduction)]
OBLIGATORY: dict[str, dict[str, Any]] = {"BitShift": {"direction": "LEFT"}}


def run(
    op: Operator,
    inputs: Sequence[np.ndarray | None],
    fixed: Sequence[int] = (),
    attributes: dict[str, Any] | None = None,
    *,
    typed: bool,
) -> np.ndarray:
    """Run one node with everything known of its inputs, or with nothing known."""
    version = 23 if op.until is None else op.until - 1
    stated = {**OBLIGATORY.get(op.name, {}), **(attributes or {})}
    names = tuple("" if x is None else f"x{i}" for i, x in enumerate(inputs))
    node = Node(op.name, names, ("y",), stated, version=max(version, op.since[0]), name="n")
    types = [
        None
        if x is None
        else TensorType(DType.from_numpy(x.dtype), (N, *x.shape[1:]) if x.ndim else ())
        for x in inputs
    ]
    constants = [x if i in fixed else None for i, x in enumerate(inputs)]
    ctx = ComputeContext(
        np,
        node,
        op.complete(node),
        node.version,
        types=types if typed else (),
        constants=constants if typed else (),
    )
    kernel = op.kernel(ctx) if typed else lambda *values: op.compute(ctx, *values)
    with np.errstate(all="ignore"):
        return kernel(*inputs)[0]


def values(op: Operator, dtype: DType, shapes: Sequence[tuple[int, ...]]) -> list[np.ndarray]:
    rng = np.random.default_rng(11)
    definition: Elementwise = op.definition
    owns = [definition.own_types.get(definition.parameter(i)) for i in range(len(shapes))]
    kinds = [DType.BOOL if own == BOOLS else dtype for own in owns]
    return [tensor(k, s, rng, special=False) for k, s in zip(kinds, shapes, strict=True)]


@pytest.mark.parametrize("op", ELEMENTWISE, ids=lambda op: f"{op.name}-{op.since[0]}")
def test_elementwise(op: Operator) -> None:
    count = 3 if op.definition.variadic else len(op.definition.parameters)
    for dtype in (DType.FLOAT32, DType.FLOAT16, DType.UINT8, DType.BOOL):
        if dtype not in op.definition.types:
            continue
        inputs = values(op, dtype, [(5, 3)] * count)
        assert_array_equal(run(op, inputs, typed=True), run(op, inputs, typed=False))
        lone = values(op, dtype, [(5, 3), *[()] * (count - 1)])
        lone[1:] = [np.maximum(x, np.ones_like(x)) for x in lone[1:]]  # no division by zero
        fixed = range(1, count)
        assert_array_equal(run(op, lone, fixed, typed=True), run(op, lone, typed=False))


@pytest.mark.parametrize("exponent", [1.0, 2.0, 3.0, 0.5, -1.0])
@pytest.mark.parametrize("dtype", [np.float32, np.int64])
def test_fixed_exponents_are_written_out(exponent: float, dtype: type) -> None:
    op = REGISTRY.lookup("", "Pow", 15)
    x = np.float32([[0.5, 2.0, 7.0]])
    y = np.array(exponent).astype(dtype)
    fast, slow = run(op, [x, y], (1,), typed=True), run(op, [x, y], typed=False)
    assert fast.dtype == slow.dtype == np.float32
    np.testing.assert_allclose(fast, slow, rtol=1e-6)


def test_only_fixed_inputs_is_still_an_array() -> None:
    op = REGISTRY.lookup("", "Add", 14)
    x = np.float32([[1.0]])
    assert run(op, [x, x], (0, 1), typed=True).shape == (1, 1)
    scalar = np.array(1, np.float32)
    assert run(op, [scalar, scalar], typed=True).shape == ()


def test_a_fixed_input_of_higher_rank_keeps_its_rank() -> None:
    op = REGISTRY.lookup("", "Mul", 14)
    result = run(op, [np.float32([1, 2]), np.float32([[[3]]])], (1,), typed=True)
    assert result.tolist() == [[[3.0, 6.0]]]


def test_absent_inputs_stay_absent() -> None:
    op = REGISTRY.lookup("", "Clip", 13)
    top = np.array(2, np.float32)
    result = run(op, [np.float32([[1, 5]]), None, top], (2,), typed=True)
    assert result.tolist() == [[1.0, 2.0]]


@pytest.mark.parametrize("op", REDUCTIONS, ids=lambda op: op.name)
def test_reductions(op: Operator) -> None:
    x = np.abs(tensor(DType.FLOAT32, (5, 3), np.random.default_rng(1), special=False)) + 1
    axes = np.array([1])
    for keep in (0, 1):
        stated = {"keepdims": keep}
        late = run(op, [x, axes], (), stated, typed=True)
        assert_array_equal(run(op, [x, axes], (1,), stated, typed=True), late)
        assert_array_equal(run(op, [x, axes], (), stated, typed=False), late)


def test_casts() -> None:
    op = REGISTRY.lookup("", "Cast", 21)
    x = np.float32([[1.5, -2.5]])
    for target in (DType.INT32, DType.FLOAT16, DType.BOOL, DType.FLOAT32, DType.STRING):
        attributes = {"to": target.onnx}
        fast = run(op, [x], (), attributes, typed=True)
        assert fast.dtype == target.numpy
        assert_array_equal(fast, run(op, [x], (), attributes, typed=False))


@pytest.mark.parametrize(
    "attributes", [{}, {"transB": 1}, {"transA": 1}, {"alpha": 0.5}, {"beta": 2.0}], ids=str
)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_dense_layers(attributes: dict[str, Any], dtype: type) -> None:
    op = REGISTRY.lookup("", "Gemm", 13)
    rng = np.random.default_rng(4)
    x, w, b = (rng.standard_normal(s).astype(dtype) for s in ((3, 3), (3, 3), (3,)))
    fast = run(op, [x, w, b], (1, 2), attributes, typed=True)
    assert fast.dtype == dtype
    assert_array_equal(fast, run(op, [x, w, b], (), attributes, typed=False))
