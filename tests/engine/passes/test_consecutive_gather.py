"""Gathers that take everything in order become reshapes, and no others do."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from onnx import TensorProto

import engine
from tests.engine.onnx_models import load, model, node

INT = TensorProto.INT64
WEIGHTS = {
    "zero": np.array(0),
    "one": np.array(1),
    "zeros": np.array([0]),
    "ones": np.array([1]),
    "two": np.array([2]),
    "flat": np.array([-1]),
}
# the mask `x` of N rows and L places, and the numbers 0..N-1 as a column and 0..L-1
COUNTING = [
    node("Shape", ["x"], ["shape"]),
    node("Gather", ["shape", "zero"], ["n"]),
    node("Gather", ["shape", "one"], ["length"]),
    node("Range", ["zero", "n", "one"], ["rows"]),
    node("Range", ["zero", "length", "one"], ["places"]),
    node("Unsqueeze", ["rows", "ones"], ["column"]),
]


def flat(block: str = "length", column: str = "column", places: str = "places") -> Sequence:
    """`row * block + place`, as torch's older exporter indexes."""
    return [
        *COUNTING,
        node("Mul", [column, block], ["first"]),
        node("Add", ["first", places], ["index"]),
        node("Reshape", ["x", "flat"], ["values"]),
        node("Gather", ["values", "index"], ["y"]),
    ]


def pairs(*order: str) -> Sequence[onnx.NodeProto]:
    """Pairs of row and place, as torch's newer exporter indexes."""
    return [
        *COUNTING,
        node("Expand", ["column", "shape"], ["a"]),
        node("Expand", ["places", "shape"], ["b"]),
        node("Unsqueeze", ["a", "two"], ["first"]),
        node("Unsqueeze", ["b", "two"], ["second"]),
        node("Concat", order, ["index"], axis=-1),
        node("GatherND", ["x", "index"], ["y"]),
    ]


def run(nodes: Sequence[onnx.NodeProto], square: bool = False) -> tuple[engine.Model, np.ndarray]:
    x = np.arange(9 if square else 12).reshape(3, -1)
    shape = ["N", "N"] if square else ["N", "L"]
    loaded = load(model(nodes, [("x", shape, INT)], [("y", None, INT)], WEIGHTS))
    return loaded, loaded.run({"x": x})["y"]


@pytest.mark.parametrize("fixed", [[0, 1, 2, 3], [3, 2, 1, 0]])
def test_a_fixed_count_within_rows(fixed: list[int]) -> None:
    """As `as_strided` comes out for a net of fixed length and any number of rows."""
    nodes = flat(block="four", places="fixed")
    weights = {**WEIGHTS, "four": np.array(4), "fixed": np.array(fixed)}
    data = model(nodes, [("x", ["N", 4], INT)], [("y", None, INT)], weights)
    with load(data) as loaded:
        x = np.arange(12).reshape(3, 4)
        np.testing.assert_array_equal(loaded.run({"x": x})["y"], x[:, fixed])
        assert (loaded.batch is not None) == (fixed[0] == 0)


@pytest.mark.parametrize("nodes", [flat(), pairs("first", "second")])
def test_everything_in_order_is_a_reshape(nodes: Sequence[onnx.NodeProto]) -> None:
    loaded, y = run(nodes)
    np.testing.assert_array_equal(y, np.arange(12).reshape(3, 4))
    assert not {"Gather", "GatherND", "Range"} & {n.op for n in loaded.graph.nodes}
    assert loaded.batch == engine.BatchAxes(frozenset({"x"}), frozenset({"y"}))


@pytest.mark.parametrize(
    "nodes",
    [
        flat(block="one"),  # rows overlap
        flat(block="n"),  # blocks of another size
        flat(column="rows", places="zero"),  # the first of each
    ],
)
def test_other_flat_indices_stay(nodes: Sequence[onnx.NodeProto]) -> None:
    loaded, y = run(nodes)
    assert "Gather" in {n.op for n in loaded.graph.nodes}
    with load(
        model(nodes, [("x", ["N", "L"], INT)], [("y", None, INT)], WEIGHTS), outputs=engine.ALL
    ) as plain:
        np.testing.assert_array_equal(y, plain.run({"x": np.arange(12).reshape(3, 4)})["y"])
    assert loaded.batch is None


def test_places_picked_in_every_row() -> None:
    """As a mask is read for the places that there are, when its own length is another symbol."""
    before, after = COUNTING[:3], pairs("first", "second")[len(COUNTING) + 2 :]
    nodes = [
        *before,
        node("Range", ["zero", "n", "one"], ["rows"]),
        node("Unsqueeze", ["rows", "ones"], ["column"]),
        node("Max", ["column", "places"], ["both"]),
        node("Shape", ["both"], ["wanted"]),
        node("Expand", ["column", "wanted"], ["a"]),
        node("Expand", ["places", "wanted"], ["b"]),
        *after,
    ]
    weights = {**WEIGHTS, "places": np.array([2, 0])}
    with load(model(nodes, [("x", ["N", "L"], INT)], [("y", None, INT)], weights)) as loaded:
        x = np.arange(12).reshape(3, 4)
        np.testing.assert_array_equal(loaded.run({"x": x})["y"], x[:, [2, 0]])
        assert loaded.batch == engine.BatchAxes(frozenset({"x"}), frozenset({"y"}))


def test_transposed_pairs_stay() -> None:
    loaded, y = run(pairs("second", "first"), square=True)
    np.testing.assert_array_equal(y, np.arange(9).reshape(3, 3).T)
    assert loaded.batch is None
