"""QuantizeLinear and DequantizeLinear with fixed parameters become expressions.

A value that several nodes dequantize, or whose floats several read, is dequantized by each of them:
that costs less than floats in memory. What a computed value is divided by is multiplied in as a
reciprocal, which may decide a tie the other way; an input of the graph is divided, as it stands.
The sum of two dequantized values that is quantized again, as residual nets have it, is a weighted
sum of the integers.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from engine.dtypes import DType
from engine.ir.expr import argument, cast
from engine.ir.graph import Graph, Node
from engine.ir.types import TensorType
from engine.passes import qdq_formulas as formulas
from engine.passes.context import PassContext
from engine.passes.dead_code import eliminate_dead_code
from engine.passes.graph_draft import GraphDraft
from engine.passes.qdq_parameters import (
    Quantization,
    dequantized,
    onnx_node,
    quantization_of,
)
from engine.passes.rewriting import (
    is_single_use,
    shape_of,
    with_constants,
    with_nodes,
)
from engine.renaming import rename_node

LARGEST_FACTOR = 1e30  # of two scales: beyond, products would overflow
NARROW = (DType.INT8, DType.UINT8, DType.INT16, DType.UINT16)


def expressions_of_quantization(graph: Graph, ctx: PassContext) -> Graph:
    """Replace the nodes."""
    work = _Rewrite(graph, ctx)
    for node in ctx.each(graph.nodes):
        work.add(node)
    return eliminate_dead_code(work.result(), ctx) if work.changed else graph


@dataclass
class _Rewrite(GraphDraft):
    """The new graph under construction."""

    copies: dict[str, list[str]] = field(default_factory=dict)
    changed: bool = False

    def add(self, node: Node) -> None:
        """Take a node over, or what stands for it."""
        if not node.domain and node.op in ("QuantizeLinear", "DequantizeLinear"):
            found = quantization_of(self.graph, node, self.ctx)
            if found is not None and found.dtype in NARROW:
                self.changed = True
                write = self._quantize if node.op == "QuantizeLinear" else self._dequantize
                write(node, found)
                return
        own = {
            name: self.copies[name].pop()
            for name in dict.fromkeys(node.inputs)
            if self.copies.get(name)
        }
        self.nodes.append(rename_node(node, own) if own else node)

    def _quantize(self, node: Node, found: Quantization) -> None:
        if found.axis is None and self._quantize_sum(node, found):
            return
        rank = len(shape_of(self.graph, node.outputs[0]) or ())
        steps, zero = formulas.float_argument(1), formulas.float_argument(2)
        x = formulas.float_argument(0)
        scale = found.scale
        if node.inputs[0] in self.graph.producers:
            value = x * steps
            scale = (1.0 / scale.astype(np.float64)).astype(np.float32)
            if not np.isfinite(scale).all():
                value, scale = x / steps, found.scale
        else:
            value = x / steps
        expr = formulas.quantized(value, zero, found.dtype)
        names = self._parameters(node, found, scale, rank)
        source = self.copies[node.inputs[0]].pop() if self.copies.get(node.inputs[0]) else None
        inputs = (source or node.inputs[0], *names)
        self.nodes.append(
            formulas.expression_node(expr, inputs, node.outputs[0], node.name or node.outputs[0])
        )

    def _quantize_sum(self, node: Node, found: Quantization) -> bool:
        """Write round(a * factor + b * factor + rest) + zero point; whether it is such a sum."""
        total = onnx_node(self.graph, node.inputs[0], "Add")
        if total is None or not is_single_use(self.graph, node.inputs[0]):
            return False
        sides = [dequantized(self.graph, name, self.ctx) for name in total.inputs]
        if any(s is None or s[1].axis is not None or s[1].dtype not in NARROW for s in sides):
            return False
        names: list[str] = []
        value, rest = None, 0.0
        for k, side in enumerate(sides):
            assert side is not None
            integers, own = side
            factor = own.scale.astype(np.float64) / found.scale.astype(np.float64)
            if factor > LARGEST_FACTOR:
                return False
            rest -= float(own.zero_point * factor)
            names += [integers, self._number(f"{node.outputs[0]}/factor{k}", factor)]
            term = cast(argument(2 * k, own.dtype), DType.FLOAT32)
            term = term * formulas.float_argument(2 * k + 1)
            value = term if value is None else value + term
        assert value is not None
        names += [
            self._number(f"{node.outputs[0]}/rest", np.float64(rest)),
            self._number(f"{node.outputs[0]}/zero", found.zero_point),
        ]
        steps = value + formulas.float_argument(4)
        expr = formulas.quantized(steps, formulas.float_argument(5), found.dtype)
        self.nodes.append(formulas.expression_node(expr, names, node.outputs[0], node.name))
        return True

    def _number(self, hint: str, value: np.ndarray | np.float64) -> str:
        name = self.fresh(hint)
        self.constants[name] = np.asarray(value).astype(np.float32).reshape(())
        return name

    def _dequantize(self, node: Node, found: Quantization) -> None:
        name = node.outputs[0]
        rank = len(shape_of(self.graph, name) or ())
        expr = formulas.dequantized(
            argument(0, found.dtype), formulas.float_argument(1), formulas.float_argument(2)
        )
        inputs = (node.inputs[0], *self._parameters(node, found, found.scale, rank))
        readers = {id(n) for n in self.graph.consumers.get(name, ())}
        outputs = [name]
        kind = self.graph.types[name]
        assert isinstance(kind, TensorType)
        for k in range(1, len(readers)):
            outputs.append(self.fresh(f"{name}/again{k}"))
            self.types[outputs[-1]] = kind
        # A body reads by the name; the first reader that is found takes the last copy.
        self.copies[name] = outputs[1:]
        for output in outputs:
            self.nodes.append(formulas.expression_node(expr, inputs, output, node.name or output))

    def _parameters(
        self, node: Node, found: Quantization, scale: np.ndarray, rank: int
    ) -> tuple[str, str]:
        label = node.outputs[0]
        zero = found.zero_point.astype(np.float32)
        names = self.fresh(f"{label}/scale"), self.fresh(f"{label}/zero")
        for name, value in zip(names, (scale, zero), strict=True):
            self.constants[name] = found.spread(value, rank)
        return names

    def result(self) -> Graph:
        """Return the graph, with what nobody reads any more."""
        graph = with_constants(self.graph, self.constants)
        graph = graph.replace(types={**graph.types, **self.types})
        return with_nodes(graph, self.nodes)
