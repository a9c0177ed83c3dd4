from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import InvalidModel, RunFailed
from tests.engine.ops.single_node import NodeCase, check_node, check_rows, floats, row_states

EIGHT_BITS = [np.uint8, np.int8]


def integers(*shape: int, dtype=np.uint8, seed: int = 0) -> np.ndarray:
    info = np.iinfo(dtype)
    return np.random.default_rng(seed).integers(info.min, info.max + 1, shape).astype(dtype)


def scalar(value: float, dtype=np.float32) -> np.ndarray:
    return np.array(value, dtype)


@pytest.mark.parametrize("dtype", EIGHT_BITS)
def test_quantize_rounds_halves_to_even_and_saturates(dtype):
    x = np.array([0.5, 1.5, 2.5, -0.5, -1.5, 1e9, -1e9, 0.0, np.inf, -np.inf], np.float32)
    check_node("QuantizeLinear", x, scalar(1.0), scalar(3, dtype), atol=0)
    check_node("QuantizeLinear", x, scalar(0.37), scalar(3, dtype), atol=0)


def test_quantize_without_zero_point_gives_uint8():
    check_node("QuantizeLinear", floats(50, scale=9), scalar(0.1), atol=0)
    case = NodeCase("QuantizeLinear", [floats(5), scalar(0.1)], {"output_dtype": 3}, 21)
    assert case.run_engine()[0].dtype == np.int8


