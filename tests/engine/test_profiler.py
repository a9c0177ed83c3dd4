"""What a profile says of bodies, of operators of one's own, and of what has no arithmetic."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from onnx import TensorProto, helper

import engine
from engine.custom import ComputeContext, InferContext, TensorType
from engine.profiler import Recorder
from tests.engine.onnx_models import load, mlp, model, node, normal

SLOW_S = 0.05


class Clock:
    """Time that passes where a test says so, and a little whenever it is asked for."""

    now = 0.0

    def perf_counter(self) -> float:
        self.now += 1e-6
        return self.now


clock = Clock()


class Slow:
    """x, after a while."""

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        return [ctx.type(0)]

    @staticmethod
    def compute(ctx: ComputeContext, x: np.ndarray) -> Sequence[np.ndarray]:
        clock.now += SLOW_S
        return [x]

    @staticmethod
    def flops(ctx: InferContext) -> int:
        return 7


SLOW = engine.make_operator(Slow, "Slow", since=1, domain="my.domain")


def slow_loop() -> bytes:
    def info(name: str, kind: int, shape: list[int] | None) -> object:
        return helper.make_tensor_value_info(name, kind, shape)

    body = helper.make_graph(
        [
            node("Identity", ["c"], ["c2"], name="keep"),
            node("Slow", ["v"], ["v2"], domain="my.domain", name="slow"),
        ],
        "body",
        [
            info("i", TensorProto.INT64, []),
            info("c", TensorProto.BOOL, []),
            info("v", TensorProto.FLOAT, [4]),
        ],
        [info("c2", TensorProto.BOOL, []), info("v2", TensorProto.FLOAT, [4])],
    )
    nodes = [node("Loop", ["t", "", "x"], ["s"], body=body, name="loop"), node("Abs", ["s"], ["y"])]
    inputs = [("x", [4]), ("t", [], TensorProto.INT64)]
    return model(nodes, inputs, [("y", None)], domains={"my.domain": 1})


def test_bodies_stand_for_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("interpreter", "profiler"):
        monkeypatch.setattr(f"engine.{module}.time", clock)
    with engine.load(slow_loop(), ops=(SLOW,)) as net:
        report = net.profile({"x": normal(4), "t": np.array(3)}, repeat=2)
    found = {row.op: row for row in report.nodes}
    assert found["Slow"].times == 3 and found["Loop"].times == 1
    assert found["Slow"].seconds >= 3 * SLOW_S
    # The loop's own time holds none of its body's, which therefore counts once.
    assert 0 < found["Loop"].seconds < SLOW_S
    assert found["Slow"].flops == 21 and found["Loop"].flops is None
    assert abs(sum(row.share for row in report.nodes) - 1) < 1e-9
    assert "slow (3 times)" in str(report)


def test_a_loop_without_passes() -> None:
    with engine.load(slow_loop(), ops=(SLOW,)) as net:
        report = net.profile({"x": normal(4), "t": np.array(0)}, repeat=1)
    assert {row.op for row in report.nodes} == {"Loop", "Abs"}


def test_every_node_of_a_plain_graph_has_one_row() -> None:
    with load(mlp()) as net:
        report = net.profile({"x": normal(2, 8)}, repeat=3)
        assert len(report.nodes) == len(net.graph.nodes)
        assert all(row.times == 1 and row.bytes > 0 for row in report.nodes)
        assert report.by_op()[0][3] >= report.by_op()[-1][3]


def test_a_recorder_of_one_run_reports_it() -> None:
    recorder = Recorder()
    recorder.start_run()
    with load(mlp()) as net:
        net.run({"x": normal(2, 8)}, control=engine.RunControl(recorder))
        assert len(recorder.report("m", "d").nodes) == len(net.graph.nodes)


def test_nodes_that_are_told_of_together_are_not_inside_of_each_other() -> None:
    """Native code tells of all its nodes when their region ends, seconds after the first."""
    recorder = Recorder()
    with load(mlp()) as net:
        nodes, rows = net.graph.nodes, normal(2, 8)
        for _ in range(3):
            recorder.start_run()
            for each in nodes:
                recorder(each, 1.0, [rows], [rows], "Gemm")
    found = recorder.report("m", "d").nodes
    assert [row.seconds for row in found] == [1.0] * len(nodes)
    assert sum(row.share for row in found) == pytest.approx(1)
