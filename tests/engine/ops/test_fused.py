"""The engine's own operators: expressions as text, chains, epilogues, attention, and how rows
travel through them. Files may hold them too, so what is wrong ends in an error that says so.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

import engine
from engine.dtypes import DType
from engine.ir import expr as e
from engine.ir.expr import Expr, argument, cast, constant, key_of
from engine.ir.expr_text import (
    MAX_STEPS,
    arguments_of,
    merge_equal,
    read_expr,
    substitute,
    write_expr,
)
from engine.ir.render import compile_numpy
from engine.ops.registry import REGISTRY
from tests.engine.onnx_models import graph_of, load, model, node, normal
from tests.engine.passes.comparing import check_levels, compiled, ops, run

X = argument(0, DType.FLOAT32)
Z = argument(1, DType.FLOAT32)


# ------------------------------------------------------------------------------ text


@pytest.mark.parametrize(
    "expr",
    [
        X,
        X + Z * 2,
        e.select(X < Z, e.exp(X), -Z),
        cast(X + 0.1, DType.FLOAT16),
        cast(X, DType.INT8) + 3,
        e.logical_and(X < 1, e.is_nan(Z)),
        e.cast(X, DType.FLOAT8E5M2, saturate=True),
        X + constant(float("nan"), DType.FLOAT32),
        X * -0.0,
        e.power(X, float("inf")),
        constant(True, DType.BOOL),
        argument(3, DType.UINT64) + (2**64 - 1),
    ],
)
def test_text_and_back(expr: Expr) -> None:
    text = write_expr(expr)
    again = read_expr(text)
    assert key_of(again) == key_of(expr) and write_expr(again) == text


def test_what_is_shared_is_written_once() -> None:
    expr = X
    for _ in range(200):
        expr = expr + expr  # as a tree, 2 ** 200 nodes
    assert len(write_expr(expr)) < 4000 and key_of(read_expr(write_expr(expr))) == key_of(expr)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x0",
        "x:float32",
        "x0:float33",
        "x0:float32; add #0",
        "x0:float32; add #0 #1",
        "x0:float32; add #0 #-1",
        "x0:float32; add 0 0",
        "x0:float32; x1:int64; add #0 #1",
        "x0:float16; exp #0",
        "x0:int32; exp #0",
        "x0:float32; system #0",
        "x0:float32; __import__ #0",
        "x0:float32; select #0 #0 #0",
        "300:int8",
        "1e400:int64",
        "Yes:bool",
        "x0:string; x0:string; add #0 #1",
        "; ".join(["x0:float32"] * (MAX_STEPS + 1)),
    ],
)
def test_no_text_is_trusted(text: str) -> None:
    with pytest.raises(engine.InvalidModel):
        read_expr(text)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            ["x0:float32", "x1:int64", "0.5:float32", "add #0 #1", "exp #0", "float16! #0",
             "select #0 #1 #2", "neg #3", "lt #0 #2", "int64 #1", "not #4", "-1:bool", "x9:bool"]
        ),
        max_size=8,
    )
)  # fmt: skip
def test_any_text_is_an_expression_or_an_error(steps: list[str]) -> None:
    try:
        expr = read_expr("; ".join(steps))
    except engine.InvalidModel:
        return
    assert write_expr(expr) and arguments_of(expr) <= 10


def test_equal_parts_become_one() -> None:
    expr = e.exp(X * 2) + e.exp(X * 2) * -0.0 + X * 0.0
    merged = merge_equal(expr)
    found = [n.op for n in merged.walk()]
    assert found.count("exp") == 1 and found.count("const") == 3
    x = normal(9)
    np.testing.assert_array_equal(compile_numpy(merged, np)(x), compile_numpy(expr, np)(x))


def test_substitution_keeps_types() -> None:
    expr = substitute(X + Z, [X * 2, constant(3.0, DType.FLOAT32)])
    assert arguments_of(expr) == 1
    with pytest.raises(engine.InvalidModel, match="input 1"):
        substitute(X + Z, [X])
    with pytest.raises(engine.InvalidModel, match="float64"):
        substitute(X, [argument(0, DType.FLOAT64)])


# ------------------------------------------------------------------------------ rendering in place


def test_an_argument_that_is_owned_is_written_into() -> None:
    x, bias = normal(64, 64), normal(64)
    want = np.maximum(x + bias, 0)
    kept = x.copy()
    expr = e.maximum(X + Z, 0)
    owning = compile_numpy(expr, np, scalars=frozenset((1,)), owned=frozenset((0,)))
    assert owning(x, bias) is x
    np.testing.assert_array_equal(x, want)
    careful = compile_numpy(expr, np, scalars=frozenset((1,)))
    assert careful(kept, bias) is not kept
    np.testing.assert_array_equal(kept + bias, X_plus(kept, bias))


def X_plus(x: np.ndarray, bias: np.ndarray) -> np.ndarray:
    return compile_numpy(X + Z, np)(x, bias)


def test_small_parts_of_several_sizes_never_share_memory() -> None:
    small = argument(2, DType.FLOAT32)
    expr = X * ((Z * 2 + small) * 3)
    function = compile_numpy(expr, np, scalars=frozenset((1, 2)), owned=frozenset((0,)))
    x, row, column = normal(5, 4), normal(4), normal(5, 1)
    want = x * ((row * 2 + column) * 3)
    np.testing.assert_array_equal(function(x.copy(), row, column), want)


# ------------------------------------------------------------------------------ chains


def test_a_chain_is_rounded_once_at_its_end() -> None:
    nodes = [node("Add", ["x", "x"], ["a"]), node("Mul", ["a", "t"], ["b"])]
    nodes += [node("Sub", ["b", "x"], ["y"])]
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(np.float16))
    data = model(nodes, [("x", ["N", 64], kind)], [("y", None, kind)], {"t": np.float16(1 / 3)})
    graph = compiled(data, 2)
    assert ops(graph) == ["Elementwise*"]
    x = normal(8, 64).astype(np.float16)
    exact = (x.astype(np.float64) * 2 * np.float64(np.float16(1 / 3))) - x.astype(np.float64)
    got = run(graph, {"x": x})["y"]
    np.testing.assert_array_equal(got, exact.astype(np.float32).astype(np.float16))
    stepwise = run(compiled(data, 0), {"x": x})["y"]
    assert np.abs(got - exact).max() <= np.abs(stepwise - exact).max()


def test_a_cast_inside_a_chain_still_rounds() -> None:
    nodes = [
        node("Add", ["x", "x"], ["a"]),
        node("Cast", ["a"], ["b"], to=10),
        node("Cast", ["b"], ["c"], to=1),
        node("Neg", ["c"], ["y"]),
    ]
    graph = check_levels(model(nodes, [("x", ["N", 4])], [("y", None)]), {"x": normal(9, 4)})
    assert ops(graph) == ["Elementwise*"]
    x = normal(9, 4)
    want = -((x + x).astype(np.float16).astype(np.float32))
    np.testing.assert_array_equal(run(graph, {"x": x})["y"], want)


def test_what_is_small_is_computed_small_and_shapes_are_left_alone() -> None:
    nodes = [
        node("Exp", ["w"], ["a"]),
        node("Neg", ["z"], ["b"]),
        node("Sqrt", ["b"], ["c"]),
        node("Mul", ["x", "c"], ["d"]),
        node("Tanh", ["d"], ["e"]),
        node("Add", ["e", "a"], ["y"]),
    ]
    data = model(nodes, [("x", ["N", 4]), ("z", [4])], [("y", None)], {"w": normal(4)})
    feeds = {"x": normal(3, 4), "z": -np.abs(normal(4))}
    assert ops(check_levels(data, feeds)) == ["Elementwise*", "Elementwise*"]
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Mul", ["s", "two"], ["t"]),
        node("Sub", ["t", "s"], ["u"]),
        node("Expand", ["x", "u"], ["y"]),
    ]
    data = model(nodes, [("x", ["N", 4])], [("y", None)], {"two": np.array([2, 2])})
    graph = check_levels(data, {"x": normal(3, 4)})
    assert str(graph.outputs[0].type) == "float32[N, 4]"


# ------------------------------------------------------------------------------ epilogues

CONV = ("x", ["N", 3, 6, 6])
TAILS = {
    "activation": [node("Sigmoid", ["c"], ["y"])],
    "bias per channel": [node("Add", ["c", "b"], ["y"])],
    "residual": [node("Add", ["r", "c"], ["a"]), node("Relu", ["a"], ["y"])],
    "twice": [node("Tanh", ["c"], ["t"]), node("Mul", ["c", "t"], ["y"])],
    "comparison": [node("Greater", ["c", "s"], ["g"]), node("Cast", ["g"], ["y"], to=6)],
    "divided by": [node("Div", ["s", "c"], ["y"])],
}


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("kind", [np.float32, np.float16, np.float64])
@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
def test_what_follows_a_convolution_joins_it(tail: str, kind: type, op: str) -> None:
    weight = normal(4, 3, 3, 3) if op == "Conv" else normal(3, 4, 3, 3)
    weights = {"w": weight, "b": normal(1, 4, 1, 1), "s": np.array(0.3)}
    weights = {n: a.astype(kind) for n, a in weights.items()}
    number = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    nodes = [node(op, ["x", "w"], ["c"], pads=[1] * 4), *TAILS[tail]]
    inputs = [(*CONV, number), ("r", ["N", 4, 6, 6], number)]
    data = model(nodes, inputs, [("y", None, 6 if tail == "comparison" else number)], weights)
    feeds = {"x": normal(2, 3, 6, 6).astype(kind), "r": normal(2, 4, 6, 6).astype(kind)}
    graph = check_levels(data, feeds, factor=40, ort=kind is np.float32)
    assert ops(graph) in ([op + "*"], [op]), ops(graph)


@pytest.mark.parametrize("rank", [2, 3])
def test_products_take_bias_and_activation(rank: int) -> None:
    lead = ["N", 5][: rank - 1]
    nodes = [
        node("MatMul", ["x", "w"], ["p"]),
        node("Add", ["b", "p"], ["q"]),
        node("Sigmoid", ["q"], ["s"]),
        node("Mul", ["q", "s"], ["y"]),
    ]
    weights = {"w": normal(4, 6), "b": normal(6)}
    data = model(nodes, [("x", [*lead, 4])], [("y", None)], weights)
    graph = check_levels(data, {"x": normal(*(3, 5)[: rank - 1], 4)})
    assert ops(graph) == [["Gemm*"], ["MatMul*"]][rank - 2]
    assert REGISTRY.find(graph.nodes[0]).flops is not None


@pytest.mark.parametrize("op", ["MatMulInteger", "ConvInteger"])
def test_integer_products_are_scaled_where_they_are_made(op: str) -> None:
    """What ONNX Runtime's dynamic quantization writes."""
    lead, size = (["N", 5], (3, 5)) if op == "MatMulInteger" else (["N"], (2,))
    shape = [4] if op == "MatMulInteger" else [3, 6]
    rng = np.random.default_rng(0)
    weight = rng.integers(-9, 9, (4, 6) if op == "MatMulInteger" else (6, 3, 3)).astype(np.int8)
    per_output = (6,) if op == "MatMulInteger" else (1, 6, 1)
    nodes = [
        node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"]),
        node(op, ["q", "w", "zero"], ["p"]),
        node("Cast", ["p"], ["f"], to=1),
        node("Mul", ["scale", "ws"], ["s"]),
        node("Mul", ["f", "s"], ["m"]),
        node("Add", ["m", "b"], ["y"]),
    ]
    weights = {"w": weight, "ws": np.float32([0.02]), "b": normal(*per_output)}
    data = model(nodes, [("x", [*lead, *shape])], [("y", None)], weights)
    graph = check_levels(data, {"x": normal(*size, *shape)}, factor=10)
    assert ops(graph)[-1] == op + "*" and "Cast" not in ops(graph)


