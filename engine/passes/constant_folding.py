"""Constant folding: what depends on fixed values only is computed once, when compiling."""

from __future__ import annotations

from engine.evaluation import FoldBudget, evaluate_graph
from engine.ir.graph import Graph
from engine.passes.context import PassContext


def fold_constants(graph: Graph, ctx: PassContext) -> Graph:
    """Replace nodes whose values are known by constants of at most `limits.fold_bytes`."""
    budget = FoldBudget(ctx.limits.fold_bytes, remove=True)
    return evaluate_graph(
        graph, ctx.registry, limits=ctx.limits, deadline=ctx.deadline, budget=budget
    ).graph
