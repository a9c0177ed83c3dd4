"""Brings copies between strided arrays into the forms that there is code for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from engine.cpu.buffers import Buffer, StridedView
from engine.cpu.kernels.strided import StridedCopy
from engine.cpu.lower.context import CONVERTERS_OF_VIEWS, Lowering
from engine.dtypes import DType
from engine.ir.graph import Node
from engine.ir.types import Dim, Shape, ceildiv, element_count

TASK: Final = 1 << 14  # elements that one task should copy
SQUARE: Final = 64  # rows and columns of a block that is turned, so that its lines stay in L1


@dataclass(frozen=True)
class Axis:
    """One axis of a copy: its size, and how many elements lie between neighbours on both sides."""

    size: Dim
    to: Dim
    source: Dim


def strides_of(shape: Shape) -> list[Dim]:
    """Return the elements from one place to the next along each axis of a dense array."""
    return [element_count(shape[k + 1 :]) for k in range(len(shape))]


def strided_copy(
    ctx: Lowering,
    target: Buffer,
    source: Buffer,
    axes: Sequence[Axis],
    dtype: DType,
    node: Node,
    *,
    first_to: Dim = 0,
    first_from: Dim = 0,
) -> None:
    """Add the step that copies every place of `axes`; they come in the target's order."""
    merged, kind = _form(collapsed(axes))
    rows, columns = _block(merged, kind)
    *outer, before, last = merged
    numbers: list[Dim] = [
        *(a.size for a in merged),
        *(a.to for a in merged),
        *(a.source for a in merged),
        first_to,
        first_from,
        rows,
        columns,
    ]
    tasks = element_count(tuple(a.size for a in outer))
    tasks = tasks * ceildiv(before.size, rows) * ceildiv(last.size, columns)
    kernel = StridedCopy(dtype.itemsize, len(merged), kind)
    ctx.step(kernel, (target,), (source,), tasks=tasks, numbers=numbers, node=node)


def copy_view(ctx: Lowering, target: Buffer, view: StridedView, node: Node) -> None:
    """Add the step that makes a plain array of a view."""
    outer = strides_of(view.shape)
    axes = [Axis(*each) for each in zip(view.shape, outer, view.strides, strict=True)]
    strided_copy(ctx, target, view.buffer, axes, target.plain.dtype, node, first_from=view.first)


def name_view(ctx: Lowering, name: str, view: StridedView) -> None:
    """Let a name be a view: the memory itself where it lies in one piece, without a copy."""
    outer = strides_of(view.shape)
    axes = [Axis(*each) for each in zip(view.shape, outer, view.strides, strict=True)]
    if is_whole(axes) and isinstance(view.first, int):
        ctx.alias(name, view.buffer, view.first * ctx.dtype(name).itemsize)
    else:
        ctx.output_view(name, view)


def is_whole(axes: Sequence[Axis]) -> bool:
    """Whether a copy would move nothing: all elements, in the order in which they lie."""
    merged = collapsed(axes)
    return not merged or (len(merged) == 1 and merged[0].to == 1 and merged[0].source == 1)


def collapsed(axes: Sequence[Axis]) -> list[Axis]:
    """Return the same copy with as few axes as possible: neighbours that follow on are one."""
    result: list[Axis] = []
    for axis in axes:
        if axis.size == 1:
            continue
        if result and all(
            outer == inner * axis.size
            for outer, inner in ((result[-1].to, axis.to), (result[-1].source, axis.source))
        ):
            result[-1] = Axis(result[-1].size * axis.size, axis.to, axis.source)
        else:
            result.append(axis)
    return result


def _form(axes: list[Axis]) -> tuple[list[Axis], str]:
    """Return the axes, at least two, with those last that the inner loops walk, and their kind."""
    one = Axis(1, 0, 0)
    axes = [*[one] * (2 - len(axes)), *axes]
    last = axes[-1]
    if last == one or (last.to == 1 and last.source == 1):
        return axes, "rows"
    if last.to != 1:
        return axes, "any"
    if last.source == 0:
        return axes, "repeat"
    for k, axis in enumerate(axes[:-1]):
        if axis.source == 1:
            return [*axes[:k], *axes[k + 1 : -1], axis, last], "turn"
    return axes, "any"


def _block(axes: Sequence[Axis], kind: str) -> tuple[int, int]:
    """Return the rows and columns of a task."""
    if kind == "turn":
        return SQUARE, 4 * SQUARE
    width = axes[-1].size
    if not isinstance(width, int):
        return 16, TASK
    columns = max(1, min(width, TASK))
    return max(1, TASK // columns), columns


CONVERTERS_OF_VIEWS["to_plain"] = copy_view
