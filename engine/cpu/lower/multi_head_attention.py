"""The rule of com.microsoft's MultiHeadAttention: queries, keys and values that are projected."""

from __future__ import annotations

import math
from collections.abc import Sequence

from engine.cpu.buffers import Buffer, StridedView
from engine.cpu.kernels.attention_parts import Operand
from engine.cpu.lower.attention import (
    Extra,
    Parts,
    View,
    check_shapes,
    in_rows,
    launch,
    score_operand,
)
from engine.cpu.lower.broadcasting import View as Array
from engine.cpu.lower.broadcasting import broadcast_step
from engine.cpu.lower.context import Lowering
from engine.cpu.lower.onnx_attention import joined, triangle, with_heads
from engine.cpu.lower.rules import NoKernel, lowers
from engine.cpu.lower.strided import strides_of
from engine.dtypes import DType
from engine.ir.expr import Expr, argument, constant, select
from engine.ir.graph import Node
from engine.ir.types import Dim, Shape, element_count
from engine.ops.contrib_common import MICROSOFT

# Numbers of inputs behind queries, keys and values.
BIAS, MASK, ADDED, PAST = 3, 4, 5, (6, 7)
INPUTS, OUTPUTS = 8, 3  # what is more is not taken
MASKS = (DType.INT32, DType.INT64)


@lowers("MultiHeadAttention", domain=MICROSOFT)
def multi_head_attention(ctx: Lowering, node: Node) -> None:
    """In any way in which the three may be packed, with a cache, masks, and a causal triangle."""
    names = (*node.inputs, *[""] * INPUTS)
    _check_form(ctx, node, names)
    q, k, v = _by_heads(ctx, node, names)
    results = (*node.outputs, "", "")
    past: Dim = ctx.shape(names[PAST[0]])[2] if names[PAST[0]] else 0
    shapes = [q.shape, _grown(k.shape, past), _grown(v.shape, past)]
    lead, queries, keys = check_shapes(ctx, node, shapes)
    scores: Shape = (*lead, queries, keys)
    extras = _extras(ctx, node, names, scores)
    expr = _scores(ctx, node, q.shape[-1], extras)
    k = joined(ctx, node, names[PAST[0]], k, results[1])
    v = joined(ctx, node, names[PAST[1]], v, results[2])
    if ctx.attributes(node)["unidirectional"]:
        extras.append(triangle(ctx, node, queries, keys, keys - queries, rank=2))
    rows = [in_rows(ctx, node, each) for each in (q, k, v)]
    y = _result(ctx, node, (*lead, queries, v.shape[-1]))
    parts = Parts(lead, queries, keys, rows[0], rows[1], rows[2], y)
    launch(ctx, node, parts, expr, extras, "blind")


def _check_form(ctx: Lowering, node: Node, names: Sequence[str]) -> None:
    if any(names[INPUTS:]) or any(node.outputs[OUTPUTS:]):
        raise NoKernel("its cache is shared, or it is asked for its scores")
    read = [n for n in (*names[:MASK], *names[ADDED:INPUTS], *node.outputs) if n]
    if any(ctx.dtype(name) is not DType.FLOAT32 for name in read):
        raise NoKernel("attention is native for float32")
    if bool(names[PAST[0]]) != bool(names[PAST[1]]):
        raise NoKernel("its cache has keys or values only")


def _grown(shape: Shape, past: Dim) -> Shape:
    return (*shape[:2], past + shape[2], shape[3])


# ---------------------------------------------------------------------- queries, keys and values


def _by_heads(
    ctx: Lowering, node: Node, names: Sequence[str]
) -> tuple[StridedView, StridedView, StridedView]:
    """Return (batch, heads, length, size) of each."""
    heads, (q, k, v, bias) = int(ctx.attributes(node)["num_heads"]), names[:MASK]
    rank = len(ctx.shape(q))
    if bias and (rank == 5 or (k and len(ctx.shape(k)) == 5)):
        raise NoKernel("biases of what is packed head by head")
    if not k:
        packed = ctx.strided(q, node)
        if rank == 5:
            first, second, third = (_packed(packed, heads, 3, n) for n in range(3))
        else:
            packed = _biased(ctx, node, packed, bias, 0)
            first, second, third = (_third(packed, heads, n) for n in range(3))
        return first, second, third
    query = _biased(ctx, node, ctx.strided(q, node), bias, 0)
    queries = with_heads(query, heads)
    key = ctx.strided(k, node)
    if len(key.shape) == 5:
        return queries, _packed(key, heads, 2, 0), _packed(key, heads, 2, 1)
    if not v:
        raise NoKernel("there are keys but no values")
    value = ctx.strided(v, node)
    # Keys that come by heads are a cache of cross attention: their bias is in them.
    if len(key.shape) == 3:
        key = _biased(ctx, node, key, bias, query.shape[-1])
    if len(value.shape) == 3:
        before = query.shape[-1] + (key.shape[-1] if len(key.shape) == 3 else 0)
        value = _biased(ctx, node, value, bias, before)
    return queries, with_heads(key, heads), with_heads(value, heads)


