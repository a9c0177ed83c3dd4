"""One compiled model for many sizes, 0 and 1 among them: as the reference device, or refused alike.

Inferred shapes are what native code trusts; here the sizes come that inference cannot know.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from onnx import helper as h

import engine

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
KINDS = {"i": INT64, "c": BOOL}  # by the first letter of an input's name; others are float32
MOST = 40  # combinations of sizes per model
Dims = Sequence[int | str]


@dataclass(frozen=True)
class Net:
    """A model under test: its nodes, its inputs' dims, its outputs and fixed values."""

    nodes: Sequence[onnx.NodeProto]
    inputs: Mapping[str, Dims]
    outputs: Sequence[str]
    fixed: Mapping[str, np.ndarray]
    sizes: tuple[int, ...]

    def model(self) -> bytes:
        graph = h.make_graph(
            list(self.nodes),
            "net",
            [h.make_tensor_value_info(n, kind(n), d) for n, d in self.inputs.items()],
            [h.make_tensor_value_info(n, kind(n), None) for n in self.outputs],
            [onnx.numpy_helper.from_array(np.asarray(v), n) for n, v in self.fixed.items()],
        )
        imports = [h.make_opsetid("", 21)]
        made = h.make_model(graph, opset_imports=imports, ir_version=10)
        return bytes(made.SerializeToString())

    def feeds(self, rng: np.random.Generator) -> list[dict[str, np.ndarray]]:
        """Inputs for combinations of sizes, in an order of no pattern."""
        symbols = sorted({d for dims in self.inputs.values() for d in dims if isinstance(d, str)})
        chosen = list(itertools.product(self.sizes, repeat=len(symbols)))
        order = rng.permutation(len(chosen))[:MOST]
        return [self._feed(dict(zip(symbols, chosen[i], strict=True)), rng) for i in order]

    def _feed(self, sizes: Mapping[str, int], rng: np.random.Generator) -> dict[str, np.ndarray]:
        made = {}
        for name, dims in self.inputs.items():
            shape = [sizes[d] if isinstance(d, str) else d for d in dims]
            numbers = rng.standard_normal(shape).astype(np.float32)
            of_kind: dict[int, Any] = {
                FLOAT: numbers,
                INT64: rng.integers(0, 3, shape),
                BOOL: numbers > 0,
            }
            made[name] = np.asarray(of_kind[kind(name)])
        return made


def kind(name: str) -> int:
    return KINDS.get(name[0], FLOAT)


def net(
    steps: str,
    inputs: Mapping[str, Dims],
    fixed: Mapping[str, object] | None = None,
    sizes: tuple[int, ...] = (0, 1, 2, 3, 5),
    **attributes: Any,
) -> Net:
    """Read nodes from text, `y = Op a b; ...`: attributes go to the node called by that operator;
    what nobody reads is an output.
    """
    nodes, read, made = [], set(), []
    for step in filter(None, map(str.strip, steps.split(";"))):
        results, _, call = step.partition(" = ")
        op, *operands = call.split()
        named = {k.partition("__")[2]: v for k, v in attributes.items() if k.startswith(op + "__")}
        nodes.append(h.make_node(op, operands, results.split(), **named))
        read.update(operands)
        made += results.split()
    values = {name: np.asarray(value) for name, value in (fixed or {}).items()}
    return Net(nodes, inputs, [n for n in made if n not in read], values, sizes)


def outcome(model: engine.Model, feeds: Mapping[str, np.ndarray]) -> object:
    """What a run gives, or which of the engine's errors; any other exception is a failure."""
    try:
        return model.run(feeds)
    except engine.EngineError as error:
        return error


def check(case: Net) -> None:
    source = case.model()
    rng = np.random.default_rng(5)
    with (
        engine.load(source, device="cpu", threads=2) as native,
        engine.load(source, device="reference") as reference,
    ):
        ran = 0
        for feeds in case.feeds(rng):
            shapes = {name: value.shape for name, value in feeds.items()}
            got, want = outcome(native, feeds), outcome(reference, feeds)
            if isinstance(got, dict) and isinstance(want, dict):
                ran += 1
                for name, value in want.items():
                    assert got[name].shape == value.shape, (name, shapes)
                    assert got[name].dtype == value.dtype, (name, shapes)
                    np.testing.assert_allclose(got[name], value, 1e-4, 1e-4, err_msg=str(shapes))
            elif isinstance(want, dict):
                raise AssertionError((shapes, got))
            elif isinstance(got, dict):  # nothing was computed of what the reference refuses
                assert not any(value.size for value in got.values()), (shapes, want)
        assert ran


