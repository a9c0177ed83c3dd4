"""Generated programs of If, Loop and Scan in each other: ONNX Runtime agrees, and types hold."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper
from onnxruntime.capi.onnxruntime_pybind11_state import Fail

from tests.engine.onnx_models import normal, ort_run
from tests.engine.ops.bodies import BOOL, INT64, check, graph, loads, model, tensor, untyped

node = helper.make_node
DEPTH = 2
# All keep the rank of two; some change the sizes, so that states and branches have open dims.
ONE = ["Neg", "Tanh", "Identity", "Softmax", "twice", "head", "flipped", "grown"]


@dataclass
class Program:
    """Nodes written so far and the names that may be read."""

    draw: Any
    names: list[str]
    prefix: str
    depth: int = 0
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    fixed: dict[str, Any] = field(default_factory=dict)

    def fresh(self) -> str:
        return f"{self.prefix}{len(self.nodes)}"

    def pick(self) -> str:
        return str(self.draw(st.sampled_from(self.names)))

    def number(self, low: int, high: int) -> int:
        return int(self.draw(st.integers(low, high)))

    def add(self, op: str, inputs: list[str], **attributes: Any) -> str:
        name = self.fresh()
        self.nodes.append(node(op, inputs, [name], **attributes))
        return name

    def constant(self, value: Any) -> str:
        name = f"{self.prefix}k{len(self.fixed)}"
        self.fixed[name] = np.asarray(value)
        return name

    def step(self) -> None:
        kinds = ["one", "one", "if", "loop", "scan"] if self.depth < DEPTH else ["one"]
        kind = self.draw(st.sampled_from(kinds))
        self.names.append(getattr(self, kind)())

    def one(self) -> str:
        op, x = self.draw(st.sampled_from(ONE)), self.pick()
        match op:
            case "twice":
                return self.add("Concat", [x, x], axis=self.number(0, 1))
            case "head":
                ends = self.constant([1]), self.constant([2]), self.constant([self.number(0, 1)])
                return self.add("Slice", [x, self.constant([0]), *ends[1:]])
            case "flipped":
                return self.add("Transpose", [x])
            case "grown":
                rows = self.add("ReduceSum", [x, self.constant([0])], keepdims=1)
                return self.add("Concat", [rows, x], axis=0)
            case "Softmax":
                return self.add("Softmax", [x], axis=1)
        return self.add(op, [x])

    def inner(self, names: list[str]) -> Program:
        prefix = f"{self.prefix}{len(self.nodes)}_"
        return Program(self.draw, [*self.names, *names], prefix, self.depth + 1)

    def inside(self, names: list[str]) -> tuple[Program, str]:
        """A body's program, and a result that it computes (and does not just hand through)."""
        body = self.inner(names)
        for _ in range(self.number(1, 2)):
            body.step()
        return body, body.add("Identity", [body.names[-1]])

    def flag(self) -> str:
        """Whether the sum of something is positive."""
        total = self.add("ReduceSum", [self.pick()], keepdims=0)
        return self.add("Greater", [total, self.constant(np.float32(0))])

    # `if` and the like are no names that Python lets a method have without this detour.
    def __getattr__(self, name: str) -> Any:
        return {"if": self.choose}[name]

    def choose(self) -> str:
        condition = self.flag()
        bodies = []
        for side in "te":
            body, result = self.inner_named(side)
            bodies.append(graph(body.nodes, [], untyped(result), side, **body.fixed))
        return self.add("If", [condition], then_branch=bodies[0], else_branch=bodies[1])

    def inner_named(self, side: str) -> tuple[Program, str]:
        body = self.inner([])
        body.prefix += side
        for _ in range(self.number(1, 2)):
            body.step()
        return body, body.add("Identity", [body.names[-1]])

    def loop(self) -> str:
        before = self.pick()
        prefix = f"{self.prefix}{len(self.nodes)}"
        i, go, state = f"{prefix}i", f"{prefix}go", f"{prefix}s"
        body, result = self.inside([state])
        on = body.add("Identity", [go])
        inputs = [tensor(i, [], INT64), tensor(go, [], BOOL), tensor(state, None)]
        called = graph(body.nodes, inputs, untyped(on, result), "loop", **body.fixed)
        trips = self.constant(np.int64(self.number(0, 3)))
        return self.add("Loop", [trips, "", before], body=called)

    def scan(self) -> str:
        before, along = self.pick(), self.pick()
        prefix = f"{self.prefix}{len(self.nodes)}"
        state, part = f"{prefix}s", f"{prefix}v"
        body, result = self.inside([state])
        # ONNX Runtime wants the states of a Scan to keep their shapes.
        total = body.add("Add", [body.add("ReduceSum", [v], keepdims=0) for v in (part, result)])
        after = body.add("Tanh", [body.add("Add", [state, total])])
        inputs = [tensor(state, None), tensor(part, None)]
        called = graph(body.nodes, inputs, untyped(after), "scan", **body.fixed)
        return self.add("Scan", [before, along], body=called, num_scan_inputs=1)


@st.composite
def programs(draw: Any) -> bytes:
    main = Program(draw, ["x", "w"], "v")
    for _ in range(draw(st.integers(1, 3))):
        main.step()
    kept = dict.fromkeys([main.names[-1], main.add("Identity", [main.pick()])])
    inputs = [tensor("x", ["N", 3]), tensor("w", ["M", "K"])]
    return model(main.nodes, inputs, untyped(*kept), 21, **main.fixed)


def agree(data: bytes) -> None:
    feeds = {"x": normal(2, 3) / 4, "w": normal(4, 2, seed=1) / 4}
    try:
        wanted = ort_run(data, feeds)
    except Fail as error:
        # ONNX Runtime runs a Scan only where it can infer the shapes that come out of its body.
        if "must have the shape set" not in str(error):
            raise
        wanted = loads(data)[0].run(feeds)
    check(data, feeds, wanted)
    for net in loads(data):
        if net.batch is not None:
            items_are_apart(net, feeds, net.batch)


def items_are_apart(net: Any, feeds: dict[str, Any], batch: Any) -> None:
    """Each item gives its row of the batch, whatever the others hold."""
    together = net.run(feeds)
    (size,) = {len(feeds[name]) for name in batch.inputs}
    for item in range(size):
        poisoned = dict(feeds)
        for name in batch.inputs:
            poisoned[name] = np.full_like(feeds[name], 1e4)
            poisoned[name][item] = feeds[name][item]
        alone = {n: v[item : item + 1] if n in batch.inputs else v for n, v in feeds.items()}
        for results, row in ((net.run(alone), 0), (net.run(poisoned), item)):
            for name in batch.outputs:
                np.testing.assert_allclose(
                    results[name][row], together[name][item], rtol=1e-5, atol=1e-6
                )


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(programs())
def test_generated_programs(data: bytes) -> None:
    agree(data)


@pytest.mark.slow
@pytest.mark.timeout(900)
@settings(max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck))
@given(programs())
def test_many_generated_programs(data: bytes) -> None:
    agree(data)
