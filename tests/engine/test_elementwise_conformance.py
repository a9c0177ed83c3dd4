"""Every elementwise operator against other libraries, on generated values of every type."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from engine.dtypes import BOOLS, NUMBERS, DType
from engine.ops import REGISTRY
from engine.ops.define import Elementwise
from engine.ops.registry import Operator
from tests.engine.generated import tensor
from tests.engine.oracle import LATEST, NoOracle, computed, expected

# Those of other domains have tests of their own.
OPERATORS = [
    op for op in REGISTRY.operators() if isinstance(op.definition, Elementwise) and not op.domain
]
TOLERANCE = {DType.FLOAT16: 2e-3, DType.BFLOAT16: 1e-2, DType.FLOAT32: 2e-6, DType.FLOAT64: 1e-7}

# Where an oracle is known to say something else than ONNX does, and what to leave out because of
# it.
PLAIN_VALUES = {
    "Shrink": "integers near the bounds are rounded through float32 by ONNX Runtime",
    "Pow": "extreme exponents overflow, which ONNX leaves open for integers",
    "BitShift": "shifting by the width or more is undefined in ONNX Runtime's C++",
}
NOT_ASKED = {
    ("Sign", DType.FLOAT16): "ONNX Runtime gives 0 for NaN in float16 alone",
    ("Pow", DType.INT8): "onnx.reference refuses negative exponents, ONNX Runtime has no kernel",
    ("Pow", DType.INT16): "onnx.reference refuses negative exponents, ONNX Runtime has no kernel",
}


def types_of(op: Operator) -> list[DType]:
    return [d for d in DType if d in op.definition.types and d in NUMBERS | BOOLS]


def case(op: Operator, dtype: DType, shapes: list[tuple[int, ...]]) -> list[np.ndarray]:
    definition: Elementwise = op.definition
    rng = np.random.default_rng(zlib.crc32(f"{op.name}{dtype}{shapes}".encode()))
    inputs = []
    for i, shape in enumerate(shapes):
        own = definition.own_types.get(definition.parameter(i))
        kind = dtype if own is None or dtype in own else DType.BOOL
        inputs.append(tensor(kind, shape, rng, special=op.name not in PLAIN_VALUES))
    if op.name in ("Div", "Mod") and not dtype.is_float:
        inputs[1] = np.where(inputs[1] == 0, 1, inputs[1]).astype(inputs[1].dtype)
    if op.name == "BitShift":
        inputs[1] = (inputs[1] % (dtype.bits - 1)).astype(inputs[1].dtype)
    return inputs


def arity(op: Operator) -> int:
    return 3 if op.definition.variadic else len(op.definition.parameters)


def attributes_for(op: Operator, dtype: DType) -> dict[str, Any]:
    if op.name == "Mod" and dtype.is_float:
        return {"fmod": 1}
    if op.name in ("ParametricSoftplus", "ScaledTanh"):  # ONNX Runtime has no defaults for these
        return {"alpha": 0.5, "beta": 1.5}
    return {"direction": "LEFT"} if op.name == "BitShift" else {}


def version_of(op: Operator) -> int:
    return max(LATEST, op.since[0]) if op.until is None else op.until - 1


def check(
    op: Operator, dtype: DType, inputs: list[np.ndarray], attributes: dict[str, Any] | None = None
) -> None:
    attributes = attributes_for(op, dtype) if attributes is None else attributes
    actual = computed(op.name, inputs, attributes, version_of(op))
    output = DType.from_numpy(actual.dtype)
    wanted = expected(op.name, inputs, attributes, version_of(op), output)
    assert actual.dtype == wanted.dtype, dtype
    assert actual.shape == wanted.shape, dtype
    if output.is_float:
        tolerance = TOLERANCE[dtype]
        pair = actual.astype(np.float64), wanted.astype(np.float64)
        assert_allclose(*pair, rtol=tolerance, atol=tolerance, err_msg=f"{op.name} {dtype}")
    else:
        assert_array_equal(actual, wanted, err_msg=f"{op.name} {dtype}")


# No oracle knows the shorter constants of opset 1: they have a test of their own below.
ASKED = [op for op in OPERATORS if (op.name, op.until) != ("Selu", 6)]


@pytest.mark.parametrize("op", ASKED, ids=lambda op: f"{op.name}-{op.since[0]}")
def test_definition_agrees_on_every_type(op: Operator) -> None:
    checked = 0
    for dtype in types_of(op):
        if (op.name, dtype) in NOT_ASKED:
            continue
        shapes = [(61,) if i == 0 or op.name != "Clip" else () for i in range(arity(op))]
        try:
            check(op, dtype, case(op, dtype, shapes))
            checked += 1
        except NoOracle:
            continue  # neither library has this type; the count below catches an operator unasked
    assert checked > 0


BROADCASTS = [
    [(2, 3, 4), (4,)],
    [(1,), (2, 3)],
    [(2, 1, 4), (3, 1)],
    [(), (2, 2)],
    [(), ()],
    [(0, 3), (1, 3)],
    [(2, 0), ()],
]
# SwiGLU wants equal shapes.
BINARY = [op for op in OPERATORS if arity(op) == 2 and op.name not in ("PRelu", "SwiGLU")]


@pytest.mark.parametrize("op", BINARY, ids=lambda op: op.name)
def test_binary_operators_broadcast(op: Operator) -> None:
    preferred = (DType.FLOAT32, DType.BOOL, DType.UINT32)
    dtype = next(d for d in (*preferred, *types_of(op)) if d in types_of(op))
    for shapes in BROADCASTS:
        check(op, dtype, case(op, dtype, shapes))


UNARY = [op for op in OPERATORS if op.definition.required == 1 and not op.definition.variadic]


@pytest.mark.parametrize("op", UNARY, ids=lambda op: f"{op.name}-{op.since[0]}")
@pytest.mark.parametrize("shape", [(), (0,), (2, 0, 3), (1, 1)], ids=str)
def test_any_shape_keeps_its_shape(op: Operator, shape: tuple[int, ...]) -> None:
    dtype = next(d for d in (DType.FLOAT32, DType.BOOL, DType.UINT8) if d in op.definition.types)
    x = tensor(dtype, shape, np.random.default_rng(0))
    before = x.copy()
    y = computed(op.name, [x], attributes_for(op, dtype), version_of(op))
    assert isinstance(y, np.ndarray)
    assert y.shape == shape
    assert_array_equal(x, before, err_msg="an input was written to")


VARIANTS: list[tuple[str, DType, dict[str, Any]]] = [
    ("LeakyRelu", DType.FLOAT32, {"alpha": 0.3}),
    ("ThresholdedRelu", DType.FLOAT32, {"alpha": 0.7}),
    ("Elu", DType.FLOAT32, {"alpha": 2.0}),
    ("Celu", DType.FLOAT32, {"alpha": 0.5}),
    ("Selu", DType.FLOAT32, {"alpha": 1.5, "gamma": 2.0}),
    ("Gelu", DType.FLOAT32, {"approximate": "tanh"}),
    ("HardSigmoid", DType.FLOAT32, {"alpha": 0.5, "beta": 0.1}),
    ("Shrink", DType.FLOAT32, {"lambd": 1.5, "bias": 1.0}),
    ("Swish", DType.FLOAT32, {"alpha": 1.7}),
    ("IsInf", DType.FLOAT32, {"detect_negative": 0}),
    ("IsInf", DType.FLOAT32, {"detect_positive": 0}),
    ("IsInf", DType.FLOAT32, {"detect_positive": 0, "detect_negative": 0}),
    ("Mod", DType.INT32, {"fmod": 1}),
    ("BitShift", DType.UINT64, {"direction": "RIGHT"}),
]


@pytest.mark.parametrize(("name", "dtype", "attributes"), VARIANTS, ids=str)
def test_attributes(name: str, dtype: DType, attributes: dict[str, Any]) -> None:
    op = REGISTRY.lookup("", name, LATEST)
    check(op, dtype, case(op, dtype, [(40,)] * arity(op)), attributes)


def test_where_selects_between_any_types() -> None:
    condition = np.array([[True], [False]])
    for dtype in (DType.STRING, DType.BOOL, DType.INT64, DType.BFLOAT16, DType.FLOAT8E5M2):
        rng = np.random.default_rng(3)
        x, y = (tensor(dtype, (2, 3), rng, special=False) for _ in range(2))
        actual = computed("Where", [condition, x, y], {}, LATEST)
        assert actual.dtype == x.dtype
        assert_array_equal(actual, np.where(condition, x, y))


def test_strings_compare() -> None:
    a = np.array(["a", "b"], dtype=object)
    actual = computed("Equal", [a, np.array(["a", "a"], dtype=object)], {}, 19)
    assert actual.dtype == bool
    assert actual.tolist() == [True, False]


def test_integer_division_truncates_and_wraps() -> None:
    a = np.array([7, -7, 7, -7, -128], dtype=np.int8)
    b = np.array([2, 2, -2, -2, 1], dtype=np.int8)
    assert computed("Div", [a, b], {}, 14).tolist() == [3, -3, -3, 3, -128]
    assert computed("Add", [a, np.int8([127] * 5)], {}, 14).tolist()[0] == -122


def test_integer_powers_wrap_and_fractions_truncate() -> None:
    x, y = np.uint8([255, 3, 2]), np.uint8([4, 5, 9])
    assert computed("Pow", [x, y], {}, 15).tolist() == [1, 243, 0]
    assert computed("Pow", [np.int32([2, 1]), np.int64([-1, -3])], {}, 15).tolist() == [0, 1]
    assert computed("Pow", [np.int32([9]), np.float32([0.5])], {}, 15).tolist() == [3]


def test_pow_takes_two_types() -> None:
    x, y = np.float32([2.0, 3.0]), np.int64([3, 2])
    actual = computed("Pow", [x, y], {}, 15)
    assert actual.dtype == np.float32
    assert actual.tolist() == [8.0, 9.0]


def test_clip_without_bounds_and_with_crossed_ones() -> None:
    x = np.float32([-2.0, 0.0, 2.0])
    assert computed("Clip", [x], {}, 13).tolist() == x.tolist()
    assert computed("Clip", [x, None, np.float32(1)], {}, 13).tolist() == [-2.0, 0.0, 1.0]
    assert computed("Clip", [x, np.float32(1), np.float32(-1)], {}, 13).tolist() == [-1.0] * 3
    assert computed("Clip", [x], {"min": -1.0}, 6).tolist() == [-1.0, 0.0, 2.0]


def test_selu_of_opset_1_has_shorter_constants() -> None:
    (y,) = computed("Selu", [np.float32([1.0])], {}, 1)
    assert y == np.float32(1.0507)


@pytest.mark.parametrize(
    ("axis", "shape"), [(None, (4,)), (0, (2,)), (1, (3, 4)), (-2, (3,)), (0, (2, 3))]
)
def test_old_opsets_broadcast_along_an_axis(axis: int | None, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(5)
    a, b = rng.standard_normal((2, 3, 4)), rng.standard_normal(shape)
    attributes = {"broadcast": 1} if axis is None else {"broadcast": 1, "axis": axis}
    start = 3 - len(shape) if axis is None else axis % 3
    aligned = b.reshape(*shape, *(1,) * (3 - start - len(shape)))
    assert_allclose(computed("Add", [a, b], attributes, 6), a + aligned)


def test_prelu_slopes_lie_on_channels_before_opset_7() -> None:
    x = np.float32([[[-1.0, -1.0], [-1.0, 1.0]]])
    slope = np.float32([0.5, 0.25])
    assert computed("PRelu", [x, slope], {}, 6).tolist() == [[[-0.5, -0.5], [-0.25, 1.0]]]
    assert computed("PRelu", [x, slope], {}, 9).tolist() == [[[-0.5, -0.25], [-0.5, 1.0]]]
