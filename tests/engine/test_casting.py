"""Cast and CastLike between every pair of types, strings included."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from engine.dtypes import BOOLS, FLOAT8S, NUMBERS, DType
from engine.errors import InvalidModel
from engine.ops.casting import convert
from tests.engine.generated import tensor
from tests.engine.ops.single_node import NodeCase
from tests.engine.oracle import LATEST, NoOracle, computed, expected

PLAIN = sorted(NUMBERS | BOOLS, key=lambda d: d.onnx)


@pytest.mark.parametrize("source", PLAIN, ids=str)
def test_numbers_convert_like_onnx_runtime(source: DType) -> None:
    # What lies outside the target's range is open in ONNX, so values stay small; floats to unsigned
    # integers stay positive for the same reason.
    rng = np.random.default_rng(7)
    numbers = tensor(source, (50,), rng, special=False)
    for target in PLAIN:
        x = numbers
        if source.is_signed and target.is_integer and not target.is_signed:
            x = np.abs(numbers)
        actual = computed("Cast", [x], {"to": target.onnx}, LATEST)
        wanted = expected("Cast", [x], {"to": target.onnx}, LATEST, target)
        assert actual.dtype == target.numpy
        assert_array_equal(actual, wanted.astype(target.numpy), err_msg=f"{source} {target}")


def test_special_floats() -> None:
    x = np.float32([np.nan, np.inf, -np.inf, -0.0, 65520.0, 1e-8, 3.4e38])
    assert computed("Cast", [x], {"to": DType.BOOL.onnx}, 13).tolist() == [
        *(True, True, True, False, True, True, True)
    ]
    half = computed("Cast", [x], {"to": DType.FLOAT16.onnx}, 13)
    assert_array_equal(half, np.float16([np.nan, np.inf, -np.inf, -0.0, np.inf, 0.0, np.inf]))
    brain = computed("Cast", [x], {"to": DType.BFLOAT16.onnx}, 13).astype(np.float32)
    assert np.isinf(brain[-1])
    assert np.signbit(brain[3])


@pytest.mark.parametrize("target", sorted(FLOAT8S - {DType.FLOAT8E8M0}, key=str), ids=str)
@pytest.mark.parametrize("saturate", [0, 1])
def test_float8_saturates_when_asked(target: DType, saturate: int) -> None:
    x = np.float32([0.1, -3.3, 400.0, 500.0, 1e6, -1e6, np.inf, np.nan, 0.0])
    attributes = {"to": target.onnx, "saturate": saturate}
    actual = computed("Cast", [x], attributes, 19).astype(np.float32)
    wanted = expected("Cast", [x], attributes, 19, target)
    assert_array_equal(actual, wanted.view(target.numpy).astype(np.float32))


POWERS = {
    # x: by mode, as exponents; None is NaN
    1.0: (0, 0, 0),
    1.25: (1, 0, 0),
    1.5: (1, 0, 1),
    1.75: (1, 0, 1),
    2.0**-127: (-127, -127, -127),
    0.75 * 2.0**-126: (-126, -127, -126),
    3.0e38: (127, 127, 127),
}


@pytest.mark.parametrize("mode", ["up", "down", "nearest"])
def test_powers_of_two_round_as_asked(mode: str) -> None:
    x = np.float32(list(POWERS))
    exponents = [by_mode[("up", "down", "nearest").index(mode)] for by_mode in POWERS.values()]
    attributes = {"to": DType.FLOAT8E8M0.onnx, "round_mode": mode}
    for version, operator in ((24, "Cast"), (25, "Cast"), (24, "CastLike")):
        inputs = [x]
        given = attributes
        if operator == "CastLike":
            inputs.append(np.zeros(1, DType.FLOAT8E8M0.numpy))
            given = {"round_mode": mode}
        actual = computed(operator, inputs, given, version)
        assert actual.dtype == DType.FLOAT8E8M0.numpy
        assert_array_equal(actual.view(np.uint8), np.array(exponents) + 127)


@pytest.mark.parametrize("saturate", [0, 1])
def test_powers_of_two_hold_what_is_too_large_and_too_small(saturate: int) -> None:
    x = np.float64([0.0, 1e-45, 1e39, np.inf, np.nan, -2.0, 3.4e38])
    attributes = {"to": DType.FLOAT8E8M0.onnx, "saturate": saturate}
    with np.errstate(over="ignore"):
        codes = computed("Cast", [x], attributes, 24).view(np.uint8)
    assert codes.tolist() == (
        [0, 0, 254, 254, 255, 255, 254] if saturate else [255, 255, 255, 255, 255, 255, 255]
    )


def test_a_round_mode_that_onnx_does_not_name() -> None:
    case = NodeCase("Cast", [np.float32([1])], {"to": 24, "round_mode": "odd"}, 24)
    with pytest.raises(InvalidModel, match="expected up, down or nearest"):
        case.graph()


NARROW = sorted((d for d in DType if d.bits <= 8 and d not in PLAIN), key=lambda d: d.onnx)


@pytest.mark.parametrize("source", NARROW, ids=str)
def test_narrow_types_convert_like_the_reference(source: DType) -> None:
    # Every value of the type, to every other: what fits is exact, what does not is ONNX's rule.
    codes = np.arange(1 << source.bits).astype(np.uint8)
    x = codes.view(source.numpy) if source.is_float else _wide(codes, source).astype(source.numpy)
    for target in (*PLAIN, *NARROW):
        if target is source or DType.FLOAT8E8M0 in (source, target):
            continue
        wide = x.astype(np.float32)
        keep = np.isfinite(wide)
        if not target.is_float:  # floats outside of an integer's range are open in ONNX
            low, high = _range(target)
            keep &= (wide >= low) & (wide <= high)
        with np.errstate(all="ignore"):
            actual = computed("Cast", [x[keep]], {"to": target.onnx}, 28)
        saturated = target.is_float and target.bits <= 8
        numbers = wide[keep]
        if saturated:
            limit = float(ml_dtypes.finfo(target.numpy).max)
            numbers = np.clip(numbers, -limit, limit)
        wanted = numbers != 0 if target is DType.BOOL else numbers.astype(target.numpy)
        assert actual.dtype == target.numpy
        assert_array_equal(actual.astype(np.float32), wanted.astype(np.float32), f"{target}")


def test_integers_lose_the_bits_that_do_not_fit() -> None:
    x = np.int16([17, -9, 100, 8, 200])
    for target, wanted in ((DType.INT4, [1, 7, 4, -8, -8]), (DType.UINT2, [1, 3, 0, 0, 0])):
        actual = computed("Cast", [x], {"to": target.onnx}, 25)
        assert actual.astype(np.int32).tolist() == wanted


def _wide(codes: np.ndarray, source: DType) -> np.ndarray:
    signed = source.is_signed and codes >= 1 << (source.bits - 1)
    return np.where(signed, codes.astype(np.int16) - (1 << source.bits), codes).astype(np.int8)


def _range(target: DType) -> tuple[float, float]:
    if target is DType.BOOL:
        return -np.inf, np.inf
    facts = ml_dtypes.iinfo(target.numpy)
    return float(facts.min), float(facts.max)


def test_text_reads_back() -> None:
    text = np.array(["1.5", "-2", "INF", "-inf", "NaN", "1e3"], dtype=object)
    numbers = computed("Cast", [text], {"to": DType.FLOAT32.onnx}, 13)
    assert_array_equal(numbers, np.float32([1.5, -2, np.inf, -np.inf, np.nan, 1000]))
    assert computed("Cast", [text[1:2]], {"to": DType.INT32.onnx}, 13).tolist() == [-2]
    zero = np.array(["0", "0.0"], dtype=object)
    assert computed("Cast", [zero], {"to": DType.FLOAT64.onnx}, 13).tolist() == [0.0, 0.0]


def test_numbers_become_text() -> None:
    x = np.float32([0.1, 1.0, -2.5, np.inf, -np.inf, np.nan])
    written = computed("Cast", [x], {"to": DType.STRING.onnx}, 13)
    assert written.tolist() == ["0.1", "1", "-2.5", "INF", "-INF", "NaN"]
    assert computed("Cast", [np.int64([7])], {"to": DType.STRING.onnx}, 13).tolist() == ["7"]
    doubles = computed("Cast", [np.float64([0.1])], {"to": DType.STRING.onnx}, 13)
    assert doubles.tolist() == ["0.1"]


def test_names_of_types_before_opset_6() -> None:
    x = np.float32([1.7])
    assert computed("Cast", [x], {"to": "INT32"}, 1).tolist() == [1]
    assert computed("Cast", [x], {"to": "DOUBLE"}, 1).dtype == np.float64
    with pytest.raises(InvalidModel, match="'to' is 'COLOUR'"):
        computed("Cast", [x], {"to": "COLOUR"}, 1)
    with pytest.raises(InvalidModel, match="number 99"):
        computed("Cast", [x], {"to": 99}, 13)


def test_cast_like_takes_the_second_input_s_type() -> None:
    x, like = np.float32([[1.9, -1.9]]), np.int8([0, 0, 0])
    actual = computed("CastLike", [x, like], {}, LATEST)
    assert actual.dtype == np.int8
    assert actual.tolist() == [[1, -1]]


def test_same_type_is_no_copy() -> None:
    x = np.float32([1.0])
    assert convert(np, x, DType.FLOAT32, True) is x


def test_oracle_says_when_it_does_not_know() -> None:
    with pytest.raises(NoOracle):
        expected("Abs", [np.array(["a"], dtype=object)], {}, 13, DType.STRING)
