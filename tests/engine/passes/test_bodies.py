"""Passes reach the bodies of If and Loop, and keep to what is captured."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper

from tests.engine.onnx_models import graph_of, model, node, normal
from tests.engine.passes.comparing import assert_close, compiled, ops, run

FLOAT, INT, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


def info(name: str, kind: int = FLOAT, shape: object = None):  # type: ignore[no-untyped-def]
    return helper.make_tensor_value_info(name, kind, shape)


def gelu(x: str, out: str, tag: str) -> list:  # type: ignore[type-arg]
    """The numbers are captured from the graph around."""
    a, b, c, d = (f"{tag}{i}" for i in range(4))
    return [
        node("Div", [x, "root"], [a]),
        node("Erf", [a], [b]),
        node("Add", [b, "one"], [c]),
        node("Mul", [x, c], [d]),
        node("Mul", [d, "half"], [out]),
    ]


NUMBERS = {"root": np.float32(2**0.5), "one": np.float32(1), "half": np.float32(0.5)}


def bodies(graph) -> list:  # type: ignore[no-untyped-def,type-arg]
    return [body for node in graph.nodes for _, body in node.bodies]


def test_a_loop_runs_fused_nodes() -> None:
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["on"]),
            node("MatMul", ["h", "w"], ["p"]),
            node("Add", ["p", "bias"], ["q"]),
            *gelu("q", "next", "t"),
            node("Identity", ["next"], ["seen"]),
        ],
        "step",
        [info("i", INT, []), info("go", BOOL, []), info("h", FLOAT, ["N", 4])],
        [info("on", BOOL, []), info("next"), info("seen")],
    )
    nodes = [node("Loop", ["n", "", "x"], ["y", "all"], body=body)]
    weights = {**NUMBERS, "w": normal(4, 4), "bias": normal(4), "n": np.array(3)}
    data = model(nodes, [("x", ["N", 4])], [("y", None), ("all", None)], weights)
    graph = compiled(data, 2)
    (inside,) = bodies(graph)
    assert "Erf" not in ops(inside) and {"Gemm", "Gemm*"} & set(ops(inside)), ops(inside)
    assert "w" in inside.free_names
    feeds = {"x": normal(2, 4)}
    assert_close(run(graph, feeds), run(compiled(data, 0), feeds))


def test_branches_inside_branches() -> None:
    inner_then = helper.make_graph(gelu("x", "a", "t"), "a", [], [info("a")])
    inner_else = helper.make_graph([node("Neg", ["x"], ["b"])], "b", [], [info("b")])
    nested = helper.make_graph(
        [
            node("Transpose", ["x"], ["u"], perm=[1, 0]),
            node("Relu", ["u"], ["v"]),
            node("Transpose", ["v"], ["r"], perm=[1, 0]),
            node("If", ["d"], ["c"], then_branch=inner_then, else_branch=inner_else),
            node("Add", ["c", "r"], ["e"]),
        ],
        "nested",
        [],
        [info("e")],
    )
    other = helper.make_graph([node("Identity", ["x"], ["f"])], "other", [], [info("f")])
    nodes = [node("If", ["c0"], ["y"], then_branch=nested, else_branch=other)]
    inputs = [("x", ["N", 4]), ("c0", [], BOOL), ("d", [], BOOL)]
    data = model(nodes, inputs, [("y", None)], NUMBERS)
    graph = compiled(data, 2)
    outer = graph.nodes[0].attributes["then_branch"]
    assert "Transpose" not in ops(outer)
    assert sorted(ops(b) for b in bodies(outer)) == [["Gelu"], ["Neg"]]
    for c0 in (True, False):
        for d in (True, False):
            feeds = {"x": normal(3, 4), "c0": np.array(c0), "d": np.array(d)}
            assert_close(run(graph, feeds), run(graph_of(data), feeds))


def test_a_branch_that_hands_out_what_it_captures() -> None:
    same = helper.make_graph([], "same", [], [info("x")])
    double = helper.make_graph([node("Add", ["x", "x"], ["z"])], "double", [], [info("z")])
    nodes = [node("If", ["c"], ["y"], then_branch=same, else_branch=double)]
    data = model(nodes, [("x", ["N", 4]), ("c", [], BOOL)], [("y", None)])
    for c in (True, False):
        feeds = {"x": normal(3, 4), "c": np.array(c)}
        assert_close(run(compiled(data, 2), feeds), run(compiled(data, 0), feeds))
