"""Quantizes before data moves instead of after: a quarter of the bytes, and pairs that undo each
other meet.

QuantizeLinear with one scale commutes with whatever only moves elements, and with MaxPool, for it
keeps their order. QuantizeLinear of DequantizeLinear with the same parameters gives back the
integers exactly.
"""

from __future__ import annotations

from engine.ir.graph import Graph, Node
from engine.ir.types import TensorType
from engine.passes.context import PassContext
from engine.passes.qdq_parameters import (
    Quantization,
    attribute,
    dequantized,
    onnx_node,
    quantization_of,
)
from engine.passes.rewriting import fresh_name, is_single_use, redirect, tensor_type

MOVES = ("Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze")
MAX_POOL_OF_BYTES = 12  # the opset from which MaxPool takes 8-bit integers


def move_quantization(graph: Graph, ctx: PassContext) -> Graph:
    """Bring every QuantizeLinear one step up, then remove what undoes itself."""
    return _without_pairs(_moved_up(graph, ctx), ctx)


def _without_pairs(graph: Graph, ctx: PassContext) -> Graph:
    names: dict[str, str] = {}
    removed: set[int] = set()
    for node in ctx.each(graph.nodes):
        if node.domain or node.op != "QuantizeLinear" or node.outputs[0] in graph.output_set:
            continue
        own = quantization_of(graph, node, ctx)
        before = dequantized(graph, node.inputs[0], ctx)
        if own is not None and before is not None and own.equals(before[1]):
            names[node.outputs[0]] = before[0]
            removed.add(id(node))
    return redirect(graph, names, removed) if names else graph


def _moved_up(graph: Graph, ctx: PassContext) -> Graph:
    replaced: dict[int, list[Node]] = {}
    types = dict(graph.types)
    taken: set[str] = set()
    for node in ctx.each(graph.nodes):
        if node.domain or node.op != "QuantizeLinear":
            continue
        mover = onnx_node(graph, node.inputs[0], *MOVES, "MaxPool", "Concat")
        own = quantization_of(graph, node, ctx)
        if mover is None or id(mover) in replaced or own is None or own.axis is not None:
            continue
        if not is_single_use(graph, node.inputs[0]):
            continue
        moved = _moved_inputs(graph, mover, own, ctx)
        if not moved:
            continue
        above, names = [], list(mover.inputs)
        for i in moved:
            kind = tensor_type(graph, mover.inputs[i])
            assert kind is not None
            names[i] = fresh_name(graph, f"{node.outputs[0]}/early{i}", taken)
            taken.add(names[i])
            types[names[i]] = TensorType(own.dtype, kind.shape)
            inputs = (mover.inputs[i], *node.inputs[1:])
            above.append(node.replace(inputs=inputs, outputs=(names[i],)))
        replaced[id(mover)] = [
            *above,
            mover.replace(inputs=tuple(names), outputs=node.outputs[:1]),
        ]
        replaced[id(node)] = []
    if not replaced:
        return graph
    nodes = [new for node in graph.nodes for new in replaced.get(id(node), (node,))]
    alive = {name for node in nodes for name in node.outputs}
    gone = {name for node in graph.nodes for name in node.outputs} - alive
    kept = {name: kind for name, kind in types.items() if name not in gone}
    return graph.replace(nodes=tuple(nodes), types=kept)


def _moved_inputs(graph: Graph, mover: Node, own: Quantization, ctx: PassContext) -> list[int]:
    """Return which inputs of a node are quantized in its output's stead; none if it cannot be."""
    if mover.op == "Concat":
        known = [dequantized(graph, name, ctx) for name in mover.inputs]
        same = [k is not None and k[1].equals(own) for k in known]
        return list(range(len(mover.inputs))) if all(same) else []
    kind = tensor_type(graph, mover.inputs[0])
    if kind is None or kind.shape is None:
        return []
    if mover.op == "MaxPool":
        before = dequantized(graph, mover.inputs[0], ctx)
        if before is None or not before[1].equals(own) or mover.version < MAX_POOL_OF_BYTES:
            return []
        if own.dtype.bits != 8 or len([name for name in mover.outputs if name]) != 1:
            return []
        return [] if attribute(ctx, mover, "storage_order") else [0]
    return [0]