PAIR: Mapping[str, Dims] = {"x": ["N", 3], "z": ["M", 3]}
PLANE: Mapping[str, Dims] = {"x": ["N", "M"]}
FAR = 2**62
BOUNDS = [(1, -1, 1), (0, 100, 2), (FAR, 2 * FAR - 1, 1), (-1, -FAR, -1), (5, 1, 1), (-2, FAR, 1)]


@pytest.mark.parametrize("op", ["Add", "Pow", "Max", "PRelu"])
def test_two_open_sizes_broadcast(op: str) -> None:
    check(net(f"y = {op} x z", PAIR))


@pytest.mark.parametrize(
    "case",
    [
        net("a = Add x z; y = Mul a w", {"x": ["N", 4], "z": ["M", 1, 4], "w": [1, "K", 1]}),
        net("y = Where c x z", {"c": ["N", 1], "x": ["M", 3], "z": ["K"]}),
        net("h = Shape s; y = Expand q h", {"q": ["N", 1], "s": ["M", "K"]}),
        net("a = MatMul x w; b = Add a z; y = Add b z", {"x": ["N", "M"], "z": ["K", 3]},
            {"w": np.ones((5, 3), np.float32)}),
    ],
)  # fmt: skip
def test_broadcasting_of_several(case: Net) -> None:
    check(case)


@pytest.mark.parametrize("axis", [0, 1])
def test_concat_of_open_sizes(axis: int) -> None:
    check(net("a = Concat x z; y = Relu a", PAIR, Concat__axis=axis))


@pytest.mark.parametrize("shape", [[-1, 2, 3], [0, -1], [2, 3]])
def test_reshape_to_fixed_sizes(shape: list[int]) -> None:
    check(net("a = Relu x; y = Reshape a s", PLANE, {"s": shape}))


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("bounds", BOUNDS)
def test_slices(axis: int, bounds: tuple[int, int, int]) -> None:
    fixed = {name: [n] for name, n in zip("sep", bounds, strict=True)}
    check(net("a = Relu x; b = Slice a s e k p; y = Add b b", PLANE, {**fixed, "k": [axis]}))


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("count", [2, 3, 4])
def test_split_into_parts_that_may_be_less_than_nothing(axis: int, count: int) -> None:
    parts = " ".join(f"p{k}" for k in range(count))
    steps = f"a = Relu x; {parts} = Split a; y = Neg p0; z = Neg p{count - 1}"
    check(net(steps, PLANE, Split__axis=axis, Split__num_outputs=count))


@pytest.mark.parametrize("pads", [[1, 0, 0, 2], [-1, 0, 0, 0], [-2, -1, -1, 0], [3, -2, -4, 1]])
def test_pads_that_may_cut_away_more_than_there_is(pads: list[int]) -> None:
    check(net("a = Relu x; b = Pad a p; y = Relu b", PLANE, {"p": pads}))


@pytest.mark.parametrize(
    "case",
    [
        net("i = Shape p; b = Shape x; e = Add i b; s = Slice t i e k; r = Relu s; y = Add r x",
            {"x": ["S", 4], "p": ["P"]}, {"t": np.ones((20, 4), np.float32), "k": [0]},
            Shape__end=1),
        net("i = Shape p; b = Shape x; e = Add i b; d = Add x x; u = Concat d t; "
            "s = Slice u i e k; v = Transpose s; y = MatMul q v",
            {"x": ["S", 4], "p": ["P"], "q": ["B", "S", 4]},
            {"t": np.ones((20, 4), np.float32), "k": [0]},
            Shape__end=1, Concat__axis=0),
    ],
)  # fmt: skip
def test_a_slice_begins_at_the_size_of_something_else(case: Net) -> None:
    check(case)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
def test_softmax(op: str, axis: int) -> None:
    place: Any = {f"{op}__axis": axis}
    check(net(f"y = {op} x", PLANE, None, (0, 1, 2, 17, 70), **place))


@pytest.mark.parametrize("axes", [[0], [1], [0, 1]])
@pytest.mark.parametrize("op", ["ReduceSum", "ReduceMean", "ReduceMax", "ReduceL2"])
def test_reductions(op: str, axes: list[int]) -> None:
    steps = f"a = Abs x; y = {op} a k"
    shapes: Any = {f"{op}__keepdims": 0}
    check(net(steps, PLANE, {"k": axes}, (0, 1, 2, 17, 70), **shapes))