def _packed(view: StridedView, heads: int, count: int, number: int) -> StridedView:
    """Return one of `count` arrays that lie side by side in each head: (B, L, N, count, H)."""
    batch, length, many, several, size = view.shape
    outer, row, head, part, one = view.strides
    if many != heads or several != count or not isinstance(part, int):
        raise NoKernel(
            f"an array of shape {list(map(str, view.shape))} packs no {count} of {heads}"
        )
    shape, strides = (batch, many, length, size), (outer, head, row, one)
    return StridedView(view.buffer, shape, strides, view.first + number * part)


def _third(view: StridedView, heads: int, number: int) -> StridedView:
    """Return one of three arrays that lie side by side in each row: (B, L, 3 * N * H)."""
    batch, length, width = view.shape
    if not isinstance(width, int) or width % (3 * heads):
        raise NoKernel(f"{width} columns are no three times {heads} heads")
    size, (outer, row, one) = width // 3 // heads, view.strides
    first = view.first + number * (width // 3) * one
    return StridedView(
        view.buffer, (batch, heads, length, size), (outer, size * one, row, one), first
    )


def _biased(ctx: Lowering, node: Node, view: StridedView, bias: str, first: Dim) -> StridedView:
    """Return (batch, length, columns) with numbers per column added, from one of them on."""
    if not bias:
        return view
    width = view.shape[-1]
    total = ctx.shape(bias)
    if len(total) != 1 or not all(isinstance(d, int) for d in (*total, first, width)):
        raise NoKernel("its columns, or their biases, are not known")
    assert isinstance(width, int) and isinstance(first, int) and isinstance(total[0], int)
    if first + width > total[0]:
        raise NoKernel(f"{total[0]} biases do not cover column {first + width}")
    if view.strides != tuple(strides_of(view.shape)) or view.first != 0:
        raise NoKernel("biases of an array that is not dense")
    float32 = DType.FLOAT32
    whole = ctx.plain(bias, node)
    part = Buffer(bias, whole.layout, width * 4, whole.place, whole, first * 4, whole.index)
    made = ctx.temporary_plain(f"{view.buffer.name} biased", view.shape, float32)
    broadcast_step(
        ctx,
        node,
        argument(0, float32) + argument(1, float32),
        [Array(view.buffer, view.shape, float32), Array(part, (width,), float32)],
        Array(made, view.shape, float32),
    )
    return StridedView(made, view.shape, view.strides)


# ---------------------------------------------------------------------- scores


def _extras(ctx: Lowering, node: Node, names: Sequence[str], scores: Shape) -> list[Extra]:
    found = []
    if names[ADDED]:
        found.append(score_operand(ctx, node, names[ADDED], scores))
    if names[MASK]:
        found.append(_mask(ctx, node, names[MASK], scores))
    return found


def _mask(ctx: Lowering, node: Node, name: str, scores: Shape) -> Extra:
    """Return a mask of the keys of each item, or of each query's."""
    shape, dtype, (batch, _, queries, keys) = ctx.shape(name), ctx.dtype(name), scores
    if dtype not in MASKS or len(shape) not in (2, 3):
        raise NoKernel(f"a mask of {dtype} and rank {len(shape)}")
    if shape[-1] != keys or shape[0] not in (1, batch) or shape[1:-1] not in ((), (queries,)):
        raise NoKernel(f"a mask of shape {list(map(str, shape))} may not cover the scores")
    outer: Dim = 0 if shape[0] == 1 else element_count(shape[1:])
    kind, step = ("key", 0) if len(shape) == 2 else ("both", keys)
    return Extra(Operand(kind, dtype), ctx.plain(name, node), (outer, 0), step)


def _scores(ctx: Lowering, node: Node, size: Dim, extras: Sequence[Extra]) -> Expr:
    """Return the scores as an expression of the product and of what is added."""
    attributes = ctx.attributes(node)
    assert isinstance(size, int)
    nothing, hidden = (
        constant(number, DType.FLOAT32) for number in (0.0, float(attributes["mask_filter_value"]))
    )
    scores = argument(0, DType.FLOAT32) * float(attributes["scale"] or 1 / math.sqrt(size))
    for number, extra in enumerate(extras, start=1):
        value = argument(number, extra.operand.dtype)
        is_mask = extra.operand.dtype in MASKS
        scores = scores + (select(value > 0, nothing, hidden) if is_mask else value)
    if attributes["unidirectional"]:
        seen = argument(len(extras) + 1, DType.BOOL)
        scores = scores + select(seen, nothing, constant(-math.inf, DType.FLOAT32))
    return scores


def _result(ctx: Lowering, node: Node, shape: Shape) -> View:
    """Return the result (B, S, N * H) by heads."""
    name, (batch, heads, queries, size) = node.outputs[0], shape
    assert isinstance(heads, int) and isinstance(size, int)
    lying = ctx.shape(name)
    for axis, (mine, right) in enumerate(zip(lying, (batch, queries, heads * size), strict=True)):
        ctx.require_equal(mine, right, node, f"axis {axis} of the result")
    dense = StridedView(ctx.output(name), (batch, queries, heads * size), tuple(strides_of(lying)))
    view = with_heads(dense, heads)
    return View(view.buffer, view.shape, view.strides)
