"""Contractions whose epilogue does not fit into their registers: the sum first, then the rest."""

from __future__ import annotations

from engine.cpu.lower.context import Lowering
from engine.cpu.lower.elementwise import lower_expression
from engine.cpu.lower.epilogue import NotFused, contraction_inputs
from engine.cpu.lower.rules import Rule
from engine.dtypes import DType
from engine.ir.expr import argument, cast
from engine.ir.expr_text import read_expr, substitute
from engine.ir.graph import Node
from engine.ops.epilogue import OWN
from engine.ops.fused import text_of_attribute


def fused_or_apart(ctx: Lowering, node: Node, rule: Rule) -> None:
    """Lower a contraction with its epilogue, or else without it and the epilogue by itself."""
    try:
        rule(ctx, node)
    except NotFused:
        if ctx.dtype(node.outputs[0]) is not DType.FLOAT32:  # the sum would have another type
            raise
        _lower_apart(ctx, node, rule)


def _lower_apart(ctx: Lowering, node: Node, rule: Rule) -> None:
    own, (output,) = contraction_inputs(ctx, node), node.outputs
    attributes = {key: value for key, value in node.attributes.items() if key not in OWN}
    with ctx.unfinished(output):
        rule(ctx, node.replace(inputs=own, attributes=attributes, domain=""))
    names = (output, *node.inputs[len(own) :])
    types = [DType.FLOAT32, *(ctx.dtype(name) for name in names[1:])]
    values = [cast(argument(i, kind), kind.compute) for i, kind in enumerate(types)]
    expr = substitute(read_expr(text_of_attribute(node.attributes["epilogue"])), values)
    lower_expression(ctx, node, expr, names, output)
