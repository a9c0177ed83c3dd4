"""Chains of elementwise operators become one node each, `millrace.Elementwise`.

A chain is everything of one shape that leads to one value and to nothing else. Left alone: single
nodes, arithmetic on shapes (small integers, which inference follows node by node), what is computed
in a smaller shape and then spread, old opsets' broadcasting, and text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from engine.dtypes import DType
from engine.ir.expr_text import write_expr
from engine.ir.graph import Graph, Node
from engine.ops.fused import FUSED_DOMAIN, FUSED_VERSION
from engine.passes.composition import compose, grow, is_elementwise
from engine.passes.context import PassContext
from engine.passes.rewriting import replace_nodes, tensor_type

QUANTIZED: Final = (DType.INT8, DType.UINT8)


def fuse_elementwise(graph: Graph, ctx: PassContext) -> Graph:
    """Replace each chain of two nodes or more by one."""
    changes: dict[int, Node | None] = {}
    for node in ctx.each(reversed(graph.nodes)):
        if id(node) in changes or _is_arithmetic_on_shapes(graph, node):
            continue
        if not is_elementwise(graph, node, ctx):
            continue
        nodes = grow(graph, node, ctx, lambda each: _may_join(graph, each, changes))
        fused = _fused(graph, nodes, ctx) if len(nodes) > 1 else None
        if fused is not None:
            changes.update((id(each), None) for each in nodes)
            changes[id(node)] = fused
    return replace_nodes(graph, changes) if changes else graph


def _fused(graph: Graph, nodes: list[Node], ctx: PassContext) -> Node | None:
    composed = compose(graph, nodes, ctx)
    if composed is None or not composed[1]:
        return None
    expr, names = composed
    return Node(
        op="Elementwise",
        inputs=tuple(names),
        outputs=nodes[-1].outputs,
        attributes={"expression": write_expr(expr)},
        domain=FUSED_DOMAIN,
        version=FUSED_VERSION,
        name=nodes[-1].name,
    )


def _may_join(graph: Graph, node: Node, taken: Mapping[int, Node | None]) -> bool:
    """Whether a node may become part of what reads it.

    What ends as 8-bit integers stays: they are cheap to keep, and behind each such value may lie a
    contraction, of which a chain can join only one.
    """
    if id(node) in taken:
        return False
    kind = tensor_type(graph, node.outputs[0])
    return node.domain != FUSED_DOMAIN or kind is None or kind.dtype not in QUANTIZED


def _is_arithmetic_on_shapes(graph: Graph, node: Node) -> bool:
    kind = tensor_type(graph, node.outputs[0])
    return kind is None or kind.shape is None or (not kind.dtype.is_float and len(kind.shape) < 2)
