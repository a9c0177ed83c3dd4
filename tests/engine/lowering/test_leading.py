"""Inputs whose numbers of rows a file names apart: batched together, and one row beside many."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import engine
from engine.lowering.leading import LeadingDims
from tests.engine.onnx_models import model, node, normal, ort_run

Dims = Sequence[int | str | None]


def three(*names: str | None) -> list[tuple[str, Dims]]:
    return [(name, [size, 4]) for name, size in zip("abc", names, strict=True)]


CHAIN = [
    node("Add", ["a", "b"], ["s"]),
    node("Mul", ["s", "c"], ["t"]),
    node("Softmax", ["t"], ["y"]),
    node("Sigmoid", ["b"], ["z"]),
    node("MatMul", ["s", "w"], ["m"]),
]
OUTPUTS = [("y", None), ("z", None), ("m", None)]
WEIGHTS = {"w": normal(4, 3, seed=9)}


@pytest.mark.parametrize("device", ["reference", "cpu"])
@pytest.mark.parametrize("names", [("N", "M", "K"), ("N", "M", "N"), (None, None, None)])
def test_one_row_beside_many(device: str, names: tuple[str | None, ...]) -> None:
    data = model(CHAIN, three(*names), OUTPUTS, WEIGHTS)
    ran = 0
    with engine.load(data, device=device) as loaded:
        assert loaded.batch is not None and loaded.batch.inputs == {"a", "b", "c"}
        for sizes in itertools.product((1, 3, 6), repeat=3):
            feeds = {n: normal(size, 4, seed=size) for n, size in zip("abc", sizes, strict=True)}
            is_one_name = names[0] is not None and names[0] == names[2]
            fits = len({*sizes} - {1}) < 2 and (not is_one_name or sizes[0] == sizes[2])
            if not fits:
                with pytest.raises(engine.EngineError):
                    loaded.run(feeds)
                continue
            ran += 1
            got = loaded.run(feeds)
            for name, want in ort_run(data, feeds).items():
                np.testing.assert_allclose(got[name], want, 1e-5, 1e-6, err_msg=str(sizes))
    assert ran >= 7


@pytest.mark.parametrize("device", ["reference", "cpu"])
def test_no_row_beside_one(device: str) -> None:
    nodes = [node("Add", ["a", "b"], ["s"]), node("Relu", ["s"], ["y"])]
    data = model(nodes, [("a", ["N", 4]), ("b", ["M", 4])], [("y", None)])
    with engine.load(data, device=device) as loaded:
        assert loaded.run({"a": normal(0, 4), "b": normal(1, 4)})["y"].shape == (0, 4)
        assert loaded.run({"a": normal(1, 4), "b": normal(0, 4)})["y"].shape == (0, 4)
        with pytest.raises(engine.InvalidInput, match="must be equal"):
            loaded.run({"a": normal(0, 4), "b": normal(2, 4)})


def attention() -> list[onnx.NodeProto]:
    """Scores of a's rows with a mask that has a number of rows of its own."""
    return [
        node("Transpose", ["a"], ["t"], perm=[0, 2, 1]),
        node("MatMul", ["a", "t"], ["scores"]),
        node("Add", ["scores", "mask"], ["masked"]),
        node("Softmax", ["masked"], ["weights"]),
        node("MatMul", ["weights", "a"], ["y"]),
    ]


@pytest.mark.parametrize("device", ["reference", "cpu"])
def test_a_mask_for_all_rows(device: str) -> None:
    inputs = [("a", ["N", "L", 4]), ("mask", ["M", 1, "L"])]
    data = model(attention(), inputs, [("y", None)])
    with engine.load(data, device=device) as loaded:
        assert loaded.batch == engine.BatchAxes(frozenset({"a", "mask"}), frozenset({"y"}))
        for rows, masks in ((3, 3), (3, 1), (1, 3), (1, 1)):
            feeds = {"a": normal(rows, 5, 4), "mask": normal(masks, 1, 5, seed=1)}
            (want,) = ort_run(data, feeds).values()
            np.testing.assert_allclose(loaded.run(feeds)["y"], want, 1e-4, 1e-5)


