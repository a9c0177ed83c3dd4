from __future__ import annotations

import numpy as np
import pytest

from engine.errors import InvalidModel, ResourceLimit, RunFailed
from engine.interpreter import GraphPlan
from engine.limits import Limits
from tests.engine.ops.single_node import (
    NodeCase,
    check_node,
    check_rows,
    floats,
    int64,
    row_states,
)

ORT_AXIS_OPSET = 20


def number(value: float, dtype: object = np.int64) -> np.ndarray:
    return np.array(value, dtype)  # type: ignore[call-overload]


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("axis", [1, 2, -2])
@pytest.mark.parametrize("length", [None, 4, 9])
@pytest.mark.parametrize("inverse", [0, 1])
def test_dft(parts, axis, length, inverse):
    x = floats(2, 6, 5, parts)
    inputs = [x, None if length is None else number(length)]
    check_node("DFT", *inputs, axis=axis, inverse=inverse, fixed=(1,))
    newer = [*inputs, number(axis)]
    check_node("DFT", *newer, inverse=inverse, opset=ORT_AXIS_OPSET, fixed=(1, 2))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [1, 2, 7, 8])
def test_half_a_spectrum(dtype, size):
    x = floats(3, size, 1, dtype=dtype)
    (spectrum,) = check_node("DFT", x, onesided=1)
    assert spectrum.shape == (3, size // 2 + 1, 2)
    back = NodeCase("DFT", [spectrum, number(size)], {"inverse": 1, "onesided": 1}, fixed=(1,))
    np.testing.assert_allclose(back.run_engine("symbolic")[0], x, atol=1e-5)


def test_the_length_of_an_inverse_from_half_a_spectrum():
    case = NodeCase("DFT", [floats(2, 5, 2)], {"inverse": 1, "onesided": 1})
    (signal,) = case.run_engine("symbolic")
    assert signal.shape == (2, 8, 1)
    assert str(case.graph("symbolic").outputs[0].type) == "float32[d0a, 2*d0b-2, 1]"


def test_dft_with_values_that_only_running_tells():
    x = floats(2, 6, 1)
    check_node("DFT", x, number(5), number(1), opset=ORT_AXIS_OPSET)
    check_node("DFT", x, number(5), opset=ORT_AXIS_OPSET, inverse=1)


def test_dft_in_half_precision():
    x = floats(2, 8, 1, dtype=np.float16)
    (y,) = NodeCase("DFT", [x]).run_engine()
    expected = np.fft.fft(x[..., 0].astype(np.float64))
    np.testing.assert_allclose(y[..., 0], expected.real, atol=2e-2)
    assert y.dtype == np.float16


@pytest.mark.parametrize(
    ("inputs", "attributes", "error"),
    [
        ([floats(2, 6, 1)], {"axis": 2}, InvalidModel),
        ([floats(2, 6, 1)], {"axis": -1}, InvalidModel),
        ([floats(6)], {}, InvalidModel),
        ([floats(2, 6, 1), number(0)], {}, InvalidModel),
        ([floats(2, 6, 3)], {}, RunFailed),
    ],
)
def test_transforms_that_cannot_be(inputs, attributes, error):
    with pytest.raises(error, match="DFT"):
        NodeCase("DFT", inputs, attributes, fixed=(1,)).run_engine()


def test_a_huge_transform_is_refused_before_it_is_made():
    case = NodeCase("DFT", [floats(2, 6, 1), number(1 << 40)])
    with pytest.raises(ResourceLimit, match="DFT"):
        GraphPlan(case.graph(), limits=Limits(run_bytes=1 << 20)).run(case.feeds())
    window = NodeCase("HannWindow", [number(1 << 40)])
    with pytest.raises(ResourceLimit, match="Window"):
        GraphPlan(window.graph(), limits=Limits(run_bytes=1 << 20)).run(window.feeds())


def test_dft_rows():
    (state,) = check_rows(NodeCase("DFT", [floats(3, 6, 1)]), (0,))
    assert (state.axis, state.block) == (0, 1)
    (state,) = row_states(NodeCase("DFT", [floats(3, 6, 1)], {"axis": 0}), (0,))
    assert not state.is_rows
    (state,) = row_states(NodeCase("DFT", [floats(3, 6, 1), None, number(1)], opset=20), (0,))
    assert not state.is_rows


@pytest.mark.parametrize("onesided", [0, 1])
@pytest.mark.parametrize(("step", "frame"), [(1, 8), (3, 8), (8, 5), (16, 16)])
def test_stft(onesided, step, frame):
    signal, window = floats(2, 16, 1), np.hanning(frame).astype(np.float32)
    for fixed in ((), (1, 3)):
        check_node(
            "STFT", signal, number(step), window, number(frame), onesided=onesided, fixed=fixed
        )
        check_node("STFT", signal, number(step), None, number(frame), fixed=fixed)
        check_node("STFT", signal, number(step), window, onesided=onesided, fixed=fixed)


def test_stft_of_numbers_with_two_parts():
    check_node("STFT", floats(2, 16, 2), number(4), None, number(8), onesided=0)
    check_node("STFT", floats(2, 16), number(4), None, number(8))  # as torch exports it


def test_stft_symbolic_frames():
    case = NodeCase("STFT", [floats(2, 64, 1), number(4), None, number(16)], fixed=(1, 3))
    assert str(case.graph("symbolic").outputs[0].type) == "float32[d0a, (d0b//4)-3, 9, 2]"
    (state,) = check_rows(
        NodeCase("STFT", [floats(3, 16, 1), number(4), None, number(8)], fixed=(1, 3)), (0,)
    )
    assert (state.axis, state.block) == (0, 1)


@pytest.mark.parametrize(
    ("inputs", "error"),
    [
        ([floats(16), number(4)], InvalidModel),
        ([floats(2, 16, 1), number(0)], InvalidModel),
        ([floats(2, 16, 1), number(4), floats(3, 3)], InvalidModel),
        ([floats(2, 16, 1), number(4), None, number(17)], InvalidModel),
        ([floats(2, 16, 1), number(4), None, number(0)], InvalidModel),
        ([floats(2, 16, 1), number(4), floats(3), number(4)], RunFailed),
    ],
)
def test_frames_that_do_not_fit(inputs, error):
    with pytest.raises(error, match="STFT"):
        NodeCase("STFT", inputs, fixed=(1, 3)).run_engine()


@pytest.mark.parametrize("op", ["HannWindow", "HammingWindow", "BlackmanWindow"])
@pytest.mark.parametrize("periodic", [0, 1])
def test_windows(op, periodic):
    for size in (2, 9, 10):
        for kind in (1, 11):
            check_node(op, number(size), periodic=periodic, output_datatype=kind)
    case = NodeCase(op, [number(6)], {"periodic": periodic}, fixed=(0,))
    assert str(case.graph().outputs[0].type) == "float32[6]"
    assert NodeCase(op, [number(1)], {"periodic": 0}).run_engine()[0].tolist() == [1.0]
    with pytest.raises(InvalidModel, match="negative"):
        NodeCase(op, [number(-1)], fixed=(0,)).graph()
    with pytest.raises((InvalidModel, RunFailed), match="negative"):
        NodeCase(op, [number(-1)]).run_engine()


@pytest.mark.parametrize(
    ("bands", "points", "rate"), [(8, 16, 8192), (4, 64, 16000), (20, 256, 22050)]
)
@pytest.mark.parametrize(("low", "high"), [(0.0, 4000.0), (100.0, 3000.0)])
def test_mel_weights(bands, points, rate, low, high):
    high = min(high, rate / 2)
    inputs = [number(v) for v in (bands, points, rate)]
    inputs += [number(v, np.float32) for v in (min(low, high), high)]
    for fixed in ((), range(5)):
        check_node("MelWeightMatrix", *inputs, fixed=fixed)


def test_mel_weights_that_cannot_be():
    edges = [number(0.0, np.float32), number(9.0, np.float32)]
    with pytest.raises(RunFailed, match="rate"):
        NodeCase("MelWeightMatrix", [number(4), number(8), number(0), *edges]).run_engine()
    below = [number(-800.0, np.float32), edges[1]]
    with pytest.raises(RunFailed, match="negative"):
        NodeCase("MelWeightMatrix", [number(4), number(8), number(99), *below]).run_engine()
    (state,) = row_states(
        NodeCase("MelWeightMatrix", [int64(4), number(8), number(99), *edges]), (0,)
    )
    assert not state.is_rows
