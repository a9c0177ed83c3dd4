"""Items through If, Loop and Scan: what is claimed independent is; what is not is not claimed."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from tests.engine.onnx_models import normal
from tests.engine.ops.bodies import BOOL, INT64, graph, loads, model, tensor, untyped

node = helper.make_node
ITERATION = [tensor("i", [], INT64), tensor("go", [], BOOL)]


def apart(data: bytes, **others: Any) -> None:
    """The engine says that rows are independent, and they are: with poison in all other rows."""
    x = normal(4, 3, 5)
    for net in loads(data):
        assert net.batch is not None, net.batch_reason
        assert net.batch.inputs == {"x"} and net.batch.outputs == set(net.kept)
        together = net.run({"x": x, **others})
        for item in range(4):
            poisoned = np.full_like(x, np.nan)
            poisoned[item] = x[item]
            alone = net.run({"x": x[item : item + 1], **others})
            bad = net.run({"x": poisoned, **others})
            for name, value in together.items():
                np.testing.assert_allclose(value[item], alone[name][0], rtol=1e-5, atol=1e-6)
                np.testing.assert_allclose(bad[name][item], alone[name][0], rtol=1e-5, atol=1e-6)


def mixed(data: bytes, why: str) -> None:
    for net in loads(data):
        assert net.batch is None
        assert why in str(net.batch_reason)


def branch(*nodes: onnx.NodeProto, **fixed: Any) -> onnx.GraphProto:
    return graph(nodes, [], untyped("out"), nodes[0].op_type, **fixed)


def choice(then: onnx.GraphProto, other: onnx.GraphProto, before: Any = (), c: str = "c") -> bytes:
    inputs = [tensor("x", ["N", 3, 5])] + ([tensor("c", [], BOOL)] if c == "c" else [])
    call = node("If", [c], ["y"], then_branch=then, else_branch=other)
    return model([*before, call], inputs, untyped("y"))


NEGATE = branch(node("Neg", ["x"], ["out"]))


@pytest.mark.parametrize("flag", [True, False])
def test_items_stay_apart_in_either_branch(flag: bool) -> None:
    softmax = branch(node("Softmax", ["x"], ["out"], axis=1))
    apart(choice(NEGATE, softmax), c=np.array(flag))
    shape = [node("Shape", ["x"], ["s"]), node("Reshape", ["x", "s"], ["out"])]
    apart(choice(NEGATE, branch(*reversed(shape))), c=np.array(flag))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (choice(NEGATE, branch(node("Softmax", ["x"], ["out"], axis=0))), "axis"),
        (choice(NEGATE, branch(node("Identity", ["w"], ["out"]), w=normal(1, 3, 5))), "same axis"),
        (
            choice(
                NEGATE,
                NEGATE,
                [
                    node("ReduceMax", ["x"], ["m"], keepdims=0),
                    node("Greater", ["m", "m"], ["flag"]),
                ],
                "flag",
            ),
            "",
        ),
    ],
)
def test_branches_that_mix_items_are_told(data: bytes, why: str) -> None:
    mixed(data, why)


def test_inputs_that_take_turns_may_differ_in_their_leading_dims() -> None:
    """They are not made one for the sake of batching: nothing asks for equal dims."""
    other = branch(node("Neg", ["w"], ["out"]))
    call = node("If", ["c"], ["y"], then_branch=NEGATE, else_branch=other)
    inputs = [tensor("x", ["N", 3, 5]), tensor("w", ["M", 3, 5]), tensor("c", [], BOOL)]
    for net in loads(model([call], inputs, untyped("y"))):
        assert net.batch is None
        feeds = {"x": normal(2, 3, 5), "w": normal(4, 3, 5), "c": np.array(False)}
        np.testing.assert_array_equal(net.run(feeds)["y"], -normal(4, 3, 5))


def loop(
    nodes: list[onnx.NodeProto], initial: str = "x", scans: int = 0, on: str = "go", **fixed: Any
) -> bytes:
    inside = graph(
        [*nodes, node("Identity", [on], ["on"])],
        [*ITERATION, tensor("s", None)],
        untyped("on", "t", *(["u"] if scans else [])),
    )
    call = node("Loop", ["m", "", initial], ["y", *(["z"] if scans else [])], body=inside)
    after = [node("Transpose", ["z"], ["out"], perm=[1, 0, 2, 3])] if scans else []
    names = ["y", "out"] if scans else ["y"]
    inputs = [tensor("x", ["N", 3, 5]), tensor("m", [], INT64)]
    return model([call, *after], inputs, untyped(*names), **fixed)


def test_items_stay_apart_through_all_passes() -> None:
    step = [node("MatMul", ["s", "w"], ["p"]), node("Add", ["p", "x"], ["t"])]
    apart(loop(step, w=normal(5, 5) / 5), m=np.array(3))
    stack = [*step, node("Softmax", ["t"], ["u"], axis=2)]
    apart(loop(stack, scans=1, w=normal(5, 5) / 5), m=np.array(3))


def test_states_that_swap_are_followed_until_they_settle() -> None:
    """The second state is the same for all items at first, and holds items after two passes."""
    inside = graph(
        [
            node("Identity", ["b"], ["a2"]),
            node("Identity", ["x"], ["b2"]),
            node("Identity", ["go"], ["on"]),
        ],
        [*ITERATION, tensor("a", None), tensor("b", None)],
        untyped("on", "a2", "b2"),
    )
    data = model(
        [node("Loop", ["m", "", "w", "w"], ["y", "z"], body=inside)],
        [tensor("x", ["N", 3, 5]), tensor("m", [], INT64)],
        untyped("y", "z"),
        w=normal(1, 3, 5),
    )
    mixed(data, "same axis")


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (loop([node("CumSum", ["s", "zero"], ["t"])], zero=np.array(0)), ""),
        (loop([node("Softmax", ["s"], ["t"], axis=0)]), "axis 0"),
        (loop([node("Add", ["s", "x"], ["t"])], initial="w", w=normal(1, 3, 5)), "Add"),
        (
            loop(
                [
                    node("ReduceMax", ["s"], ["top"], keepdims=0),
                    node("Greater", ["top", "top"], ["more"]),
                    node("Neg", ["s"], ["t"]),
                ],
                on="more",
            ),
            "",
        ),
    ],
)
def test_loops_that_mix_items_are_told(data: bytes, why: str) -> None:
    mixed(data, why)


def scan(axis: int, out: int, nodes: list[onnx.NodeProto], **fixed: Any) -> bytes:
    """The state has the items; slices along `axis` of x are added to it."""
    inside = graph(nodes, [tensor("s", None), tensor("v", None)], untyped("t", "u"))
    call = node(
        "Scan",
        ["start", "x"],
        ["y", "z"],
        body=inside,
        num_scan_inputs=1,
        scan_input_axes=[axis],
        scan_output_axes=[out],
    )
    before = node("ReduceSum", ["x", "axes"], ["start"], keepdims=0)
    return model(
        [before, call],
        [tensor("x", ["N", 3, 5])],
        untyped("y", "z"),
        axes=np.array([axis]),
        **fixed,
    )


RUN = [node("Add", ["s", "v"], ["t"]), node("Mul", ["s", "v"], ["u"])]


@pytest.mark.parametrize(("axis", "out"), [(1, 1), (2, -1), (-1, 1), (1, 2)])
def test_items_stay_apart_while_a_scan_walks_along_another_axis(axis: int, out: int) -> None:
    apart(scan(axis, out, RUN))


def test_scans_along_the_items_and_outputs_in_front_of_them_are_told() -> None:
    mixed(scan(0, 0, RUN), "")
    mixed(scan(1, 0, RUN), "axis 0")


def test_the_first_scan_takes_items_one_by_one() -> None:
    inside = graph(
        [node("Add", ["s", "v"], ["t"]), node("CumSum", ["v", "zero"], ["u"])],
        [tensor("s", [5]), tensor("v", [5])],
        [tensor("t", [5]), tensor("u", [5])],
        zero=np.array(0),
    )
    built = model(
        [
            node("ReduceMax", ["x"], ["start"], axes=[1], keepdims=0),
            node("Scan", ["", "start", "x"], ["y", "z"], body=inside, num_scan_inputs=1),
        ],
        [tensor("x", ["N", 3, 5])],
        untyped("y", "z"),
        opset=8,
    )
    parsed = onnx.ModelProto.FromString(built)
    (body,) = [a.g for n in parsed.graph.node for a in n.attribute if a.name == "body"]
    body.node[1].op_type = "Identity"  # CumSum came with opset 11
    del body.node[1].input[1]
    apart(parsed.SerializeToString())
