"""Known lists become tensors: with equal answers, known shapes, and items that stay apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from engine.ir.graph import Graph
from engine.passes import sequence_elimination
from engine.passes.sequence_elimination import MOST_ELEMENTS
from tests.engine.onnx_models import load, normal
from tests.engine.ops.bodies import check, model, tensor, untyped
from tests.engine.ops.test_sequences import fixed

node = helper.make_node
A, B = normal(2, 3), normal(2, 3, seed=1)
LISTS = ("Sequence", "SplitTo", "ConcatFrom")


def built(
    nodes: list[onnx.NodeProto], *outputs: str, a: Any = ("N", 3), b: Any = ("N", 3)
) -> bytes:
    return model(nodes, [tensor("a", list(a)), tensor("b", list(b))], untyped(*outputs), 17)


def optimised(data: bytes) -> Graph:
    with load(data) as net:
        return net.graph


def without_lists(data: bytes, feeds: dict[str, Any], *types: str) -> None:
    """Nothing but tensors is left, of these types, and ONNX Runtime agrees."""
    graph = optimised(data)
    assert not [n.op for n in graph.nodes if n.op.startswith(LISTS)]
    assert [str(v.type) for v in graph.outputs] == list(types)
    check(data, feeds)


FEEDS = {"a": A, "b": B}
POSITIONS = [fixed(f"p{i}", np.int64(i)) for i in (0, 1, 2)] + [fixed("last", np.int64(-1))]


def test_elements_of_a_list_are_themselves() -> None:
    nodes = [
        *POSITIONS,
        node("SequenceConstruct", ["a", "b"], ["s"]),
        node("SequenceAt", ["s", "last"], ["u"]),
        node("SequenceAt", ["s", "p0"], ["v"]),
        node("Sub", ["u", "v"], ["y"]),
    ]
    without_lists(built(nodes, "y"), FEEDS, "float32[N, 3]")


def test_lists_are_followed_through_every_step() -> None:
    nodes = [
        *POSITIONS,
        node("SequenceEmpty", [], ["s0"]),
        node("SequenceInsert", ["s0", "a"], ["s1"]),
        node("SequenceInsert", ["s1", "b", "p0"], ["s2"]),
        node("SequenceInsert", ["s2", "a", "last"], ["s3"]),
        node("SequenceErase", ["s3", "p0"], ["s4"]),
        node("SequenceErase", ["s4"], ["s5"]),
        node("SequenceInsert", ["s5", "b"], ["s6"]),
        node("Identity", ["s6"], ["s7"]),
        node("SequenceLength", ["s7"], ["n"]),
        node("ConcatFromSequence", ["s7"], ["y"], axis=-1),
    ]
    without_lists(built(nodes, "y", "n"), FEEDS, "float32[N, 6]", "int64[]")


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("new", [0, 1])
def test_lists_are_joined(axis: int, new: int) -> None:
    nodes = [
        node("SequenceConstruct", ["a", "b", "a"], ["s"]),
        node("ConcatFromSequence", ["s"], ["y"], axis=axis, new_axis=new),
    ]
    data = built(nodes, "y")
    assert not [n.op for n in optimised(data).nodes if n.op.startswith(LISTS)]
    check(data, FEEDS)


@pytest.mark.parametrize("split", [None, np.int64(4), np.int64(5), np.int64([3, 2, 7])])
def test_parts_are_split(split: Any) -> None:
    nodes = [
        *POSITIONS,
        *([] if split is None else [fixed("split", split)]),
        node("SplitToSequence", ["a", *([] if split is None else ["split"])], ["s"], axis=1),
        node("SequenceAt", ["s", "p1"], ["y"]),
        node("SequenceAt", ["s", "last"], ["z"]),
    ]
    sizes = {None: (1, 1), 4: (4, 4), 5: (5, 2)}.get(
        None if split is None else int(split) if split.ndim == 0 else 0, (2, 7)
    )
    without_lists(
        built(nodes, "y", "z", a=("N", 12)),
        {"a": normal(2, 12), "b": B},
        *(f"float32[N, {n}]" for n in sizes),
    )


def test_entries_without_their_dim() -> None:
    nodes = [
        *POSITIONS,
        node("SplitToSequence", ["a"], ["s"], axis=-1, keepdims=0),
        node("SequenceAt", ["s", "p2"], ["y"]),
    ]
    without_lists(built(nodes, "y"), FEEDS, "float32[N]")


def test_items_stay_apart() -> None:
    """What torch writes for `q, k, v = x.chunk(3, -1); torch.stack([q * k, v], 1)`."""
    nodes = [
        *POSITIONS,
        fixed("two", np.int64(2)),
        node("SplitToSequence", ["a", "two"], ["s"], axis=1),
        *(node("SequenceAt", ["s", f"p{i}"], [name]) for i, name in enumerate("qkv")),
        node("Mul", ["q", "k"], ["m"]),
        node("SequenceConstruct", ["m", "v"], ["t"]),
        node("ConcatFromSequence", ["t"], ["y"], axis=1, new_axis=1),
    ]
    inputs = [tensor("a", ["N", 6])]
    data = model(nodes, inputs, untyped("y"), 17)
    with load(data) as net:
        assert net.batch is not None and net.batch.outputs == {"y"}
    check(data, {"a": normal(4, 6)})


@pytest.mark.parametrize(
    "nodes",
    [
        [node("SplitToSequence", ["b"], ["s"], axis=0), node("SequenceAt", ["s", "p0"], ["y"])],
        [
            node("SequenceConstruct", ["a", "b"], ["s"]),
            node("Cast", ["c"], ["i"], to=onnx.TensorProto.INT64),
            node("SequenceAt", ["s", "i"], ["y"]),
        ],
    ],
)
def test_lists_that_only_running_tells_stay(nodes: list[onnx.NodeProto]) -> None:
    inputs = [tensor("a", ["N", 3]), tensor("b", ["N", 3]), tensor("c", [])]
    data = model([*POSITIONS, *nodes], inputs, untyped("y"), 17)
    assert any(n.op.startswith(LISTS) for n in optimised(data).nodes)
    check(data, {**FEEDS, "c": np.array(1, np.float32)})


def test_positions_outside_and_long_lists_stay() -> None:
    outside = [
        *POSITIONS,
        node("SequenceConstruct", ["a", "b"], ["s"]),
        node("SequenceAt", ["s", "p2"], ["y"]),
    ]
    assert any(n.op == "SequenceAt" for n in optimised(built(outside, "y")).nodes)
    wide = [
        *POSITIONS,
        node("SplitToSequence", ["a"], ["s"], axis=1),
        node("SequenceAt", ["s", "p0"], ["y"]),
    ]
    data = built(wide, "y", a=("N", MOST_ELEMENTS + 1))
    assert any(n.op == "SplitToSequence" for n in optimised(data).nodes)


def test_all_lists_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sequence_elimination, "MOST_NAMES", 14)
    nodes = [*POSITIONS]
    for i in range(3):  # of two names each: their parts, the list, and the list joined again
        nodes += [
            node("SplitToSequence", ["a"], [f"s{i}"], axis=0),
            node("ConcatFromSequence", [f"s{i}"], [f"y{i}"], axis=0),
        ]
    data = built(nodes, "y0", "y1", "y2", a=(2, 3))
    kept = [n.op for n in optimised(data).nodes]
    assert kept.count("SplitToSequence") == 1 and kept.count("ConcatFromSequence") == 1
    check(data, FEEDS)
