"""Rules of attention: every operand is read where it lies, heads are found by strides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from engine.cpu.buffers import Buffer, StridedView
from engine.cpu.expressions import unsupported
from engine.cpu.kernels.attention import Attention
from engine.cpu.kernels.attention_parts import Heads, Operand
from engine.cpu.lower.context import Lowering
from engine.cpu.lower.half_rows import Half, output_as_half, wish
from engine.cpu.lower.matmul import product_type
from engine.cpu.lower.rules import NoKernel, lowers
from engine.cpu.lower.strided import copy_view, strides_of
from engine.dtypes import DType
from engine.ir.expr import Expr, argument
from engine.ir.expr_text import arguments_of, substitute, write_expr
from engine.ir.graph import Node
from engine.ir.types import Dim, Shape, ceildiv, dim_min, element_count
from engine.ops.fused import FUSED_DOMAIN
from engine.ops.fused_attention import scores_expression

LARGEST_HEAD: Final = 512  # numbers of a key or value, so that a block of queries fits in a cache


@dataclass
class View:
    """An array seen at some strides.

    Attributes:
        buffer: Its memory.
        shape: Leading axes, then rows and the numbers of a row.
        strides: Elements between neighbours along each axis.
    """

    buffer: Buffer
    shape: Shape
    strides: tuple[Dim, ...]

    @property
    def row(self) -> int:
        """Elements from row to row."""
        assert isinstance(self.strides[-2], int)
        return self.strides[-2]


@dataclass
class Extra:
    """An operand of the scores: how the kernel takes it, and the memory."""

    operand: Operand
    buffer: Buffer
    lead: tuple[Dim, ...]
    step: Dim


@lowers("Attention", domain=FUSED_DOMAIN)
def attention(ctx: Lowering, node: Node) -> None:
    """`softmax(scores(Q K')) V`, permuted on the way as the node says."""
    attributes = ctx.attributes(node)
    names = node.inputs[:3]
    if any(ctx.dtype(n) is not DType.FLOAT32 for n in (*names, node.outputs[0])):
        raise NoKernel("attention is native for float32")
    expr, extras = _scores(ctx, node)
    shapes = [
        _permuted(ctx.shape(n), attributes[f"perm_{p}"]) for n, p in zip(names, "qkv", strict=True)
    ]
    lead, queries, keys = check_shapes(ctx, node, shapes)
    operands = [score_operand(ctx, node, name, (*lead, queries, keys)) for name in extras]
    q, k, v = (
        _view(ctx, node, n, attributes[f"perm_{p}"]) for n, p in zip(names, "qkv", strict=True)
    )
    y = _result(ctx, node, (*lead, queries, shapes[2][-1]))
    zeros = "none" if attributes["safe"] else ""
    launch(ctx, node, Parts(lead, queries, keys, q, k, v, y), expr, operands, zeros)
    _bring_home(ctx, node, y)


@dataclass
class Parts:
    """What attention is over.

    Attributes:
        lead: Sizes of the leading axes.
        queries: How many there are.
        keys: How many there are.
        q: Queries, leading axes in front.
        k: Keys.
        v: Values.
        y: Results.
    """

    lead: Shape
    queries: Dim
    keys: Dim
    q: View
    k: View
    v: View
    y: View


def launch(
    ctx: Lowering, node: Node, parts: Parts, expr: Expr, extras: Sequence[Extra], zeros: str
) -> None:
    """Add the step of attention; `zeros` says for which queries the kernel gives zeros."""
    size, value_size = parts.q.shape[-1], parts.v.shape[-1]
    assert isinstance(size, int) and isinstance(value_size, int)
    reads, rank = (parts.q, parts.k, parts.v), len(parts.lead)
    q_row, k_row, v_row = (view.row for view in reads)
    result = parts.y.buffer.plain.dtype
    heads = Heads(rank, size, value_size, q_row, k_row, v_row, parts.y.row, y_dtype=result)
    operands = tuple(e.operand for e in extras)
    kernel = Attention(heads, write_expr(expr), operands, zeros, product_type(ctx))
    numbers: list[Dim] = [parts.queries, parts.keys, *parts.lead]
    for view in (parts.y, *reads):
        numbers += _aligned(view.shape[:-2], view.strides[:-2], rank)
    for extra in extras:
        numbers += extra.lead
    numbers += [extra.step for extra in extras]
    ctx.step(
        kernel,
        (parts.y.buffer,),
        [*(v.buffer for v in reads), *(e.buffer for e in extras)],
        tasks=element_count(parts.lead) * ceildiv(parts.queries, kernel.queries(ctx.target)),
        numbers=numbers,
        node=node,
    )


def _scores(ctx: Lowering, node: Node) -> tuple[Expr, list[str]]:
    """Return the expression over the product and those inputs that it takes, and their names."""
    names = node.inputs[3:]
    fixed = {}
    for k, name in enumerate(names, start=3):
        value = ctx.constant(name)
        if value is not None and value.size == 1:
            fixed[k] = value.reshape(()).tolist()
    dtypes = [ctx.dtype(name) for name in node.inputs]
    expr = scores_expression(ctx.attributes(node), dtypes, fixed)
    reason = unsupported(expr, ctx.target)
    if reason:
        raise NoKernel(reason)
    left = [k for k in range(3, len(dtypes)) if k not in fixed and k - 2 < arguments_of(expr)]
    values = [argument(0, DType.FLOAT32)]
    for k in range(3, len(dtypes)):
        place = left.index(k) + 1 if k in left else 0
        values.append(argument(place, dtypes[k] if place else DType.FLOAT32))
    return substitute(expr, values), [node.inputs[k] for k in left]


def _permuted(shape: Shape, perm: Sequence[int]) -> Shape:
    return tuple(shape[k] for k in perm) if len(perm) else shape


def check_shapes(ctx: Lowering, node: Node, shapes: Sequence[Shape]) -> tuple[Shape, Dim, Dim]:
    """Return the leading axes, the queries and the keys; all sizes must fit."""
    q, k, v = shapes
    if any(len(s) != len(q) for s in shapes) or len(q) < 2:
        raise NoKernel("queries, keys and values have different ranks")
    if not all(isinstance(s[-1], int) and 0 < s[-1] <= LARGEST_HEAD for s in shapes):
        raise NoKernel(f"heads are native up to {LARGEST_HEAD} numbers")
    same = "queries and keys have heads of different sizes"
    ctx.require_equal(q[-1], k[-1], node, same)
    ctx.require_equal(k[-2], v[-2], node, "there are not as many values as keys")
    lead = []
    for axis, dims in enumerate(zip(*(s[:-2] for s in shapes), strict=True)):
        wide = next((d for d in dims if d != 1), 1)
        for dim in dims:
            if dim != 1:
                ctx.require_equal(dim, wide, node, f"axis {axis} of queries, keys and values")
        lead.append(wide)
    return tuple(lead), q[-2], k[-2]


def _view(ctx: Lowering, node: Node, name: str, perm: Sequence[int]) -> View:
    source = ctx.strided(name, node)
    axes, moved = _permuted(source.shape, perm), _permuted(source.strides, perm)
    return in_rows(ctx, node, replace(source, shape=axes, strides=moved))


def in_rows(ctx: Lowering, node: Node, source: StridedView) -> View:
    """Return a view in rows that the kernel can take; it is copied if it has no such rows."""
    buffer, moved = source.buffer, source.strides
    if moved[-1] == 1 and isinstance(moved[-2], int) and isinstance(source.first, int):
        if source.first:
            offset = source.first * DType.FLOAT32.itemsize
            layout, size = buffer.layout, buffer.size_bytes - offset
            buffer = Buffer(buffer.name, layout, size, buffer.place, buffer, offset)
        return View(buffer, source.shape, moved)
    copy = ctx.temporary_plain(f"{buffer.name} in rows", source.shape, DType.FLOAT32)
    copy_view(ctx, copy, source, node)
    return View(copy, source.shape, tuple(strides_of(source.shape)))


def _result(ctx: Lowering, node: Node, shape: Shape) -> View:
    """Return the result's array, seen before the last permutation, or one to be permuted."""
    lying = ctx.shape(node.outputs[0])
    strides: list[Dim] = [0] * len(shape)
    for place, axis in enumerate(_perm_of_result(ctx, node, len(shape))):
        ctx.require_equal(lying[place], shape[axis], node, f"axis {place} of the result")
        strides[axis] = strides_of(lying)[place]
    if strides[-1] == 1 and isinstance(strides[-2], int):
        name = node.outputs[0]
        half = wish(ctx, name) is Half.ONLY
        return View(output_as_half(ctx, name) if half else ctx.output(name), shape, tuple(strides))
    dense = ctx.temporary_plain(f"{node.outputs[0]} in rows", shape, DType.FLOAT32)
    return View(dense, shape, tuple(strides_of(shape)))


