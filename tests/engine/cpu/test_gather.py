"""Reading by index, against the reference."""

from __future__ import annotations

import numpy as np
import pytest

from engine.cpu.kernels.gather import Gather, GatherElements, GatherND
from engine.cpu.native import compile_kernel
from engine.cpu.target import ISAS, target_for
from engine.dtypes import DType
from tests.engine.cpu.programs import check
from tests.engine.onnx_models import node, normal


def indices(shape: tuple[int, ...], size: int, dtype: type = np.int64) -> np.ndarray:
    return np.random.default_rng(1).integers(-size, size, shape).astype(dtype)


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_gather(axis: int, dtype: type) -> None:
    x = normal(6, 5, 7)
    i = indices((2, 3), x.shape[axis], dtype)
    shapes = {"x": ["A", "B", "C"], "i": ["R", "S"]}
    nodes = [node("Gather", ["x", "i"], ["y"], axis=axis)]
    check(nodes, {"x": x, "i": i}, [("y", list("abcd"))], shapes=shapes)


def test_lookup_in_a_fixed_table() -> None:
    weights = {"table": normal(50, 48), "first": np.array(0, np.int64)}
    nodes = [
        node("Gather", ["table", "ids"], ["e"]),
        node("Gather", ["e", "first"], ["y"], axis=1),
    ]
    shapes = {"ids": ["N", "L"]}
    for size in ((3, 5), (0, 4)):
        feeds = {"ids": indices(size, 50)}
        check(nodes, feeds, [("y", ["N", 48])], weights, shapes=shapes)


@pytest.mark.parametrize("wrong", [50, -51, 1 << 40])
def test_an_index_out_of_range_is_told_of(wrong: int) -> None:
    weights = {"table": normal(50, 3)}
    i = indices((4,), 50)
    i[2] = wrong
    nodes = [node("Gather", ["table", "i"], ["y"])]
    with pytest.raises(IndexError, match="outside of"):
        check(nodes, {"i": i}, [("y", [4, 3])], weights)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_gather_elements(axis: int) -> None:
    x = normal(3, 4, 5)
    shape = [3, 4, 5]
    shape[axis] = 6
    i = indices(tuple(shape), x.shape[axis])
    nodes = [node("GatherElements", ["x", "i"], ["y"], axis=axis)]
    check(nodes, {"x": x, "i": i}, [("y", shape)])
    i.flat[7] = 9
    with pytest.raises(IndexError):
        check(nodes, {"x": x, "i": i}, [("y", shape)])


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_gather_nd(depth: int) -> None:
    x = normal(3, 4, 5)
    i = np.stack([indices((2, 6), x.shape[k]) for k in range(depth)], axis=-1)
    nodes = [node("GatherND", ["x", "i"], ["y"])]
    out = [2, 6, *x.shape[depth:]]
    check(nodes, {"x": x, "i": i}, [("y", out)])
    i[1, 2, depth - 1] = -7
    with pytest.raises(IndexError):
        check(nodes, {"x": x, "i": i}, [("y", out)])


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("depth", [1, 2])
def test_gather_nd_in_batches(batch: int, depth: int) -> None:
    x = normal(2, 3, 4, 5)
    lead = x.shape[:batch]
    i = np.stack([indices((*lead, 6), x.shape[batch + k]) for k in range(depth)], axis=-1)
    nodes = [node("GatherND", ["x", "i"], ["y"], batch_dims=batch)]
    shapes = {"x": ["A", "B", "C", "D"], "i": [*"AB"[:batch], "R", depth]}
    out = [*lead, 6, *x.shape[batch + depth :]]
    check(nodes, {"x": x, "i": i}, [("y", out)], shapes=shapes, steps=1)
    check(nodes, {"x": x[:0], "i": i[:0]}, [("y", [0, *out[1:]])], shapes=shapes)
    check(nodes, {"x": x, "i": i[..., :0, :]}, [("y", None)], shapes=shapes)
    i.flat[-1] = 99
    with pytest.raises(IndexError, match="out of range"):
        check(nodes, {"x": x, "i": i}, [("y", out)], shapes=shapes)


@pytest.mark.parametrize("isa", ISAS)
def test_code_for_every_processor(isa: str) -> None:
    for kernel in (
        Gather(DType.INT64, 0),
        Gather(DType.INT32, 4),
        GatherElements(DType.INT64, 4),
        GatherND(DType.INT64, 2),
    ):
        assert compile_kernel(kernel, "kernel", target_for(isa))