def test_of_two_convolutions_that_meet_the_later_takes_the_sum() -> None:
    nodes = [
        node("Conv", ["x", "w"], ["a"]),
        node("Conv", ["x", "v"], ["b"]),
        node("Add", ["a", "b"], ["y"]),
    ]
    weights = {"w": normal(4, 3, 3, 3), "v": normal(4, 3, 3, 3, seed=1)}
    graph = check_levels(model(nodes, [CONV], [("y", None)], weights), {"x": normal(2, 3, 6, 6)})
    assert ops(graph) == ["Conv", "Conv*"]


@pytest.mark.parametrize(
    "tail",
    [
        [node("Add", ["p", "big"], ["y"])],  # spreads the result
        [node("Relu", ["p"], ["r"]), node("Add", ["r", "p"], ["s"]), node("Shape", ["p"], ["y"])],
    ],
)
def test_what_does_not_fit_stays_apart(tail) -> None:  # type: ignore[no-untyped-def]
    nodes = [node("MatMul", ["x", "w"], ["p"]), *tail]
    weights = {"w": normal(4, 6), "big": normal(2, 3, 6)}
    kind = 7 if tail[-1].op_type == "Shape" else 1
    data = model(nodes, [("x", [3, 4])], [("y", None, kind)], weights)
    graph = compiled(data, 2)
    assert not any(op.endswith("*") for op in ops(graph))