def _perm_of_result(ctx: Lowering, node: Node, rank: int) -> tuple[int, ...]:
    return tuple(ctx.attributes(node)["perm_y"]) or tuple(range(rank))


def _bring_home(ctx: Lowering, node: Node, y: View) -> None:
    """Permute results that could not be written where they belong."""
    perm = _perm_of_result(ctx, node, len(y.shape))
    if y.buffer.name != node.outputs[0] and node.outputs[0] not in ctx.halves:
        shape, strides = (tuple(each[k] for k in perm) for each in (y.shape, y.strides))
        copy_view(ctx, ctx.output(node.outputs[0]), StridedView(y.buffer, shape, strides), node)


def _aligned(shape: Shape, strides: Sequence[Dim], rank: int) -> list[Dim]:
    """Return the strides of leading axes; what there is one of is the same for all."""
    found: list[Dim] = [0] * (rank - len(shape))
    return [*found, *(0 if d == 1 else s for d, s in zip(shape, strides, strict=True))]


def score_operand(ctx: Lowering, node: Node, name: str, scores: Shape) -> Extra:
    """Return an operand of the scores with its strides along the leading axes and the queries."""
    own = ctx.shape(name)
    if len(own) > len(scores):
        raise NoKernel(f"{name!r} has rank {len(own)}, the scores {len(scores)}")
    shape = (*(1,) * (len(scores) - len(own)), *own)
    strides = strides_of(shape)
    if shape[-1] != 1 and shape[-1] != scores[-1]:
        raise NoKernel(f"{name!r} may have one number for all keys")
    if shape[-1] == 1 and shape[-2] != 1:
        raise NoKernel(f"{name!r} has a number per query")
    steps: list[Dim] = []
    for axis, (mine, wanted) in enumerate(zip(shape[:-1], scores[:-1], strict=True)):
        step: Dim = 0 if mine == 1 else strides[axis]
        if mine not in (1, wanted):  # it may turn out to be 1
            wrong = (mine - 1) * (mine - wanted)
            ctx.require_equal(wrong, 0, node, f"axis {axis} of {name!r} does not broadcast")
            step = strides[axis] * dim_min(mine - 1, 1)
        steps.append(step)
    kind = "one" if shape[-1] == 1 else "key" if shape[-2] == 1 else "both"
    operand = Operand(kind, ctx.dtype(name))
    return Extra(operand, ctx.plain(name, node), tuple(steps[:-1]), steps[-1])
