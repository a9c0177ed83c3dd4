"""Quantized models in the form of QDQ: arithmetic on floats between DequantizeLinear and
QuantizeLinear becomes arithmetic on the small integers themselves.

Two passes. `fuse_quantized_products`, first of all, before fixed weights are folded to floats,
makes `ConvInteger` or `MatMulInteger` of a Conv, MatMul or Gemm whose operands are dequantized, and
an expression that scales the sums; of QLinearConv and the like, too; and brings
QuantizeLinear in front of what only moves data, where a pair that undoes itself goes.
`write_out_quantization`, after the recognisers, makes an expression of what QuantizeLinear and
DequantizeLinear remain, which then join the elementwise chains around them.

Rounding to integers happens where the model says so; only how floats round in between may differ.
"""

from __future__ import annotations

from engine.ir.graph import Graph
from engine.passes.context import PassContext
from engine.passes.qdq_expressions import expressions_of_quantization
from engine.passes.qdq_moves import move_quantization
from engine.passes.qdq_operators import integer_operators
from engine.passes.qdq_products import integer_products
from engine.passes.qdq_unfolding import unfold_quantized_operators

ROUNDS = 8  # a value passes through few views on its way


def fuse_quantized_products(graph: Graph, ctx: PassContext) -> Graph:
    """Sum products of the integers themselves."""
    graph = unfold_quantized_operators(graph, ctx)
    for _ in range(ROUNDS):
        moved = move_quantization(graph, ctx)
        if moved is graph:
            break
        graph = moved
    return integer_operators(integer_products(graph, ctx), ctx)


def write_out_quantization(graph: Graph, ctx: PassContext) -> Graph:
    """Write what remains of quantization as expressions."""
    return expressions_of_quantization(graph, ctx)
