"""Brings operands that broadcast into the loop nest that elementwise kernels walk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from engine.cpu.buffers import Buffer
from engine.cpu.kernels.elementwise import Elementwise, Operand
from engine.cpu.lower.context import Lowering
from engine.cpu.lower.rules import NoKernel
from engine.cpu.lower.strided import strides_of
from engine.dtypes import DType
from engine.ir.expr import Expr
from engine.ir.expr_text import write_expr
from engine.ir.graph import Node
from engine.ir.types import Dim, Shape, ceildiv, dim_max, dim_min, element_count, floordiv

TASK: Final = 1 << 13  # elements of one task


@dataclass(frozen=True)
class View:
    """A dense array in a plain buffer, seen in a shape."""

    buffer: Buffer
    shape: Shape
    dtype: DType

    @property
    def size_bytes(self) -> Dim:
        """Bytes of the whole array."""
        return element_count(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class Axis:
    """One axis of a loop nest: its size, and the elements between neighbours per operand."""

    size: Dim
    strides: tuple[Dim, ...]


@dataclass(frozen=True)
class Nest:
    """Loops over a shape, as few as there can be.

    Attributes:
        axes: The loops, innermost last.
        open: Pairs of dims that must be equal, or the first of them 1, which only a run can tell.
    """

    axes: tuple[Axis, ...]
    open: tuple[tuple[Dim, Dim], ...] = ()

    @property
    def has_plain_rows(self) -> bool:
        """Whether the innermost loop meets neighbours, or one element for all, in every operand."""
        return not self.axes or all(stride in (0, 1) for stride in self.axes[-1].strides)


def loop_nest(shape: Shape, operands: Sequence[Shape]) -> Nest:
    """Return the loop nest over a shape; `NoKernel` when an operand does not broadcast."""
    unsettled: list[tuple[Dim, Dim]] = []
    nest: list[Axis] = []
    for k, size in enumerate(shape):
        strides = []
        for operand in operands:
            place = k - (len(shape) - len(operand))
            strides.append(0 if place < 0 else _stride(operand, place, size, unsettled))
        if size != 1:
            nest.append(Axis(size, tuple(strides)))
    return Nest(tuple(_collapsed(nest)), tuple(unsettled))


def _stride(operand: Shape, place: int, size: Dim, unsettled: list[tuple[Dim, Dim]]) -> Dim:
    dim = operand[place]
    if dim == 1:
        return 0
    stride = strides_of(operand)[place]
    if dim == size:
        return stride
    if isinstance(dim, int) and isinstance(size, int):
        raise NoKernel(f"{dim} does not broadcast to {size}")
    unsettled.append((dim, size))
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


def broadcast_steps(
    ctx: Lowering, node: Node, expr: Expr, operands: Sequence[View], target: View
) -> None:
    """Add the steps that compute an expression of arrays that broadcast into the target.

    Where only a run tells whether elements of a row are neighbours or all the same, there is a step
    for each case, of which one has tasks.
    """
    nest = loop_nest(target.shape, [view.shape for view in operands])
    if nest.has_plain_rows:
        broadcast_step(ctx, node, expr, operands, target)
        return
    are_equal: Dim = 1
    are_one: Dim = 1
    for dim, whole in nest.open:
        are_equal = are_equal * (1 - dim_min(1, dim_max(dim, whole) - dim_min(dim, whole)))
        are_one = are_one * (1 - dim_min(1, dim_max(dim - 1, 0)))
    equal = [_settled(view, target.shape, spreads=False) for view in operands]
    broadcast_step(ctx, node, expr, equal, target, share=are_equal)
    single = [_settled(view, target.shape, spreads=True) for view in operands]
    broadcast_step(ctx, node, expr, single, target, share=are_one * (1 - are_equal))
    share = (1 - are_one) * (1 - are_equal)
    broadcast_step(ctx, node, expr, operands, target, share=share)


def _settled(view: View, shape: Shape, *, spreads: bool) -> View:
    """Return the view with the dims that are open all 1, or all as large as the result's."""
    wholes = shape[len(shape) - len(view.shape) :]
    dims = (
        dim if dim in (1, whole) else 1 if spreads else whole
        for dim, whole in zip(view.shape, wholes, strict=True)
    )
    return View(view.buffer, tuple(dims), view.dtype)


def broadcast_step(
    ctx: Lowering,
    node: Node,
    expr: Expr,
    operands: Sequence[View],
    target: View,
    *,
    share: Dim = 1,
) -> None:
    """Add the step that computes an expression of arrays that broadcast into the target.

    Argument `i` of the expression is operand `i`, in the type in which it lies in memory. The
    number of tasks is multiplied by `share`, which is 0 or 1.
    """
    nest = loop_nest(target.shape, [view.shape for view in operands])
    axes = nest.axes
    if not axes or not nest.has_plain_rows:
        axes = (*axes, Axis(1, (0,) * len(operands)))  # rows of one element
    *outer, row = axes
    arguments = tuple(
        Operand(view.dtype, stride == 0) for view, stride in zip(operands, row.strides, strict=True)
    )
    columns = max(1, min(row.size, TASK)) if isinstance(row.size, int) else TASK
    height = dim_max(1, floordiv(TASK, dim_max(row.size, 1)))
    rows = element_count(tuple(a.size for a in outer))
    numbers = [row.size, columns, rows, height, *(a.size for a in outer)]
    numbers += [a.strides[i] for i in range(len(operands)) for a in outer]
    ctx.step(
        Elementwise(write_expr(expr), arguments, len(outer)),
        [target.buffer],
        [view.buffer for view in operands],
        tasks=ceildiv(rows, height) * ceildiv(row.size, columns) * share,
        numbers=numbers,
        node=node,
        in_place=all(_is_aligned(view, target) for view in operands),
    )


def _is_aligned(view: View, target: View) -> bool:
    """Whether elements lie where results lie, if the operand's memory could be taken at all."""
    if view.size_bytes != target.size_bytes:
        return True
    return view.dtype.itemsize == target.dtype.itemsize
