"""What is computed twice, cast back, reshaped back or transposed back goes; nothing else does."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from engine.dtypes import DType
from engine.ir.graph import Graph
from engine.ops.contexts import ComputeContext, InferContext
from engine.ops.registry import REGISTRY, make_operator
from engine.passes.cast_elimination import eliminate_casts, holds
from engine.passes.common_subexpression_elimination import eliminate_common_subexpressions
from engine.passes.context import Pass, PassContext
from engine.passes.identity_elimination import eliminate_identity
from engine.passes.matmul_add_fusion import fuse_matmul_add
from engine.passes.reshape_elimination import eliminate_reshapes
from engine.passes.transpose_elimination import eliminate_transposes
from tests.engine.onnx_models import graph_of, model, node, normal
from tests.engine.passes.comparing import assert_close, ops, run

X = ("x", ["N", 4])
Y = ("y", None)


def after(data: bytes, *passes: Pass) -> Graph:
    graph = graph_of(data)
    for each in passes:
        graph = each(graph, PassContext(REGISTRY))
    return graph


def same(data: bytes, graph: Graph, feeds: dict[str, np.ndarray]) -> None:
    assert_close(run(graph, feeds), run(graph_of(data), feeds))


# ------------------------------------------------------------------------------ repeated values


def test_equal_nodes_are_computed_once_through_any_depth() -> None:
    nodes = [node("Exp", ["x"], ["a"]), node("Exp", ["x"], ["b"])]
    nodes += [node("Mul", ["a", "w"], ["c"]), node("Mul", ["b", "v"], ["d"])]
    nodes += [node("Add", ["c", "d"], ["y"])]
    same_bytes = {"w": normal(4), "v": normal(4)}
    data = model(nodes, [X], [Y], same_bytes)
    graph = after(data, eliminate_common_subexpressions)
    assert ops(graph) == ["Exp", "Mul", "Add"]
    same(data, graph, {"x": normal(3, 4)})
    other = model(nodes, [X], [Y], {"w": normal(4), "v": normal(4, seed=1)})
    assert ops(after(other, eliminate_common_subexpressions)).count("Mul") == 2


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ({"alpha": 0.1}, {"alpha": 0.2}),
        ({"alpha": 0.0}, {"alpha": -0.0}),
        ({}, {"alpha": 0.01}),  # the default, stated: not worth a look
    ],
)
def test_other_attributes_are_other_nodes(a: dict[str, float], b: dict[str, float]) -> None:
    nodes = [node("LeakyRelu", ["x"], ["a"], **a), node("LeakyRelu", ["x"], ["b"], **b)]
    nodes += [node("Add", ["a", "b"], ["y"])]
    assert len(after(model(nodes, [X], [Y]), eliminate_common_subexpressions).nodes) == 3


def test_minus_zero_is_not_zero_and_nan_is_itself() -> None:
    zeros = {"w": np.zeros(4, np.float32), "v": -np.zeros(4, np.float32)}
    nodes = [node("Div", ["x", "w"], ["a"]), node("Div", ["x", "v"], ["b"])]
    nodes += [node("Sub", ["a", "b"], ["y"])]
    assert len(after(model(nodes, [X], [Y], zeros), eliminate_common_subexpressions).nodes) == 3
    nan = {"w": np.full(4, np.nan, np.float32), "v": np.full(4, np.nan, np.float32)}
    assert len(after(model(nodes, [X], [Y], nan), eliminate_common_subexpressions).nodes) == 2


def test_constants_that_differ_behind_their_beginning_differ() -> None:
    long = normal(200)
    other = long.copy()
    other[150] += 1
    nodes = [node("Add", ["x", "w"], ["a"]), node("Add", ["x", "v"], ["b"])]
    nodes += [node("Sub", ["a", "b"], ["y"])]
    data = model(nodes, [("x", ["N", 200])], [Y], {"w": long, "v": other})
    assert len(after(data, eliminate_common_subexpressions).nodes) == 3


def test_large_constants_of_one_beginning_are_told_apart_at_once() -> None:
    weights = {f"w{i}": np.zeros(100, np.float32) for i in range(40)}
    for i in range(20):
        weights[f"w{i}"][99] = i + 1
    names = ["x"]
    nodes = []
    for name in weights:
        nodes.append(node("Add", [names[-1], name], [f"y_{name}"]))
        names.append(f"y_{name}")
    data = model(nodes, [("x", ["N", 100])], [(names[-1], None)], weights)
    graph = after(data, eliminate_common_subexpressions)
    assert len({n.inputs[1] for n in graph.nodes}) == 21
    same(data, graph, {"x": normal(2, 100)})


def test_outputs_keep_their_own_values_and_bodies_are_left_alone() -> None:
    nodes = [node("Exp", ["x"], ["y"]), node("Exp", ["x"], ["z"])]
    graph = after(model(nodes, [X], [Y, ("z", None)]), eliminate_common_subexpressions)
    assert ops(graph) == ["Exp", "Exp"]
    body = helper.make_graph(
        [helper.make_node("Neg", ["b"], ["o"])],
        "body",
        [],
        [helper.make_tensor_value_info("o", 1, None)],
    )
    nodes = [node("Exp", ["x"], ["a"]), node("Exp", ["x"], ["b"])]
    nodes += [
        node("If", ["c"], ["i"], then_branch=body, else_branch=body),
        node("If", ["c"], ["j"], then_branch=body, else_branch=body),
        node("Add", ["i", "j"], ["k"]),
        node("Add", ["k", "a"], ["y"]),
    ]
    data = model(nodes, [X, ("c", [], TensorProto.BOOL)], [Y])
    graph = after(data, eliminate_common_subexpressions)
    assert ops(graph) == ["Exp", "If", "If", "Add", "Add"]
    same(data, graph, {"x": normal(2, 4), "c": np.array(True)})


def test_dice_are_thrown_twice() -> None:
    class Dice:
        deterministic = False

        @staticmethod
        def infer(ctx: InferContext):  # type: ignore[no-untyped-def]
            return [ctx.type(0)]

        @staticmethod
        def compute(ctx: ComputeContext, x: np.ndarray):  # type: ignore[no-untyped-def]
            return [np.random.default_rng().random(x.shape, np.float32)]

    registry = REGISTRY.extended([make_operator(Dice, "Dice", 1, domain="my")])
    from engine.frontend.onnx_importer import import_model
    from engine.limits import Limits

    nodes = [node("Dice", ["x"], ["a"], domain="my"), node("Dice", ["x"], ["b"], domain="my")]
    data = model([*nodes, node("Sub", ["a", "b"], ["y"])], [X], [Y], domains={"my": 1})
    graph = import_model(data, limits=Limits(), registry=registry)
    assert len(eliminate_common_subexpressions(graph, PassContext(registry)).nodes) == 3


# ------------------------------------------------------------------------------ casts


def casts(first: int, *kinds: int) -> bytes:
    names = ["x", *(f"c{i}" for i in range(len(kinds) - 1)), "y"]
    nodes = [
        node("Cast", [a], [b], to=kind) for a, b, kind in zip(names, names[1:], kinds, strict=False)
    ]
    return model(nodes, [("x", ["N"], first)], [("y", None, kinds[-1])])


T = TensorProto


@pytest.mark.parametrize(
    ("kinds", "left"),
    [
        ((T.FLOAT16, T.FLOAT, T.FLOAT16), ["Identity"]),
        ((T.FLOAT16, T.FLOAT, T.DOUBLE), ["Cast"]),
        ((T.FLOAT16, T.FLOAT, T.BFLOAT16), ["Cast"]),
        ((T.INT32, T.INT64, T.FLOAT), ["Cast"]),
        ((T.BOOL, T.INT64, T.BOOL), ["Identity"]),
        ((T.INT8, T.FLOAT, T.INT8), ["Identity"]),
        ((T.FLOAT, T.FLOAT16, T.FLOAT), ["Cast", "Cast"]),
        ((T.INT64, T.INT32, T.INT64), ["Cast", "Cast"]),
        ((T.INT64, T.FLOAT, T.INT64), ["Cast", "Cast"]),
        ((T.INT8, T.FLOAT, T.UINT8), ["Cast", "Cast"]),
        ((T.UINT32, T.DOUBLE, T.INT32), ["Cast", "Cast"]),
        ((T.UINT8, T.FLOAT, T.INT32), ["Cast"]),
        ((T.INT32, T.DOUBLE, T.FLOAT16), ["Cast", "Cast"]),
        ((T.FLOAT, T.BOOL, T.FLOAT), ["Cast", "Cast"]),
    ],
)
def test_casts_that_lose_nothing(kinds: tuple[int, ...], left: list[str]) -> None:
    from engine.passes.dead_code import eliminate_dead_code

    data = casts(*kinds)
    graph = after(data, eliminate_casts, eliminate_dead_code)
    dtype = DType.from_onnx(kinds[0]).numpy
    values = np.array([0, 1, 2, 100, 0, 1, 77]).astype(dtype)
    same(data, graph, {"x": values})
    same_type = len(graph.nodes) == 1 and kinds[0] == kinds[-1]
    assert (["Identity"] if same_type else ops(graph)) == left


@pytest.mark.parametrize("target", [d for d in DType if d.is_integer or d.is_float])
def test_what_holds_every_value_holds_the_ends(target: DType) -> None:
    if target.bits < 8 or (target.is_float and target.bits < 16):
        return
    for source in (DType.INT8, DType.UINT8, DType.INT16, DType.INT32, DType.INT64, DType.UINT32):
        ends = np.array([np.iinfo(source.numpy).min, np.iinfo(source.numpy).max, 1, 77])
        ends = np.concatenate([ends.astype(source.numpy), ends.astype(source.numpy) - 1])
        if holds(target, source):
            with np.errstate(all="ignore"):
                np.testing.assert_array_equal(ends.astype(target.numpy).astype(source.numpy), ends)


# ------------------------------------------------------------------------------ reshapes

FOUR = ("x", ["N", 2, 3, 4])


@pytest.mark.parametrize(
    ("nodes", "weights", "left"),
    [
        # There and back.
        (
            [node("Reshape", ["x", "a"], ["h"]), node("Reshape", ["h", "b"], ["y"])],
            {"a": [-1, 12], "b": [-1, 2, 3, 4]},
            ["Identity"],
        ),
        (
            [node("Unsqueeze", ["x", "a"], ["h"]), node("Squeeze", ["h", "a"], ["y"])],
            {"a": [1]},
            ["Identity"],
        ),
        # The second decides.
        (
            [node("Reshape", ["x", "a"], ["h"]), node("Reshape", ["h", "b"], ["y"])],
            {"a": [0, 2, 12], "b": [-1, 8]},
            ["Reshape"],
        ),
        (
            [node("Flatten", ["x"], ["h"]), node("Reshape", ["h", "b"], ["y"])],
            {"b": [-1, 8]},
            ["Reshape"],
        ),
        # A zero copies a size of what is in between.
        (
            [node("Reshape", ["x", "a"], ["h"]), node("Reshape", ["h", "b"], ["y"])],
            {"a": [-1, 12], "b": [0, 3, 4]},
            ["Reshape", "Reshape"],
        ),
        # Leading axes merged around a transposition.
        (
            [
                node("Reshape", ["x", "a"], ["h"]),
                node("Transpose", ["h"], ["t"], perm=[0, 2, 1]),
                node("Reshape", ["t", "b"], ["y"]),
            ],
            {"a": [-1, 3, 4], "b": [-1, 2, 4, 3]},
            ["Transpose"],
        ),
        (
            [
                node("Reshape", ["x", "a"], ["h"]),
                node("Transpose", ["h"], ["t"], perm=[0, 2, 1]),
                node("Reshape", ["t", "b"], ["y"]),
            ],
            {"a": [-1, 6, 4], "b": [-1, 2, 4, 3]},
            ["Reshape", "Transpose", "Reshape"],
        ),
    ],
)
def test_reshapes(nodes, weights, left) -> None:  # type: ignore[no-untyped-def]
    from engine.passes.dead_code import eliminate_dead_code

    data = model(nodes, [FOUR], [Y], {k: np.array(v) for k, v in weights.items()})
    graph = after(data, eliminate_reshapes, eliminate_dead_code)
    assert ops(graph) == left
    same(data, graph, {"x": normal(5, 2, 3, 4)})


def test_a_target_of_the_inputs_own_sizes_is_written_down() -> None:
    nodes = [
        node("Shape", ["x"], ["n"], start=0, end=1),
        node("Shape", ["x"], ["l"], start=1, end=2),
        node("Concat", ["n", "l", "rest"], ["t"], axis=0),
        node("Reshape", ["x", "t"], ["y"]),
    ]
    data = model(nodes, [("x", ["N", "L", 6])], [Y], {"rest": np.array([2, -1])})
    graph = after(data, eliminate_reshapes)
    target = graph.constant(graph.nodes[-1].inputs[1])
    assert target is not None and target.tolist() == [0, 0, 2, 3]
    for shape in ((2, 5, 6), (0, 5, 6), (1, 1, 6)):
        same(data, graph, {"x": normal(*shape)})
    nodes[2] = node("Concat", ["l", "n", "rest"], ["t"], axis=0)
    swapped = model(nodes, [("x", ["N", "L", 6])], [Y], {"rest": np.array([2, -1])})
    assert after(swapped, eliminate_reshapes).constant("t") is None
    assert after(swapped, eliminate_reshapes).nodes[-1].inputs[1] == "t"


def test_sizes_that_no_target_can_hold_and_parameters_that_no_memory_can() -> None:
    from engine.errors import EngineError, GraphInvalid
    from engine.passes.pipeline import LEVELS, run_pipeline
    from tests.engine.passes.exported import Net

    nodes = [
        node("Concat", ["x", "x"], ["c"], axis=1),
        node("Shape", ["c"], ["s"]),
        node("Reshape", ["c", "s"], ["y"]),
    ]
    huge = model(nodes, [("x", ["N", 2**62, "L"])], [Y])
    net = Net(13)
    d = net("Sub", "x", net("ReduceMean", "x", axes=[1, 2], keepdims=1))
    square = net("ReduceMean", net("Mul", d, d), axes=[1, 2], keepdims=1)
    net("Div", d, net("Sqrt", net("Add", square, net.number(1e-5))), out="y")
    wide = net.model([("x", ["N", 2**32, 2**32])], [Y])
    for data in (huge, wide):
        try:
            graph = run_pipeline(graph_of(data), LEVELS[2], PassContext(REGISTRY))
        except EngineError as error:
            assert not isinstance(error, GraphInvalid), error
        else:
            assert "LayerNormalization" not in ops(graph)


# ------------------------------------------------------------------------------ transpositions


def transposed(perm: list[int], *middle: object, back: list[int]) -> list:  # type: ignore[type-arg]
    return [
        node("Transpose", ["x"], ["a"], perm=perm),
        *middle,
        node("Transpose", ["b"], ["y"], perm=back),
    ]


@pytest.mark.parametrize(
    ("middle", "weights"),
    [
        ([node("Relu", ["a"], ["b"])], {}),
        ([node("Add", ["a", "w"], ["b"])], {"w": normal(2)}),
        ([node("Mul", ["w", "a"], ["b"])], {"w": normal(3, 4, 1)}),
        ([node("Mul", ["w", "a"], ["b"])], {"w": normal(1)}),
        ([node("Clip", ["a", "w", ""], ["b"])], {"w": np.float32(0.1)}),
        ([node("Softmax", ["a"], ["b"], axis=-1)], {}),
        ([node("LogSoftmax", ["a"], ["b"], axis=1)], {}),
        ([node("ReduceMax", ["a", "w"], ["b"], keepdims=1)], {"w": np.array([1, -1])}),
        ([node("Concat", ["a", "a"], ["b"], axis=3)], {}),
        (
            [
                node("Neg", ["x"], ["n"]),
                node("Transpose", ["n"], ["m"], perm=[0, 2, 3, 1]),
                node("Sub", ["a", "m"], ["b"]),
            ],
            {},
        ),
        ([node("Sigmoid", ["a"], ["s"]), node("Mul", ["s", "a"], ["b"])], {}),
    ],
    ids=lambda v: v[-1].op_type if isinstance(v, list) else "",
)
def test_transpositions_meet_and_go(middle, weights) -> None:  # type: ignore[no-untyped-def]
    data = model(transposed([0, 2, 3, 1], *middle, back=[0, 3, 1, 2]), [FOUR], [Y], weights)
    graph = after(data, eliminate_transposes, eliminate_identity)
    assert "Transpose" not in ops(graph), ops(graph)
    same(data, graph, {"x": normal(5, 2, 3, 4)})


def test_reductions_that_drop_their_axes() -> None:
    for axes in ([1], [1, 2], [0, 3], [-1], [0, 1, 2, 3]):
        nodes = [
            node("Transpose", ["x"], ["a"], perm=[3, 0, 2, 1]),
            node("ReduceSum", ["a", "w"], ["b"], keepdims=0),
            node("Relu", ["b"], ["y"]),
        ]
        data = model(nodes, [FOUR], [Y], {"w": np.array(axes)})
        graph = after(data, eliminate_transposes, eliminate_identity)
        same(data, graph, {"x": normal(5, 2, 3, 4)})


def test_a_transposition_that_others_read_is_made_once() -> None:
    nodes = [
        node("Transpose", ["x"], ["a"], perm=[0, 2, 3, 1]),
        node("Shape", ["a"], ["s"]),
        node("Reshape", ["a", "flat"], ["f"]),
        node("Relu", ["a"], ["r"]),
        node("Reshape", ["r", "flat"], ["g"]),
        node("Add", ["f", "g"], ["y"]),
    ]
    outputs = [Y, ("a", None), ("s", None, T.INT64)]
    data = model(nodes, [FOUR], outputs, {"flat": np.array([0, -1])})
    graph = after(data, eliminate_transposes)
    assert ops(graph).count("Transpose") == 1
    same(data, graph, {"x": normal(5, 2, 3, 4)})


def test_products_read_matrices_as_they_lie() -> None:
    nodes = [
        node("Transpose", ["x"], ["a"], perm=[1, 0]),
        node("MatMul", ["a", "w"], ["p"]),
        node("Transpose", ["p"], ["q"]),
        node("Gemm", ["q", "v", "c"], ["y"], transB=1),
    ]
    weights = {"w": normal(5, 3), "v": normal(2, 3), "c": normal(2)}
    data = model(nodes, [("x", [5, 4])], [Y], {**weights, "v": normal(2, 4)})
    graph = after(data, eliminate_transposes)
    assert ops(graph) == ["Gemm", "Transpose", "Gemm"] or ops(graph) == ["Gemm", "Gemm"]
    same(data, graph, {"x": normal(5, 4)})


# ------------------------------------------------------------------------------ matmul_add_fusion


@pytest.mark.parametrize(
    ("bias", "expected"),
    [((5,), "Gemm"), ((1,), "Gemm"), ((1, 5), "Gemm"), ((3, 5), "MatMul"), ((2, 3, 5), "MatMul")],
)
def test_matmul_and_bias_become_a_gemm(bias: tuple[int, ...], expected: str) -> None:
    nodes = [node("MatMul", ["x", "w"], ["p"]), node("Add", ["b", "p"], ["y"])]
    data = model(nodes, [("x", [3, 4])], [Y], {"w": normal(4, 5), "b": normal(*bias)})
    graph = after(data, fuse_matmul_add)
    assert ops(graph)[0] == expected
    same(data, graph, {"x": normal(3, 4)})
