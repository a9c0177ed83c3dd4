"""What follows a convolution or a product element by element joins it: bias, residual, activation.

`Conv`, `ConvTranspose`, `Gemm` or `MatMul` whose result only one elementwise node reads (a chain is
one node by then) becomes the operator of the same name in the domain `millrace`, also across values
that are 8-bit integers in between. Left alone: what spreads the result to a larger shape, and
contractions that the user has replaced by their own.
"""

from __future__ import annotations

from engine.ir.expr_text import write_expr
from engine.ir.graph import Graph, Node
from engine.ops.epilogue import CONTRACTIONS, base_of
from engine.ops.fused import FUSED_DOMAIN, FUSED_TYPES
from engine.passes.composition import compose, is_elementwise
from engine.passes.context import PassContext
from engine.passes.elementwise_fusion import QUANTIZED
from engine.passes.rewriting import is_single_use, replace_nodes, shape_of, tensor_type


def fuse_epilogues(graph: Graph, ctx: PassContext) -> Graph:
    """Replace contraction and elementwise node by one; of two that meet, the later one takes it."""
    changes: dict[int, Node | None] = {}
    for node in ctx.each(reversed(graph.nodes)):
        follower = _follower(graph, node, ctx)
        if follower is None or id(follower) in changes:
            continue
        followers = [follower]
        while (after := _after(graph, followers[-1], ctx)) and id(after) not in changes:
            followers.append(after)
        fused = _fused(graph, node, followers, ctx)
        if fused is not None:
            changes.update((id(each), None) for each in (node, *followers))
            changes[id(followers[-1])] = fused
    return replace_nodes(graph, changes) if changes else graph


def _follower(graph: Graph, node: Node, ctx: PassContext) -> Node | None:
    """Return the elementwise node that alone reads a contraction's result."""
    if node.op not in CONTRACTIONS or node.domain or len(node.outputs) != 1:
        return None
    name = node.outputs[0]
    kind = tensor_type(graph, name)
    if kind is None or kind.shape is None or kind.dtype not in FUSED_TYPES:
        return None
    if not is_single_use(graph, name) or ctx.registry.find(node) is not base_of(
        node.op, node.version
    ):
        return None
    (follower,) = graph.consumers[name]
    if name not in follower.inputs or not is_elementwise(graph, follower, ctx):
        return None
    return follower if shape_of(graph, follower.outputs[0]) == kind.shape else None


def _after(graph: Graph, follower: Node, ctx: PassContext) -> Node | None:
    """Return the elementwise node that alone reads 8-bit integers, which chains do not cross."""
    name = follower.outputs[0]
    kind = tensor_type(graph, name)
    if kind is None or kind.dtype not in QUANTIZED or not is_single_use(graph, name):
        return None
    (after,) = graph.consumers[name]
    if name not in after.inputs or not is_elementwise(graph, after, ctx):
        return None
    return after if shape_of(graph, after.outputs[0]) == kind.shape else None


def _fused(graph: Graph, node: Node, followers: list[Node], ctx: PassContext) -> Node | None:
    composed = compose(graph, followers, ctx, head=node.outputs[0])
    if composed is None:
        return None
    expr, names = composed
    own = {**node.attributes, "epilogue": write_expr(expr), "operands": len(node.inputs)}
    return node.replace(
        inputs=(*node.inputs, *names),
        outputs=followers[-1].outputs,
        attributes=own,
        domain=FUSED_DOMAIN,
    )