def test_quantize_makes_the_lowest_of_what_is_no_number():
    (ours,) = NodeCase(
        "QuantizeLinear", [np.array([np.nan, 1], np.float32), scalar(1.0), scalar(7, np.uint8)]
    ).run_engine()
    assert ours.tolist() == [0, 8]


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("op", ["QuantizeLinear", "DequantizeLinear"])
def test_parameters_along_an_axis(op, axis):
    x = floats(2, 3, 4, scale=20) if op == "QuantizeLinear" else integers(2, 3, 4, dtype=np.int8)
    count = x.shape[axis]
    scale = np.abs(floats(count, seed=1)) + np.float32(0.1)
    check_node(op, x, scale, integers(count, dtype=np.int8) // np.int8(2), axis=axis, atol=1e-6)


@pytest.mark.parametrize("dtype", [*EIGHT_BITS, np.int32])
def test_dequantize(dtype):
    zero = [] if dtype == np.int32 else [scalar(3, dtype)]
    check_node("DequantizeLinear", integers(40, dtype=dtype), scalar(0.37), *zero, rtol=1e-6)
    check_node("DequantizeLinear", integers(40, 1, dtype=dtype).T, scalar(0.37), *zero, rtol=1e-6)


def test_blocks_of_parameters():
    x, scale = floats(2, 6, scale=9), np.abs(floats(2, 3, seed=1)) + np.float32(0.1)
    attributes = {"axis": 1, "block_size": 2}
    zero = integers(2, 3, dtype=np.int8) // np.int8(4)
    check_node("QuantizeLinear", x, scale, zero, opset=21, atol=0, **attributes)
    check_node(
        "DequantizeLinear", integers(2, 6, dtype=np.int8), scale, zero, opset=21, **attributes
    )
    # What shapes tell is the model's fault, what only running tells fails there.
    with pytest.raises(RunFailed, match="blocks of 2 need parameters"):
        NodeCase("QuantizeLinear", [x, scale[:, :2]], attributes, 21).run_engine("symbolic")
    with pytest.raises(RunFailed, match="parameters for axis"):
        NodeCase("QuantizeLinear", [x, scale[0]], {"axis": 1}, 21).run_engine("symbolic")


X26 = floats(2, 6)


@pytest.mark.parametrize(
    ("inputs", "attributes", "message"),
    [
        ([X26, np.ones(3, np.float32)], {"axis": 1}, r"expected \[6\]"),
        ([X26, np.ones(3, np.float32)], {"axis": 2}, "axis 2 is outside"),
        ([X26, np.ones((2, 3), np.float32)], {"axis": 1}, "need a block_size"),
        ([X26, np.ones((2, 4), np.float32)], {"block_size": 2}, r"expected \[2, 3\]"),
        ([X26, np.ones((2, 3), np.float32)], {"block_size": 1 << 50}, r"expected \[2, 1\]"),
        ([X26, np.ones((2, 3), np.float32)], {"block_size": -1}, "must not be negative"),
        ([X26, np.ones(6, np.float32), np.zeros(5, np.int8)], {}, "differ in shape"),
        ([X26, scalar(1.0), scalar(0, np.int8)], {"output_dtype": 2}, "output_dtype is uint8"),
        ([X26, scalar(1.0)], {"output_dtype": 7}, "cannot quantize to int64"),
    ],
)
def test_parameters_are_checked(inputs, attributes, message):
    with pytest.raises(InvalidModel, match=message):
        NodeCase("QuantizeLinear", inputs, attributes, 21).graph()


def test_a_type_to_dequantize_to():
    codes = integers(2, 4, dtype=np.int8)
    scale = np.array([0.5, 2.0], ml_dtypes.float8_e8m0fnu)
    with pytest.raises(InvalidModel, match="cannot dequantize to float8_e8m0fnu"):
        NodeCase("DequantizeLinear", [codes, scale], {"axis": 0}, 28).graph()
    case = NodeCase("DequantizeLinear", [codes, scale], {"axis": 0, "output_dtype": 1}, 28)
    (ours,) = case.run_engine("symbolic")
    np.testing.assert_array_equal(ours, codes * np.float32([[0.5], [2.0]]))


NARROW = [
    *("int2", "uint2", "int4", "uint4", "float4_e2m1fn", "float6_e2m3fn", "float6_e3m2fn"),
    *("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz"),
]


@pytest.mark.parametrize("name", NARROW)
@pytest.mark.parametrize("blocked", [False, True])
def test_every_narrow_type(blocked, name):
    dtype = np.dtype(getattr(ml_dtypes, name))
    x = floats(4, 6, scale=30)
    shape = (4, 2) if blocked else (4,)
    scale = np.random.default_rng(1).uniform(0.5, 3, shape).astype(np.float32)
    attributes = {"axis": 1, "block_size": 3} if blocked else {"axis": 0}
    inputs = [x, scale, np.zeros(shape, dtype)]
    case = NodeCase("QuantizeLinear", inputs, attributes, 28)
    (small,) = case.run_engine("symbolic")
    divided = x / (np.repeat(scale, 3, axis=1) if blocked else scale[:, None])
    if "float" in name:
        limit = float(ml_dtypes.finfo(dtype).max)
        expected = np.clip(divided, -limit, limit).astype(dtype)
    else:
        facts = ml_dtypes.iinfo(dtype)
        expected = np.clip(np.rint(divided), facts.min, facts.max).astype(dtype)
    np.testing.assert_array_equal(small.astype(np.float32), expected.astype(np.float32))
    back = NodeCase("DequantizeLinear", [small, scale], attributes, 28).run_engine("symbolic")[0]
    factor = np.repeat(scale, 3, axis=1) if blocked else scale[:, None]
    np.testing.assert_array_equal(back, small.astype(np.float32) * factor)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_precision_of_the_division(dtype):
    x, scale = floats(200, scale=50), scalar(0.37)
    number = {"float16": 10, "bfloat16": 16}[np.dtype(dtype).name]
    case = NodeCase("QuantizeLinear", [x, scale, scalar(0, np.int16)], {"precision": number}, 23)
    divided = (x / scale.astype(dtype).astype(np.float32)).astype(dtype).astype(np.float32)
    np.testing.assert_array_equal(case.run_engine()[0], np.rint(divided).astype(np.int16))


def test_products_of_eight_bit_floats():
    dtype = ml_dtypes.float8_e4m3fn
    a, b = floats(3, 4, dtype=dtype), floats(4, 5, seed=1, dtype=dtype)
    none, one = np.zeros((), dtype), scalar(1.0)
    parts = [a, one, none, b, scalar(3000.0), none, scalar(2.0), none]
    (ours,) = NodeCase("QLinearMatMul", parts, opset=21).run_engine("symbolic")
    product = a.astype(np.float32) @ b.astype(np.float32) * 1500
    assert ours.dtype == dtype
    expected = np.clip(product, -448, 448).astype(dtype)  # what is too large is held
    np.testing.assert_array_equal(ours.astype(np.float32), expected.astype(np.float32))
    assert (np.abs(product) > 448).any()


@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.int8, np.uint8])
@pytest.mark.parametrize("axis", [None, 0])
def test_microsoft_s_own_form(axis, dtype):
    scale = np.full(() if axis is None else 3, 0.03, np.float32)
    zero = np.full(scale.shape, 7, dtype)
    attributes = {} if axis is None else {"axis": axis}
    more = {"opset": 13, "domain": "com.microsoft", **attributes}
    check_node("QuantizeLinear", floats(3, 40, scale=9), scale, zero, atol=0, **more)
    check_node("DequantizeLinear", integers(3, 40, dtype=dtype), scale, zero, **more)


