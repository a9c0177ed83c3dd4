"""A loaded model: what it says of itself, what it refuses, and how it behaves under threads."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from onnx import TensorProto

import engine
from engine.device import RunControl
from engine.ops.contexts import ComputeContext, InferContext
from engine.ops.registry import make_operator
from engine.profiler import ProfileReport
from engine.session import TensorSpec
from tests.counting import counted_calls
from tests.engine.onnx_models import convnet, load, mlp, model, node, normal, ort_run

X = normal(3, 8)


@pytest.fixture
def net() -> engine.Model:
    return load(mlp())


def test_a_model_tells_what_it_is(net: engine.Model) -> None:
    assert net.name == "mlp" and net.device == "reference"
    assert net.inputs == (TensorSpec("x", "float32", ("N", 8)),)
    assert net.outputs == (TensorSpec("y", "float32", ("N", 4)),)
    assert net.kept == ("y",) and net.parameters == 8 * 16 + 16 + 16 * 4 + 4
    assert net.metadata["graph_name"] == "mlp"
    assert net.memory().weights_bytes == 4 * net.parameters
    assert "mlp" in repr(net) and "float32['N', 8]" in repr(net)
    assert len(net.graph.nodes) == 3


@pytest.mark.parametrize("make", [mlp, convnet])
def test_answers_are_those_of_onnx_runtime(make: object) -> None:
    data = make()  # type: ignore[operator]
    with load(data) as net:
        shape = [3, *map(int, (net.inputs[0].shape or ())[1:])]
        feeds = {"x": normal(*shape, seed=5)}
        got, want = net.run(feeds), ort_run(data, feeds)
    np.testing.assert_allclose(got["y"], want["y"], rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------------------ outputs and fetches


def test_named_values_are_kept(net: engine.Model) -> None:
    with load(mlp(), outputs=["y", "a"]) as kept:
        assert kept.kept == ("y", "a")
        assert [s.name for s in kept.outputs] == ["y", "a"]
        both = kept.run({"x": X})
        assert set(both) == {"y", "a"}
        assert set(kept.run({"x": X}, fetches=["a"])) == {"a"}
    np.testing.assert_array_equal(both["y"], net.run({"x": X})["y"])
    assert (both["a"] >= 0).all() and both["a"].shape == (3, 16)


def test_all_keeps_every_value_of_the_graph_as_it_came() -> None:
    with load(convnet(), outputs=engine.ALL) as net:
        assert set(net.kept) == {"y", "c", "n", "r", "p", "f"}
        assert [s.name for s in net.outputs] == ["y"]
        x = normal(2, 3, 8, 8)
        assert set(net.run({"x": x})) == {"y"}
        values = net.run({"x": x}, fetches=net.kept)
        assert {v.shape[0] for v in values.values()} == {2}
    assert repr(engine.ALL) == "engine.ALL"


@pytest.mark.parametrize("fetches", [["z"], ["y", "w1"], "y", [""]])
def test_other_fetches_are_refused(net: engine.Model, fetches: list[str]) -> None:
    with pytest.raises(engine.InvalidInput, match=r"out of \['y'\]"):
        net.run({"x": X}, fetches)


def test_values_handed_through_are_copies() -> None:
    data = model([node("Neg", ["x"], ["n"])], [("x", ["N"])], [("x", ["N"]), ("n", ["N"])])
    with load(data) as net:
        x = normal(3)
        out = net.run({"x": x})
        out["x"][:] = 0
        assert x.any()


def test_fixed_values_may_be_outputs_and_cannot_be_changed() -> None:
    weights = {"w": normal(3)}
    data = model([node("Add", ["w", "w"], ["y"])], [("x", ["N"])], [("y", [3])], weights)
    with load(data, outputs=["y", "w"]) as net:
        first = net.run({"x": normal(1)})
        first["y"][:] = 0
        first["w"][:] = 0
        np.testing.assert_array_equal(net.run({"x": normal(1)})["y"], weights["w"] * 2)


# ------------------------------------------------------------------------------ feeds

INT = TensorProto.INT64
PAIR = model(
    [node("Gather", ["a", "i"], ["y"], axis=1)],
    [("a", ["N", "L", 4]), ("i", ["L"], INT)],
    [("y", None)],
)
A, INDEX = normal(2, 3, 4), np.array([0, 1, 2])


@pytest.mark.parametrize(
    ("feeds", "reason"),
    [
        ({}, r"missing \['a', 'i'\]"),
        ({"a": A}, r"missing \['i'\]"),
        ({"a": A, "i": INDEX, "z": INDEX}, r"unknown \['z'\]"),
        ({"a": A, "z": INDEX}, r"missing \['i'\], unknown \['z'\]"),
        ({"a": A.tolist(), "i": INDEX}, "'a': expected a numpy array, got list"),
        ({"a": A.astype(np.float64), "i": INDEX}, "'a': expected type float32, got float64"),
        ({"a": A, "i": INDEX.astype(np.int32)}, "'i': expected type int64, got int32"),
        ({"a": A.astype(">f4"), "i": INDEX}, "'a': expected type float32, got >f4"),
        ({"a": A[0], "i": INDEX}, r"'a': expected 3 dims \[N, L, 4\], got shape \[3, 4\]"),
        (
            {"a": A[:, :, :3], "i": INDEX},
            r"expected shape \[N, L, 4\], got \[2, 3, 3\]: dim 2 must be 4",
        ),
        (
            {"a": A, "i": INDEX[:2]},
            r"'i': dim 0 \(L\) is 2, but 'a' dim 1 is 3; they must be equal",
        ),
    ],
)
def test_feeds_that_do_not_fit_are_refused(feeds: dict[str, np.ndarray], reason: str) -> None:
    with load(PAIR) as net, pytest.raises(engine.InvalidInput, match=reason):
        net.run(feeds)


def test_feeds_that_fit_in_any_layout_are_taken() -> None:
    with load(PAIR) as net:
        want = net.run({"a": A, "i": INDEX})["y"]
        strided = np.asfortranarray(A)
        np.testing.assert_array_equal(net.run({"a": strided, "i": INDEX})["y"], want)
        assert net.run({"a": A[:0], "i": INDEX})["y"].shape == (0, 3, 4)


def test_inputs_of_any_rank_are_taken() -> None:
    data = model([node("Relu", ["x"], ["y"])], [("x", None)], [("y", None)])
    with load(data) as net:
        assert net.inputs[0].shape is None and net.batch is None
        assert net.run({"x": normal(2, 3)})["y"].shape == (2, 3)
        with pytest.raises(engine.InvalidInput):
            net.run({"x": np.zeros(3)})


def test_checking_costs_little(net: engine.Model) -> None:
    feeds = {"x": X}
    net._check(feeds)
    with counted_calls() as counter:
        net._check(feeds)
    assert counter.calls < 30  # 1.1 us on an idle core


# ------------------------------------------------------------------------------ closing and threads


def test_a_closed_model_refuses_to_run(net: engine.Model) -> None:
    with net:
        net.run({"x": X})
    net.close()
    with pytest.raises(engine.ModelClosed, match="'mlp' is closed"):
        net.run({"x": X})
    with pytest.raises(engine.ModelClosed):
        _ = net.graph
    assert net.inputs[0].name == "x"


def slow_operator(entered: threading.Event, release: threading.Event) -> engine.Operator:
    class Slow:
        @staticmethod
        def infer(ctx: InferContext) -> list[object]:
            return [ctx.type(0)]

        @staticmethod
        def compute(ctx: ComputeContext, x: np.ndarray) -> list[np.ndarray]:
            entered.set()
            assert release.wait(100)
            return [x + 1]

    return make_operator(Slow, "Slow", 1, domain="my")


SLOW = model(
    [node("Slow", ["x"], ["a"], domain="my"), node("Neg", ["a"], ["y"])],
    [("x", ["N"])],
    [("y", ["N"])],
    domains={"my": 1},
)


def test_close_waits_for_what_is_running() -> None:
    entered, release = threading.Event(), threading.Event()
    net = load(SLOW, ops=[slow_operator(entered, release)])
    with ThreadPoolExecutor(2) as pool:
        running = pool.submit(net.run, {"x": normal(2)})
        assert entered.wait(100)
        closing = pool.submit(net.close)
        while net._plan is not None:
            pass
        with pytest.raises(engine.ModelClosed):
            net.run({"x": normal(2)})
        assert not closing.done()
        release.set()
        np.testing.assert_array_equal(running.result(100)["y"], -(normal(2) + 1))
        closing.result(100)


def test_a_run_can_be_cancelled() -> None:
    entered, release = threading.Event(), threading.Event()
    control = RunControl()
    with load(SLOW, ops=[slow_operator(entered, release)]) as net, ThreadPoolExecutor(1) as pool:
        running = pool.submit(net.run, {"x": normal(2)}, control=control)
        assert entered.wait(100)
        control.cancel()
        release.set()
        with pytest.raises(engine.RunCancelled):
            running.result(100)


def test_threads_do_not_disturb_each_other() -> None:
    with load(mlp(hidden=64)) as net, ThreadPoolExecutor(4) as pool:
        inputs = [normal(n % 5 + 1, 8, seed=n) for n in range(64)]
        want = [net.run({"x": x})["y"] for x in inputs]
        got = list(pool.map(lambda x: net.run({"x": x})["y"], inputs))
    for a, b in zip(want, got, strict=True):
        np.testing.assert_array_equal(a, b)


# ------------------------------------------------------------------------------ loading and profile


def test_unknown_devices_and_precisions_are_told() -> None:
    with pytest.raises(engine.DeviceUnavailable, match="no device is called 'tpu'"):
        engine.load(mlp(), device="tpu")
    with pytest.raises(ValueError, match="precision 'fp5'"):
        engine.load(mlp(), precision="fp5")


def test_a_run_may_not_take_more_than_its_limit() -> None:
    with load(mlp(), limits=engine.Limits(run_bytes=1000)) as net:
        net.run({"x": normal(1, 8)})
        with pytest.raises(engine.ResourceLimit, match="run_bytes=1000"):
            net.run({"x": normal(100, 8)})


def test_a_profile_names_every_node_and_adds_up() -> None:
    with load(mlp()) as net:
        report = net.profile({"x": X}, repeat=3)
    assert isinstance(report, ProfileReport)
    assert [n.op for n in report.nodes] == ["Gemm", "Gemm", "Softmax"]  # the first with its Relu
    assert sum(n.share for n in report.nodes) == pytest.approx(1.0)
    gemm = report.nodes[0]
    assert gemm.flops is not None and 2 * 3 * 8 * 16 <= gemm.flops <= 2 * 3 * 9 * 16
    assert gemm.bytes == 4 * (3 * 8 + 8 * 16 + 16 + 3 * 16)
    assert gemm.gflops_per_s is not None and gemm.gflops_per_s > 0
    assert {op for op, *_ in report.by_op()} == {"Gemm", "Softmax"}
    text = str(report)
    assert "mlp on reference" in text and text.count("Gemm") == 2
