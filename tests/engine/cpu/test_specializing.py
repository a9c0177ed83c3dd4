"""Pictures of any size: right at once, native once their size has been compiled."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from onnx import helper as h

import engine
from engine.cpu.plan import CpuPlan
from engine.cpu.specializing import KEPT, SpecializingPlan
from engine.cpu.weight_store import BLOCK_BYTES, WeightPool
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
                assert plan.wait(300)
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
            assert plan.wait(300)
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
            assert plan_of(native).wait(300)
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
        assert plan_of(native).wait(300)


# ------------------------------------------------------------------ what plans share


def test_sizes_share_weights_and_memory_of_runs() -> None:
    """Were nothing shared, every size would add its own."""
    with engine.load(source(), device="cpu", threads=1) as native:
        plan = plan_of(native)
        for height in (16, 24, 32, 16):
            native.run({"x": pictures(1, height, 16)})
            assert plan.wait(300)
            native.run({"x": pictures(1, height, 16)})
        found = native.memory()
        specials = [p for p in plan._plans.values() if isinstance(p, CpuPlan)]
        assert len(specials) == 3
        taken = [p.memory()["arena_bytes"] for p in specials]
        always = plan._general
        assert isinstance(always, CpuPlan)
        general = always.memory()
        assert taken == [taken[0]] * 3
        assert found.arena_bytes == general["arena_bytes"] + taken[0] > 0
        arrays = [a for p in specials for a in p.compiled.weights.arrays]
        places = {int(a.ctypes.data): a.nbytes for a in arrays}
        assert len(places) == len({a.tobytes() for a in arrays}) < len(arrays)
        lent = {int(a.ctypes.data) for a in always.compiled.weights.arrays}
        own = sum(size for place, size in places.items() if place not in lent)
        assert found.weights_bytes == general["weights_bytes"] + own


def test_weights_of_the_general_plan_are_lent() -> None:
    """What has native code for all sizes is packed once for all plans."""
    rng = np.random.default_rng(0)
    fixed = {
        "w": rng.standard_normal((4, 3, 1, 1)).astype(np.float32),
        "m": rng.standard_normal((200, 300)).astype(np.float32),
    }
    nodes = [
        h.make_node("Conv", ["x", "w"], ["y"]),
        h.make_node("MatMul", ["z", "m"], ["p"]),
    ]
    inputs = [("x", ["N", 3, "H", "W"]), ("z", ["N", 200])]
    data = model(nodes, inputs, [("y", None), ("p", None)], fixed)
    feeds = {"x": pictures(2, 8, 8), "z": rng.standard_normal((2, 200)).astype(np.float32)}
    with engine.load(data, device="cpu") as native:
        before = native.memory().weights_bytes
        want = native.run(feeds)
        assert plan_of(native).wait(300)
        got = native.run(feeds)
        assert native.memory().weights_bytes - before < fixed["m"].nbytes // 2
    for name, y in want.items():
        np.testing.assert_allclose(got[name], y, 1e-4, 1e-4)


def test_a_pool_keeps_equal_bytes_once_and_nothing_for_nobody() -> None:
    pool = WeightPool()
    x, y = np.arange(1000, dtype=np.float32), np.ones((3, 5), np.int8)
    first, again, other = pool.hold(x), pool.hold(x.copy().reshape(10, 100)), pool.hold(y)
    assert first is again and first is not other
    assert first.array.tobytes() == x.tobytes() and other.array.tobytes() == y.tobytes()
    assert first.array.ctypes.data % 64 == other.array.ctypes.data % 64 == 0
    assert pool.size_bytes == x.nbytes + y.nbytes
    del first, again
    assert pool.size_bytes == y.nbytes
    lent = pool.lend([x, y])
    assert pool.hold(x) is lent[0] and lent[1] is other
    assert lent[0].array.ctypes.data == x.ctypes.data
    assert pool.size_bytes == y.nbytes  # what is lent is the lender's
    empty = pool.hold(np.zeros(0, np.float32))
    assert empty.array.nbytes == 0


def test_large_values_have_blocks_of_their_own() -> None:
    pool = WeightPool()
    large = [np.full(BLOCK_BYTES // 4 + k, k, np.uint8) for k in range(5)]
    held = [pool.hold(each) for each in large]
    for each, array in zip(held, large, strict=True):
        assert each.array[0] == each.array[-1] == array[0] and each.array.nbytes == array.nbytes
