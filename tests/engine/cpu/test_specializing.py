"""Pictures of any size: right at once, native once their size has been compiled."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from onnx import helper as h

import engine
from engine.cpu.plan import CpuPlan
from engine.cpu.specializing import KEPT, SpecializingPlan
from tests.engine.onnx_models import model


def source(height: int | str = "H", width: int | str = "W") -> bytes:
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.standard_normal((8, 3, 3, 3)).astype(np.float32),
        "v": rng.standard_normal((4, 8, 1, 1)).astype(np.float32),
    }
    nodes = [
        h.make_node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1]),
        h.make_node("Relu", ["a"], ["b"]),
        h.make_node("MaxPool", ["b"], ["c"], kernel_shape=[2, 2], strides=[2, 2]),
        h.make_node("Conv", ["c", "v"], ["y"]),
    ]
    return model(nodes, [("x", ["N", 3, height, width])], [("y", None)], weights)


def pictures(count: int, height: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(height * 100 + width)
    return rng.standard_normal((count, 3, height, width)).astype(np.float32)


def plan_of(loaded: engine.Model) -> SpecializingPlan:
    plan = loaded._plan
    assert isinstance(plan, SpecializingPlan)
    return plan


def test_a_size_is_right_before_and_after_it_is_compiled() -> None:
    with (
        engine.load(source(), device="cpu") as native,
        engine.load(source(), device="reference") as portable,
    ):
        plan = plan_of(native)
        for height, width in ((8, 8), (12, 6), (9, 31)):
            for count in (1, 3):
                x = pictures(count, height, width)
                want = portable.run({"x": x})["y"]
                np.testing.assert_allclose(native.run({"x": x})["y"], want, 1e-4, 1e-5)
                assert plan.wait(60)
                np.testing.assert_allclose(native.run({"x": x})["y"], want, 1e-4, 1e-5)
        special = plan._plan_for((9, 31))
        assert isinstance(special, CpuPlan)
        assert all(each.reason is None for each in special.coverage)


def test_fixed_sizes_need_no_further_plans() -> None:
    with engine.load(source(16, 16), device="cpu") as native:
        assert isinstance(native._plan, CpuPlan)


def test_only_the_latest_sizes_are_kept() -> None:
    with engine.load(source(), device="cpu") as native:
        plan = plan_of(native)
        for k in range(KEPT + 3):
            native.run({"x": pictures(1, 4 + k, 4)})
            assert plan.wait(60)
        assert list(plan._plans) == [(4 + k, 4) for k in range(3, KEPT + 3)]
        assert plan.memory()["code_bytes"] > 0


def outcome(loaded: engine.Model, x: np.ndarray) -> object:
    try:
        return loaded.run({"x": x})["y"].shape
    except engine.EngineError as error:
        return type(error)


def test_sizes_too_small_for_the_windows_end_as_on_the_reference_device() -> None:
    with (
        engine.load(source(), device="cpu") as native,
        engine.load(source(), device="reference") as portable,
    ):
        for height, width in ((1, 1), (0, 4), (1, 9), (0, 0)):
            x = pictures(1, height, width)
            want = outcome(portable, x)
            assert outcome(native, x) == want
            assert plan_of(native).wait(60)
            assert outcome(native, x) == want


def test_many_sizes_from_many_threads() -> None:
    with (
        engine.load(source(), device="cpu") as native,
        engine.load(source(), device="reference") as portable,
    ):
        inputs = [pictures(1, 6 + k % 5, 8) for k in range(40)]
        want = [portable.run({"x": x})["y"] for x in inputs]
        with ThreadPoolExecutor(6) as pool:
            got = list(pool.map(lambda x: native.run({"x": x})["y"], inputs))
        for y, expected in zip(got, want, strict=True):
            np.testing.assert_allclose(y, expected, 1e-4, 1e-5)
        assert plan_of(native).wait(60)
