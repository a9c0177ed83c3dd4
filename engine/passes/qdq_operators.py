"""Operators that quantize by themselves become sums of integers and an expression.

QLinearConv and QLinearMatMul scale their sums by one ratio; DynamicQuantizeMatMul and
MatMulIntegerToFloat (com.microsoft) leave floats, the former with a scale that each run tells. What
follows elementwise then joins the sums like that of any contraction.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from engine.dtypes import DType
from engine.ir.expr import argument, cast
from engine.ir.graph import Graph, Node
from engine.ir.types import TensorType
from engine.passes import qdq_formulas as formulas
from engine.passes.context import PassContext
from engine.passes.graph_draft import GraphDraft
from engine.passes.qdq_parameters import BYTES
from engine.passes.rewriting import (
    fixed,
    shape_of,
    tensor_type,
)

CONV_ATTRIBUTES = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")
INTEGER_VERSION, DYNAMIC_VERSION = 10, 11
MICROSOFT = "com.microsoft"


def integer_operators(graph: Graph, ctx: PassContext) -> Graph:
    """Replace what can be."""
    work = _Rewrite(graph, ctx)
    for node in ctx.each(graph.nodes):
        write = work.rule(node)
        if write is None or not write(node):
            work.nodes.append(node)
    return work.result()


@dataclass
class _Rewrite(GraphDraft):
    """The new graph under construction."""

    def rule(self, node: Node) -> Callable[[Node], bool] | None:
        """Return what rewrites a node; it tells whether it did."""
        rules = {
            ("", "QLinearConv"): self._qlinear_conv,
            ("", "QLinearMatMul"): self._qlinear_matmul,
            (MICROSOFT, "DynamicQuantizeMatMul"): self._dynamic_matmul,
            (MICROSOFT, "MatMulIntegerToFloat"): self._matmul_to_float,
        }
        return rules.get((node.domain, node.op))

    # -------------------------------------------------------------- requantized

    def _qlinear_conv(self, node: Node) -> bool:
        x, xs, xz, w, ws, wz, ys, yz, *rest = node.inputs
        rank = len(shape_of(self.graph, x) or ())
        bias = fixed(self.graph, rest[0]) if rest and rest[0] else None
        if rank < 3 or (rest and rest[0] and bias is None):
            return False
        spread = (-1, *(1,) * (rank - 2))
        own = {k: v for k, v in node.attributes.items() if k in CONV_ATTRIBUTES}
        begin = None if bias is None else bias.astype(np.int32).reshape(spread)
        contraction = Node("ConvInteger", (x, w, xz, wz), (), own, version=INTEGER_VERSION)
        return self._requantized(node, contraction, (xs, ws, ys, yz), spread, begin)

    def _qlinear_matmul(self, node: Node) -> bool:
        a, scale, a_zero, b, b_scale, b_zero, ys, yz = node.inputs
        if min(len(shape_of(self.graph, name) or ()) for name in (a, b)) < 2:
            return False
        left = fixed(self.graph, scale)
        if left is None or left.size != 1:
            return False
        inputs = (a, b, a_zero, b_zero)
        contraction = Node("MatMulInteger", inputs, (), version=INTEGER_VERSION)
        return self._requantized(node, contraction, (scale, b_scale, ys, yz), (-1,), None)

    def _requantized(
        self,
        node: Node,
        contraction: Node,
        parameters: tuple[str, str, str, str],
        spread: tuple[int, ...],
        begin: np.ndarray | None,
    ) -> bool:
        left, right, out, zero = (fixed(self.graph, name) for name in parameters)
        result = tensor_type(self.graph, node.outputs[0])
        if left is None or right is None or out is None or zero is None or result is None:
            return False
        if result.shape is None or result.dtype not in BYTES or out.size != 1 or zero.size != 1:
            return False
        if any(v.dtype != np.float32 for v in (left, right, out)) or right.ndim > 1:
            return False
        kinds = [tensor_type(self.graph, name) for name in contraction.inputs[:2]]
        if any(kind is None or kind.dtype not in BYTES for kind in kinds):
            return False
        # As the operators define it: each product and quotient rounded.
        ratio = left.reshape(()) * right / out.reshape(())
        ratio = ratio.reshape(()) if ratio.size == 1 else ratio.reshape(spread)
        sums = self._sums(node, contraction, result)
        names = [sums, self.constant(f"{sums}/ratio", ratio)]
        value = argument(0, DType.INT32)
        if begin is not None:
            value = value + argument(2, DType.INT32)
            names.append(self.constant(f"{sums}/bias", begin))
        scaled = cast(value, DType.FLOAT32) * formulas.float_argument(1)
        shift = zero.astype(np.float32).reshape(())
        names.append(self.constant(f"{sums}/zero", shift))
        last = formulas.float_argument(len(names) - 1)
        expr = formulas.quantized(scaled, last, result.dtype)
        self.nodes.append(formulas.expression_node(expr, names, node.outputs[0], node.name))
        return True

    # -------------------------------------------------------------- left as floats

    def _dynamic_matmul(self, node: Node) -> bool:
        a, b, b_scale, b_zero, bias = (*node.inputs, *[""] * 5)[:5]
        kind = tensor_type(self.graph, a)
        if kind is None or kind.dtype is not DType.FLOAT32 or kind.shape is None:
            return False
        if not self._is_product(node, (a, b), (b_scale,), bias):
            return False
        names = [self.fresh(f"{a}/{part}") for part in ("quantized", "scale", "zero")]
        kinds = [
            TensorType(DType.UINT8, kind.shape),
            TensorType(DType.FLOAT32, ()),
            TensorType(DType.UINT8, ()),
        ]
        self.types.update(zip(names, kinds, strict=True))
        self.nodes.append(
            Node("DynamicQuantizeLinear", (a,), tuple(names), version=DYNAMIC_VERSION)
        )
        self._scaled(node, (names[0], b, names[2], b_zero), (names[1], b_scale), bias)
        return True

    def _matmul_to_float(self, node: Node) -> bool:
        a, b, a_scale, b_scale, a_zero, b_zero, bias = (*node.inputs, *[""] * 7)[:7]
        if not self._is_product(node, (a, b), (a_scale, b_scale), bias):
            return False
        if any(shape_of(self.graph, name) != () for name in (a_scale, a_zero) if name):
            return False
        self._scaled(node, (a, b, a_zero, b_zero), (a_scale, b_scale), bias)
        return True

    def _is_product(
        self, node: Node, sides: tuple[str, str], scales: tuple[str, ...], bias: str
    ) -> bool:
        result = tensor_type(self.graph, node.outputs[0])
        if result is None or result.dtype is not DType.FLOAT32 or result.shape is None:
            return False
        shapes = [shape_of(self.graph, name) for name in sides]
        if "" in scales or any(s is None or len(s) < 2 for s in shapes):
            return False  # without a scale the model is wrong, which is not for a pass to say
        kind = tensor_type(self.graph, sides[1])
        ranks = [len(shape_of(self.graph, n) or ()) for n in (*scales, bias) if n]
        return kind is not None and kind.dtype in BYTES and max(ranks) <= 1

    def _scaled(
        self, node: Node, sides: tuple[str, str, str, str], scales: tuple[str, str], bias: str
    ) -> None:
        """Write sum * (left scale * right scale) + bias."""
        result = tensor_type(self.graph, node.outputs[0])
        assert result is not None
        contraction = Node("MatMulInteger", sides, (), version=INTEGER_VERSION)
        names = [self._sums(node, contraction, result), *scales]
        factor = formulas.float_argument(1) * formulas.float_argument(2)
        value = cast(argument(0, DType.INT32), DType.FLOAT32) * factor
        if bias:
            names.append(bias)
            value = value + formulas.float_argument(3)
        self.nodes.append(formulas.expression_node(value, names, node.outputs[0], node.name))

    # -------------------------------------------------------------- pieces

    def _sums(self, node: Node, contraction: Node, result: TensorType) -> str:
        """Write the contraction; return the name of its sums."""
        sums = self.fresh(f"{node.outputs[0]}/sums")
        self.types[sums] = result.with_dtype(DType.INT32)
        inputs = list(contraction.inputs)
        while not inputs[-1]:
            inputs.pop()
        self.nodes.append(
            contraction.replace(inputs=tuple(inputs), outputs=(sums,), name=node.name)
        )
        return sums