def test_an_epilogue_with_kept_middle_is_none() -> None:
    nodes = [node("MatMul", ["x", "w"], ["p"]), node("Relu", ["p"], ["y"])]
    data = model(nodes, [("x", ["N", 4])], [("y", None)], {"w": normal(4, 6)})
    graph = compiled(data, 2, outputs=["p", "y"])
    assert ops(graph) == ["MatMul", "Relu"]


# ------------------------------------------------------------------------------ rows


def test_rows_stay_apart_through_fused_nodes() -> None:
    nodes = [
        node("MatMul", ["x", "w"], ["p"]),
        node("Add", ["p", "r"], ["y"]),
    ]
    data = model(
        nodes, [("x", ["N", 3, 4]), ("r", ["N", 3, 6])], [("y", None)], {"w": normal(4, 6)}
    )
    with load(data) as net:
        assert net.batch is not None and net.batch.inputs == {"x", "r"}, net.batch_reason
        assert net.graph.nodes[0].domain == "millrace"
    mixed = model(
        nodes, [("x", ["N", "N", 4]), ("r", ["N", "N", 6])], [("y", None)], {"w": normal(4, 6)}
    )
    with load(mixed) as net:
        assert net.batch is None
    crossed = model(nodes, [("x", ["N", 3, 4]), ("r", [3, 6])], [("y", None)], {"w": normal(4, 6)})
    with load(crossed) as net:
        assert net.batch is not None and net.batch.inputs == {"x"}