@pytest.mark.parametrize(
    "steps",
    [
        "a = Relu x; b = Transpose a; z = Transpose b; y = Add b b",
        "a = Relu x; t = Transpose a; n = Neg a; e = Exp n; u = Transpose e; y = Mul t u",
        "a = Relu x; b = Transpose a; s = Softmax b; y = Add b b; z = Mul s s",
        "a = Transpose x; b = Identity a; y = Relu b",
    ],
)
def test_views_of_arrays(steps: str) -> None:
    check(net(steps, PLANE))


@pytest.mark.parametrize(
    "steps",
    [
        "y = MatMul x z",
        "a = MatMul x z; y = Relu a",
        "y = Einsum x z",
    ],
)
def test_products_of_computed_values(steps: str) -> None:
    inputs: Mapping[str, Dims] = {"x": ["B", "N", "M"], "z": ["C", "M", "L"]}
    check(net(steps, inputs, sizes=(0, 1, 3), Einsum__equation="bij,bjk->bik"))


@pytest.mark.parametrize("op", ["Gather", "GatherElements", "GatherND", "ScatterElements"])
def test_indices(op: str) -> None:
    dims: dict[str, Sequence[Dims]] = {
        "Gather": [["K"]],
        "GatherElements": [["N", "M"]],
        "GatherND": [["K", 2]],
        "ScatterElements": [["K", "L"], ["K", "L"]],
    }
    names = ["i", "u"][: len(dims[op])]
    inputs = {"x": ["N", "M"], **dict(zip(names, dims[op], strict=True))}
    check(net(f"y = {op} x {' '.join(names)}", inputs, sizes=(0, 1, 2, 3)))


BODY: Callable[[str], onnx.GraphProto] = lambda name: h.make_graph(  # noqa: E731  # one expression
    [
        h.make_node("Concat", ["c", "x"], ["longer"], axis=0),
        h.make_node("Relu", ["longer"], ["next"]),
        h.make_node("Identity", ["go"], ["on"]),
    ],
    name,
    [
        h.make_tensor_value_info("turn", INT64, []),
        h.make_tensor_value_info("go", BOOL, []),
        h.make_tensor_value_info("c", FLOAT, None),
    ],
    [h.make_tensor_value_info("on", BOOL, []), h.make_tensor_value_info("next", FLOAT, None)],
)


def test_a_loop_whose_value_grows() -> None:
    loop = h.make_node("Loop", ["i", "", "first"], ["y"], body=BODY("body"))
    nodes = [h.make_node("Relu", ["x"], ["first"]), loop]
    check(Net(nodes, {"x": ["N", 3], "i": []}, ["y"], {}, (0, 1, 2, 5)))


def test_branches_of_different_shapes() -> None:
    branches = {
        name: h.make_graph([node], name, [], [h.make_tensor_value_info(name, FLOAT, None)])
        for name, node in {
            "then_branch": h.make_node("Relu", ["x"], ["then_branch"]),
            "else_branch": h.make_node("Concat", ["x", "x"], ["else_branch"], axis=0),
        }.items()
    }
    nodes = [
        h.make_node("If", ["c"], ["r"], **branches),
        h.make_node("Add", ["r", "r"], ["s"]),
        h.make_node("Softmax", ["s"], ["y"]),
    ]
    check(Net(nodes, {"x": ["N", 3], "c": []}, ["y"], {}, (0, 1, 2, 5)))


def test_declared_shapes_that_values_contradict() -> None:
    """What is declared in the middle of a graph is no promise: two NonZero, ten places."""
    nodes = [
        h.make_node("NonZero", ["x"], ["where"]),
        h.make_node("Cast", ["where"], ["f"], to=FLOAT),
        h.make_node("Add", ["f", "f"], ["g"]),
        h.make_node("MatMul", ["g", "w"], ["y"]),
    ]
    case = Net(nodes, {"x": ["N"]}, ["y"], {"w": np.ones((2, 3), np.float32)}, (0, 1, 2, 10))
    model = onnx.ModelProto.FromString(case.model())
    model.graph.value_info.append(h.make_tensor_value_info("where", INT64, [1, 2]))
    with engine.load(model.SerializeToString(), device="cpu") as native:
        for feeds in case.feeds(np.random.default_rng(1)):
            got = outcome(native, feeds)
            if np.count_nonzero(feeds["x"]) == 2:
                assert isinstance(got, dict) and got["y"].shape == (1, 3)
            else:
                assert isinstance(got, engine.EngineError)
