"""Rules of the step graph's operators: caches that are written in place, and attention to them."""

from __future__ import annotations

from engine.cpu.kernels.append_cache import PARTS, AppendCache
from engine.cpu.kernels.indexed_attention import IndexedAttention, SourceAttention
from engine.cpu.kernels.row_attention import RowHeads
from engine.cpu.lower.context import Lowering
from engine.cpu.lower.rules import NoKernel, lowers
from engine.dtypes import DType
from engine.ir.graph import Node
from engine.ir.types import Dim, dim_min
from engine.ops.fused import FUSED_DOMAIN


@lowers("AppendCache", domain=FUSED_DOMAIN)
def append_cache(ctx: Lowering, node: Node) -> None:
    """In the cache's own memory where the caller gives the result that memory, else in a copy."""
    cache, new, slot, position = node.inputs
    rows, length, width = ctx.shape(cache)
    ctx.require_equal(ctx.shape(new)[2], width, node, "cache and new entries differ in width")
    ctx.require_equal(ctx.shape(new)[1], 1, node, "there is not one new entry per row")
    count = _rows(ctx, node, new, slot, position)
    reads = [ctx.plain(name, node) for name in node.inputs]
    fault = ctx.fault(node, f"a slot is outside of [0, {rows}) or a position of [0, {length})")
    ctx.step(
        AppendCache(ctx.dtype(slot), ctx.dtype(position)),
        (ctx.output(node.outputs[0]), fault),
        reads,
        tasks=PARTS,
        numbers=(count, rows, length, width * ctx.dtype(cache).itemsize),
        node=node,
        in_place=True,
    )


@lowers("IndexedAttention", domain=FUSED_DOMAIN)
def indexed_attention(ctx: Lowering, node: Node) -> None:
    """Each row over the entries that its history names."""
    q, keys, _, history, slot, position, *bias = node.inputs
    bias = [name for name in bias if name]
    heads = _heads(ctx, node)
    rows, length, _ = ctx.shape(keys)
    ctx.require_equal(ctx.shape(history)[1], length, node, "history and keys differ in length")
    ctx.require_equal(ctx.shape(history)[0], rows, node, "history and keys differ in rows")
    count = _rows(ctx, node, q, slot, position)
    numbers: list[Dim] = [rows, length]
    if bias:
        numbers += _bias_steps(ctx, node, bias[0], count, heads.count)
    reads = [ctx.plain(name, node) for name in (*node.inputs[:6], *bias)]
    kinds = ctx.dtype(history), ctx.dtype(slot), ctx.dtype(position)
    fault = ctx.fault(
        node,
        f"a slot, position or row of the history is outside of the caches of [{rows}, {length}]",
    )
    ctx.step(
        IndexedAttention(heads, *kinds, bool(bias)),
        (ctx.output(node.outputs[0]), fault),
        reads,
        tasks=count * heads.tasks(ctx.target),
        numbers=numbers,
        node=node,
    )


@lowers("SourceAttention", domain=FUSED_DOMAIN)
def source_attention(ctx: Lowering, node: Node) -> None:
    """Each row over the first entries of one source."""
    q, keys, _, source, length = node.inputs
    heads = _heads(ctx, node)
    sources, positions, _ = ctx.shape(keys)
    count = _rows(ctx, node, q, source)
    ctx.require_equal(ctx.shape(length)[0], sources, node, "there is not one length per source")
    fault = ctx.fault(node, f"a source is outside of [0, {sources}) or longer than {positions}")
    ctx.step(
        SourceAttention(heads, ctx.dtype(source), ctx.dtype(length)),
        (ctx.output(node.outputs[0]), fault),
        [ctx.plain(name, node) for name in node.inputs],
        tasks=count * heads.tasks(ctx.target),
        numbers=(sources, positions),
        node=node,
    )


def _heads(ctx: Lowering, node: Node) -> RowHeads:
    """Return the heads of an attention over caches; all its sizes must fit."""
    attributes = ctx.attributes(node)
    shapes = [ctx.shape(name) for name in node.inputs[:3]]
    if any(ctx.dtype(name) is not DType.FLOAT32 for name in (*node.inputs[:3], node.outputs[0])):
        raise NoKernel("attention over caches is native for float32")
    q, keys, values = shapes
    width, value_width, count = keys[2], values[2], int(attributes["heads"])
    if not isinstance(width, int) or not isinstance(value_width, int):
        raise NoKernel("the width of keys or values is known only at run time")
    if count < 1 or width % count or value_width % count or not width or not value_width:
        raise NoKernel(f"widths of {width} and {value_width} in {count} heads")
    ctx.require_equal(q[1], 1, node, "there is not one query per row")
    ctx.require_equal(q[2], width, node, "queries and keys differ in width")
    for axis in (0, 1):
        ctx.require_equal(keys[axis], values[axis], node, "keys and values differ in shape")
    return RowHeads(count, width // count, value_width // count, float(attributes["scale"]))


def _rows(ctx: Lowering, node: Node, rows: str, *indices: str) -> Dim:
    """Return how many rows there are: as many as of each kind of index."""
    count = ctx.shape(rows)[0]
    for name in indices:
        if len(ctx.shape(name)) != 1:
            raise NoKernel(f"{name!r} is no list of numbers")
        ctx.require_equal(ctx.shape(name)[0], count, node, f"there is not one of {name!r} per row")
    return count


def _bias_steps(ctx: Lowering, node: Node, name: str, rows: Dim, heads: int) -> list[Dim]:
    """Return the elements of a bias from row to row and from head to head."""
    shape, wrong = ctx.shape(name), f"the shape of {name!r} does not fit the scores"
    if ctx.dtype(name) is not DType.FLOAT32 or len(shape) != 4:
        raise NoKernel("a bias is native as float32 of rank 4")
    ctx.require_equal(shape[2], 1, node, wrong)
    length = ctx.shape(node.inputs[1])[1]
    ctx.require_equal(dim_min(shape[3], length), length, node, wrong)  # it may be longer
    if shape[1] not in (1, heads):
        raise NoKernel(wrong)
    if shape[0] != 1:
        ctx.require_equal(shape[0], rows, node, wrong)
    by_row: Dim = 0 if shape[0] == 1 else shape[1] * shape[3]
    return [by_row, 0 if shape[1] == 1 else shape[3]]