@pytest.mark.parametrize("name", ["int4", "uint4", "float8_e4m3fn", "float8_e5m2"])
def test_small_types_come_back_as_they_went(name):
    dtype = np.dtype(getattr(ml_dtypes, name))
    x = np.array([0.0, 1.0, 2.0, 3.0, 6.0], np.float32)
    (small,) = NodeCase(
        "QuantizeLinear", [x, scalar(1.0), np.zeros((), dtype)], opset=21
    ).run_engine()
    assert small.dtype == dtype
    (back,) = NodeCase("DequantizeLinear", [small, scalar(1.0)], opset=21).run_engine()
    np.testing.assert_array_equal(back, x)


def test_saturation_of_small_types():
    x = np.array([1e6, -1e6], np.float32)
    zero = np.zeros((), ml_dtypes.float8_e4m3fn)
    (held,) = NodeCase("QuantizeLinear", [x, scalar(1.0), zero], opset=19).run_engine()
    assert held.astype(np.float32).tolist() == [448.0, -448.0]
    (free,) = NodeCase("QuantizeLinear", [x, scalar(1.0), zero], {"saturate": 0}, 19).run_engine()
    assert np.isnan(free.astype(np.float32)).all()
    (held,) = NodeCase(
        "QuantizeLinear", [x, scalar(1.0), np.zeros((), ml_dtypes.int4)], opset=21
    ).run_engine()
    assert held.astype(np.int8).tolist() == [7, -8]


def test_half_precision():
    x = floats(50, dtype=np.float16, scale=9)
    check_node("QuantizeLinear", x, scalar(0.1, np.float16), scalar(3, np.uint8), opset=19, atol=1)
    (ours,) = NodeCase(
        "DequantizeLinear", [integers(9), scalar(0.1, np.float16), scalar(3, np.uint8)], opset=19
    ).run_engine()
    assert ours.dtype == np.float16


@pytest.mark.parametrize(
    "x", [floats(3, 4), np.zeros((2, 2), np.float32), np.abs(floats(9)), floats(0)]
)
def test_dynamic_quantize(x):
    if not x.size:
        values, scale, zero = NodeCase("DynamicQuantizeLinear", [x], outputs=3).run_engine()
        assert (values.shape, scale.shape, zero.shape) == ((0,), (), ())
        return
    if not x.any():  # other runtimes divide by zero here and give the same by luck
        assert not NodeCase("DynamicQuantizeLinear", [x], outputs=3).run_engine()[0].any()
        return
    check_node("DynamicQuantizeLinear", x, opset=11, outputs=3, atol=1)


@pytest.mark.parametrize("a_type", EIGHT_BITS)
@pytest.mark.parametrize("b_type", EIGHT_BITS)
def test_matmul_integer(a_type, b_type):
    if (a_type, b_type) == (np.int8, np.uint8):
        b_type = np.int8  # no other runtime has it
    a, b = integers(3, 40, dtype=a_type), integers(40, 5, dtype=b_type, seed=1)
    check_node("MatMulInteger", a, b, atol=0)
    check_node("MatMulInteger", a, b, scalar(9, a_type), scalar(7, b_type), atol=0)
    check_node("MatMulInteger", a, b, scalar(9, a_type), integers(5, dtype=b_type), atol=0)


def test_sums_of_long_products_are_exact():
    a = np.full((2, 5000), 255, np.uint8)
    b = np.full((5000, 3), 255, np.uint8)
    (ours,) = NodeCase("MatMulInteger", [a, b]).run_engine()
    assert (ours == 5000 * 255 * 255).all()
    rows = np.array([255, 0], np.uint8)
    (ours,) = NodeCase("MatMulInteger", [a, b, rows]).run_engine()
    assert ours[:, 0].tolist() == [0, 5000 * 255 * 255]


