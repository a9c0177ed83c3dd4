"""Which epilogues a contraction can apply to its sums in registers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.cpu.expressions import unsupported
from engine.cpu.lower.context import Lowering
from engine.cpu.lower.rules import NoKernel
from engine.dtypes import DType
from engine.ir.expr import Expr, argument, constant
from engine.ir.expr_text import read_expr, substitute, write_expr
from engine.ir.graph import Node
from engine.ops.fused import FUSED_DOMAIN, text_of_attribute


@dataclass(frozen=True)
class Epilogue:
    """An expression of a contraction's sum (x0) and further operands (x1, ...).

    Attributes:
        text: The expression; "" for the sum itself.
        extras: The further operands' names.
        columns: For each of them the fixed numbers, one per column, or None for a computed value of
            the result's own shape.
    """

    text: str = ""
    extras: tuple[str, ...] = ()
    columns: tuple[np.ndarray | None, ...] = ()


def contraction_inputs(ctx: Lowering, node: Node) -> tuple[str, ...]:
    """Return the inputs that are the contraction's own."""
    if node.domain != FUSED_DOMAIN:
        return node.inputs
    return node.inputs[: int(ctx.attributes(node)["operands"])]


class NotFused(NoKernel):
    """An epilogue does not fit into a contraction's registers."""


def epilogue_of(ctx: Lowering, node: Node, axis: int) -> Epilogue:
    """Return a node's epilogue; `NotFused` for one that does not fit in registers.

    `axis` is that of the columns, counted from the end (-1 for a product, -3 for pictures).
    """
    if node.domain != FUSED_DOMAIN:
        return Epilogue()
    expr = read_expr(text_of_attribute(ctx.attributes(node)["epilogue"]))
    names = node.inputs[len(contraction_inputs(ctx, node)) :]
    reason = unsupported(expr, ctx.target)
    if reason or expr.dtype is not DType.FLOAT32:
        raise NotFused(reason or f"the epilogue gives {expr.dtype}")
    values: list[Expr] = [argument(0, DType.FLOAT32)]
    extras: list[str] = []
    columns: list[np.ndarray | None] = []
    for name in names:
        if ctx.dtype(name) is not DType.FLOAT32:
            raise NotFused(f"the epilogue reads {ctx.dtype(name)}")
        fixed = ctx.constant(name)
        if fixed is not None and fixed.size == 1:
            values.append(constant(float(fixed.reshape(())), DType.FLOAT32))
            continue
        values.append(argument(len(extras) + 1, DType.FLOAT32))
        extras.append(name)
        columns.append(None if fixed is None else _per_column(ctx, node, fixed, axis))
        if fixed is None and ctx.shape(name) != ctx.shape(node.outputs[0]):
            raise NotFused("the epilogue reads a computed value of another shape")
    text = write_expr(substitute(expr, values))
    if text == write_expr(values[0]):
        text = ""
    return Epilogue(text, tuple(extras), tuple(columns))


def _per_column(ctx: Lowering, node: Node, fixed: np.ndarray, axis: int) -> np.ndarray:
    columns = ctx.shape(node.outputs[0])[axis]
    place = fixed.ndim + axis
    if place < 0 or fixed.shape[place] != columns or fixed.size != columns:
        raise NotFused(f"the epilogue reads fixed numbers of shape {list(fixed.shape)}")
    return fixed.reshape(-1)
