"""MatMul of two matrices and a bias added to it become one Gemm.

Left alone: products of more than two axes (their bias joins as an epilogue), whole numbers, and a
summand with rows of its own, which would tie the rows of a batch together where an addition keeps
them apart.
"""

from __future__ import annotations

from engine.ir.graph import Graph, Node
from engine.passes.context import PassContext
from engine.passes.matching import Match, View, rewrite_matches
from engine.passes.rewriting import shape_of, tensor_type

GEMM = 13


def fuse_matmul_add(graph: Graph, ctx: PassContext) -> Graph:
    """Replace products of matrices with a bias."""
    return rewrite_matches(graph, ctx, _recognise)


def _recognise(view: View, node: Node) -> Match | None:
    if node.op != "Add" or len(node.inputs) != 2 or node.version < 7:
        return None
    for name, bias in (node.inputs, node.inputs[::-1]):
        product = view.producer(name, "MatMul")
        if product is not None and _fits(view, node, product, bias):
            inputs = (*product.inputs, bias)
            fused = Node("Gemm", inputs, node.outputs, version=GEMM, name=product.name)
            return Match(fused, [product])
    return None


def _fits(view: View, node: Node, product: Node, bias: str) -> bool:
    graph = view.graph
    result = tensor_type(graph, node.outputs[0])
    if result is None or not result.dtype.is_float:
        return False
    if any(len(shape_of(graph, name) or ()) != 2 for name in product.inputs):
        return False
    added = shape_of(graph, bias)
    if added is None or (len(added) == 2 and added[0] != 1) or len(added) > 2:
        return False
    return view.same_type(product.outputs[0], node.outputs[0])
