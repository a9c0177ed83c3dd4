"""How a value is quantized, read from a QuantizeLinear or DequantizeLinear node."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.dtypes import DType
from engine.ir.graph import Graph, Node
from engine.ir.types import TensorType
from engine.passes.context import PassContext
from engine.passes.rewriting import fixed, tensor_type

BYTES = (DType.INT8, DType.UINT8)


@dataclass(frozen=True, eq=False)
class Quantization:
    """A fixed scale and zero point, one or one per entry of an axis.

    Attributes:
        scale: float32, shape () or (entries,).
        zero_point: int32 of the same shape.
        axis: The axis, not negative, or None for a single scale.
        dtype: The type of the integers.
    """

    scale: np.ndarray
    zero_point: np.ndarray
    axis: int | None
    dtype: DType

    def equals(self, other: Quantization) -> bool:
        """Whether both stand for the same numbers."""
        return (
            self.axis == other.axis
            and self.dtype is other.dtype
            and np.array_equal(self.scale, other.scale)
            and np.array_equal(self.zero_point, other.zero_point)
        )

    def spread(self, values: np.ndarray, rank: int) -> np.ndarray:
        """Return a number per entry shaped to broadcast over a value of this rank."""
        if self.axis is None:
            return values.reshape(())
        return values.reshape(-1, *(1,) * (rank - 1 - self.axis))


def onnx_node(graph: Graph, name: str, *ops: str) -> Node | None:
    """Return the node of these ONNX operators that gives a name."""
    node = graph.producers.get(name)
    return node if node is not None and not node.domain and node.op in ops else None


def attribute(ctx: PassContext, node: Node, name: str) -> Any:
    """Return an attribute or its default."""
    return ctx.registry.find(node).complete(node).get(name)


def quantization_of(graph: Graph, node: Node, ctx: PassContext) -> Quantization | None:
    """Return the parameters of a QuantizeLinear or DequantizeLinear; None when they are computed,
    blocked, or between types that have no kernels.
    """
    small, wide = (node.inputs[0], node.outputs[0])[:: 1 if node.op[0] == "D" else -1]
    kinds = tensor_type(graph, small), tensor_type(graph, wide)
    if kinds[0] is None or kinds[1] is None or kinds[1].dtype is not DType.FLOAT32:
        return None
    shape = kinds[0].shape
    if shape is None or kinds[0].dtype not in (*BYTES, DType.INT16, DType.UINT16, DType.INT32):
        return None
    own = ctx.registry.find(node).complete(node)
    if own.get("block_size", 0) or own.get("precision", 0) not in (0, 1):
        return None
    scale = fixed(graph, node.inputs[1])
    zero = fixed(graph, node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] else None
    if scale is None or scale.dtype != np.float32 or scale.size == 0:
        return None
    if zero is None and len(node.inputs) > 2 and node.inputs[2]:
        return None
    zero = np.zeros(scale.shape, np.int32) if zero is None else zero.astype(np.int32)
    if not np.isfinite(scale).all() or (scale <= 0).any() or zero.size != scale.size:
        return None
    if scale.size == 1:
        return Quantization(scale.reshape(()), zero.reshape(()), None, kinds[0].dtype)
    axis = int(own["axis"])
    axis += len(shape) if axis < 0 else 0
    if not 0 <= axis < len(shape) or shape[axis] != scale.size:
        return None
    return Quantization(scale.reshape(-1), zero.reshape(-1), axis, kinds[0].dtype)


def dequantized(graph: Graph, name: str, ctx: PassContext) -> tuple[str, Quantization] | None:
    """Return the integers behind a float and how they are quantized."""
    node = onnx_node(graph, name, "DequantizeLinear")
    found = None if node is None else quantization_of(graph, node, ctx)
    return None if node is None or found is None else (node.inputs[0], found)


def shape_and_type(graph: Graph, name: str) -> TensorType:
    """Return the type of a tensor whose shape is known."""
    kind = tensor_type(graph, name)
    assert kind is not None and kind.shape is not None
    return kind
