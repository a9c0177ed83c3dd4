"""Sequences and optionals: against ONNX Runtime, their types, their limits, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from engine.errors import InvalidInput, InvalidModel, ResourceLimit, RunFailed
from engine.limits import Limits
from engine.ops.registry import REGISTRY
from tests.engine.onnx_models import graph_of, load, normal
from tests.engine.ops.bodies import (
    BOOL,
    FLOAT,
    INT64,
    check,
    graph,
    model,
    same,
    tensor,
    untyped,
)

node = helper.make_node
SEQUENCE = helper.make_sequence_type_proto
OPTIONAL = helper.make_optional_type_proto
TENSOR = helper.make_tensor_type_proto


def typed(data: bytes) -> list[str]:
    return [str(v.type) for v in graph_of(data).outputs]


def declared(name: str, kind: onnx.TypeProto) -> onnx.ValueInfoProto:
    return helper.make_value_info(name, kind)


def of_tensors(nodes: list[onnx.NodeProto], *names: str, opset: int = 17, **shapes: Any) -> bytes:
    """A model over float tensors."""
    inputs = [tensor(name, shape) for name, shape in shapes.items()]
    return model(nodes, inputs, untyped(*names), opset)


A, B, C = normal(2, 3), normal(4, 3, seed=1), normal(2, 3, seed=2)
BUILT = node("SequenceConstruct", ["a", "b", "c"], ["s"])
SHAPES: dict[str, Any] = {"a": ["N", 3], "b": ["M", 3], "c": ["N", 3]}
FEEDS = {"a": A, "b": B, "c": C}


def fixed(name: str, value: Any) -> onnx.NodeProto:
    return node("Constant", [], [name], value=onnx.numpy_helper.from_array(np.asarray(value), name))


# ------------------------------------------------------------------------------ sequences


@pytest.mark.parametrize("at", [0, 1, -1, -3])
@pytest.mark.parametrize("kind", [np.int32, np.int64])
def test_elements_by_position(at: int, kind: Any) -> None:
    data = of_tensors(
        [BUILT, fixed("p", kind(at)), node("SequenceAt", ["s", "p"], ["y"])], "y", **SHAPES
    )
    check(data, FEEDS)


def test_positions_outside_are_told() -> None:
    nodes = [BUILT, fixed("p", np.int64(3)), node("SequenceAt", ["s", "p"], ["y"])]
    net = load(of_tensors(nodes, "y", **SHAPES))
    with pytest.raises(RunFailed, match="position 3 in a sequence of 3"):
        net.run(FEEDS)


@pytest.mark.parametrize("at", [None, 0, 2, 3, -1, -3])
def test_inserting(at: int | None) -> None:
    position = [] if at is None else ["p"]
    nodes = [
        BUILT,
        fixed("p", np.int64(at or 0)),
        node("SequenceInsert", ["s", "a", *position], ["t"]),
        node("SequenceLength", ["t"], ["n"]),
    ]
    data = of_tensors(nodes, "t", "n", **SHAPES)
    assert typed(data)[0].endswith(", 4)")
    got = check(data, FEEDS)
    assert got["n"] == 4 and [v.shape for v in got["t"]].count((4, 3)) == 1


@pytest.mark.parametrize("at", [None, 0, 2, -3])
def test_erasing(at: int | None) -> None:
    position = [] if at is None else ["p"]
    nodes = [BUILT, fixed("p", np.int64(at or 0)), node("SequenceErase", ["s", *position], ["t"])]
    data = of_tensors(nodes, "t", **SHAPES)
    assert len(check(data, FEEDS)["t"]) == 2


def test_dims_that_elements_share_are_known_and_others_are_not_mistaken() -> None:
    first, second = (node("SequenceAt", ["s", f"p{i}"], [f"y{i}"]) for i in range(2))
    nodes = [BUILT, fixed("p0", np.int64(0)), fixed("p1", np.int64(1)), first, second]
    one, other = typed(of_tensors(nodes, "y0", "y1", **SHAPES))
    assert one.endswith(", 3]") and one != other  # two looks at it never claim to be equal
    alike = of_tensors(
        [node("SequenceConstruct", ["a", "c"], ["s"]), *nodes[1:]],
        "y0",
        "y1",
        a=["N", 3],
        c=["N", 3],
    )
    assert typed(alike) == ["float32[N, 3]"] * 2


def test_an_empty_sequence_takes_the_shape_of_what_comes() -> None:
    nodes = [node("SequenceEmpty", [], ["e"]), node("SequenceInsert", ["e", "a"], ["s"])]
    data = of_tensors(nodes, "s", a=["N", 3])
    assert typed(data) == ["sequence(float32[N, 3], 1)"]
    check(data, {"a": A})
    text = [
        node("SequenceEmpty", [], ["e"], dtype=TensorProto.STRING),
        node("SequenceLength", ["e"], ["n"]),
    ]
    data = of_tensors([*text, node("Identity", ["e"], ["y"])], "y", "n", a=["N"])
    assert typed(data) == ["sequence(string[...], 0)", "int64[]"]
    check(data, {"a": A[0]}, {"y": [], "n": np.array(0)})


@pytest.mark.parametrize("opset", [11, 17, 21])
@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize(
    "split", [None, np.int64(2), np.int64(3), np.int64([1, 2, 3]), np.int32([3, 3])]
)
def test_splitting(axis: int, split: Any, opset: int) -> None:
    x = normal(6, 6)
    inputs = ["x"] if split is None else ["x", "split"]
    nodes = [] if split is None else [fixed("split", split)]
    nodes += [node("SplitToSequence", inputs, ["s"], axis=axis)]
    check(of_tensors(nodes, "s", opset=opset, x=["N", 6]), {"x": x})
    check(of_tensors(nodes, "s", opset=opset, x=[6, 6]), {"x": x})


def test_splitting_into_entries_without_their_dim() -> None:
    data = of_tensors([node("SplitToSequence", ["x"], ["s"], keepdims=0, axis=1)], "s", x=["N", 3])
    assert typed(data) == ["sequence(float32[N], 3)"]
    check(data, {"x": A})


def test_the_number_of_parts_follows_the_shape() -> None:
    nodes = [
        fixed("two", np.int64(2)),
        node("SplitToSequence", ["x", "two"], ["s"], axis=0),
        node("SequenceLength", ["s"], ["n"]),
    ]
    data = of_tensors(nodes, "s", "n", x=["N", 3])
    assert typed(data)[0].endswith(", 3], (N+1)//2)") or "//2" in typed(data)[0]
    check(data, {"x": normal(5, 3)})


@pytest.mark.parametrize(
    ("split", "why"),
    [
        (np.array([1, 2]), "do not add up"),
        (np.array(0), "parts of sizes"),
        (np.array([-1, 7]), "parts of sizes"),
    ],
)
def test_parts_that_do_not_fit_are_told(split: Any, why: str) -> None:
    data = model(
        [node("SplitToSequence", ["x", "split"], ["s"])],
        [tensor("x", [6]), tensor("split", list(split.shape), INT64)],
        untyped("s"),
    )
    with load(data) as net, pytest.raises(RunFailed, match=why):
        net.run({"x": normal(6), "split": split})


@pytest.mark.parametrize(("axis", "new"), [(0, 0), (-1, 0), (0, 1), (2, 1), (-1, 1)])
def test_concatenating(axis: int, new: int) -> None:
    nodes = [
        node("SequenceConstruct", ["a", "c"], ["s"]),
        node("ConcatFromSequence", ["s"], ["y"], axis=axis, new_axis=new),
    ]
    data = of_tensors(nodes, "y", a=["N", 3], c=["N", 3])
    check(data, {"a": A, "c": C})
    assert "any" not in typed(data)[0] and "d_" not in typed(data)[0]


def test_concatenating_different_sizes() -> None:
    nodes = [BUILT, node("ConcatFromSequence", ["s"], ["y"], axis=0)]
    data = of_tensors(nodes, "y", **SHAPES)
    assert typed(data)[0].endswith(", 3]")
    check(data, FEEDS)
    broken = of_tensors([BUILT, node("ConcatFromSequence", ["s"], ["y"], axis=1)], "y", **SHAPES)
    # Joined along axis 1, the leading dims must be one: they are, once the model can be batched.
    with load(broken) as net, pytest.raises(InvalidInput, match="they must be equal"):
        net.run(FEEDS)


def test_texts_and_other_types_in_sequences() -> None:
    for kind, value in (
        (TensorProto.STRING, np.array(["a", "bc"], object)),
        (TensorProto.INT8, np.int8([1, 2])),
        (TensorProto.DOUBLE, np.float64([1, 2])),
    ):
        data = model(
            [
                node("SequenceConstruct", ["x", "x"], ["s"]),
                node("SequenceInsert", ["s", "x"], ["t"]),
                node("ConcatFromSequence", ["t"], ["y"], axis=0),
            ],
            [tensor("x", ["N"], kind)],
            untyped("y"),
            17,
        )
        check(data, {"x": value}, {"y": np.concatenate([value] * 3)})


MAPPED = graph(
    [node("Add", ["e", "o"], ["r"]), node("Shape", ["e"], ["n"])],
    [tensor("e", None), tensor("o", None)],
    untyped("r", "n"),
)


def test_mapping_a_body_over_a_sequence() -> None:
    nodes = [BUILT, node("SequenceMap", ["s", "o"], ["t", "n"], body=MAPPED)]
    data = of_tensors(nodes, "t", "n", o=[1], **SHAPES)
    one = np.float32([1])
    wanted = {"t": [v + 1 for v in (A, B, C)], "n": [np.array(v.shape) for v in (A, B, C)]}
    check(data, {**FEEDS, "o": one}, wanted)
    assert typed(data)[1] == "sequence(int64[2], 3)"
    both = of_tensors(
        [BUILT, node("SequenceMap", ["s", "s"], ["t", "n"], body=MAPPED)], "t", "n", **SHAPES
    )
    check(both, FEEDS, {**wanted, "t": [v * 2 for v in (A, B, C)]})


def test_sizes_that_the_body_makes_differ_from_element_to_element() -> None:
    body = graph([node("NonZero", ["e"], ["r"])], [tensor("e", None)], untyped("r"))
    nodes = [
        node("SequenceConstruct", ["a", "c"], ["s"]),
        node("SequenceMap", ["s"], ["t"], body=body),
        fixed("p", np.int64(0)),
        fixed("q", np.int64(1)),
        node("SequenceAt", ["t", "p"], ["y"]),
        node("SequenceAt", ["t", "q"], ["z"]),
    ]
    data = of_tensors(nodes, "y", "z", a=["N"], c=["N"])
    one, other = typed(data)
    assert one != other
    check(
        data,
        {"a": np.float32([1, 0, 2]), "c": np.float32([0, 0, 3])},
        {"y": np.array([[0, 2]]), "z": np.array([[2]])},
    )


def growing(trips: int | None = None, limit: int = 0) -> bytes:
    """A loop that appends its state, doubled, to a sequence, as scripted decoders do."""
    inside = graph(
        [
            node("Add", ["s", "s"], ["t"]),
            node("SequenceInsert", ["seq", "t"], ["seq2"]),
            node("Identity", ["go"], ["on"]),
        ],
        [
            tensor("i", [], INT64),
            tensor("go", [], BOOL),
            tensor("s", None),
            declared("seq", SEQUENCE(TENSOR(FLOAT, None))),
        ],
        untyped("on", "t", "seq2"),
    )
    nodes = [
        node("SequenceEmpty", [], ["e"]),
        node("Loop", ["m", "", "x", "e"], ["y", "all"], body=inside),
        node("SequenceLength", ["all"], ["n"]),
        node("ConcatFromSequence", ["all"], ["z"], axis=0, new_axis=1),
    ]
    return model(
        nodes, [tensor("x", ["N", 3]), tensor("m", [], INT64)], untyped("all", "n", "z"), 17
    )


def test_sequences_are_carried_through_loops() -> None:
    assert typed(growing())[0] == "sequence(float32[N, 3])"
    assert typed(growing())[2].endswith(", N, 3]")
    check(growing(), {"x": A, "m": np.array(4)})


def test_sequences_count_toward_the_limit() -> None:
    big = np.zeros((1 << 14, 3), np.float32)
    with load(growing(), limits=Limits(run_bytes=4 << 20)) as net:
        net.run({"x": big, "m": np.array(4)})
        with pytest.raises(ResourceLimit, match="run_bytes"):
            net.run({"x": big, "m": np.array(400)})
    pieces = of_tensors(
        [node("SplitToSequence", ["x"], ["s"]), node("SequenceLength", ["s"], ["n"])], "n", x=["N"]
    )
    with load(pieces, limits=Limits(run_bytes=1 << 20)) as net:
        net.run({"x": np.zeros(1000, np.float32)})
        with pytest.raises(ResourceLimit, match="SplitToSequence"):
            net.run({"x": np.zeros(100_000, np.float32)})


@pytest.mark.parametrize(
    ("nodes", "why"),
    [
        (
            [fixed("p", 0), node("SequenceAt", ["a", "p"], ["y"])],
            r"input 0 is float32\[N, 3\], expected a sequence",
        ),
        ([BUILT, node("Add", ["s", "s"], ["y"])], "expected a tensor"),
        ([BUILT, node("Cast", ["s"], ["y"], to=INT64)], "expected a tensor"),
        ([BUILT, node("SequenceAt", ["s", "a"], ["y"])], "expected one int32 or int64"),
        (
            [node("Cast", ["a"], ["i"], to=INT64), node("SequenceConstruct", ["a", "i"], ["y"])],
            "elements of different types",
        ),
        ([BUILT, node("ConcatFromSequence", ["s"], ["y"], axis=2)], "axis 2"),
        (
            [node("SequenceEmpty", [], ["e"]), node("ConcatFromSequence", ["e"], ["y"], axis=0)],
            "the sequence is empty",
        ),
        ([node("SequenceEmpty", [], ["e"]), node("SequenceErase", ["e"], ["y"])], "is empty"),
        ([node("SequenceEmpty", [], ["y"], dtype=99)], "99"),
        ([BUILT, node("SequenceMap", ["s"], ["y"], body=MAPPED)], "has 2 inputs"),
        ([BUILT, node("Shape", ["s"], ["y"])], "expected a tensor"),
    ],
)
def test_what_does_not_fit_is_refused(nodes: list[onnx.NodeProto], why: str) -> None:
    with pytest.raises(InvalidModel, match=why):
        graph_of(of_tensors(nodes, "y", **SHAPES))


# ------------------------------------------------------------------------------ optionals


def test_optionals_of_tensors_and_sequences() -> None:
    nodes = [
        BUILT,
        node("Optional", ["a"], ["o"]),
        node("Optional", ["s"], ["p"]),
        node("OptionalHasElement", ["o"], ["has"]),
        node("OptionalGetElement", ["o"], ["y"]),
        node("OptionalGetElement", ["p"], ["t"]),
    ]
    data = of_tensors(nodes, "has", "y", "t", **SHAPES)
    assert typed(data)[:2] == ["bool[]", "float32[N, 3]"]
    check(data, FEEDS)


def test_optionals_without_a_value() -> None:
    nodes = [
        node("Optional", [], ["o"], type=TENSOR(FLOAT, [2])),
        node("OptionalHasElement", ["o"], ["has"]),
    ]
    data = of_tensors([*nodes, node("Identity", ["o"], ["y"])], "has", "y", a=["N"])
    assert typed(data) == ["bool[]", "optional(float32[2])"]
    check(data, {"a": A[0]}, {"has": np.array(False), "y": None})
    net = load(of_tensors([nodes[0], node("OptionalGetElement", ["o"], ["y"])], "y", a=["N"]))
    with pytest.raises(RunFailed, match="holds no value"):
        net.run({"a": A[0]})


def test_whether_something_is_there_is_known_when_it_is_no_optional() -> None:
    """So the branch for its absence falls away."""
    there = graph([node("Neg", ["a"], ["r"])], [], untyped("r"))
    absent = graph([node("Abs", ["a"], ["r"])], [], untyped("r"))
    for given, op in ((["a"], "Neg"), ([""], "Abs"), ([], "Abs")):
        nodes = [
            node("OptionalHasElement", given, ["has"]),
            node("If", ["has"], ["y"], then_branch=there, else_branch=absent),
        ]
        graph_ = graph_of(of_tensors(nodes, "y", opset=18, a=["N", 3]))
        assert [n.op for n in graph_.nodes if n.op in ("If", "Neg", "Abs")] == [op]


def test_branches_may_give_something_or_nothing() -> None:
    there = graph([node("Optional", ["a"], ["r"])], [], untyped("r"))
    absent = graph([node("Optional", [], ["r"], type=TENSOR(FLOAT, None))], [], untyped("r"))
    nodes = [
        node("If", ["c"], ["o"], then_branch=there, else_branch=absent),
        node("OptionalHasElement", ["o"], ["has"]),
    ]
    inputs = [tensor("a", ["N", 3]), tensor("c", [], BOOL)]
    data = model(nodes, inputs, untyped("o", "has"), 18)
    assert typed(data)[0] == "optional(float32[...])"
    for flag in (True, False):
        wanted = {"o": A if flag else None, "has": np.array(flag)}
        check(data, {"a": A, "c": np.array(flag)}, wanted)


def test_an_optional_needs_a_type() -> None:
    with pytest.raises(InvalidModel, match="needs an input, or the type"):
        graph_of(of_tensors([node("Optional", [], ["y"])], "y", a=["N"]))


# ------------------------------------------------------------------------------ in and out


OPTIONAL_SEQUENCE = OPTIONAL(SEQUENCE(TENSOR(FLOAT, ["N", 3])))


def through(kind: onnx.TypeProto) -> bytes:
    return model([node("Identity", ["v"], ["y"])], [declared("v", kind)], untyped("y"), 16)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (SEQUENCE(TENSOR(FLOAT, ["N", 3])), [A, B]),
        (SEQUENCE(TENSOR(FLOAT, None)), []),
        (OPTIONAL(TENSOR(FLOAT, [2, 3])), A),
        (OPTIONAL(TENSOR(FLOAT, [2, 3])), None),
        (OPTIONAL_SEQUENCE, [A]),
        (OPTIONAL_SEQUENCE, None),
        (SEQUENCE(TENSOR(TensorProto.STRING, None)), [np.array(["x"], object)]),
        (helper.make_map_type_proto(INT64, TENSOR(FLOAT, [])), {1: 0.5, -2: 1.5}),
        (SEQUENCE(helper.make_map_type_proto(TensorProto.STRING, TENSOR(FLOAT, []))), [{"a": 1.0}]),
    ],
)
def test_values_of_every_kind_go_in_and_out(kind: onnx.TypeProto, value: Any) -> None:
    with load(through(kind)) as net:
        (spec,) = net.inputs
        assert spec.kind == str(net.graph.inputs[0].type) != "tensor"
        got = net.run({"v": value})["y"]
    if isinstance(value, dict) or (
        isinstance(value, list) and value and isinstance(value[0], dict)
    ):
        assert got == value
    else:
        same(got, value)


@pytest.mark.parametrize(
    ("kind", "value", "why"),
    [
        (SEQUENCE(TENSOR(FLOAT, [2, 3])), A, "as a list, got ndarray"),
        (
            SEQUENCE(TENSOR(FLOAT, [2, 3])),
            [A, B],
            r"element 1: expected float32\[2, 3\], got shape",
        ),
        (
            SEQUENCE(TENSOR(FLOAT, [2, 3])),
            [A.astype(np.float64)],
            "element 0: expected type float32",
        ),
        (SEQUENCE(TENSOR(FLOAT, ["N", 3])), [None], "as a numpy array, got NoneType"),
        (OPTIONAL(TENSOR(FLOAT, [2, 3])), [A], "as a numpy array, got list"),
        (helper.make_map_type_proto(INT64, TENSOR(FLOAT, [])), [1], "as a dict, got list"),
        (helper.make_map_type_proto(INT64, TENSOR(FLOAT, [])), {"a": 1.0}, "keys of type int64"),
        (helper.make_map_type_proto(INT64, TENSOR(FLOAT, [])), {1: "a"}, "values of type float32"),
    ],
)
def test_feeds_of_other_kinds_are_checked(kind: onnx.TypeProto, value: Any, why: str) -> None:
    with load(through(kind)) as net:
        with pytest.raises(InvalidInput, match=f"input 'v': .*{why}"):
            net.run({"v": value})
        with pytest.raises(InvalidInput, match="missing"):
            net.run({})


def test_what_is_handed_out_is_the_callers_own() -> None:
    data = model(
        [node("SequenceLength", ["v"], ["n"])],
        [declared("v", SEQUENCE(TENSOR(FLOAT, None)))],
        [declared("v", SEQUENCE(TENSOR(FLOAT, None))), *untyped("n")],
        16,
    )
    given = [A.copy()]
    with load(data) as net:
        got = net.run({"v": given})["v"]
    got[0][:] = 7
    got.append(B)
    assert len(given) == 1 and (given[0] == A).all()


def test_declared_types_nest_only_so_deep_and_keys_are_integers_or_texts() -> None:
    kind = TENSOR(FLOAT, None)
    for _ in range(20):
        kind = SEQUENCE(kind)
    with pytest.raises(InvalidModel, match="nests deeper"):
        graph_of(through(kind))
    with pytest.raises(InvalidModel, match="keys of a map"):
        graph_of(through(helper.make_map_type_proto(FLOAT, TENSOR(FLOAT, None))))


def test_declared_outputs_must_be_of_the_kind_that_is_computed() -> None:
    wrong = model(
        [node("SequenceConstruct", ["a"], ["y"])], [tensor("a", ["N"])], [tensor("y", ["N"])], 16
    )
    with pytest.raises(InvalidModel, match=r"declared float32\[N\], the graph computes sequence"):
        graph_of(wrong)


def test_every_version_of_the_operators_is_known() -> None:
    names = (
        "SequenceEmpty SequenceConstruct SequenceAt SequenceInsert SequenceErase SequenceLength "
        "SplitToSequence ConcatFromSequence SequenceMap Optional OptionalHasElement "
        "OptionalGetElement Identity"
    )
    history = onnx.defs.get_all_schemas_with_history()
    for op in names.split():
        versions = {s.since_version for s in history if s.name == op and s.domain == ""}
        known = {v for o in REGISTRY.operators() if o.name == op and not o.domain for v in o.since}
        assert versions == known
