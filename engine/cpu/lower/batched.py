"""Products whose sides are both computed, with batch axes that broadcast."""

from __future__ import annotations

from engine.cpu.kernels.batched import BATCH_AXES, BatchedProduct, rows_per_task
from engine.cpu.lower.context import Lowering
from engine.cpu.lower.epilogue import epilogue_of
from engine.cpu.lower.rules import NoKernel
from engine.dtypes import DType
from engine.ir.graph import Node
from engine.ir.types import Dim, Shape, ceildiv, element_count


def lower_batched(ctx: Lowering, node: Node, left: str, right: str) -> None:
    """Add the step of `left @ right` by numpy's rules."""
    if {ctx.dtype(left), ctx.dtype(right)} != {DType.FLOAT32}:
        raise NoKernel(f"products of {ctx.dtype(left)} have no kernel")
    a, b = ctx.shape(left), ctx.shape(right)
    if not a or not b:
        raise NoKernel("a product needs a vector or a matrix on both sides")
    a = (1, *a) if len(a) == 1 else a
    b = (*b, 1) if len(b) == 1 else b
    epilogue = epilogue_of(ctx, node, -1)
    if epilogue.extras and min(len(ctx.shape(left)), len(ctx.shape(right))) == 1:
        raise NoKernel("the product gives no columns that its epilogue could follow")
    ctx.require_equal(a[-1], b[-2], node, "the inner dims of a product differ")
    rows, terms, columns = a[-2], a[-1], b[-1]
    if len(b) == 2 or element_count(b[:-2]) == 1:  # one right side for all rows
        rows, a, b = element_count(a[:-1]), (element_count(a[:-1]), terms), b[-2:]
    axes = _axes(a, b)
    kernel = BatchedProduct(epilogue.text, tuple(c is None for c in epilogue.columns))
    reads = [ctx.plain(name, node) for name in (left, right, *epilogue.extras)]
    batch = element_count(tuple(length for length, _, _ in axes))
    width = ctx.target.tile_columns
    tasks = batch * ceildiv(rows, rows_per_task(ctx.target)) * ceildiv(columns, width)
    ctx.step(
        kernel,
        [ctx.output(node.outputs[0])],
        reads,
        tasks=tasks,
        numbers=[rows, terms, columns, *(number for axis in axes for number in axis)],
        node=node,
    )


def _axes(a: Shape, b: Shape) -> list[tuple[Dim, Dim, Dim]]:
    """Return length, step of the left and step of the right side of `BATCH_AXES` batch axes.

    Neighbouring axes along which both sides go on, or stand still, become one.
    """
    rank = max(len(a), len(b)) - 2
    a_lead = (1,) * (rank + 2 - len(a)) + tuple(a[:-2])
    b_lead = (1,) * (rank + 2 - len(b)) + tuple(b[:-2])
    axes: list[tuple[Dim, Dim, Dim]] = []
    kinds: list[tuple[bool, bool]] = []
    a_step, b_step = element_count(a[-2:]), element_count(b[-2:])
    for x, y in zip(reversed(a_lead), reversed(b_lead), strict=True):
        if x == 1 and y == 1:
            continue
        if x != y and 1 not in (x, y):
            raise NoKernel(f"only a run tells whether {x} and {y} broadcast")
        kind = (x != 1, y != 1)
        length = x if x != 1 else y
        if kinds and kinds[-1] == kind:
            inner, a_inner, b_inner = axes[-1]
            axes[-1] = (inner * length, a_inner, b_inner)
        else:
            axes.append((length, a_step if kind[0] else 0, b_step if kind[1] else 0))
            kinds.append(kind)
        a_step, b_step = a_step * x, b_step * y
    if len(axes) > BATCH_AXES:
        raise NoKernel("the batch axes of a product broadcast in too many ways")
    axes.reverse()
    return [(1, 0, 0)] * (BATCH_AXES - len(axes)) + axes
