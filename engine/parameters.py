"""Tells the weights of a graph from its other fixed values.

Files keep shapes, axes, indices and flags as tensors beside the weights. Nothing of that was
learned, so a count of parameters leaves it out.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from engine.dtypes import DType
from engine.ir.graph import Array, Graph, Node

WEIGHT_BITS: Final = 8  # integers up to these are quantized weights; wider ones count something
# Biases of quantized layers are 32 bits wide, as their sums are.
TAKES_WIDE: Final = ("DequantizeLinear", "QLinearConv", "QGemm", "ConvIntegerToFloat")


def count_parameters(graph: Graph, names: Iterable[str]) -> int:
    """Return how many elements the weights among these fixed values of a graph have."""
    found = ((name, graph.constant(name)) for name in dict.fromkeys(names) if name)
    return sum(
        int(array.size)
        for name, array in found
        if array is not None and is_weight(array, graph.consumers.get(name, ()))
    )


def is_weight(array: Array, readers: Iterable[Node]) -> bool:
    """Whether a fixed value is a weight, judged by its type and by the nodes that read it."""
    dtype = DType.from_numpy(array.dtype)
    if dtype.is_float or dtype in (DType.COMPLEX64, DType.COMPLEX128):
        return True
    if not dtype.is_integer:
        return False
    if dtype.bits <= WEIGHT_BITS:
        return True
    return dtype is DType.INT32 and any(node.op in TAKES_WIDE for node in readers)


__all__ = ["count_parameters", "is_weight"]
