"""Elementwise operators: every one that is defined as an expression, casts, and fused chains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from engine.cpu.builder import MEMORY
from engine.cpu.expressions import unsupported
from engine.cpu.kernels.elementwise import Elementwise as ElementwiseKernel
from engine.cpu.kernels.elementwise import Operand
from engine.cpu.lower.context import Lowering
from engine.cpu.lower.image_elementwise import lower_on_images
from engine.cpu.lower.rules import RULES, NoKernel, lowers
from engine.cpu.lower.strided import strides_of
from engine.dtypes import DType
from engine.ir.expr import Expr, argument, constant
from engine.ir.expr_text import substitute, write_expr
from engine.ir.graph import Node
from engine.ir.types import Dim, Shape, ceildiv, dim_max, dim_min, element_count, floordiv
from engine.ops import casting
from engine.ops.define import Elementwise
from engine.ops.registry import REGISTRY

TASK: Final = 1 << 13  # elements of one task
LARGEST_WRITTEN_IN: Final = 16  # numbers up to this, in eighths, become part of the code


@dataclass(frozen=True)
class Axis:
    """One axis of a loop nest: its size, and the elements between neighbours per operand."""

    size: Dim
    strides: tuple[Dim, ...]


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
    shape = ctx.shape(output)
    axes, agreements = _axes(shape, [ctx.shape(n) for n in names])
    if not lower_on_images(ctx, node, expr, names, output):
        _lower_plain(ctx, node, expr, names, axes, output)
    for dim, whole in agreements:
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


def _axes(shape: Shape, operands: Sequence[Shape]) -> tuple[list[Axis], list[tuple[Dim, Dim]]]:
    """Return the loop nest over a shape, as few axes as there can be.

    Also pairs of dims that must be equal, or the first of them 1, which only a run can tell.
    """
    agreements: list[tuple[Dim, Dim]] = []
    nest: list[Axis] = []
    for k, size in enumerate(shape):
        strides = []
        for operand in operands:
            place = k - (len(shape) - len(operand))
            strides.append(0 if place < 0 else _stride(operand, place, size, agreements))
        if size != 1:
            nest.append(Axis(size, tuple(strides)))
    return _collapsed(nest), agreements


def _stride(operand: Shape, place: int, size: Dim, agreements: list[tuple[Dim, Dim]]) -> Dim:
    dim = operand[place]
    if dim == 1:
        return 0
    stride = strides_of(operand)[place]
    if dim == size:
        return stride
    if isinstance(dim, int) and isinstance(size, int):
        raise NoKernel(f"{dim} does not broadcast to {size}")
    agreements.append((dim, size))
    return stride * dim_min(dim_max(dim - 1, 0), 1)


def _collapsed(nest: Sequence[Axis]) -> list[Axis]:
    result: list[Axis] = []
    for axis in nest:
        outer = result[-1] if result else None
        if outer and all(
            a == b * axis.size for a, b in zip(outer.strides, axis.strides, strict=True)
        ):
            result[-1] = Axis(outer.size * axis.size, axis.strides)
        else:
            result.append(axis)
    return result


def _lower_plain(
    ctx: Lowering, node: Node, expr: Expr, names: Sequence[str], axes: list[Axis], output: str
) -> None:
    if not axes or any(stride not in (0, 1) for stride in axes[-1].strides):
        axes = [*axes, Axis(1, (0,) * len(names))]  # rows of one element
    *outer, row = axes
    arguments = tuple(
        Operand(ctx.dtype(name), stride == 0)
        for name, stride in zip(names, row.strides, strict=True)
    )
    columns: Dim = min(row.size, TASK) if isinstance(row.size, int) else TASK
    height = dim_max(1, floordiv(TASK, dim_max(row.size, 1)))
    rows = element_count(tuple(a.size for a in outer))
    numbers = [row.size, dim_max(columns, 1), rows, height]
    numbers += [a.size for a in outer]
    numbers += [a.strides[i] for i in range(len(names)) for a in outer]
    kernel = ElementwiseKernel(write_expr(expr), arguments, len(outer))
    reads = [ctx.plain(name, node) for name in names]
    tasks = ceildiv(rows, height) * ceildiv(row.size, dim_max(columns, 1))
    in_place = _works_in_place(ctx, names, output)
    target = ctx.output(output)
    ctx.step(kernel, [target], reads, tasks=tasks, numbers=numbers, node=node, in_place=in_place)


def _works_in_place(ctx: Lowering, names: Sequence[str], output: str) -> bool:
    """Whether every operand as large as the result has its elements where the result has them."""
    shape, size = ctx.shape(output), ctx.dtype(output).itemsize
    for name in names:
        own, bytes_ = ctx.shape(name), ctx.dtype(name).itemsize
        is_same = element_count(own) == element_count(shape) and bytes_ == size
        if not is_same and element_count(own) * bytes_ == element_count(shape) * size:
            return False
    return True


for _operator in REGISTRY.operators():
    if isinstance(_operator.definition, Elementwise):
        key = (_operator.domain, _operator.name)
        RULES.setdefault(key, elementwise)
