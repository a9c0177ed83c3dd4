"""Epilogues that do not fit into a contraction's registers still run as native code."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

import engine
from engine.cpu.device import CpuDevice
from engine.device import CompileOptions
from tests.engine.onnx_models import model

make = helper.make_node


def numbers(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def check(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, tuple[int | str, ...]],
    weights: dict[str, np.ndarray],
    batch: int = 3,
) -> None:
    """Native, and equal to the reference device; `y` and what reads it."""
    nodes = [*nodes, make("Relu", ["y"], ["z"])]
    outputs = [("y", None), ("z", None)]
    source = model(nodes, list(inputs.items()), outputs, weights)
    graph = engine.load(source, device="reference").graph
    coverage = CpuDevice().coverage(graph, CompileOptions())
    assert [c.reason for c in coverage] == [None] * len(coverage)
    feeds = {
        name: numbers(i, *(d if isinstance(d, int) else batch for d in shape))
        for i, (name, shape) in enumerate(inputs.items())
    }
    found = engine.load(source, device="cpu").run(feeds)
    expected = engine.load(source, device="reference").run(feeds)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("shape", [("N", 20, 1, 1), (1, 1, 6, 7), ("N", 20, 6, 1), (1, 20, 1, 1)])
def test_a_convolution_times_what_broadcasts(shape: tuple[int | str, ...]) -> None:
    nodes = [make("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1]), make("Mul", ["a", "s"], ["y"])]
    check(nodes, {"x": ("N", 8, 6, 7), "s": shape}, {"w": numbers(5, 20, 8, 3, 3)})


def test_a_product_plus_places() -> None:
    nodes = [make("MatMul", ["x", "w"], ["a"]), make("Add", ["a", "p"], ["y"])]
    check(nodes, {"x": ("N", 5, 12)}, {"w": numbers(5, 12, 40), "p": numbers(6, 5, 40)})


def test_a_product_of_computed_sides_masked() -> None:
    nodes = [make("MatMul", ["x", "w"], ["a"]), make("Add", ["a", "m"], ["y"])]
    check(nodes, {"x": ("N", 5, 12), "w": ("N", 12, 9), "m": ("N", 1, 9)}, {})


def test_a_gemm_plus_a_column_of_rows() -> None:
    nodes = [make("Gemm", ["x", "w"], ["a"], transB=1), make("Add", ["a", "r"], ["y"])]
    check(nodes, {"x": ("N", 12), "r": ("N", 1)}, {"w": numbers(5, 40, 12)})


def test_a_transposed_convolution_times_what_broadcasts() -> None:
    nodes = [
        make("ConvTranspose", ["x", "w"], ["a"], strides=[2, 2]),
        make("Mul", ["a", "s"], ["y"]),
    ]
    check(nodes, {"x": ("N", 8, 3, 4), "s": ("N", 20, 1, 1)}, {"w": numbers(5, 8, 20, 2, 2)})
