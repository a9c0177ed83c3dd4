"""Dead code elimination: nodes, and fixed values, that no output needs."""

from __future__ import annotations

from engine.ir.graph import Graph, Node
from engine.passes.context import PassContext


def eliminate_dead_code(graph: Graph, ctx: PassContext) -> Graph:
    """Keep the nodes that an output needs and the fixed values that those nodes read."""
    needed = set(graph.output_names)
    kept: list[Node] = []
    for node in ctx.each(reversed(graph.nodes)):
        if needed.isdisjoint(node.outputs):
            continue
        kept.append(_without_unused_outputs(node, needed))
        needed.update(node.reads)
    alive = needed | set(graph.input_names)
    alive.update(name for node in kept for name in node.outputs if name)
    return graph.replace(
        nodes=tuple(reversed(kept)),
        initializers={n: v for n, v in graph.initializers.items() if n in needed},
        constants={n: v for n, v in graph.constants.items() if n in needed},
        types={n: t for n, t in graph.types.items() if n in alive},
    )


def _without_unused_outputs(node: Node, needed: set[str]) -> Node:
    """Drop trailing outputs that nobody reads: an operator then need not compute them."""
    outputs = list(node.outputs)
    while len(outputs) > 1 and outputs[-1] not in needed and node.op not in FIXED_OUTPUTS:
        outputs.pop()
    return node if len(outputs) == len(node.outputs) else node.replace(outputs=tuple(outputs))


# The number of outputs is part of what these compute.
FIXED_OUTPUTS = frozenset({"Split", "If", "Loop", "Scan", "SplitToSequence", "Unique"})