MEETING = {
    "joined": [node("Concat", ["a", "b"], ["y"], axis=1)],
    "joined after a sum": [
        node("Add", ["a", "b"], ["s"]),
        node("Concat", ["s", "b"], ["y"], axis=1),
    ],
    "counted by the other": [
        node("Shape", ["b"], ["size"]),
        node("Reshape", ["a", "size"], ["r"]),
        node("Add", ["r", "b"], ["y"]),
    ],
}


@pytest.mark.parametrize("name", MEETING)
def test_rows_that_must_be_as_many_stay_so(name: str) -> None:
    inputs = [("a", ["N", 4]), ("b", ["M", 4])]
    data = model(MEETING[name], inputs, [("y", None)])
    with engine.load(data, device="reference") as loaded:
        feeds = {"a": normal(3, 4), "b": normal(3, 4, seed=1)}
        (want,) = ort_run(data, feeds).values()
        np.testing.assert_allclose(loaded.run(feeds)["y"], want, 1e-6)
        with pytest.raises(engine.EngineError):
            loaded.run({"a": normal(1, 4), "b": normal(3, 4)})


@pytest.mark.parametrize("device", ["reference", "cpu"])
@pytest.mark.parametrize("op", ["GatherElements", "ScatterElements"])
def test_fewer_rows_of_indices_than_of_data(device: str, op: str) -> None:
    extra: list[tuple[str, Dims]] = [("u", ["M", 3])] if op == "ScatterElements" else []
    made = node(op, ["x", "i", *(name for name, _ in extra)], ["y"], axis=1)
    data = model([made], [("x", ["N", 4]), ("i", ["M", 3], 7), *extra], [("y", None)])
    with engine.load(data, device=device) as loaded:
        assert loaded.batch is None
        for rows in (2, 5):
            i = np.random.default_rng(rows).integers(0, 4, (rows, 3))
            feeds = {"x": normal(5, 4), "i": i, "u": normal(rows, 3, seed=1)}
            feeds = {name: feeds[name] for name in ("x", "i", *(name for name, _ in extra))}
            (want,) = ort_run(data, feeds).values()
            np.testing.assert_array_equal(loaded.run(feeds)["y"], want)


def test_a_file_keeps_what_may_differ(tmp_path: Path) -> None:
    nodes = [node("Add", ["a", "b"], ["y"])]
    data = model(nodes, [("a", ["N", 4]), ("b", ["M", 4])], [("y", None)])
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    feeds = {"a": normal(1, 4), "b": normal(5, 4)}
    for _ in range(2):  # compiled, then mapped
        with engine.load(path, device="reference", cache_dir=tmp_path / "cache") as loaded:
            np.testing.assert_array_equal(loaded.run(feeds)["y"], feeds["a"] + feeds["b"])


def test_feeds_that_do_not_fit_are_left_to_their_check() -> None:
    leading = LeadingDims({"a": "N", "b": "M", "c": "N"}, {"y": ("M", "N"), "z": ("N",)})
    one, three_rows, two = normal(1, 4), normal(3, 4), normal(2, 4)
    unfit: list[dict[str, Any]] = [
        {"a": one, "b": three_rows},
        {"a": one, "b": three_rows, "c": 1.0},
        {"a": one, "b": three_rows, "c": np.float32(1)},
        {"a": two, "b": three_rows, "c": two},
        {"a": one, "b": one, "c": three_rows},
        {"a": two, "b": two, "c": two},
        {"a": one, "b": one[:0], "c": one},  # z is to have a row
    ]
    for feeds in unfit:
        assert leading.align(feeds) is None
    aligned = leading.align({"a": one, "b": three_rows, "c": one})
    assert aligned is not None and aligned.kept == {"z": 1}
    assert {name: len(array) for name, array in aligned.feeds.items()} == dict.fromkeys("abc", 3)
    assert LeadingDims.from_json(leading.to_json()) == leading