def test_queries_of_a_batch_may_share_keys() -> None:
    nodes = [
        node("Transpose", ["k"], ["t"], perm=[1, 0]),
        node("MatMul", ["q", "t"], ["s"]),
        node("Softmax", ["s"], ["p"], axis=-1),
        node("MatMul", ["p", "v"], ["y"]),
    ]
    shared = [("q", ["N", 4]), ("k", [7, 4]), ("v", [7, 6])]
    with load(model(nodes, shared, [("y", None)])) as net:
        assert [n.op for n in net.graph.nodes] == ["Attention"]
        assert net.batch is not None and net.batch.inputs == {"q"}, net.batch_reason
    items = [("q", ["N", 4]), ("k", ["N", 4]), ("v", ["N", 6])]
    with load(model(nodes, items, [("y", None)])) as net:
        assert net.batch is None and "axis" in (net.batch_reason or "")


# ------------------------------------------------------------------------------ crafted files


def crafted(op: str, inputs: list[str], **attributes: object) -> bytes:
    nodes = [helper.make_node(op, inputs, ["y"], domain="millrace", **attributes)]
    specs = [("x", ["N", 4]), ("w", [4, 4]), ("h", ["N", 4], 10)]
    return model(nodes, specs, [("y", None)], domains={"millrace": 13})


