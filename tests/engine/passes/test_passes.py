"""Each pass on small graphs: what it removes, what it must leave, and equal answers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from engine.frontend.onnx_importer import import_model
from engine.interpreter import GraphPlan
from engine.ir.graph import Graph
from engine.ir.types import TensorType
from engine.ir.verify import verify_graph
from engine.limits import Limits
from engine.ops.contexts import ComputeContext, InferContext
from engine.ops.registry import REGISTRY, make_operator
from engine.passes.batch_norm_unfolding import unfold_batch_norm
from engine.passes.constant_folding import fold_constants
from engine.passes.context import Pass, PassContext
from engine.passes.conv_bn_fusion import fuse_conv_bn
from engine.passes.dead_code import eliminate_dead_code
from engine.passes.identity_elimination import eliminate_identity
from engine.passes.pipeline import LEVELS, run_pipeline
from engine.passes.rewriting import redirect
from tests.engine.onnx_models import convnet, graph_of, load, model, node, normal, ort_run
from tests.engine.passes.comparing import check_levels

X = ("x", ["N", 4])
Y = ("y", None)


def apply(function: Pass, data: bytes, limits: Limits | None = None) -> Graph:
    graph = function(graph_of(data), PassContext(REGISTRY, limits or Limits()))
    verify_graph(graph)
    return graph


def ops(graph: Graph) -> list[str]:
    return [n.op for n in graph.nodes]


# ------------------------------------------------------------------------------ constant folding


def test_fixed_values_are_computed() -> None:
    nodes = [
        node("Add", ["a", "a"], ["b"]),
        node("Transpose", ["b"], ["c"]),
        node("MatMul", ["x", "c"], ["y"]),
    ]
    graph = apply(fold_constants, model(nodes, [X], [Y], {"a": normal(3, 4)}))
    assert ops(graph) == ["MatMul"]
    np.testing.assert_array_equal(graph.constants["c"], (normal(3, 4) * 2).T)


def test_shapes_that_are_known_are_constants() -> None:
    nodes = [node("Shape", ["x"], ["s"]), node("Reshape", ["x", "s"], ["y"])]
    graph = apply(fold_constants, model(nodes, [("x", [2, 3])], [Y]))
    assert ops(graph) == ["Reshape"] and graph.constants["s"].tolist() == [2, 3]
    open_ = apply(fold_constants, model(nodes, [X], [Y]))
    assert ops(open_) == ["Shape", "Reshape"]


def test_nothing_above_the_limit_is_folded() -> None:
    nodes = [node("Expand", ["one", "size"], ["big"]), node("Mul", ["x", "big"], ["y"])]
    weights = {"one": np.ones(1, np.float32), "size": np.array([1000, 4])}
    data = model(nodes, [("x", [1, 4])], [Y], weights)
    assert ops(apply(fold_constants, data, Limits(fold_bytes=15_999))) == ["Expand", "Mul"]
    assert ops(apply(fold_constants, data, Limits(fold_bytes=16_000))) == ["Mul"]


def test_a_huge_constant_costs_nothing_to_refuse() -> None:
    nodes = [node("ConstantOfShape", ["size"], ["big"]), node("ReduceSum", ["big"], ["y"])]
    data = model(nodes, [X], [("y", None)], {"size": np.array([2**30, 2**20])})
    assert ops(apply(fold_constants, data)) == ["ConstantOfShape", "ReduceSum"]


def test_what_fails_when_folding_is_left_to_fail_in_a_run() -> None:
    nodes = [node("Gather", ["w", "far"], ["g"]), node("Add", ["x", "g"], ["y"])]
    data = model(nodes, [X], [Y], {"w": normal(3, 4), "far": np.array(7)})
    assert "Gather" in ops(apply(fold_constants, data))


def test_what_gives_another_value_each_time_is_not_folded() -> None:
    class Dice:
        deterministic = False

        @staticmethod
        def infer(ctx: InferContext) -> list[TensorType]:
            return [ctx.type(0)]

        @staticmethod
        def compute(ctx: ComputeContext, x: np.ndarray) -> list[np.ndarray]:
            return [np.random.default_rng().random(x.shape, np.float32)]

    registry = REGISTRY.extended([make_operator(Dice, "Dice", 1, domain="my")])
    nodes = [node("Dice", ["w"], ["r"], domain="my"), node("Add", ["x", "r"], ["y"])]
    data = model(nodes, [X], [Y], {"w": normal(4)}, domains={"my": 1})
    graph = import_model(data, limits=Limits(), registry=registry)
    assert ops(fold_constants(graph, PassContext(registry))) == ["Dice", "Add"]


# ------------------------------------------------------------------------------ dead code


def test_unused_nodes_and_weights_go() -> None:
    nodes = [
        node("Neg", ["x"], ["y"]),
        node("MatMul", ["x", "w"], ["unused"]),
        node("Relu", ["unused"], ["unused2"]),
    ]
    graph = apply(eliminate_dead_code, model(nodes, [X], [Y], {"w": normal(4, 4)}))
    assert ops(graph) == ["Neg"] and not graph.initializers
    assert set(graph.types) == {"x", "y"}


def test_trailing_outputs_that_nobody_reads_go() -> None:
    pool = node("MaxPool", ["x"], ["y", "indices"], kernel_shape=[2])
    graph = apply(eliminate_dead_code, model([pool], [("x", ["N", 2, 8])], [Y]))
    assert graph.nodes[0].outputs == ("y",)


class OutputNames(tuple[str, ...]):
    """Counts how often somebody goes through all of them."""

    walks = 0

    def __contains__(self, name: object) -> bool:
        OutputNames.walks += 1
        return super().__contains__(name)

    def __iter__(self) -> Iterator[str]:
        OutputNames.walks += 1
        return super().__iter__()


def walks_of_optimising(outputs: int) -> int:
    names = [f"y{i}" for i in range(outputs)]
    nodes = [node("Relu", ["x"], [name]) for name in names]
    given = graph_of(model(nodes, [X], [(name, None) for name in names]))
    OutputNames.walks = 0
    graph = run_pipeline(given, LEVELS[2], PassContext(REGISTRY))
    walks = OutputNames.walks
    assert list(graph.output_names) == names
    return walks


def test_many_outputs_are_not_gone_through_for_every_node(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = property(lambda graph: OutputNames(value.name for value in graph.outputs))
    monkeypatch.setattr(Graph, "output_names", counted)
    assert walks_of_optimising(200) == walks_of_optimising(10)


class Followed(dict[str, str]):
    """Counts how many links are followed."""

    count = 0

    def __getitem__(self, name: str) -> str:
        self.count += 1
        return super().__getitem__(name)


def test_a_long_chain_of_no_ops_is_followed_once() -> None:
    ends = (0, 2_999, 3_000)
    nodes = [node("Identity", [f"v{i}"], [f"v{i + 1}"]) for i in range(3_000)]
    nodes += [node("Relu", [f"v{i}"], [f"y{i}"]) for i in ends]
    data = model(nodes, [("v0", ["N", 4])], [(f"y{i}", None) for i in ends])
    given = graph_of(data)
    links = Followed({f"v{i + 1}": f"v{i}" for i in range(3_000)})
    graph = redirect(given, links, {id(n) for n in given.nodes if n.op == "Identity"})
    assert [n.inputs for n in graph.nodes] == [("v0",)] * 3
    assert links.count <= 2 * len(links)
    graph = eliminate_identity(given, PassContext(REGISTRY))
    assert [n.inputs for n in graph.nodes] == [("v0",)] * 3


def test_the_number_of_parts_of_a_split_stays() -> None:
    split = node("Split", ["x"], ["y", "rest"], axis=1, num_outputs=2)
    graph = apply(eliminate_dead_code, model([split], [X], [Y]))
    assert graph.nodes[0].outputs == ("y", "rest")


# ---------------------------------------------------------------------- identity elimination

INT = TensorProto.INT64


@pytest.mark.parametrize(
    ("no_op", "weights"),
    [
        (node("Identity", ["a"], ["b"]), {}),
        (node("Dropout", ["a"], ["b"]), {}),
        (node("Dropout", ["a", "ratio", "train"], ["b"]), {"ratio": 0.5, "train": False}),
        (node("Cast", ["a"], ["b"], to=TensorProto.FLOAT), {}),
        (node("Reshape", ["a", "t"], ["b"]), {"t": [0, 4]}),
        (node("Reshape", ["a", "t"], ["b"]), {"t": [-1, 4]}),
        (node("Flatten", ["a"], ["b"], axis=1), {}),
        (node("Expand", ["a", "t"], ["b"]), {"t": [1, 4]}),
        (node("Tile", ["a", "t"], ["b"]), {"t": [1, 1]}),
        (node("Transpose", ["a"], ["b"], perm=[0, 1]), {}),
        (node("Slice", ["a", "s", "e"], ["b"]), {"s": [0, 0], "e": [2**60, 4]}),
        (node("Pad", ["a", "p"], ["b"]), {"p": [0, 0, 0, 0]}),
        (node("Concat", ["a"], ["b"], axis=0), {}),
        (node("Sum", ["a"], ["b"]), {}),
        (node("Resize", ["a", "", "sc"], ["b"], mode="linear"), {"sc": [1.0, 1.0]}),
    ],
    ids=lambda v: v.op_type if isinstance(v, onnx.NodeProto) else "",
)
def test_no_ops_go(no_op: onnx.NodeProto, weights: dict[str, object]) -> None:
    nodes = [node("Neg", ["x"], ["a"]), no_op, node("Relu", ["b"], ["y"])]
    arrays = {
        k: np.array(v, np.float32 if np.asarray(v).dtype == float else None)
        for k, v in weights.items()
    }
    data = model(nodes, [X], [Y], arrays)
    graph = apply(eliminate_identity, data)
    assert ops(graph) == ["Neg", "Relu"] and graph.output_names == ("y",)


@pytest.mark.parametrize(
    ("kept", "weights"),
    [
        (node("Cast", ["a"], ["b"], to=TensorProto.FLOAT16), {}),
        (node("Transpose", ["a"], ["b"], perm=[1, 0]), {}),
        (
            node("Slice", ["a", "s", "e", "ax", "st"], ["b"]),
            {"s": [-1], "e": [-99], "ax": [1], "st": [-1]},
        ),
        (node("Pad", ["a", "p"], ["b"]), {"p": [0, 1, 0, -1]}),
        (node("Reshape", ["a", "t"], ["b"]), {"t": [4, -1]}),
        (
            node(
                *("Resize", ["a", "roi", "sc"], ["b"]),
                coordinate_transformation_mode="tf_crop_and_resize",
                mode="linear",
            ),
            {"roi": [0.0, 0.2, 1.0, 0.8], "sc": [1.0, 1.0]},
        ),
    ],
    ids=lambda v: v.op_type if isinstance(v, onnx.NodeProto) else "",
)
def test_what_does_something_stays(kept: onnx.NodeProto, weights: dict[str, object]) -> None:
    nodes = [node("Neg", ["x"], ["a"]), kept, node("Shape", ["b"], ["y"])]
    arrays = {
        k: np.array(v, np.float32 if np.asarray(v).dtype == float else None)
        for k, v in weights.items()
    }
    graph = apply(eliminate_identity, model(nodes, [X], [("y", None, INT)], arrays))
    assert ops(graph) == ["Neg", kept.op_type, "Shape"]


def test_axes_of_size_one_move_without_moving_anything() -> None:
    same = node("Transpose", ["a"], ["b"], perm=[0, 2, 1, 3])
    nodes = [node("Neg", ["x"], ["a"]), same, node("Relu", ["b"], ["y"])]
    one = model(nodes, [("x", ["N", 1, 1, 4])], [Y])
    assert ops(apply(eliminate_identity, one)) == ["Neg", "Relu"]
    other = model(nodes, [("x", ["N", 1, 3, 4])], [Y])
    assert ops(apply(eliminate_identity, other)) == ["Neg", "Transpose", "Relu"]


def test_outputs_keep_their_names() -> None:
    nodes = [node("Neg", ["x"], ["a"]), node("Identity", ["a"], ["y"])]
    graph = apply(eliminate_identity, model(nodes, [X], [Y]))
    assert ops(graph) == ["Neg"] and graph.nodes[0].outputs == ("y",)
    both = apply(eliminate_identity, model(nodes, [X], [Y, ("a", None)]))
    assert ops(both) == ["Neg", "Identity"]
    straight = apply(eliminate_identity, model([node("Identity", ["x"], ["y"])], [X], [Y]))
    assert ops(straight) == ["Identity"]


def test_no_ops_that_show_once_others_are_gone() -> None:
    """A constant too large to fold hides behind an Identity."""
    nodes = [node("Identity", ["ones"], ["one"]), node("Neg", ["x"], ["a"])]
    nodes += [node("Mul", ["a", "one"], ["b"]), node("Mul", ["b", "one"], ["c"])]
    nodes += [node("Relu", ["c"], ["y"])]
    graph = apply(eliminate_identity, model(nodes, [X], [Y], {"ones": np.ones(4, np.float32)}))
    assert graph.nodes[-1].outputs == ("y",)


def test_chains_of_no_ops_go_at_once() -> None:
    nodes = [node("Identity", [a], [b]) for a, b in zip("xabc", "abcd", strict=True)]
    nodes += [
        node("Neg", ["d"], ["e"]),
        node("Identity", ["e"], ["f"]),
        node("Dropout", ["f"], ["y"]),
    ]
    graph = apply(eliminate_identity, model(nodes, [X], [Y]))
    assert ops(graph) == ["Neg"] and graph.nodes[0].inputs == ("x",)


NEUTRAL = {
    "times one": (node("Mul", ["a", "w"], ["b"]), 1.0),
    "one times": (node("Mul", ["w", "a"], ["b"]), 1.0),
    "by one": (node("Div", ["a", "w"], ["b"]), 1.0),
    "minus zero": (node("Sub", ["a", "w"], ["b"]), 0.0),
    "plus minus zero": (node("Add", ["a", "w"], ["b"]), -0.0),
    "to the power of one": (node("Pow", ["a", "w"], ["b"]), 1.0),
    "no bounds": (node("Clip", ["a"], ["b"]), 1.0),
    "one part": (node("Split", ["a"], ["b"], num_outputs=1, axis=1), 1.0),
}
OPERATIVE = {
    "plus zero": (node("Add", ["a", "w"], ["b"]), 0.0),
    "minus minus zero": (node("Sub", ["a", "w"], ["b"]), -0.0),
    "times zero": (node("Mul", ["a", "w"], ["b"]), 0.0),
    "one by": (node("Div", ["w", "a"], ["b"]), 1.0),
    "zero minus": (node("Sub", ["w", "a"], ["b"]), 0.0),
    "one to the power": (node("Pow", ["w", "a"], ["b"]), 1.0),
}


@pytest.mark.parametrize("shape", [(), (1,), (4,), (1, 4)])
@pytest.mark.parametrize("name", [*NEUTRAL, *OPERATIVE])
def test_numbers_that_change_nothing(name: str, shape: tuple[int, ...]) -> None:
    step, number = (NEUTRAL | OPERATIVE)[name]
    nodes = [node("Neg", ["x"], ["a"]), step, node("Reciprocal", ["b"], ["y"])]
    data = model(nodes, [X], [Y], {"w": np.full(shape, number, np.float32)})
    graph = apply(eliminate_identity, data)
    assert (len(graph.nodes) == 2) == (name in NEUTRAL), ops(graph)
    x = np.array([[0.0, -0.0, np.inf, np.nan]], np.float32)
    want = GraphPlan(graph_of(data)).run({"x": x})["y"]
    np.testing.assert_array_equal(GraphPlan(graph).run({"x": x})["y"], want)


def test_a_one_that_widens_stays() -> None:
    nodes = [node("Mul", ["x", "w"], ["b"]), node("Neg", ["b"], ["y"])]
    data = model(nodes, [X], [Y], {"w": np.ones((1, 1, 4), np.float32)})
    assert ops(apply(eliminate_identity, data)) == ["Mul", "Neg"]


# ------------------------------------------------------------------------------ conv_bn_fusion

PICTURE = ("x", ["N", 3, 6, 6])


def conv_bn(weights: dict[str, np.ndarray], **bn: object) -> bytes:
    inputs = ["x", "w"] + (["b"] if "b" in weights else [])
    nodes = [
        node("Conv", inputs, ["c"], pads=[1, 1, 1, 1], group=1),
        node("BatchNormalization", ["c", "g", "bt", "m", "v"], ["y"], **bn),
    ]
    return model(nodes, [PICTURE], [Y], weights, opset=15)


def bn_weights(bias: bool = False) -> dict[str, np.ndarray]:
    names = {"g": 1, "bt": 2, "m": 3}
    weights = {name: normal(5, seed=seed) for name, seed in names.items()}
    weights |= {"v": np.abs(normal(5, seed=4)) + 0.1, "w": normal(5, 3, 3, 3, seed=5)}
    return weights | ({"b": normal(5, seed=6)} if bias else {})


@pytest.mark.parametrize("bias", [False, True])
def test_conv_and_batch_normalization_become_one_conv(bias: bool) -> None:
    data = conv_bn(bn_weights(bias), epsilon=1e-3)
    graph = apply(fuse_conv_bn, data)
    assert ops(graph) == ["Conv"] and graph.nodes[0].outputs == ("y",)
    x = normal(2, 3, 6, 6)
    with load(data) as net:
        np.testing.assert_allclose(
            net.run({"x": x})["y"], ort_run(data, {"x": x})["y"], rtol=1e-4, atol=1e-5
        )


def test_a_bias_added_per_channel_joins_the_conv() -> None:
    for shape in ((5, 1, 1), (1, 5, 1, 1), (1,), ()):
        nodes = [node("Conv", ["x", "w"], ["c"]), node("Add", ["bias", "c"], ["y"])]
        data = model(
            nodes, [PICTURE], [Y], {"w": normal(5, 3, 3, 3), "bias": normal(*shape, seed=1)}
        )
        assert ops(apply(fuse_conv_bn, data)) == ["Conv"]
        x = normal(2, 3, 6, 6)
        with load(data) as net:
            np.testing.assert_allclose(
                net.run({"x": x})["y"], ort_run(data, {"x": x})["y"], rtol=1e-4, atol=1e-5
            )


def test_conv_and_bn_stay_apart_where_fusing_would_change_something() -> None:
    zero_variance = bn_weights() | {"v": np.zeros(5, np.float32), "g": np.zeros(5, np.float32)}
    assert ops(apply(fuse_conv_bn, conv_bn(zero_variance, epsilon=0.0))) == [
        "Conv",
        "BatchNormalization",
    ]
    huge = bn_weights() | {"v": np.full(5, 1e-30, np.float32), "w": normal(5, 3, 3, 3) * 1e30}
    assert len(ops(apply(fuse_conv_bn, conv_bn(huge, epsilon=0.0)))) == 2
    nodes = [
        node("Conv", ["x", "w"], ["c"]),
        node("BatchNormalization", ["c", "g", "bt", "m", "v"], ["n"]),
        node("Add", ["n", "c"], ["y"]),
    ]
    used_twice = model(nodes, [PICTURE], [Y], bn_weights(), opset=15)
    assert ops(apply(fuse_conv_bn, used_twice)) == ["Conv", "BatchNormalization", "Add"]
    kept = model(nodes[:2], [PICTURE], [("n", None), ("c", None)], bn_weights(), opset=15)
    assert ops(apply(fuse_conv_bn, kept)) == ["Conv", "BatchNormalization"]


def test_a_bias_that_is_no_channel_bias_stays() -> None:
    for shape in ((4,), (5, 4, 4), (1, 1, 1, 4), (2, 5, 1, 1), (1, 1, 5, 1, 1)):
        nodes = [node("Conv", ["x", "w"], ["c"]), node("Add", ["c", "bias"], ["y"])]
        weights = {"w": normal(5, 3, 3, 3), "bias": normal(*shape)}
        graph = apply(fuse_conv_bn, model(nodes, [("x", [2, 3, 6, 6])], [Y], weights))
        assert ops(graph) == ["Conv", "Add"]


def test_bias_normalization_and_bias_become_one_conv() -> None:
    weights = bn_weights(bias=True) | {"p": normal(5, 1, 1, seed=7), "q": normal(1, seed=8)}
    nodes = [
        node("Conv", ["x", "w", "b"], ["c"], pads=[1] * 4),
        node("Add", ["c", "p"], ["d"]),
        node("BatchNormalization", ["d", "g", "bt", "m", "v"], ["e"]),
        node("Add", ["q", "e"], ["y"]),
    ]
    data = model(nodes, [PICTURE], [Y], weights, opset=15)
    graph = apply(fuse_conv_bn, data)
    assert ops(graph) == ["Conv"]
    x = normal(2, 3, 6, 6)
    np.testing.assert_allclose(
        GraphPlan(graph).run({"x": x})["y"], ort_run(data, {"x": x})["y"], rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_a_normalization_that_no_convolution_takes_joins_its_neighbours(kind: type) -> None:
    weights = {n: a.astype(kind) for n, a in bn_weights().items()}
    number = TensorProto.FLOAT if kind is np.float32 else TensorProto.DOUBLE
    nodes = [
        node("BatchNormalization", ["x", "g", "bt", "m", "v"], ["n"], epsilon=1e-3),
        node("Relu", ["n"], ["y"]),
    ]
    data = model(nodes, [("x", ["N", 5, "L"], number)], [("y", None, number)], weights, opset=15)
    graph = check_levels(data, {"x": normal(3, 5, 7).astype(kind)}, factor=4)
    assert ops(graph) == ["Elementwise"]
    nodes[0] = node("ConvTranspose", ["x", "w"], ["c"])
    nodes.insert(1, node("BatchNormalization", ["c", "g", "bt", "m", "v"], ["n"]))
    weights["w"] = normal(4, 5, 3).astype(kind)
    data = model(nodes, [("x", ["N", 4, "L"], number)], [("y", None, number)], weights, opset=15)
    ort = kind is np.float32  # it has no double kernel
    graph = check_levels(data, {"x": normal(3, 4, 7).astype(kind)}, factor=10, ort=ort)
    assert ops(graph) == ["ConvTranspose"] and graph.nodes[0].domain == "millrace"


def test_normalizations_of_other_kinds_stay() -> None:
    nodes = [node("BatchNormalization", ["x", "g", "bt", "m", "v"], ["y"])]
    broken = bn_weights() | {"v": np.full(5, -1, np.float32)}
    shape = ("x", ["N", 5, 7])
    for data in (
        model(nodes, [shape], [Y], broken, opset=15),
        model(nodes, [("x", ["N", "C", 7])], [Y], bn_weights(), opset=15),
        model(nodes, [shape, ("v", [5])], [Y], {k: v for k, v in bn_weights().items() if k != "v"}),
    ):
        assert ops(apply(unfold_batch_norm, data)) == ["BatchNormalization"]


# ------------------------------------------------------------------------------ the pipeline


@pytest.mark.parametrize("level", LEVELS)
def test_every_level_gives_the_same_answer(level: int) -> None:
    data = convnet()
    seen: list[str] = []
    graph = run_pipeline(
        graph_of(data), LEVELS[level], PassContext(REGISTRY), lambda n, name, g: seen.append(name)
    )
    assert seen == ["import", *(name for name, _ in LEVELS[level])]
    assert ("BatchNormalization" in ops(graph)) == (level < 2)
