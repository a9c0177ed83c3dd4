"""Repeats what all items share where it is joined to what each item has: a class token in front of
patches.

An export for one item concatenates both along another axis and both lead with 1; once one of them
leads with the batch, the other must be expanded to it.
"""

from __future__ import annotations

import numpy as np

from engine.ir.graph import Graph, Node
from engine.ir.types import Shape, SymDim
from engine.passes.rewriting import fresh_name, with_constants

VERSION = 21  # of ONNX's own domain, for the nodes that are put in


def spread_joined(graph: Graph) -> Graph:
    """Return the graph with such operands of Concat expanded; the same graph when there are none.
    """
    nodes: list[Node] = []
    for node in graph.nodes:
        leader = _leader(graph, node)
        if leader is None:
            nodes.append(node)
            continue
        inputs = list(node.inputs)
        for i, name in enumerate(inputs):
            shape = graph.types[name].shape
            if shape and shape[0] == 1:
                taken = {n for made in nodes for n in made.outputs}
                graph, made = _expansion(graph, name, shape, leader, taken)
                nodes.extend(made)
                inputs[i] = made[-1].outputs[0]
        nodes.append(node.replace(inputs=tuple(inputs)))
    return graph if len(nodes) == len(graph.nodes) else graph.replace(nodes=tuple(nodes))


def _leader(graph: Graph, node: Node) -> str | None:
    """Return an operand that leads with a symbol when another one leads with 1 and both are not
    joined there.
    """
    shapes = [graph.types[name].shape for name in node.inputs if name]
    if node.op != "Concat" or node.domain or not all(shapes):
        return None
    axis, rank = node.attributes.get("axis", 1), len(shapes[0] or ())
    leads = [shape[0] for shape in shapes if shape]
    if axis in (0, -rank) or 1 not in leads:
        return None
    places = (i for i, lead in enumerate(leads) if isinstance(lead, SymDim))
    return next((node.inputs[i] for i in places), None)


def _expansion(
    graph: Graph, name: str, shape: Shape, leader: str, taken: set[str]
) -> tuple[Graph, list[Node]]:
    """Return nodes that expand `name` to as many rows as `leader` has."""
    ones = fresh_name(graph, f"{name}/ones", taken)
    count, target, rows = (
        fresh_name(graph, f"{name}/{k}", taken) for k in ("count", "target", "rows")
    )
    graph = with_constants(graph, {ones: np.ones(len(shape) - 1, np.int64)})
    return graph, [
        Node("Shape", (leader,), (count,), {"start": 0, "end": 1}, version=VERSION, name=count),
        Node("Concat", (count, ones), (target,), {"axis": 0}, version=VERSION, name=target),
        Node("Expand", (name, target), (rows,), version=VERSION, name=rows),
    ]
