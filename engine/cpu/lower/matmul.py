"""Products with fixed weights: MatMul and Gemm, with bias and epilogue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.cpu.buffers import Buffer
from engine.cpu.kernels.gemm import Gemm
from engine.cpu.kernels.panels import Panels, pack_columns, pack_panels
from engine.cpu.kernels.schedule import gemm_schedule
from engine.cpu.lower.apart import fused_or_apart
from engine.cpu.lower.batched import lower_batched
from engine.cpu.lower.context import Lowering
from engine.cpu.lower.epilogue import Epilogue, contraction_inputs, epilogue_of
from engine.cpu.lower.half_rows import Rows, input_rows, output_rows, takes_half
from engine.cpu.lower.rules import NoKernel, lowers
from engine.dtypes import DType
from engine.ir.graph import Node
from engine.ir.types import Dim, ceildiv, element_count


@dataclass(frozen=True)
class FixedWeights:
    """The right side of a product and what is added per column.

    Attributes:
        key: Names the numbers within the graph.
        matrix: (K, N).
        bias: (N,) or None.
        bias_key: Names the bias.
    """

    key: str
    matrix: np.ndarray
    bias: np.ndarray | None = None
    bias_key: str = ""


@lowers("MatMul", domain="millrace")
def fused_matmul(ctx: Lowering, node: Node) -> None:
    """The same with an epilogue."""
    fused_or_apart(ctx, node, matmul)


@lowers("MatMul")
def matmul(ctx: Lowering, node: Node) -> None:
    """A product; with a fixed matrix, rows are all leading dims together."""
    left, right = contraction_inputs(ctx, node)
    value = ctx.constant(right)
    if value is None or value.ndim not in (1, 2):
        lower_batched(ctx, node, left, right)
        return
    matrix = value if value.ndim > 1 else value.reshape(-1, 1)
    epilogue = epilogue_of(ctx, node, -1)
    if value.ndim == 1 and epilogue.extras:
        raise NoKernel("the product gives no columns that its epilogue could follow")
    lower_product(ctx, node, left, FixedWeights(right, matrix), epilogue)


@lowers("Gemm", domain="millrace")
def fused_gemm(ctx: Lowering, node: Node) -> None:
    """The same with an epilogue."""
    fused_or_apart(ctx, node, gemm)


@lowers("Gemm")
def gemm(ctx: Lowering, node: Node) -> None:
    """A product with a fixed matrix and, if any, fixed numbers per column."""
    attributes = ctx.attributes(node)
    left, right, *rest = contraction_inputs(ctx, node)
    value = ctx.constant(right)
    if value is None and _is_plain_product(attributes, rest):
        lower_batched(ctx, node, left, right)
        return
    if value is None or attributes["transA"]:
        raise NoKernel("the right side is computed, or the left one is transposed")
    alpha, beta = np.float32(attributes["alpha"]), np.float32(attributes["beta"])
    matrix = value.T if attributes["transB"] else value
    bias, bias_key = None, ""
    if rest and rest[0] and beta:
        bias = _bias_of(ctx, rest[0], matrix.shape[1]) * beta
        bias_key = f"{rest[0]}*{beta}"
    key = f"{right}{'^T' if attributes['transB'] else ''}*{alpha}"
    fixed = FixedWeights(key, matrix if alpha == 1 else matrix * alpha, bias, bias_key)
    lower_product(ctx, node, left, fixed, epilogue_of(ctx, node, -1))


def _is_plain_product(attributes: Mapping[str, Any], rest: Sequence[str]) -> bool:
    """Whether a Gemm is nothing but the product of its operands as they are."""
    adds = any(rest) and attributes["beta"] != 0
    return attributes["alpha"] == 1 and not (adds or attributes["transA"] or attributes["transB"])


def _bias_of(ctx: Lowering, name: str, columns: int) -> np.ndarray:
    value = ctx.constant(name)
    if value is None or value.dtype != np.float32:
        raise NoKernel("what is added is computed")
    if value.size == 1:
        return np.full(columns, value.reshape(()), np.float32)
    if value.shape[-1] != columns or value.size != columns:
        raise NoKernel(f"what is added has the shape {list(value.shape)}")
    return value.reshape(-1)


def lower_product(
    ctx: Lowering, node: Node, left: str, fixed: FixedWeights, epilogue: Epilogue
) -> None:
    """Add the step of `left @ fixed`, with its epilogue."""
    k, n = fixed.matrix.shape
    shape = ctx.shape(left)
    if ctx.dtype(left) is not DType.FLOAT32 or fixed.matrix.dtype != np.float32:
        raise NoKernel(f"products of {ctx.dtype(left)} have no kernel")
    if not shape or not k or not n:
        raise NoKernel("there is nothing to sum, or there are no columns")
    ctx.require_equal(shape[-1], k, node, "the inner dims of a product differ")
    x = input_rows(ctx, left, k, node)
    extras = [
        ctx.plain(name, node) if values is None else values
        for name, values in zip(epilogue.extras, epilogue.columns, strict=True)
    ]
    y = output_rows(ctx, node.outputs[0], n)
    add_product(ctx, node, y, x, element_count(shape[:-1]), fixed, epilogue, extras)


def add_product(
    ctx: Lowering,
    node: Node,
    y: Rows,
    x: Rows,
    rows: Dim,
    fixed: FixedWeights,
    epilogue: Epilogue,
    extras: Sequence[Buffer | np.ndarray],
) -> None:
    """Add the step of a product.

    Args:
        ctx: The region under construction.
        node: What it computes.
        y: (rows, N).
        x: (rows, K).
        rows: How many rows there are.
        fixed: The right side.
        epilogue: What follows.
        extras: Its operands: arrays like y, or fixed numbers per column.
    """
    k, n = fixed.matrix.shape
    dtype = product_type(ctx)
    schedule = gemm_schedule(k, n, ctx.target, dtype, rounds=x.dtype is not dtype)
    panels = Panels.of(n, ctx.target)
    pitches = tuple(n if isinstance(e, Buffer) else None for e in extras)
    weights = ctx.weights(
        f"{fixed.key}|{panels}|{dtype}",
        lambda: pack_panels(fixed.matrix, panels, dtype),
        fixed.key,
    )
    bias = np.zeros(n, np.float32) if fixed.bias is None else fixed.bias
    others = [
        extra if isinstance(extra, Buffer) else _columns(ctx, name, extra, panels)
        for name, extra in zip(epilogue.extras, extras, strict=True)
    ]
    ctx.step(
        Gemm(k, n, x.pitch, y.pitch, schedule, epilogue.text, pitches, dtype, x.dtype, y.dtype),
        [y.buffer],
        [x.buffer, weights, _columns(ctx, fixed.bias_key, bias, panels), *others],
        tasks=ceildiv(rows, schedule.block_rows) * -(-panels.count // schedule.group),
        numbers=[rows],
        node=node,
    )


def product_type(ctx: Lowering) -> DType:
    """Return the type to which both sides of products are rounded."""
    return DType.BFLOAT16 if takes_half(ctx) else DType.FLOAT32


def _columns(ctx: Lowering, key: str, values: np.ndarray, panels: Panels) -> Buffer:
    """Return numbers per column as a packed fixed value; an empty key stands for zeros."""
    return ctx.weights(f"{key}|columns|{panels}", lambda: pack_columns(values, panels), key)
