"""QuantizeLinear and DequantizeLinear with fixed parameters become expressions.

A value that several nodes dequantize, or whose floats several read, is dequantized by each of them:
that costs less than floats in memory. What a computed value is divided by is multiplied in as a
reciprocal, which may decide a tie the other way; an input of the graph is divided, as it stands.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from engine.dtypes import DType
from engine.ir.expr import argument
from engine.ir.graph import Array, Graph, Node
from engine.ir.types import TensorType
from engine.passes import qdq_formulas as formulas
from engine.passes.context import PassContext
from engine.passes.qdq_parameters import Quantization, quantization_of
from engine.passes.rewriting import fresh_name, shape_of, with_constants, with_nodes
from engine.renaming import rename_node

NARROW = (DType.INT8, DType.UINT8, DType.INT16, DType.UINT16)


def expressions_of_quantization(graph: Graph, ctx: PassContext) -> Graph:
    """Replace the nodes."""
    work = _Rewrite(graph, ctx)
    for node in graph.nodes:
        work.add(node)
    return work.result()


@dataclass
class _Rewrite:
    """The new graph under construction."""

    graph: Graph
    ctx: PassContext
    nodes: list[Node] = field(default_factory=list)
    constants: dict[str, Array] = field(default_factory=dict)
    types: dict[str, TensorType] = field(default_factory=dict)
    copies: dict[str, list[str]] = field(default_factory=dict)
    taken: set[str] = field(default_factory=set)
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
        for _ in range(1, len(readers)):
            outputs.append(self._fresh(f"{name}/again"))
            self.types[outputs[-1]] = kind
        # A body reads by the name; the first reader that is found takes the last copy.
        self.copies[name] = outputs[1:]
        for output in outputs:
            self.nodes.append(formulas.expression_node(expr, inputs, output, node.name or output))

    def _parameters(
        self, node: Node, found: Quantization, scale: np.ndarray, rank: int
    ) -> tuple[str, str]:
        label = node.inputs[0]
        zero = found.zero_point.astype(np.float32)
        names = self._fresh(f"{label}/scale"), self._fresh(f"{label}/zero")
        for name, value in zip(names, (scale, zero), strict=True):
            self.constants[name] = found.spread(value, rank)
        return names

    def _fresh(self, hint: str) -> str:
        name = fresh_name(self.graph, hint, self.taken)
        self.taken.add(name)
        return name

    def result(self) -> Graph:
        """Return the graph."""
        if not self.changed:
            return self.graph
        graph = with_constants(self.graph, self.constants)
        graph = graph.replace(types={**graph.types, **self.types})
        return with_nodes(graph, self.nodes)
