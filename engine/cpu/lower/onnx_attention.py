"""The rule of ONNX's own Attention: heads in groups, a mask, a causal triangle, a cache."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from engine.cpu.buffers import StridedView
from engine.cpu.kernels.attention_parts import Operand
from engine.cpu.kernels.triangle import ROWS, Triangle
from engine.cpu.lower.attention import Extra, Parts, View, check_shapes, in_rows, launch
from engine.cpu.lower.context import Lowering
from engine.cpu.lower.rules import NoKernel, lowers
from engine.cpu.lower.strided import Axis, strided_copy, strides_of
from engine.dtypes import DType
from engine.ir.expr import Expr, argument, constant, select, tanh
from engine.ir.graph import Node
from engine.ir.types import Dim, Shape, ceildiv

MASK, PAST = 3, (4, 5)  # numbers of inputs
WINDOWS = ("left_window_size", "right_window_size")


@lowers("Attention")
def attention(ctx: Lowering, node: Node) -> None:
    """Groups of query heads that share a head of keys become an axis of their own."""
    _check_form(ctx, node)
    q, k, v, past = _heads(ctx, node)
    lead, queries, keys = check_shapes(ctx, node, [q.shape, k.shape, v.shape])
    scores: Shape = (*lead, queries, keys)
    extras = []
    if len(node.inputs) > MASK and node.inputs[MASK]:
        extras.append(_mask(ctx, node, scores))
    if ctx.attributes(node)["is_causal"]:
        extras.append(triangle(ctx, node, queries, keys, past))
    rows = [in_rows(ctx, node, each) for each in (q, k, v)]
    y = _result(ctx, node, (*lead, queries, v.shape[-1]))
    parts = Parts(lead, queries, keys, rows[0], rows[1], rows[2], y)
    launch(ctx, node, parts, _scores(ctx, node, extras), extras, "blind")


def _check_form(ctx: Lowering, node: Node) -> None:
    attributes = ctx.attributes(node)
    if any(node.inputs[PAST[1] + 1 :]) or any(node.outputs[3:]):
        raise NoKernel("it is told lengths, or is asked for its scores")
    if any(attributes[window] >= 0 for window in WINDOWS):
        raise NoKernel("it looks through a window")
    if any(ctx.dtype(n) is not DType.FLOAT32 for n in (*node.inputs[:3], node.outputs[0])):
        raise NoKernel("attention is native for float32")


def _heads(ctx: Lowering, node: Node) -> tuple[StridedView, StridedView, StridedView, Dim]:
    """Return queries, keys and values as (batch, heads of keys, group, length, size), and how many
    of the keys were there before.
    """
    attributes = ctx.attributes(node)
    counts = ("q_num_heads", "kv_num_heads", "kv_num_heads")
    q, k, v = (
        with_heads(ctx.strided(name, node), attributes[count])
        for name, count in zip(node.inputs[:3], counts, strict=True)
    )
    many, few = q.shape[1], k.shape[1]
    if not isinstance(many, int) or not isinstance(few, int) or not few or many % few:
        raise NoKernel(f"{many} heads of queries, {few} of keys")
    if v.shape[1] != few:
        raise NoKernel(f"{few} heads of keys, {v.shape[1]} of values")
    names, past = [*node.inputs, *[""] * 6], 0 * k.shape[2]
    if names[PAST[0]]:
        past = ctx.shape(names[PAST[0]])[2]
    results = [*node.outputs, "", ""]
    k = joined(ctx, node, names[PAST[0]], k, results[1])
    v = joined(ctx, node, names[PAST[1]], v, results[2])
    return _grouped(q, few), _grouped(k, few), _grouped(v, few), past


def joined(ctx: Lowering, node: Node, past: str, new: StridedView, result: str) -> StridedView:
    """Return what was there before and what is new in one array, which may be a result."""
    if not past and not result:
        return new
    before: Dim = 0
    batch, heads, count, size = new.shape
    if past:
        if len(ctx.shape(past)) != 4 or ctx.dtype(past) is not DType.FLOAT32:
            raise NoKernel(f"the cache {past!r} is no float32 array of rank 4")
        before = ctx.shape(past)[2]
        for mine, right in zip(ctx.shape(past), (batch, heads, before, size), strict=True):
            ctx.require_equal(mine, right, node, f"the cache {past!r} does not fit")
    shape: Shape = (batch, heads, before + count, size)
    if result:
        for mine, right in zip(ctx.shape(result), shape, strict=True):
            ctx.require_equal(mine, right, node, f"the cache {result!r} does not fit")
    target = ctx.output(result) if result else ctx.temporary_plain("cache", shape, DType.FLOAT32)
    parts = [(ctx.strided(past, node), 0 * before)] if past else []
    for part, first in (*parts, (new, before)):
        axes = [Axis(*a) for a in zip(part.shape, strides_of(shape), part.strides, strict=True)]
        strided_copy(
            ctx,
            target,
            part.buffer,
            axes,
            DType.FLOAT32,
            node,
            first_to=first * size,
            first_from=part.first,
        )
    return StridedView(target, shape, tuple(strides_of(shape)))


def with_heads(view: StridedView, heads: int | None) -> StridedView:
    """Return (batch, heads, length, size) of an array that may have its heads side by side."""
    if len(view.shape) == 4:
        return view
    size = view.shape[-1]
    if len(view.shape) != 3 or not heads or not isinstance(size, int) or size % heads:
        raise NoKernel(f"{heads} heads in an array of shape {list(map(str, view.shape))}")
    batch, length, _ = view.shape
    outer, row, one = view.strides
    part = size // heads
    return replace(view, shape=(batch, heads, length, part), strides=(outer, one * part, row, one))


def _grouped(view: StridedView, heads: int) -> StridedView:
    """Return (batch, heads, group, length, size)."""
    batch, many, length, size = view.shape
    outer, head, row, one = view.strides
    assert isinstance(many, int)
    group = many // heads
    shape = (batch, heads, group, length, size)
    return replace(view, shape=shape, strides=(outer, head * group, head, row, one))


def _result(ctx: Lowering, node: Node, shape: Shape) -> View:
    name = node.outputs[0]
    lying = ctx.shape(name)
    _, heads, group, _, size = shape
    assert isinstance(heads, int) and isinstance(group, int)
    many = heads * group
    wanted: Shape = (shape[0], many, shape[3], size)
    if len(lying) == 3:
        wanted = (shape[0], shape[3], many * size)
    for axis, (mine, right) in enumerate(zip(lying, wanted, strict=True)):
        ctx.require_equal(mine, right, node, f"axis {axis} of the result")
    dense = StridedView(ctx.output(name), lying, tuple(strides_of(lying)))
    view = _grouped(with_heads(dense, many), heads)
    if not isinstance(view.strides[-2], int):
        raise NoKernel("its results do not lie in rows")
    return View(view.buffer, view.shape, view.strides)


def _mask(ctx: Lowering, node: Node, scores: Shape) -> Extra:
    """Return the mask with its strides along batch, heads, groups and queries."""
    name = node.inputs[MASK]
    own, dtype = ctx.shape(name), ctx.dtype(name)
    batch, heads, group, queries, keys = scores
    assert isinstance(heads, int) and isinstance(group, int)
    if not 2 <= len(own) <= 4 or dtype not in (DType.BOOL, DType.FLOAT32):
        raise NoKernel(f"a mask of {dtype} and rank {len(own)}")
    shape = (*(1,) * (4 - len(own)), *own)
    if shape[-1] != keys or shape[-2] not in (1, queries) or shape[0] not in (1, batch):
        raise NoKernel(f"a mask of shape {list(map(str, own))} may not cover the scores")
    if shape[1] not in (1, heads * group):
        raise NoKernel(f"a mask for {shape[1]} heads")
    outer, head, row, _ = strides_of(shape)
    lead: tuple[Dim, ...] = (0 if shape[0] == 1 else outer, 0, 0)
    if shape[1] != 1:
        lead = (lead[0], head * group, head)
    step: Dim = 0 if shape[-2] == 1 else row
    kind = "key" if shape[-2] == 1 else "both"
    return Extra(Operand(kind, dtype), ctx.plain(name, node), lead, step)


def triangle(ctx: Lowering, node: Node, queries: Dim, keys: Dim, past: Dim, rank: int = 3) -> Extra:
    """Add the step that writes which keys come before each query."""
    buffer = ctx.temporary_plain("triangle", (queries, keys), DType.BOOL)
    tasks = ceildiv(queries, ROWS)
    numbers = (queries, keys, past)
    ctx.step(Triangle(), (buffer,), (), tasks=tasks, numbers=numbers, node=node)
    return Extra(Operand("both", DType.BOOL), buffer, (0,) * rank, keys)


def _scores(ctx: Lowering, node: Node, extras: list[Extra]) -> Expr:
    """Return the scores as an expression of the product and the masks."""
    attributes = ctx.attributes(node)
    size = ctx.strided(node.inputs[0], node).shape[-1]
    if len(ctx.shape(node.inputs[0])) == 3:
        assert isinstance(size, int)
        size = size // int(attributes["q_num_heads"])
    assert isinstance(size, int)
    scale = attributes["scale"]
    scores = argument(0, DType.FLOAT32) * (1 / math.sqrt(size) if scale is None else float(scale))
    cap = float(np.float32(attributes["softcap"]))
    if cap > 0:
        scores = tanh(scores / cap) * cap
    for k, extra in enumerate(extras, start=1):
        mask = argument(k, extra.operand.dtype)
        if extra.operand.dtype is DType.BOOL:
            nowhere = constant(-math.inf, DType.FLOAT32)
            mask = select(mask, constant(0.0, DType.FLOAT32), nowhere)
        scores = scores + mask
    return scores