@pytest.mark.parametrize("dtype", EIGHT_BITS)
def test_qlinear_matmul(dtype):
    a, b = integers(3, 40, dtype=dtype), integers(40, 5, dtype=dtype, seed=1)
    left = [a, scalar(0.02), scalar(5, dtype)]
    right = [b, scalar(0.03), scalar(2, dtype)]
    check_node("QLinearMatMul", *left, *right, scalar(0.5), scalar(9, dtype), atol=1)


CONVS = [
    {},
    {"pads": [1, 1, 1, 1], "strides": [2, 2]},
    {"group": 2, "dilations": [2, 1]},
]


@pytest.mark.parametrize("attributes", CONVS)
@pytest.mark.parametrize("dtype", EIGHT_BITS)
def test_integer_convs(attributes, dtype):
    group = attributes.get("group", 1)
    x = integers(2, 4, 8, 7, dtype=np.uint8)
    w = integers(6, 4 // group, 3, 3, dtype=dtype, seed=1)
    if dtype == np.uint8:  # other runtimes have no signed filters here
        check_node("ConvInteger", x, w, scalar(9, np.uint8), atol=0, **attributes)
    inputs = [x, scalar(0.02), scalar(5, np.uint8), w, scalar(0.03), scalar(0, dtype)]
    bias = integers(6, dtype=np.int32) >> 20
    output = [scalar(0.9), scalar(100, np.uint8)]
    check_node("QLinearConv", *inputs, *output, atol=1, **attributes)
    check_node("QLinearConv", *inputs, *output, bias, atol=1, **attributes)


def test_qlinear_conv_with_a_scale_per_filter():
    x, w = integers(1, 4, 6, 6), integers(3, 4, 3, 3, dtype=np.int8, seed=1)
    scales = np.array([0.01, 0.02, 0.03], np.float32)
    inputs = [x, scalar(0.02), scalar(5, np.uint8), w, scales, np.zeros(3, np.int8)]
    check_node("QLinearConv", *inputs, scalar(0.9), scalar(100, np.uint8), atol=1)


def qlinear_matmul(a_scale: np.ndarray) -> NodeCase:
    a, b = integers(3, 4), integers(4, 5, seed=1)
    zero = np.zeros(a_scale.shape, np.uint8)
    inputs = [
        a,
        a_scale,
        zero,
        b,
        scalar(0.1),
        scalar(0, np.uint8),
        scalar(0.1),
        scalar(0, np.uint8),
    ]
    return NodeCase("QLinearMatMul", inputs)


ROWS = [
    (NodeCase("QuantizeLinear", [floats(3, 4), scalar(0.1)]), True),
    (NodeCase("QuantizeLinear", [floats(3, 4), np.ones(4, np.float32)], {"axis": 1}), True),
    (NodeCase("QuantizeLinear", [floats(3, 4), np.ones(3, np.float32)], {"axis": 0}), False),
    (NodeCase("DequantizeLinear", [integers(3, 4), scalar(0.1)]), True),
    (NodeCase("DynamicQuantizeLinear", [floats(3, 4)], outputs=3), False),
    (NodeCase("MatMulInteger", [integers(3, 4), integers(4, 5)]), True),
    (NodeCase("MatMulInteger", [integers(3, 4), integers(4, 5), integers(3)]), False),
    (NodeCase("ConvInteger", [integers(3, 1, 4, 4), integers(2, 1, 2, 2)]), True),
    (qlinear_matmul(scalar(0.1)), True),
    (qlinear_matmul(np.ones(3, np.float32)), False),
]


@pytest.mark.parametrize(("case", "expected"), ROWS)
def test_rows(case, expected):
    state, *_ = check_rows(case, (0,)) if expected else row_states(case, (0,))
    assert state.is_rows == expected


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=40),
    st.floats(0.0009765625, 8.0, width=32),
    st.integers(-128, 127),
)
def test_quantize_agrees_on_any_numbers(values, scale, zero):
    x = np.array(values, np.float32)
    check_node("QuantizeLinear", x, scalar(scale), scalar(zero, np.int8), atol=0, dims=("static",))
