"""What may be batched is proved: rows independent, rows that meet, exports for one row."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from onnx import TensorProto

import engine
from tests.engine.onnx_models import convnet, load, mlp, model, node, normal

INT = TensorProto.INT64
REST = [6, 4]


def net(nodes: Sequence[onnx.NodeProto], batch: int | str = "N", **weights: np.ndarray) -> bytes:
    return model(nodes, [("x", [batch, *REST])], [("y", None)], weights)


def check_rows(loaded: engine.Model, feeds: dict[str, np.ndarray], exact: bool = False) -> None:
    """A batch gives what its rows give alone, and a broken row breaks no other."""
    axes = loaded.batch
    assert axes is not None, loaded.batch_reason
    count = len(feeds[min(axes.inputs)])
    whole = loaded.run(feeds)
    for i in range(count):
        alone = loaded.run({n: a[i : i + 1] if n in axes.inputs else a for n, a in feeds.items()})
        for name in axes.outputs:
            np.testing.assert_allclose(whole[name][i : i + 1], alone[name], rtol=1e-5, atol=1e-6)
    broken = {n: a.copy() for n, a in feeds.items()}
    for name in axes.inputs:
        if broken[name].dtype.kind == "f":
            broken[name][1] = np.nan
    after = loaded.run(broken)
    for name in axes.outputs:
        np.testing.assert_array_equal(np.delete(after[name], 1, 0), np.delete(whole[name], 1, 0))


INDEPENDENT = {
    "elementwise": [node("Sigmoid", ["x"], ["y"])],
    "softmax over the last axis": [node("Softmax", ["x"], ["y"], axis=-1)],
    "mean over the other axes": [node("ReduceMean", ["x", "one"], ["y"], keepdims=0)],
    "matmul": [node("MatMul", ["x", "w"], ["y"])],
    "bias": [node("Add", ["x", "bias"], ["y"])],
    "transpose behind the batch": [node("Transpose", ["x"], ["y"], perm=[0, 2, 1])],
    "there and back": [
        node("Transpose", ["x"], ["a"], perm=[1, 0, 2]),
        node("Relu", ["a"], ["b"]),
        node("Transpose", ["b"], ["y"], perm=[1, 0, 2]),
    ],
    "flatten": [node("Flatten", ["x"], ["y"], axis=1)],
    "reshape keeping the batch": [node("Reshape", ["x", "flat"], ["y"])],
    "attention": [
        node("Transpose", ["x"], ["t"], perm=[0, 2, 1]),
        node("MatMul", ["x", "t"], ["s"]),
        node("Softmax", ["s"], ["p"], axis=-1),
        node("MatMul", ["p", "x"], ["y"]),
    ],
    "tokens merged and taken apart": [
        node("Reshape", ["x", "merged"], ["a"]),
        node("Gemm", ["a", "w"], ["b"]),
        node("Reshape", ["b", "apart"], ["y"]),
    ],
    "layer normalization": [node("LayerNormalization", ["x", "g"], ["y"], axis=-1)],
    "concat of features": [node("Concat", ["x", "x"], ["y"], axis=2)],
    "gather of features": [node("Gather", ["x", "first"], ["y"], axis=1)],
    "slice of features": [node("Slice", ["x", "zero", "three", "one"], ["y"])],
    "shape chain": [
        node("Shape", ["x"], ["s"]),
        node("Gather", ["s", "none"], ["n"], axis=0),
        node("Unsqueeze", ["n", "zero"], ["n1"]),
        node("Concat", ["n1", "minus"], ["t"], axis=0),
        node("Reshape", ["x", "t"], ["y"]),
    ],
}
WEIGHTS: dict[str, np.ndarray] = {
    "one": np.array([1]),
    "w": normal(4, 4),
    "g": normal(4),
    "bias": normal(6, 1),
    "flat": np.array([0, -1]),
    "merged": np.array([-1, 4]),
    "apart": np.array([-1, 6, 4]),
    "first": np.array([0]),
    "none": np.array(0),
    "zero": np.array([0]),
    "three": np.array([3]),
    "minus": np.array([-1]),
    "size": np.array([24]),
}

DEPENDENT = {
    "mean over the batch": ([node("ReduceMean", ["x", "zero"], ["y"], keepdims=1)], "ReduceMean"),
    "mean over everything": ([node("ReduceMean", ["x"], ["y"])], "ReduceMean"),
    "mean taken away": (
        [node("ReduceMean", ["x", "zero"], ["m"]), node("Sub", ["x", "m"], ["y"])],
        "ReduceMean",
    ),
    "softmax over the batch": ([node("Softmax", ["x"], ["y"], axis=0)], "Softmax"),
    "cumulative sum over the batch": ([node("CumSum", ["x", "none"], ["y"])], "CumSum"),
    "reshape that mixes": ([node("Reshape", ["x", "mix"], ["y"])], "Reshape"),
    "transpose to the end": (
        [node("Transpose", ["x"], ["y"], perm=[1, 2, 0])],
        "output 'y'",
    ),
    "first row for all": ([node("Gather", ["x", "zero"], ["y"], axis=0)], "Gather"),
    "rows backwards": (
        [node("Slice", ["x", "minus", "far", "zero", "minus"], ["y"])],
        "Slice",
    ),
    "times the batch size": (
        [
            node("Shape", ["x"], ["s"]),
            node("Gather", ["s", "none"], ["n"], axis=0),
            node("Cast", ["n"], ["f"], to=TensorProto.FLOAT),
            node("Mul", ["x", "f"], ["y"]),
        ],
        "Mul",
    ),
    "the batch size itself": ([node("Shape", ["x"], ["y"])], "output 'y'"),
    "product over the batch": (
        [
            node("Transpose", ["x"], ["t"], perm=[1, 2, 0]),
            node("Transpose", ["x"], ["u"], perm=[1, 0, 2]),
            node("MatMul", ["t", "u"], ["y"]),
        ],
        "MatMul",
    ),
    "training batch normalization": (
        [
            node("Flatten", ["x"], ["f"], axis=1),
            node("BatchNormalization", ["f", "g24", "g24", "g24", "v24"], ["y"], training_mode=1),
        ],
        "BatchNormalization",
    ),
    "a table larger than a row": ([node("Add", ["x", "table"], ["y"])], "Add"),
}
MORE = {
    "mix": np.array([6, -1, 4]),
    "far": np.array([-(2**40)]),
    "g24": normal(24),
    "v24": np.abs(normal(24)) + 1,
    "table": normal(3, 6, 4),
}


@pytest.mark.parametrize("name", INDEPENDENT)
def test_independent_rows_are_batched(name: str) -> None:
    with load(net(INDEPENDENT[name], **WEIGHTS)) as loaded:
        assert loaded.batch == engine.BatchAxes(frozenset({"x"}), frozenset({"y"}))
        assert loaded.batch_reason is None
        check_rows(loaded, {"x": normal(5, *REST)})


@pytest.mark.parametrize("name", INDEPENDENT)
def test_nets_exported_for_one_are_batched_too(name: str) -> None:
    with load(net(INDEPENDENT[name], batch=1, **WEIGHTS)) as loaded:
        assert loaded.inputs[0].shape == ("N", *REST)
        check_rows(loaded, {"x": normal(5, *REST)})


@pytest.mark.parametrize("name", DEPENDENT)
def test_rows_that_meet_are_not_batched(name: str) -> None:
    nodes, culprit = DEPENDENT[name]
    output = [("y", None, INT)] if name == "the batch size itself" else [("y", None)]
    data = model(nodes, [("x", ["N", *REST])], output, WEIGHTS | MORE)
    with load(data) as loaded:
        assert loaded.batch is None
        assert loaded.batch_reason is not None and culprit in loaded.batch_reason


def test_fixed_reshapes_of_an_export_for_one_are_opened() -> None:
    """`Reshape(x, [1, -1])` and friends, with the number 1 written down."""
    for target in ([1, -1], [1, 24], [1, 2, 12], [6, 4], [-1, 4]):
        nodes = [node("Reshape", ["x", "t"], ["r"])]
        nodes.append(
            node("Relu", ["r"], ["y"]) if target[0] == 1 else node("Reshape", ["r", "b"], ["y"])
        )
        weights = {"t": np.array(target), "b": np.array([1, 6, 4])}
        with load(net(nodes, batch=1, **weights)) as loaded:
            assert loaded.inputs[0].shape == ("N", *REST)
            check_rows(loaded, {"x": normal(3, *REST)})


def test_an_export_for_one_whose_rows_meet_stays_as_it_is() -> None:
    nodes = [node("ReduceMean", ["x", "zero"], ["y"], keepdims=1)]
    with load(net(nodes, batch=1, **WEIGHTS)) as loaded:
        assert loaded.batch is None and "ReduceMean" in str(loaded.batch_reason)
        assert loaded.inputs[0].shape == (1, *REST)


def test_a_fixed_batch_of_another_size_stays() -> None:
    with load(net([node("Relu", ["x"], ["y"])], batch=3)) as loaded:
        assert loaded.batch is None
        assert loaded.batch_reason == "no input has a leading dimension that may vary"


def test_inputs_outside_of_the_batch_are_its_key() -> None:
    nodes = [node("Mul", ["x", "scale"], ["a"]), node("Add", ["a", "bias"], ["y"])]
    inputs = [("x", ["N", 4]), ("scale", []), ("bias", [4])]
    with load(model(nodes, inputs, [("y", None)])) as loaded:
        assert loaded.batch == engine.BatchAxes(frozenset({"x"}), frozenset({"y"}))
        check_rows(loaded, {"x": normal(3, 4), "scale": np.array(2, np.float32), "bias": normal(4)})


def test_two_inputs_with_the_same_symbol_are_batched_together() -> None:
    nodes = [node("Add", ["a", "b"], ["s"]), node("Relu", ["s"], ["y"])]
    data = model(nodes, [("a", ["N", 4]), ("b", ["N", 4])], [("y", None)])
    with load(data) as loaded:
        assert loaded.batch == engine.BatchAxes(frozenset({"a", "b"}), frozenset({"y"}))
        check_rows(loaded, {"a": normal(3, 4), "b": normal(3, 4, seed=1)})


def test_unnamed_leading_dims_are_taken_as_one_where_that_proves_something() -> None:
    nodes = [node("Add", ["a", "b"], ["y"])]
    data = model(nodes, [("a", [None, 4]), ("b", [None, 4])], [("y", None)])
    with load(data) as loaded:
        assert loaded.batch == engine.BatchAxes(frozenset({"a", "b"}), frozenset({"y"}))
        assert loaded.inputs[0].shape == loaded.inputs[1].shape == ("N", 4)


def test_only_some_inputs_of_an_export_for_one_may_be_rows() -> None:
    """A table that all items share, also with a leading 1."""
    nodes = [
        node("ReduceSum", ["table", "zero"], ["t"], keepdims=1),
        node("Add", ["x", "t"], ["y"]),
    ]
    inputs = [("x", [1, 4]), ("table", [1, 4])]
    with load(model(nodes, inputs, [("y", None)], {"zero": np.array([0])})) as loaded:
        assert loaded.batch == engine.BatchAxes(frozenset({"x"}), frozenset({"y"}))
        check_rows(loaded, {"x": normal(3, 4), "table": normal(1, 4)})


def test_outputs_kept_on_the_way_are_rows_too() -> None:
    with load(convnet(), outputs=("y", "f")) as loaded:
        assert loaded.batch == engine.BatchAxes(frozenset({"x"}), frozenset({"y", "f"}))
        check_rows(loaded, {"x": normal(3, 3, 8, 8)})


@pytest.mark.parametrize("batch", ["N", 1])
@pytest.mark.parametrize("make", [mlp, convnet])
def test_whole_nets(make: object, batch: int | str) -> None:
    with load(make(batch=batch)) as loaded:  # type: ignore[operator]
        shape = [4, *(loaded.inputs[0].shape or ())[1:]]
        check_rows(loaded, {"x": normal(*map(int, shape))})


def test_a_class_token_is_the_same_for_every_row() -> None:
    """Vision transformers expand a learned token to the batch and put it in front."""
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Gather", ["s", "none"], ["n"], axis=0),
        node("Unsqueeze", ["n", "zero"], ["n1"]),
        node("Concat", ["n1", "tail"], ["t"], axis=0),
        node("Expand", ["token", "t"], ["e"]),
        node("Concat", ["e", "x"], ["y"], axis=1),
    ]
    weights = WEIGHTS | {"token": normal(1, 1, 4), "tail": np.array([1, 4])}
    with load(net(nodes, **weights)) as loaded:
        check_rows(loaded, {"x": normal(3, *REST)})


def test_a_class_token_of_an_export_for_one_is_repeated() -> None:
    nodes = [node("Concat", ["token", "x"], ["c"], axis=1), node("Relu", ["c"], ["y"])]
    with load(net(nodes, batch=1, token=normal(1, 1, 4))) as loaded:
        assert loaded.inputs[0].shape == ("N", *REST)
        check_rows(loaded, {"x": normal(3, *REST)})


@pytest.mark.parametrize("batch", ["N", 1])
def test_items_in_between_of_merged_axes_are_followed(batch: int | str) -> None:
    """torch's attention: sequence first, sequence and batch merged for the product, taken apart
    again.
    """
    nodes = [
        node("Transpose", ["x"], ["s"], perm=[1, 0, 2]),
        node("Reshape", ["s", "merged"], ["m"]),
        node("Gemm", ["m", "w", "g"], ["p"]),
        node("Mul", ["p", "g"], ["q"]),
        node("Reshape", ["q", "apart"], ["r"]),
        node("Transpose", ["r"], ["y"], perm=[1, 0, 2]),
    ]
    weights = WEIGHTS | {"apart": np.array([6, 1 if batch == 1 else -1, 4])}
    merged = np.array([6, 4]) if batch == 1 else np.array([-1, 4])
    with load(net(nodes, batch=batch, **(weights | {"merged": merged}))) as loaded:
        check_rows(loaded, {"x": normal(3, *REST)})


def test_a_reshape_that_mixes_stays_refused_in_an_export_for_one() -> None:
    """The rows of the table are read across the items."""
    nodes = [node("Reshape", ["x", "t"], ["r"]), node("MatMul", ["a", "r"], ["y"])]
    weights = {"t": np.array([6, 4]), "a": normal(6, 6)}
    with load(net(nodes, batch=1, **weights)) as loaded:
        assert loaded.batch is None and "MatMul" in str(loaded.batch_reason)
