"""Fixed weights that a model stores as bytes, in products of floats and in tables.

    Gather(Dequantize(table), indices)  ->  Dequantize(Gather(table, indices))

so that only what is picked becomes floats, and the table stays as small as it is. What else fixed
bytes become is computed once, when compiling, however large it is: a file holds a quarter of it.
Left alone: scales along other axes than those in front of what is picked, and what a body reads.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from engine.dtypes import DType
from engine.errors import ResourceLimit
from engine.ir.expr import argument
from engine.ir.graph import Graph, Node
from engine.ir.types import TensorType
from engine.ops.cores.quantize import dequantize
from engine.passes import qdq_formulas as formulas
from engine.passes.context import PassContext
from engine.passes.dead_code import eliminate_dead_code
from engine.passes.graph_draft import GraphDraft
from engine.passes.qdq_parameters import (
    BYTES,
    Quantization,
    attribute,
    dequantized,
    quantization_of,
)
from engine.passes.rewriting import fixed, tensor_type, with_constants, with_nodes


def pick_from_bytes(graph: Graph, ctx: PassContext) -> Graph:
    """Dequantize what a Gather picks, not what it picks from."""
    work = _Tables(graph, ctx)
    for node in ctx.each(graph.nodes):
        if not work.replace(node):
            work.nodes.append(node)
    return eliminate_dead_code(work.result(), ctx) if work.types else graph


def unpack_weights(graph: Graph, ctx: PassContext) -> Graph:
    """Dequantize large fixed bytes that are left; folding takes the small ones."""
    unpacked: dict[str, np.ndarray] = {}
    nodes: list[Node] = []
    total = 0
    for node in ctx.each(graph.nodes):
        found = None if node.op != "DequantizeLinear" else _fixed_bytes(graph, node, ctx)
        if found is None:
            nodes.append(node)
            continue
        integers, how = found
        total += 4 * integers.size
        if total > ctx.limits.effective_run_bytes:
            raise ResourceLimit(
                f"dequantizing the weights up to {node.inputs[0]!r}",
                f"{total} bytes",
                f"run_bytes={ctx.limits.effective_run_bytes}",
            )
        scale, zero = (how.spread(v, integers.ndim) for v in (how.scale, how.zero_point))
        unpacked[node.outputs[0]] = dequantize(np, integers, scale, zero)
    if not unpacked:
        return graph
    return with_constants(with_nodes(graph, nodes), unpacked)


def _fixed_bytes(
    graph: Graph, node: Node, ctx: PassContext
) -> tuple[np.ndarray, Quantization] | None:
    """Return fixed bytes that a node dequantizes to more than folding makes."""
    integers = None if node.domain else fixed(graph, node.inputs[0])
    how = None if integers is None else quantization_of(graph, node, ctx)
    if integers is None or how is None or how.dtype not in BYTES:
        return None
    is_large = 4 * integers.size > ctx.limits.fold_bytes
    return (integers, how) if is_large and node.outputs[0] not in graph.output_set else None


@dataclass
class _Tables(GraphDraft):
    """The new graph under construction.

    Attributes:
        scales: Names of scales in the shape that is picked from, by table.
    """

    scales: dict[str, str] = field(default_factory=dict)

    def replace(self, node: Node) -> bool:
        """Write what stands for a Gather from dequantized fixed bytes; whether it is one."""
        if node.domain or node.op != "Gather":
            return False
        found = dequantized(self.graph, node.inputs[0], self.ctx)
        result = tensor_type(self.graph, node.outputs[0])
        if found is None or result is None or result.shape is None:
            return False
        table, how = found
        values = fixed(self.graph, table)
        if values is None or how.dtype not in BYTES or values.ndim < 1:
            return False
        axis = int(attribute(self.ctx, node, "axis")) % values.ndim
        if how.axis is not None and how.axis < axis:
            return False
        if how.axis == axis and how.zero_point.any():
            return False
        picked = self._picked(node, table, result.with_dtype(how.dtype))
        scale = self._scale(node, table, how, axis, values.ndim)
        integer, inputs = argument(0, how.dtype), [picked, scale]
        if how.zero_point.any():
            zero = how.spread(how.zero_point, values.ndim).astype(np.float32)
            inputs.append(self.constant(f"{table}/zero", zero))
            value = formulas.dequantized(
                integer, formulas.float_argument(1), formulas.float_argument(2)
            )
        else:
            value = formulas.scaled(integer, formulas.float_argument(1))
        self.nodes.append(formulas.expression_node(value, inputs, node.outputs[0], node.name))
        return True

    def _picked(self, node: Node, source: str, kind: TensorType) -> str:
        """Write the same Gather from another source; return the name of what it picks."""
        name = self.fresh(f"{node.outputs[0]}/picked")
        self.types[name] = kind
        self.nodes.append(node.replace(inputs=(source, node.inputs[1]), outputs=(name,)))
        return name

    def _scale(self, node: Node, table: str, how: Quantization, axis: int, rank: int) -> str:
        """Return the name of scales that broadcast to what is picked."""
        key = f"{table}/{axis if how.axis == axis else ''}"
        if key not in self.scales:
            shape = (-1, *(1,) * (rank - 1 - axis)) if how.axis == axis else None
            value = how.scale.reshape(shape) if shape else how.spread(how.scale, rank)
            self.scales[key] = self.constant(f"{table}/scales", value)
        if how.axis != axis:
            return self.scales[key]
        index = tensor_type(self.graph, node.inputs[1])
        assert index is not None and index.shape is not None
        # One scale per entry is picked like the entry.
        name = self.fresh(f"{node.outputs[0]}/scales")
        self.types[name] = TensorType(DType.FLOAT32, (*index.shape, *(1,) * (rank - 1 - axis)))
        attributes = {**node.attributes, "axis": 0}
        inputs = (self.scales[key], node.inputs[1])
        self.nodes.append(node.replace(inputs=inputs, outputs=(name,), attributes=attributes))
        return name
