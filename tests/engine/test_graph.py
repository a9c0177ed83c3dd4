"""Graphs, their verifier and their printer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from engine.dtypes import DType
from engine.errors import GraphInvalid, InvalidModel
from engine.ir.graph import Graph, Node, Value
from engine.ir.printer import print_graph
from engine.ir.types import TensorType, symbol
from engine.ir.verify import contradicts, verify_graph

N = symbol("N")
ROW = TensorType(DType.FLOAT32, (N, 2))
FLAG = TensorType(DType.BOOL, ())


def small_graph() -> Graph:
    """y = Relu(x @ w) + b, where `b` is a constant."""
    weight = np.eye(2, dtype=np.float32)
    types = dict.fromkeys(("x", "m", "r", "y"), ROW)
    types |= {"w": TensorType(DType.FLOAT32, (2, 2)), "b": TensorType(DType.FLOAT32, ())}
    return Graph(
        name="small",
        inputs=(Value("x", ROW),),
        outputs=(Value("y", ROW),),
        nodes=(
            Node("MatMul", ("x", "w"), ("m",), version=13, name="mm"),
            Node("Relu", ("m",), ("r",), version=14),
            Node("Add", ("r", "b"), ("y",), {"axis": 1, "names": ("a", "b")}, version=14),
        ),
        initializers={"w": weight},
        constants={"b": np.float32(3).reshape(())},
        types=types,
    )


def graph_with_body() -> Graph:
    """y = If(flag) { Neg(x) } else { x }: both branches capture `x`."""
    negate = Graph(
        "then",
        (),
        (Value("t", ROW),),
        (Node("Neg", ("x",), ("t",), version=13),),
        types={"t": ROW},
    )
    keep = Graph("else", (), (Value("x", ROW),), ())
    branches = {"then_branch": negate, "else_branch": keep}
    return Graph(
        "choice",
        (Value("flag", FLAG), Value("x", ROW)),
        (Value("y", ROW),),
        (Node("If", ("flag",), ("y",), branches, version=21),),
        types={"flag": FLAG, "x": ROW, "y": ROW},
    )


def test_indexes() -> None:
    graph = small_graph()
    assert graph.input_names == ("x",)
    assert graph.output_names == ("y",)
    assert graph.producers["m"].op == "MatMul"
    assert [node.op for node in graph.consumers["r"]] == ["Add"]
    assert "y" not in graph.consumers
    assert graph.free_names == frozenset()
    assert graph.constant("b") == 3
    assert graph.constant("w") is graph.initializers["w"]
    assert graph.constant("x") is None


def test_bodies_capture_what_surrounds_them() -> None:
    graph = graph_with_body()
    (node,) = graph.nodes
    assert node.captured == ("x",)
    assert node.reads == ("flag", "x")
    assert graph.consumers["x"] == (node,)
    assert [inner.op for _, inner in graph.walk()] == ["If", "Neg"]
    assert node.label == "y"
    assert node.replace(name="choose").label == "choose"


def test_good_graphs_pass() -> None:
    verify_graph(small_graph())
    verify_graph(graph_with_body(), known=lambda node: True)
    graph = small_graph()
    verify_graph(graph, reinfer=lambda g: g.types)


def changed(**changes: Any) -> Callable[[], Graph]:
    return lambda: small_graph().replace(**changes)


def with_nodes(*nodes: Node) -> Callable[[], Graph]:
    return lambda: small_graph().replace(nodes=(*small_graph().nodes, *nodes))


def typed(name: str, kind: TensorType) -> Callable[[], Graph]:
    return lambda: small_graph().replace(types={**small_graph().types, name: kind})


def hiding_body() -> Graph:
    graph = graph_with_body()
    (node,) = graph.nodes
    body = Graph("then", (), (Value("x", ROW),), (Node("Neg", ("x",), ("x",)),), types={"x": ROW})
    return graph.replace(nodes=(node.replace(attributes={**node.attributes, "then_branch": body}),))


def endless_body() -> Graph:
    graph = graph_with_body()
    for _ in range(70):
        (node,) = graph.nodes
        inner = graph.replace(inputs=(), types={"y": ROW}, outputs=(Value("y", ROW),))
        renamed = inner.nodes[0].replace(outputs=(f"{node.outputs[0]}i",))
        body = inner.replace(
            nodes=(renamed,),
            outputs=(Value(renamed.outputs[0], ROW),),
            types={renamed.outputs[0]: ROW},
        )
        graph = graph_with_body().replace(
            nodes=(node.replace(attributes={"then_branch": body, "else_branch": body}),)
        )
    return graph


FAULTS: list[tuple[str, Callable[[], Graph], str]] = [
    ("read before defined", with_nodes(Node("Neg", ("q",), ("z",))), "reads 'q' before"),
    ("defined twice", with_nodes(Node("Neg", ("x",), ("m",))), "is defined already"),
    ("input is fixed", changed(initializers={"x": np.zeros(1, np.float32)}), "defined already"),
    ("no output", with_nodes(Node("Neg", ("x",), ("",))), "gives no output"),
    ("nameless input", changed(inputs=(Value("", ROW),)), "has no name"),
    ("missing output", changed(outputs=(Value("nowhere", ROW),)), "never defined"),
    ("attribute kind", with_nodes(Node("Neg", ("x",), ("z",), {"a": [1]})), "'a' is a list"),  # type: ignore[dict-item]
    ("mixed attribute", with_nodes(Node("Neg", ("x",), ("z",), {"a": (1, "b")})), "is a tuple"),  # type: ignore[dict-item]
    ("no type", with_nodes(Node("Neg", ("x",), ("z",))), "'z' has no type"),
    ("weight's type", typed("w", ROW), "holds a float32"),
    ("output's type", typed("y", FLAG), "is float32"),
    ("hidden name", hiding_body, "hides a name"),
    ("endless bodies", endless_body, "deeper than"),
]


@pytest.mark.parametrize(("fault", "message"), [f[1:] for f in FAULTS], ids=[f[0] for f in FAULTS])
def test_faults_are_named(fault: Callable[[], Graph], message: str) -> None:
    with pytest.raises(GraphInvalid, match=message):
        verify_graph(fault())


def test_unknown_operators_and_contradicting_types() -> None:
    graph = small_graph()
    with pytest.raises(GraphInvalid, match=r"no operator .*Relu"):
        verify_graph(graph, known=lambda node: node.op != "Relu")
    wrong = {**graph.types, "r": TensorType(DType.FLOAT32, (N, 3))}
    with pytest.raises(GraphInvalid, match=r"'r' should be float32\[N, 3\]"):
        verify_graph(graph, reinfer=lambda g: wrong)

    def fails(g: Graph) -> dict[str, TensorType]:
        raise InvalidModel("no")

    with pytest.raises(GraphInvalid, match="cannot be typed again: no"):
        verify_graph(graph, reinfer=fails)


@pytest.mark.parametrize(
    ("a", "b", "result"),
    [
        (ROW, ROW, False),
        (ROW, TensorType(DType.FLOAT32, (symbol("M"), 2)), False),
        (ROW, TensorType(DType.FLOAT32), False),
        (ROW, TensorType(DType.FLOAT16, (N, 2)), True),
        (ROW, TensorType(DType.FLOAT32, (N, 3)), True),
        (ROW, TensorType(DType.FLOAT32, (N + 1, 2)), True),
        (ROW, TensorType(DType.FLOAT32, (N,)), True),
    ],
)
def test_contradictions_are_only_what_can_never_agree(
    a: TensorType, b: TensorType, result: bool
) -> None:
    assert contradicts(a, b) is contradicts(b, a) is result


def test_text_of_a_graph_is_stable() -> None:
    assert print_graph(small_graph()) == (
        "graph %small(%x: float32[N, 2]) {\n"
        "  weight %w: float32[2, 2] = [[1.0, 0.0], [0.0, 1.0]]\n"
        "  constant %b: float32[] = 3.0\n"
        "  %m: float32[N, 2] = MatMul@13(%x, %w)\n"
        "  %r: float32[N, 2] = Relu@14(%m)\n"
        "  %y: float32[N, 2] = Add@14(%r, %b) axis=1 names=['a', 'b']\n"
        "  return %y: float32[N, 2]\n"
        "}\n"
    )


def test_text_of_bodies_domains_and_odd_names() -> None:
    graph = graph_with_body()
    big = np.zeros((3, 3), np.float32)
    odd = Node("Fuse", ("x", "", "a b"), ("z", ""), {"t": big, "s": big[0]}, domain="my", version=2)
    text = print_graph(graph.replace(nodes=(*graph.nodes, odd)))
    assert text == (
        "graph %choice(%flag: bool[], %x: float32[N, 2]) {\n"
        "  %y: float32[N, 2] = If@21(%flag)\n"
        "    else_branch:\n"
        "      graph %else() {\n"
        "        return %x: float32[N, 2]\n"
        "      }\n"
        "    then_branch:\n"
        "      graph %then() {\n"
        "        %t: float32[N, 2] = Neg@13(%x)\n"
        "        return %t: float32[N, 2]\n"
        "      }\n"
        "  %z: ?, _ = my.Fuse@2(%x, _, %'a b') s=tensor<float32[3] = [0.0, 0.0, 0.0]> "
        "t=tensor<float32[3, 3]>\n"
        "  return %y: float32[N, 2]\n"
        "}\n"
    )
