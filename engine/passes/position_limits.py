"""How long the sequences that a graph takes may be: how far its tables of positions reach."""

from __future__ import annotations

from typing import Final

import numpy as np

from engine.errors import EngineError
from engine.evaluation import evaluate_graph
from engine.inference import Scope
from engine.interpreter import GraphPlan
from engine.ir.graph import Graph, Node, Value
from engine.ir.types import TensorType, evaluate, symbols_of
from engine.passes.cache_names import TOKENS, WHOLE_TOKENS
from engine.passes.context import PassContext
from engine.passes.dead_code import eliminate_dead_code

TOKEN: Final = 3  # is rarely padding, which may have a position of its own
TRIED: Final = 1024  # a graph that works for so many is not looked at any further
SHAPE_OPS: Final = frozenset({"Shape", "Size"})


def longest(graph: Graph, name: str, ctx: PassContext) -> int | None:
    """Return the largest size that a symbol of the inputs may have; None where none was found.

    What depends on sizes alone, and what tokens and sizes pick from fixed tables, is computed at
    several sizes; a table that is too short fails.
    """
    seen = evaluate_graph(graph, ctx.registry, limits=ctx.limits, deadline=ctx.deadline)
    wanted = list(dict.fromkeys([*_of_sizes(seen.graph, seen.scope), *_picked(seen.graph)]))
    if not wanted:
        return None
    outputs = tuple(Value(n, seen.graph.types[n]) for n in wanted)
    needed = eliminate_dead_code(seen.graph.replace(outputs=outputs), ctx)
    plan = GraphPlan(needed, registry=ctx.registry, limits=ctx.limits)
    if _works(plan, name, TRIED) or not _works(plan, name, 1):
        return None
    low, high = 1, TRIED  # works, fails
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _works(plan, name, middle) else (low, middle)
    return low


def _of_sizes(graph: Graph, scope: Scope) -> list[str]:
    """Return what sizes alone decide and other nodes read, but for sizes themselves."""
    free = {*graph.initializers, *graph.constants}
    sized: set[str] = set()
    found: dict[str, None] = {}
    for node in graph.nodes:
        reads = set(node.reads)
        if (node.op in SHAPE_OPS and not node.domain) or reads <= free | sized:
            (sized if _counts(node, reads, sized) else free).update(filter(None, node.outputs))
        else:
            found.update(dict.fromkeys(n for n in node.reads if n in sized))
    return [name for name in found if name not in scope.symbolic]


def _picked(graph: Graph) -> list[str]:
    """Return what is picked from fixed tables by computed indices."""
    return [
        node.outputs[0]
        for node in graph.nodes
        if node.op == "Gather"
        and not node.domain
        and graph.constant(node.inputs[0]) is not None
        and node.inputs[1] in graph.producers
    ]


def _counts(node: Node, reads: set[str], sized: set[str]) -> bool:
    return node.op in SHAPE_OPS or not reads.isdisjoint(sized)


def _works(plan: GraphPlan, name: str, size: int) -> bool:
    feeds = {}
    for value in plan.graph.inputs:
        kind = value.type
        if not isinstance(kind, TensorType) or kind.shape is None:
            return False
        sizes = {n: size if n == name else 1 for d in kind.shape for n in symbols_of(d)}
        shape = [evaluate(d, sizes) for d in kind.shape]
        number = TOKEN if value.name in (TOKENS, WHOLE_TOKENS) else 1
        feeds[value.name] = np.full(shape, number, kind.dtype.numpy)
    try:
        plan.run(feeds)
    except EngineError:
        return False
    return True