@pytest.mark.parametrize(
    ("op", "inputs", "attributes"),
    [
        ("Elementwise", ["x"], {}),
        ("Elementwise", ["x"], {"expression": "x0:float16; exp #0"}),
        ("Elementwise", ["h"], {"expression": "x0:float16"}),
        ("Elementwise", ["x"], {"expression": "x1:float32; exp #0"}),
        ("Elementwise", ["x", "w"], {"expression": "x0:float32; exp #0"}),
        ("MatMul", ["x", "w"], {"epilogue": "x0:float32"}),
        ("MatMul", ["x", "w"], {"epilogue": "x0:float32", "operands": 9}),
        ("MatMul", ["x", "w"], {"epilogue": "x0:float32", "operands": 0}),
        ("MatMul", ["x", "w"], {"epilogue": "x1:float32", "operands": 2}),
        ("MatMul", ["x", "w"], {"epilogue": "x0:int64", "operands": 2}),
        ("MatMul", ["x", "w"], {"epilogue": "nothing", "operands": 2}),
        ("MatMul", ["x", "h"], {"epilogue": "x0:float32", "operands": 2}),
        ("Conv", ["x", "w"], {"epilogue": "x0:float32", "operands": 2}),
        ("Attention", ["x", "w"], {"scores": "x0:float32"}),
        ("Attention", ["x", "w", "w"], {"scores": "x0:float32; x0:float32; lt #0 #1"}),
        ("Attention", ["x", "w", "w"], {"scores": "x0:float32", "perm_q": [0, 0]}),
        ("Attention", ["x", "w", "h"], {"scores": "x0:float32", "perm_q": [0]}),
    ],
)
def test_crafted_nodes_are_refused(op: str, inputs: list[str], attributes) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(engine.InvalidModel):
        load(crafted(op, inputs, **attributes))


def test_an_epilogue_that_would_widen_its_result_fails_in_the_run() -> None:
    text = "x0:float32; x1:float32; lt #0 #1; x0:float32; 1.0:float32; select #2 #3 #4"
    nodes = [
        helper.make_node(
            "MatMul", ["x", "w", "z"], ["y"], domain="millrace", epilogue=text, operands=2
        )
    ]
    specs = [("x", ["N", 4]), ("w", [4, 4]), ("z", ["M", 4])]
    data = model(nodes, specs, [("y", None)], domains={"millrace": 13})
    feeds = {"x": normal(1, 4), "w": normal(4, 4), "z": normal(3, 4)}
    with pytest.raises(engine.RunFailed, match="widened"):
        run(graph_of(data), feeds)


def test_artifacts_carry_fused_nodes(tmp_path) -> None:  # type: ignore[no-untyped-def]
    from engine.artifact import map_artifact, write_artifact
    from engine.compiler import compile_model
    from tests.engine.passes.exported import bert_dynamo

    artifact = compile_model(bert_dynamo())
    write_artifact(artifact, tmp_path / "a")
    again = map_artifact(tmp_path / "a").graph
    feeds = {"x": normal(2, 5, 8), "mask": np.ones((2, 5), np.int64)}
    np.testing.assert_array_equal(run(again, feeds)["y"], run(artifact.graph, feeds)["y"])
