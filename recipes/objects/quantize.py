"""Weights as int8 with one scale per output: a quarter of the file, computed with in float32."""

from __future__ import annotations

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from torch import nn

LARGEST = 127                             # symmetric: -128 is not used
SMALLEST = 1024                           # elements; smaller tensors stay float32
SCALE_BITS = 16                           # significant bits of a scale: 7 more give exact products


def scales_of(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the scale of each output (first axis), short enough that integers times it are exact.

    So a rounded weight is an exact float32 product, and the same scales are found in it again.
    """
    largest = np.abs(weight).reshape(len(weight), -1).max(1)
    mantissa, exponent = np.frexp(np.where(largest == 0, LARGEST, largest).astype(np.float64))
    # Downwards: rounding up could carry into another power of two, and be found again otherwise.
    short = np.floor(mantissa / LARGEST * 2.0 ** (SCALE_BITS + 6))
    return np.ldexp(short, exponent - SCALE_BITS - 6).astype(np.float32)


def rounded(weight: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return int8 values and scales (outputs,) whose product is nearest to `weight`."""
    scales = scales_of(weight)
    columns = scales.reshape(-1, *[1] * (weight.ndim - 1))
    values = np.clip(np.rint(weight / columns), -LARGEST, LARGEST).astype(np.int8)
    return values, scales


def product(values: NDArray[np.int8], scales: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the float32 weight that int8 values and scales stand for."""
    return values.astype(np.float32) * scales.reshape(-1, *[1] * (values.ndim - 1))


@torch.no_grad()
def round_weights(net: nn.Module) -> None:
    """Round every larger filter and matrix of a net to int8; do so before it is measured."""
    for tensor in net.parameters():
        if tensor.ndim >= 2 and tensor.numel() >= SMALLEST:
            tensor.copy_(torch.from_numpy(product(*rounded(tensor.numpy()))))


def store_int8(proto: onnx.ModelProto) -> None:
    """Store as int8, with DequantizeLinear behind it, every tensor that `round_weights` rounded.

    Raises ValueError where a large tensor would lose by it: the figures would not be the file's.
    """
    graph = proto.graph
    nodes: list[onnx.NodeProto] = []
    for tensor in list(graph.initializer):
        weight = numpy_helper.to_array(tensor)
        if weight.dtype != np.float32 or weight.ndim < 2 or weight.size < SMALLEST:
            continue
        values, scales = rounded(weight)
        if not np.array_equal(product(values, scales), weight):
            raise ValueError(f"{tensor.name} was not rounded to int8 before the export")
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(values, f"{name}.int8"))
        graph.initializer.append(numpy_helper.from_array(scales, f"{name}.scale"))
        inputs = [tensor.name, f"{name}.scale"]
        nodes.append(helper.make_node("DequantizeLinear", inputs, [name], axis=0))
    nodes.extend(graph.node)
    del graph.node[:]
    graph.node.extend(nodes)
