"""Quantized operators of com.microsoft, written as the float operator between DequantizeLinear and
QuantizeLinear that they stand for: one form of quantized model is enough for the passes behind.

The meaning is the operators' own: floats in between, one rounding at the end. Left alone: computed
parameters, channels last, and what has no float operator of the same attributes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from engine.dtypes import DType
from engine.ir.graph import Graph, Node
from engine.passes.context import PassContext
from engine.passes.graph_draft import GraphDraft
from engine.passes.qdq_parameters import BYTES, attribute
from engine.passes.rewriting import fixed, tensor_type

MICROSOFT = "com.microsoft"
QDQ_VERSION = 13
POOL_ATTRIBUTES = (
    "auto_pad",
    "ceil_mode",
    "count_include_pad",
    "kernel_shape",
    "pads",
    "strides",
)


@dataclass(frozen=True)
class _Form:
    """The float operator that a quantized one stands for.

    Attributes:
        op: Its name.
        version: Its opset version.
        values: Where the quantized values stand among the inputs; scale and zero point follow each.
        attributes: What is taken over.
    """

    op: str
    version: int
    values: tuple[int, ...]
    attributes: tuple[str, ...] = ()


FORMS = {
    "QLinearAdd": _Form("Add", 14, (0, 3)),
    "QLinearMul": _Form("Mul", 14, (0, 3)),
    "QLinearSigmoid": _Form("Sigmoid", 13, (0,)),
    "QLinearLeakyRelu": _Form("LeakyRelu", 16, (0,), ("alpha",)),
    "QLinearGlobalAveragePool": _Form("GlobalAveragePool", 1, (0,)),
    "QLinearAveragePool": _Form("AveragePool", 11, (0,), POOL_ATTRIBUTES),
}


def unfold_quantized_operators(graph: Graph, ctx: PassContext) -> Graph:
    """Replace what can be."""
    if not any(node.domain == MICROSOFT for node in graph.nodes):
        return graph
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
        if node.domain != MICROSOFT:
            return None
        if node.op in FORMS:
            return self._simple
        return {"QLinearConcat": self._concat, "QGemm": self._gemm}.get(node.op)

    def _simple(self, node: Node) -> bool:
        form = FORMS[node.op]
        count = 3 * len(form.values)
        if attribute(self.ctx, node, "channels_last"):
            return False
        parts = [tuple((*node.inputs, "")[i : i + 3]) for i in form.values]
        end = (*node.inputs[count:], "")[:2]
        own = {k: v for k, v in node.attributes.items() if k in form.attributes}
        return self._write(node, Node(form.op, (), (), own, version=form.version), parts, end)

    def _concat(self, node: Node) -> bool:
        parts = [tuple(node.inputs[i : i + 3]) for i in range(2, len(node.inputs), 3)]
        end = node.inputs[0], node.inputs[1]
        own = {"axis": node.attributes["axis"]}
        return self._write(node, Node("Concat", (), (), own, version=13), parts, end)

    def _gemm(self, node: Node) -> bool:
        a, a_scale, a_zero, b, b_scale, b_zero, c, y_scale, y_zero = (*node.inputs, "", "", "")[:9]
        if attribute(self.ctx, node, "alpha") != 1.0 or attribute(self.ctx, node, "transA"):
            return False
        turned = int(bool(attribute(self.ctx, node, "transB")))
        left, right = fixed(self.graph, a_scale), fixed(self.graph, b_scale)
        if left is None or right is None or left.size != 1 or right.ndim > 1:
            return False
        bias = []
        if c:
            counts = fixed(self.graph, c)
            if counts is None or counts.dtype != np.int32:
                return False
            units = left.reshape(()).astype(np.float64) * right
            bias = [self.constant(f"{c}/real", (counts * units).astype(np.float32))]
        gemm = Node("Gemm", (), (), {"transB": turned}, version=13)
        parts = [(a, a_scale, a_zero), (b, b_scale, b_zero)]
        return self._write(node, gemm, parts, (y_scale, y_zero), bias, axis=1 - turned)

    def _write(
        self,
        node: Node,
        inner: Node,
        parts: Sequence[tuple[str, ...]],
        end: tuple[str, ...],
        more: list[str] | None = None,
        axis: int = 1,
    ) -> bool:
        """Write DequantizeLinear of every part, the float operator, and QuantizeLinear."""
        result = tensor_type(self.graph, node.outputs[0])
        if result is None or not all(self._is_plain(part, many=axis >= 0) for part in parts):
            return False
        if end[0] and (result.dtype not in BYTES or not self._is_plain(("", *end))):
            return False
        names = []
        for x, scale, zero in parts:
            kind = tensor_type(self.graph, x)
            assert kind is not None
            names.append(self.fresh(f"{x}/real"))
            self.types[names[-1]] = kind.with_dtype(DType.FLOAT32)
            given = [name for name in (x, scale, zero) if name]
            self._add("DequantizeLinear", given, names[-1], {"axis": axis})
        output = node.outputs[0]
        if end[0]:
            output = self.fresh(f"{output}/real")
            self.types[output] = result.with_dtype(DType.FLOAT32)
        inputs = (*names, *(more or []))
        self.nodes.append(inner.replace(inputs=inputs, outputs=(output,), name=node.name))
        if end[0]:
            self._add("QuantizeLinear", (output, *end), node.outputs[0], {})
        return True

    def _is_plain(self, part: tuple[str, ...], many: bool = False) -> bool:
        """Whether a value's scale and zero point are fixed, and of bytes."""
        value, scale, zero = part
        kind = tensor_type(self.graph, value) if value else None
        if value and (kind is None or kind.dtype not in BYTES or kind.shape is None):
            return False
        found = fixed(self.graph, scale)
        if found is None or found.dtype != np.float32 or (found.size != 1 and not many):
            return False
        shift = fixed(self.graph, zero) if zero else None
        if zero and (shift is None or shift.shape != found.shape):
            return False
        return bool(zero) or value != ""

    def _add(self, op: str, inputs: Sequence[str], output: str, own: dict[str, int]) -> None:
        node = Node(op, tuple(inputs), (output,), own, version=QDQ_VERSION, name=output)
        self.nodes.append(node)
