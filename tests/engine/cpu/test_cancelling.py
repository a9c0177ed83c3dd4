"""A run is cancelled in the midst of native code, not only between nodes."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from onnx.helper import make_node as node

import engine
from engine.device import RunControl
from tests.engine.onnx_models import model

LAYERS, WIDTH, ROWS = 40, 256, 32_768  # most of a second of native code on one core


def chain() -> bytes:
    random = np.random.default_rng(0)
    weights = {
        f"w{i}": (random.standard_normal((WIDTH, WIDTH)) / 16).astype(np.float32)
        for i in range(LAYERS)
    }
    nodes = [node("MatMul", [f"x{i}", f"w{i}"], [f"x{i + 1}"]) for i in range(LAYERS)]
    return model(nodes, [("x0", ["N", WIDTH])], [(f"x{LAYERS}", ["N", WIDTH])], weights)


def was_cancelled(net: engine.Model, x: np.ndarray) -> bool:
    """Cancel a run that has just begun."""
    control = RunControl()
    timer = threading.Timer(0.02, control.cancel)
    timer.start()
    try:
        net.run({"x0": x}, control=control)
    except engine.RunCancelled:
        return True
    finally:
        timer.join()
    return False


@pytest.mark.parametrize("threads", [1, 2])
def test_native_code_stops_for_a_cancel(threads):
    with engine.load(chain(), device="cpu", threads=threads) as net:
        x = np.random.default_rng(1).standard_normal((ROWS, WIDTH)).astype(np.float32)
        # It is one region: between nodes is too late. A timer that gets no core may be, too.
        assert any(was_cancelled(net, x) for _ in range(20))
        small = net.run({"x0": x[:3]}, control=RunControl())[f"x{LAYERS}"]
        whole = net.run({"x0": x})[f"x{LAYERS}"]
    np.testing.assert_array_equal(small, whole[:3])


def test_who_listens_is_told_once_even_if_late():
    control, told = RunControl(), []
    control.when_cancelled(lambda: told.append("early"))
    assert not told
    control.cancel()
    control.when_cancelled(lambda: told.append("late"))
    assert told == ["early", "late"]
