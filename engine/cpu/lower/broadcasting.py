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


def loop_nest(shape: Shape, operands: Sequence[Shape]) -> tuple[list[Axis], list[tuple[Dim, Dim]]]:
    """Return the loop nest over a shape, as few axes as there can be.

    Also pairs of dims that must be equal, or the first of them 1, which only a run can tell.
    `NoKernel` when an operand does not broadcast.
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


def broadcast_step(
    ctx: Lowering,
    node: Node,
    expr: Expr,
    operands: Sequence[View],
    target: View,
    nest: Sequence[Axis] | None = None,
) -> None:
    """Add the step that computes an expression of arrays that broadcast into the target.

    Argument `i` of the expression is operand `i`, in the type in which it lies in memory. `nest`
    is their loop nest, where it is at hand; else all their dims must be known to fit.
    """
    axes = nest if nest is not None else loop_nest(target.shape, [v.shape for v in operands])[0]
    if not axes or any(stride not in (0, 1) for stride in axes[-1].strides):
        axes = [*axes, Axis(1, (0,) * len(operands))]  # rows of one element
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
        tasks=ceildiv(rows, height) * ceildiv(row.size, columns),
        numbers=numbers,
        node=node,
        in_place=all(_is_aligned(view, target) for view in operands),
    )


def _is_aligned(view: View, target: View) -> bool:
    """Whether elements lie where results lie, if the operand's memory could be taken at all."""
    if view.size_bytes != target.size_bytes:
        return True
    return view.dtype.itemsize == target.dtype.itemsize
