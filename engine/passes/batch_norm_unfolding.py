"""BatchNormalization that no convolution has taken becomes a product and a sum per channel.

Those are elementwise: they fuse with the activation behind, or become the epilogue of a transposed
convolution or a product in front. Left alone: training mode, statistics that are not fixed, and
narrow floats, whose factors would be rounded where BatchNormalization keeps them in float32.
"""

from __future__ import annotations

import numpy as np

from engine.ir.graph import Array, Graph, Node
from engine.ir.types import TensorType
from engine.passes.context import PassContext
from engine.passes.conv_bn_fusion import statistics
from engine.passes.rewriting import fresh_name, shape_of, tensor_type, with_constants, with_nodes

VERSION = 14  # of Mul and Add


def unfold_batch_norm(graph: Graph, ctx: PassContext) -> Graph:
    """Write each as `x * scale + shift`."""
    nodes: list[Node] = []
    constants: dict[str, Array] = {}
    types: dict[str, TensorType] = {}
    for node in ctx.each(graph.nodes):
        factors = _factors(graph, node, ctx)
        if factors is None:
            nodes.append(node)
            continue
        x, y = node.inputs[0], node.outputs[0]
        kind = tensor_type(graph, y)
        assert kind is not None
        names = [_fresh(graph, f"{y}/{part}", constants) for part in ("scale", "shift")]
        constants.update(zip(names, factors, strict=True))
        scaled = _fresh(graph, f"{y}/scaled", types)
        types[scaled] = kind
        nodes.append(Node("Mul", (x, names[0]), (scaled,), version=VERSION, name=node.name))
        nodes.append(Node("Add", (scaled, names[1]), (y,), version=VERSION, name=node.name))
    if not types:
        return graph
    graph = graph.replace(types={**graph.types, **types})
    return with_nodes(with_constants(graph, constants), nodes)


def _factors(graph: Graph, node: Node, ctx: PassContext) -> tuple[Array, Array] | None:
    """Return scale and shift, shaped to lie over the input's channels."""
    if node.op != "BatchNormalization" or node.domain:
        return None
    kind, shape = tensor_type(graph, node.outputs[0]), shape_of(graph, node.inputs[0])
    if kind is None or kind.dtype.is_narrow_float or shape is None or len(shape) < 2:
        return None
    if tensor_type(graph, node.inputs[0]) != kind or not isinstance(shape[1], int):
        return None
    found = statistics(graph, node, shape[1], ctx)
    if found is None:
        return None
    column = (shape[1], *(1,) * (len(shape) - 2))
    with np.errstate(all="ignore"):
        scale, shift = (each.astype(kind.dtype.numpy).reshape(column) for each in found)
    return (scale, shift) if np.isfinite(scale).all() and np.isfinite(shift).all() else None


def _fresh(graph: Graph, hint: str, taken: dict[str, Array] | dict[str, TensorType]) -> str:
    return fresh_name(graph, hint, taken)
