"""Products with fixed weights compute in bytes, where the model may: precision "int8".

    MatMul(x, Dequantize(w)) + b
      ->  b, r = QuantizeRows(x);  float(MatMulInteger(b, w)) * r * w_scale + b

Each row of the left side is quantized by its own range while the model runs, so that a row's result
does not depend on its neighbours; all products of one value share its bytes. Two passes:
`use_integer_weights` before fixed weights are folded to floats takes the integers that a file
holds; `quantize_weights`, once the floats are known, makes integers of them, a scale per column.
Left alone: scales along the axis that is summed, short sums, and products of computed values.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np

from engine.dtypes import DType
from engine.ir.expr import argument, cast
from engine.ir.graph import Array, Graph, Node
from engine.ir.types import TensorType
from engine.ops.fused import FUSED_DOMAIN, FUSED_VERSION
from engine.ops.row_quantization import ZERO_POINT
from engine.passes import qdq_formulas as formulas
from engine.passes.context import PassContext
from engine.passes.dead_code import eliminate_dead_code
from engine.passes.graph_draft import GraphDraft
from engine.passes.qdq_parameters import BYTES, Quantization, attribute, dequantized, onnx_node
from engine.passes.rewriting import fixed, tensor_type

PRECISIONS: Final = ("int8", "int8-stored")  # of any weights, of those that are bytes already
INTEGER_VERSION: Final = 10
LEAST_TERMS: Final = 32  # of a sum: shorter ones lose more than they gain
LONGEST_SUM: Final = (1 << 31) // (255 * 255)
STEPS: Final = 127


def use_integer_weights(graph: Graph, ctx: PassContext) -> Graph:
    """Compute with the integers that the model holds."""
    return _rewritten(graph, ctx, stored=True) if ctx.precision in PRECISIONS else graph


def quantize_weights(graph: Graph, ctx: PassContext) -> Graph:
    """Compute with integers in place of the floats that the model holds."""
    return _rewritten(graph, ctx, stored=False) if ctx.precision == PRECISIONS[0] else graph


def _rewritten(graph: Graph, ctx: PassContext, *, stored: bool) -> Graph:
    work = _Rewrite(graph, ctx, stored=stored)
    for node in ctx.each(graph.nodes):
        if not work.replace(node):
            work.nodes.append(node)
    # What dequantized the weights would else be computed, when compiling, for nobody.
    return eliminate_dead_code(work.result(), ctx) if work.types else graph


@dataclass(frozen=True, eq=False)
class _Weights:
    """A fixed right side.

    Attributes:
        key: What it was made of, so that products of the same weights share it.
        integers: (K, N).
        zero_point: () or (N,), of the same type.
        scale: float32, () or (N,).
    """

    key: str
    integers: Array
    zero_point: Array
    scale: Array


@dataclass
class _Rewrite(GraphDraft):
    """The new graph under construction.

    Attributes:
        stored: Whether the weights are integers in the model.
        rows: Names of bytes and scales by the value that they stand for.
        weights: Names of integers, their zero point and scale, by `_Weights.key`.
        zero: Name of the left side's zero point.
    """

    stored: bool = True
    rows: dict[str, tuple[str, str]] = field(default_factory=dict)
    weights: dict[str, tuple[str, str, str]] = field(default_factory=dict)
    zero: str = ""

    def replace(self, node: Node) -> bool:
        """Write what stands for a product; whether it is one that can be replaced."""
        if node.domain or node.op not in ("MatMul", "Gemm") or not self._is_plain(node):
            return False
        x = tensor_type(self.graph, node.inputs[0])
        y = tensor_type(self.graph, node.outputs[0])
        if x is None or y is None or x.dtype is not DType.FLOAT32 or not x.shape or not y.shape:
            return False
        turned = node.op == "Gemm" and bool(attribute(self.ctx, node, "transB"))
        read = self._of_integers if self.stored else self._of_floats
        found = read(node.inputs[1], turned)
        if found is None or found.integers.ndim != 2 or len(x.shape) < 2:
            return False
        terms, columns = found.integers.shape
        if not LEAST_TERMS <= terms <= LONGEST_SUM or not columns or x.shape[-1] != terms:
            return False
        self._write(node, found, y)
        return True

    def _is_plain(self, node: Node) -> bool:
        """Whether a Gemm is a product and what is added to it."""
        if node.op == "MatMul":
            return True
        alpha, beta, turned = (attribute(self.ctx, node, n) for n in ("alpha", "beta", "transA"))
        return bool(alpha == 1 and beta == 1 and not turned)

    # -------------------------------------------------------------- weights

    def _of_integers(self, name: str, turned: bool) -> _Weights | None:
        """Return weights that are dequantized, perhaps transposed after that."""
        found = dequantized(self.graph, name, self.ctx)
        between = onnx_node(self.graph, name, "Transpose")
        if found is None and between is not None:
            order = attribute(self.ctx, between, "perm") or (1, 0)
            found = dequantized(self.graph, between.inputs[0], self.ctx)
            turned = not turned
            if tuple(order) != (1, 0):
                return None
        if found is None:
            return None
        source, how = found
        integers = fixed(self.graph, source)
        if integers is None or integers.ndim != 2 or how.dtype not in BYTES:
            return None
        if how.axis not in (None, 0 if turned else 1):
            return None
        return _weights(f"{source}{'^T' if turned else ''}", integers, how, turned)

    def _of_floats(self, name: str, turned: bool) -> _Weights | None:
        """Return fixed floats as integers, each column by its own range."""
        values = fixed(self.graph, name)
        if values is None or values.ndim != 2 or values.dtype != np.float32:
            return None
        matrix = values.T if turned else values
        if not min(matrix.shape) or not np.isfinite(matrix).all():
            return None
        largest = np.abs(matrix).max(axis=0)  # (N,)
        scale = np.where(largest > 0, largest / np.float32(STEPS), np.float32(1))
        if not (scale >= np.finfo(np.float32).tiny).all():
            return None
        integers = np.rint(matrix / scale).clip(-STEPS, STEPS).astype(np.int8)
        zero = np.zeros((), np.int8)
        return _Weights(f"{name}{'^T' if turned else ''}", integers, zero, scale)

    # -------------------------------------------------------------- what is written

    def _write(self, node: Node, found: _Weights, kind: TensorType) -> None:
        x, output = node.inputs[0], node.outputs[0]
        if x not in self.rows:
            self.rows[x] = self._quantized_rows(x)
        left, scales = self.rows[x]
        if found.key not in self.weights:
            self.weights[found.key] = (
                self.constant(f"{found.key}/integers", np.ascontiguousarray(found.integers)),
                self.constant(f"{found.key}/zero", found.zero_point)
                if found.zero_point.any()
                else "",
                self.constant(f"{found.key}/scale", found.scale),
            )
        right, zero, factor = self.weights[found.key]
        sums = self.fresh(f"{output}/sums")
        self.types[sums] = kind.with_dtype(DType.INT32)
        inputs = (left, right, self.zero, *filter(None, (zero,)))
        self.nodes.append(
            Node("MatMulInteger", inputs, (sums,), version=INTEGER_VERSION, name=node.name)
        )
        value = cast(argument(0, DType.INT32), DType.FLOAT32) * formulas.float_argument(1)
        value = value * formulas.float_argument(2)
        names = [sums, scales, factor]
        if len(node.inputs) > 2 and node.inputs[2]:
            names.append(node.inputs[2])
            value = value + formulas.float_argument(3)
        self.nodes.append(formulas.expression_node(value, names, output, node.name))

    def _quantized_rows(self, x: str) -> tuple[str, str]:
        """Write the rows of a value as bytes; return the names of these and of their scales."""
        if not self.zero:
            self.zero = self.constant("rows/zero", np.asarray(ZERO_POINT, np.uint8))
        kind = tensor_type(self.graph, x)
        assert kind is not None and kind.shape is not None
        names = self.fresh(f"{x}/bytes"), self.fresh(f"{x}/scales")
        self.types[names[0]] = kind.with_dtype(DType.UINT8)
        self.types[names[1]] = TensorType(DType.FLOAT32, (*kind.shape[:-1], 1))
        self.nodes.append(
            Node("QuantizeRows", (x,), names, domain=FUSED_DOMAIN, version=FUSED_VERSION, name=x)
        )
        return names


def _weights(key: str, integers: Array, how: Quantization, turned: bool) -> _Weights:
    zero = how.zero_point.astype(integers.dtype)
    return _Weights(key, integers.T if turned else integers, zero, how.scale)
