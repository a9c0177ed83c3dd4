"""Elementwise operators: every one that is defined as an expression, casts, and fused chains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from engine.cpu.builder import MEMORY
from engine.cpu.expressions import unsupported
from engine.cpu.lower.broadcasting import View, broadcast_steps, loop_nest
from engine.cpu.lower.context import Lowering
from engine.cpu.lower.image_elementwise import lower_on_images
from engine.cpu.lower.rules import NoKernel, lowers, lowers_definitions
from engine.dtypes import DType
from engine.ir.expr import Expr, argument, constant
from engine.ir.expr_text import substitute
from engine.ir.graph import Node
from engine.ops import casting
from engine.ops.define import Elementwise

LARGEST_WRITTEN_IN: Final = 16  # numbers up to this, in eighths, become part of the code


@lowers_definitions(Elementwise)
def elementwise(ctx: Lowering, node: Node) -> None:
    """Lower an operator that is defined as an expression."""
    operator = ctx.operator(node)
    definition = operator.definition
    if not isinstance(definition, Elementwise):
        raise NoKernel(f"version {node.version} of the operator is no expression")
    attributes = operator.complete(node)
    dtypes = [ctx.dtype(name) if name else None for name in node.inputs]
    for name, dtype in zip(node.inputs, dtypes, strict=True):
        _check_type(dtype)
        shape = ctx.shape(name) if name else None
        first = ctx.shape(node.inputs[0]) if node.inputs[0] else None
        if (
            shape is not None
            and definition.aligned(first, shape, attributes, node.version) != shape
        ):
            raise NoKernel("it broadcasts as operators did before opset 7")
    fixed = _written_in(ctx, node)
    expr = definition.trace(dtypes, attributes, fixed)
    names = ["" if i in fixed else name for i, name in enumerate(node.inputs)]
    lower_expression(ctx, node, expr, names, node.outputs[0])


def _check_type(dtype: DType | None) -> None:
    if dtype is not None and dtype not in MEMORY:
        raise NoKernel(f"{dtype} has no native code")


def _written_in(ctx: Lowering, node: Node) -> dict[int, Any]:
    """Return the inputs that become part of the code: simple numbers, and exponents.

    Others stay operands, so that a network trained anew needs no other code.
    """
    found: dict[int, Any] = {}
    rank = len(ctx.shape(node.outputs[0]))
    for i, name in enumerate(node.inputs):
        value = ctx.constant(name)
        if value is None or value.size != 1 or value.dtype.kind not in "biuf":
            continue
        if any(len(ctx.shape(n)) == rank for k, n in enumerate(node.inputs) if n and k != i):
            number = value.reshape(()).tolist()
            if _is_simple(number) or (node.op == "Pow" and i == 1):
                found[i] = number
    return found


def _is_simple(number: float) -> bool:
    return abs(number) <= LARGEST_WRITTEN_IN and float(number * 8).is_integer()


@lowers("Cast", "CastLike")
def cast(ctx: Lowering, node: Node) -> None:
    """Lower a cast between numbers."""
    source, target = ctx.dtype(node.inputs[0]), ctx.dtype(node.outputs[0])
    _check_type(source)
    _check_type(target)
    expr = casting.cast_expression(source, target, bool(ctx.attributes(node)["saturate"]))
    lower_expression(ctx, node, expr, node.inputs[:1], node.outputs[0])


def lower_expression(
    ctx: Lowering, node: Node, expr: Expr, operands: Sequence[str], output: str
) -> None:
    """Add the step that computes an expression of values that broadcast into the output.

    Args:
        ctx: The region.
        node: What the step is for.
        expr: The expression; argument `i` is operand `i`, in the type in which it lies in memory.
        operands: Names of values; "" for arguments that the expression does not read.
        output: The result's name, which has the expression's type.
    """
    reason = unsupported(expr, ctx.target)
    if reason:
        raise NoKernel(reason)
    expr, names = _renumbered(expr, operands)
    nest = loop_nest(ctx.shape(output), [ctx.shape(n) for n in names])
    if not lower_on_images(ctx, node, expr, names, output):
        views = [View(ctx.plain(n, node), ctx.shape(n), ctx.dtype(n)) for n in names]
        target = View(ctx.output(output), ctx.shape(output), ctx.dtype(output))
        broadcast_steps(ctx, node, expr, views, target)
    for dim, whole in nest.open:
        # Equal, or 1: what broadcasting asks for, where symbols leave it open.
        ctx.require_equal((dim - 1) * (dim - whole), 0, node, f"{dim} and {whole} do not broadcast")


def _renumbered(expr: Expr, operands: Sequence[str]) -> tuple[Expr, list[str]]:
    """Return the expression over just those operands that it reads, and their names."""
    used = sorted({int(n.payload or 0) for n in expr.walk() if n.op == "arg"})
    kinds = {int(n.payload or 0): n.dtype for n in expr.walk() if n.op == "arg"}
    last = max(used, default=-1)
    values = [
        argument(used.index(i), kinds[i]) if i in kinds else constant(0, DType.FLOAT32)
        for i in range(last + 1)
    ]
    return substitute(expr, values), [operands[i] for i in used]
