"""The rule of com.microsoft's Attention: one product gives queries, keys and values."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from engine.cpu.buffers import Buffer, StridedView
from engine.cpu.kernels.attention_parts import Operand
from engine.cpu.lower.attention import Extra, Parts, View, check_shapes, in_rows, launch
from engine.cpu.lower.context import Lowering
from engine.cpu.lower.epilogue import Epilogue
from engine.cpu.lower.half_rows import Rows, input_rows
from engine.cpu.lower.matmul import FixedWeights, add_product
from engine.cpu.lower.onnx_attention import triangle
from engine.cpu.lower.rules import NoKernel, lowers
from engine.cpu.lower.strided import strides_of
from engine.dtypes import DType
from engine.ir.expr import Expr, argument, constant, select
from engine.ir.graph import Node
from engine.ir.types import Dim, Shape
from engine.ops.contrib_common import MICROSOFT

MASK = 3  # number of the input
MASKS = (DType.INT32, DType.INT64)


@dataclass(frozen=True)
class Projection:
    """What makes queries, keys and values.

    Attributes:
        fixed: Weights and biases, (inputs, columns of all).
        heads: How many there are.
        widths: Columns of queries, keys and values.
    """

    fixed: FixedWeights
    heads: int
    widths: tuple[int, int, int]

    @property
    def columns(self) -> int:
        """Columns of all."""
        return sum(self.widths)


@lowers("Attention", domain=MICROSOFT)
def attention(ctx: Lowering, node: Node) -> None:
    """With fixed weights, without a cache; the mask says which keys there are."""
    attributes = ctx.attributes(node)
    projection = _projection(ctx, node)
    shape = ctx.shape(node.inputs[0])
    if len(shape) != 3:
        raise NoKernel(f"an input of rank {len(shape)}")
    batch, length, inputs = shape
    ctx.require_equal(inputs, projection.fixed.matrix.shape[0], node, "the inner dims differ")
    extras: list[Extra] = []
    if len(node.inputs) > MASK and node.inputs[MASK]:
        extras.append(_mask(ctx, node, batch, length))
    if attributes["unidirectional"]:
        extras.append(triangle(ctx, node, length, length, 0, rank=2))
    columns = projection.columns
    projected = ctx.temporary_plain("projected", (batch, length, columns), DType.FLOAT32)
    x = input_rows(ctx, node.inputs[0], projection.fixed.matrix.shape[0], node)
    product = Rows(projected, columns)
    add_product(ctx, node, product, x, batch * length, projection.fixed, Epilogue(), ())
    views, first = [], 0
    for width in projection.widths:
        views.append(in_rows(ctx, node, _heads(projected, projection.heads, width, first)))
        first += width
    q, k, v = views
    lead, queries, keys = check_shapes(ctx, node, [view.shape for view in views])
    scores = _scores(ctx, node, projection, extras)
    y = _result(ctx, node, projection)
    launch(ctx, node, Parts(lead, queries, keys, q, k, v, y), scores, extras, "blind")


def _projection(ctx: Lowering, node: Node) -> Projection:
    attributes = ctx.attributes(node)
    names = (*node.inputs, *[""] * 7)
    if any(names[MASK + 1 :]) or any(node.outputs[1:]) or attributes["do_rotary"]:
        raise NoKernel("it keeps a cache, turns its heads, or adds to its scores")
    if ctx.dtype(names[0]) is not DType.FLOAT32:
        raise NoKernel("attention is native for float32")
    weights = ctx.constant(names[1])
    bias = ctx.constant(names[2]) if names[2] else None
    if weights is None or weights.dtype != np.float32 or (names[2] and bias is None):
        raise NoKernel("its weights are no fixed float32 array")
    stated = tuple(int(n) for n in attributes["qkv_hidden_sizes"])
    widths = stated or (weights.shape[-1] // 3,) * 3
    heads = int(attributes["num_heads"])
    if weights.ndim != 2 or len(widths) != 3 or sum(widths) != weights.shape[1]:
        raise NoKernel(f"weights of shape {weights.shape} for {widths}")
    if heads < 1 or not weights.size or any(width % heads or not width for width in widths):
        raise NoKernel(f"{widths} do not divide into {heads} heads")
    if bias is not None and bias.shape != (weights.shape[1],):
        raise NoKernel(f"biases of shape {bias.shape}")
    fixed = FixedWeights(names[1], weights, bias, names[2])
    return Projection(fixed, heads, (widths[0], widths[1], widths[2]))


def _heads(buffer: Buffer, heads: int, width: int, first: int) -> StridedView:
    """Return (batch, heads, length, size) of some columns of (batch, length, columns)."""
    batch, length, _ = buffer.plain.shape
    outer, row, _ = strides_of(buffer.plain.shape)
    size = width // heads
    return StridedView(buffer, (batch, heads, length, size), (outer, size, row, 1), first)


def _mask(ctx: Lowering, node: Node, batch: Dim, keys: Dim) -> Extra:
    """Return the mask of which keys of each item there are."""
    name = node.inputs[MASK]
    shape, dtype = ctx.shape(name), ctx.dtype(name)
    if len(shape) != 2 or dtype not in MASKS:
        raise NoKernel(f"a mask of {dtype} and rank {len(shape)}")
    if shape[1] != keys or shape[0] not in (1, batch):
        raise NoKernel(f"a mask of shape {list(map(str, shape))} may not cover the keys")
    lead: tuple[Dim, ...] = (0 if shape[0] == 1 else shape[1], 0)
    return Extra(Operand("key", dtype), ctx.plain(name, node), lead, 0)


def _scores(ctx: Lowering, node: Node, projection: Projection, extras: list[Extra]) -> Expr:
    """Return the scores as an expression of the product and the masks."""
    attributes = ctx.attributes(node)
    size = projection.widths[0] // projection.heads
    scores = argument(0, DType.FLOAT32) * float(attributes["scale"] or 1 / math.sqrt(size))
    zero = constant(0.0, DType.FLOAT32)
    for k, extra in enumerate(extras, start=1):
        mask, hidden = argument(k, extra.operand.dtype), -math.inf
        if extra.operand.dtype is not DType.BOOL:
            mask, hidden = mask > 0, float(attributes["mask_filter_value"])
        scores = scores + select(mask, zero, constant(hidden, DType.FLOAT32))
    return scores


def _result(ctx: Lowering, node: Node, projection: Projection) -> View:
    name, width = node.outputs[0], projection.widths[2]
    shape: Shape = ctx.shape(name)
    batch, length, _ = ctx.shape(node.inputs[0])
    for axis, (mine, right) in enumerate(zip(shape, (batch, length, width), strict=True)):
        ctx.require_equal(mine, right, node, f"axis {axis} of the result")
    view = _heads(ctx.output(name), projection.heads, width, 0)
    return View(view.buffer, view.shape, view.strides)
