"""Products and convolutions of dequantized values become sums of the integers, then scaled.

    Conv(Dequantize(x), Dequantize(w)) + b  ->  float(ConvInteger(x, w)) * (x_scale * w_scale) + b

exact but for how floats round. A QuantizeLinear that follows at once joins in: its division goes
into the factors. Left alone: scales along the axis that is summed, sums that could exceed 32 bits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from engine.dtypes import DType
from engine.ir.expr import Expr, argument, cast
from engine.ir.graph import Graph, Node
from engine.ir.types import TensorType
from engine.passes import qdq_formulas as formulas
from engine.passes.context import PassContext
from engine.passes.graph_draft import GraphDraft
from engine.passes.qdq_parameters import (
    BYTES,
    Quantization,
    attribute,
    dequantized,
    quantization_of,
)
from engine.passes.rewriting import (
    fixed,
    is_single_use,
    shape_of,
    tensor_type,
)

INTEGER_VERSION = 10
LONGEST_SUM = (1 << 31) // (255 * 255)
CONV_ATTRIBUTES = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")


def integer_products(graph: Graph, ctx: PassContext) -> Graph:
    """Replace what can be."""
    work = _Rewrite(graph, ctx)
    for node in ctx.each(graph.nodes):
        work.add(node)
    return work.result()


@dataclass(frozen=True, eq=False)
class _Operands:
    """A product of integers that a node comes down to.

    Attributes:
        x: The left side.
        w: The right side.
        left: How the left side is quantized: one scale.
        right: How the right side is: one scale, or one per column or filter.
        terms: How many products make a sum.
        bias: What is added, in floats that broadcast, or None.
    """

    x: str
    w: str
    left: Quantization
    right: Quantization
    terms: int
    bias: np.ndarray | None = None


@dataclass
class _Rewrite(GraphDraft):
    """The new graph under construction."""

    skipped: set[int] = field(default_factory=set)
    turned: dict[str, str] = field(default_factory=dict)

    def add(self, node: Node) -> None:
        """Take a node over, or what stands for it."""
        if id(node) in self.skipped:
            return
        found = None if node.domain else self._operands(node)
        if found is None:
            self.nodes.append(node)
        else:
            self._write(node, found)

    # -------------------------------------------------------------- what is recognised

    def _operands(self, node: Node) -> _Operands | None:
        read = {"Conv": self._conv, "MatMul": self._matmul, "Gemm": self._gemm}.get(node.op)
        kind = tensor_type(self.graph, node.outputs[0]) if read else None
        if read is None or kind is None or kind.shape is None or kind.dtype is not DType.FLOAT32:
            return None
        sides = [dequantized(self.graph, name, self.ctx) for name in node.inputs[:2]]
        if sides[0] is None or sides[1] is None:
            return None
        (x, left), (w, right) = sides[0], sides[1]
        if left.axis is not None or left.dtype not in BYTES or right.dtype not in BYTES:
            return None
        found = read(node, _Operands(x, w, left, right, 0))
        return found if found is not None and 0 < found.terms <= LONGEST_SUM else None

    def _conv(self, node: Node, given: _Operands) -> _Operands | None:
        weights = fixed(self.graph, given.w)
        if weights is None or weights.ndim < 3 or given.right.axis not in (None, 0):
            return None
        spread = (-1, *(1,) * (weights.ndim - 2))
        bias = self._bias(node, weights.shape[0])
        if bias is _UNKNOWN:
            return None
        terms = math.prod(weights.shape[1:])
        return _with(given, terms, None if bias is None else bias.reshape(spread))

    def _matmul(self, node: Node, given: _Operands) -> _Operands | None:
        shapes = [shape_of(self.graph, name) for name in node.inputs[:2]]
        if shapes[0] is None or shapes[1] is None or min(map(len, shapes)) < 2:  # type: ignore[arg-type]
            return None
        rank = len(shapes[1])
        if given.right.axis not in (None, rank - 1) or (given.right.axis is not None and rank != 2):
            return None
        terms = next((d for d in (shapes[1][-2], shapes[0][-1]) if isinstance(d, int)), 1)
        return _with(given, terms, None)

    def _gemm(self, node: Node, given: _Operands) -> _Operands | None:
        weights = fixed(self.graph, given.w)
        options = [attribute(self.ctx, node, name) for name in ("alpha", "beta", "transA")]
        if weights is None or weights.ndim != 2 or options != [1.0, 1.0, 0]:
            return None
        turned = bool(attribute(self.ctx, node, "transB"))
        if given.right.axis not in (None, 0 if turned else 1):
            return None
        columns = weights.shape[0 if turned else 1]
        bias = self._bias(node, columns)
        if bias is _UNKNOWN:
            return None
        return _with(given, weights.size // max(columns, 1), bias)

    def _bias(self, node: Node, columns: int) -> np.ndarray | None:
        """Return the third operand in float64, (columns,); `_UNKNOWN` when it is computed."""
        name = node.inputs[2] if len(node.inputs) > 2 else ""
        if not name:
            return None
        value = fixed(self.graph, name)
        if value is None:
            behind = dequantized(self.graph, name, self.ctx)
            integers = None if behind is None else fixed(self.graph, behind[0])
            if behind is None or integers is None or integers.ndim != 1:
                return _UNKNOWN
            scale = behind[1].scale.astype(np.float64)
            value = (integers.astype(np.float64) - behind[1].zero_point) * scale
        if value.size not in (1, columns) or (value.ndim and value.shape[-1] != value.size):
            return _UNKNOWN
        return np.broadcast_to(value.astype(np.float64).reshape(-1), (columns,)).copy()

    # -------------------------------------------------------------- what is written

    def _write(self, node: Node, found: _Operands) -> None:
        sums = self._sums(node, found)
        rank = len(shape_of(self.graph, node.outputs[0]) or ())
        kind = tensor_type(self.graph, node.outputs[0])
        assert kind is not None
        self.types[sums] = TensorType(DType.INT32, kind.shape)
        factor = found.left.scale.astype(np.float64) * found.right.scale.astype(np.float64)
        end, last = self._end(node)
        output, bias = node.outputs[0], found.bias
        if end is not None and last is not None:
            factor = factor / end.scale.astype(np.float64)
            bias = None if bias is None else bias / end.scale.astype(np.float64)
            output = last.outputs[0]
            self.skipped.add(id(last))
        factor = factor.reshape(-1, *(1,) * (rank - 2)) if node.op == "Conv" else factor
        names = [sums, self._float_constant(f"{output}/factor", factor)]
        value: Expr = cast(argument(0, DType.INT32), DType.FLOAT32) * formulas.float_argument(1)
        if bias is not None:
            names.append(self._float_constant(f"{output}/bias", bias))
            value = value + formulas.float_argument(len(names) - 1)
        if end is not None:
            names.append(self._float_constant(f"{output}/zero", end.zero_point))
            zero = formulas.float_argument(len(names) - 1)
            value = formulas.quantized(value, zero, end.dtype)
        self.nodes.append(formulas.expression_node(value, names, output, node.name))

    def _sums(self, node: Node, found: _Operands) -> str:
        """Write the product of integers; return its name."""
        sums = self.fresh(f"{node.outputs[0]}/sums")
        right, own = found.w, {}
        if node.op == "Conv":
            own = {k: v for k, v in node.attributes.items() if k in CONV_ATTRIBUTES}
        elif node.op == "Gemm" and attribute(self.ctx, node, "transB"):
            right = self._turned(found.w)
        inputs = [found.x, right, "", ""]
        for place, side in ((2, found.left), (3, found.right)):
            if side.zero_point.any():
                inputs[place] = self.fresh(f"{sums}/zero{place}")
                self.constants[inputs[place]] = side.zero_point.astype(side.dtype.numpy)
        while not inputs[-1]:
            inputs.pop()
        op = "ConvInteger" if node.op == "Conv" else "MatMulInteger"
        self.nodes.append(
            Node(op, tuple(inputs), (sums,), own, version=INTEGER_VERSION, name=node.name)
        )
        return sums

    def _turned(self, name: str) -> str:
        """Return the name of fixed weights with their axes exchanged."""
        if name not in self.turned:
            weights = fixed(self.graph, name)
            assert weights is not None
            self.turned[name] = self.fresh(f"{name}/turned")
            self.constants[self.turned[name]] = np.ascontiguousarray(weights.T)
        return self.turned[name]

    def _end(self, node: Node) -> tuple[Quantization | None, Node | None]:
        """Return the QuantizeLinear that alone reads the result, and what it does."""
        name = node.outputs[0]
        if not is_single_use(self.graph, name):
            return None, None
        (reader,) = self.graph.consumers[name]
        if reader.domain or reader.op != "QuantizeLinear" or reader.inputs[0] != name:
            return None, None
        found = quantization_of(self.graph, reader, self.ctx)
        if found is None or found.axis is not None or found.dtype not in BYTES:
            return None, None
        return found, reader

    def _float_constant(self, hint: str, value: np.ndarray) -> str:
        return self.constant(hint, np.asarray(value).astype(np.float32))


_UNKNOWN = np.empty(0)


def _with(given: _Operands, terms: int, bias: np.ndarray | None) -> _Operands:
    return _Operands(given.x, given.w, given.left, given.right, terms, bias)
