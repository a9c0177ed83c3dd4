"""Products of bytes: MatMulInteger with fixed weights, alone or with what scales its sums."""

from __future__ import annotations

import numpy as np

from engine.cpu.buffers import Buffer
from engine.cpu.kernels.int8_gemm import IntegerGemm
from engine.cpu.kernels.int8_products import QUAD, pack_integer_panels
from engine.cpu.kernels.panels import Panels
from engine.cpu.lower.context import Lowering
from engine.cpu.lower.int8_conv import scalars_of
from engine.cpu.lower.int8_operands import Operands, Sides, operands_of, sides_of
from engine.cpu.lower.int8_schedule import integer_gemm_schedule
from engine.cpu.lower.rules import NoKernel, lowers
from engine.cpu.lower.strided import Axis, strided_copy
from engine.dtypes import DType
from engine.ir.graph import Node
from engine.ir.types import Dim, ceildiv, element_count


@lowers("MatMulInteger")
@lowers("MatMulInteger", domain="millrace")
def integer_matmul(ctx: Lowering, node: Node) -> None:
    """A product with a fixed matrix; rows are all leading dims together."""
    sides = sides_of(ctx, node, -1)
    shape, w = ctx.shape(sides.x), sides.weights
    if len(shape) < 2 or w.ndim < 2 or any(d != 1 for d in w.shape[:-2]) or w.ndim > len(shape):
        raise NoKernel(f"the fixed side has the shape {list(w.shape)}")
    if sides.zero is None:
        raise NoKernel("the zero point is computed")
    ctx.require_equal(shape[-1], w.shape[-2], node, "the inner dims of a product differ")
    _lower(ctx, node, sides, w.reshape(w.shape[-2:]), operands_of(ctx, node, -1))


def _lower(ctx: Lowering, node: Node, sides: Sides, matrix: np.ndarray, operands: Operands) -> None:
    (k, n), target = matrix.shape, ctx.target
    panels = Panels.of(n, target)
    rows: Dim = element_count(ctx.shape(sides.x)[:-1])
    block, group = integer_gemm_schedule(k, n, target)
    assert sides.zero is not None
    zero = sides.zero + sides.lift

    def pack() -> np.ndarray:
        return pack_integer_panels(np.pad(matrix, ((0, -k % QUAD), (0, 0))), panels, target)

    def begin() -> np.ndarray:
        sums = matrix.astype(np.int32).sum(axis=0)
        return np.pad((-zero * sums).astype(np.int32), (0, panels.padded - n))

    others = [_operand(ctx, node, operands, name, panels) for name in operands.names]
    x, pitch = _whole_quads(ctx, node, sides.x, rows, k)
    kinds = iter(ctx.dtype(name) for name in operands.names if name not in operands.columns)
    kernel = IntegerGemm(
        k,
        n,
        pitch,
        block,
        group,
        operands.text,
        tuple(next(kinds) if kind == "value" else kind for kind in operands.kinds),
        ctx.dtype(node.outputs[0]),
        sides.signed,
    )
    packed = ctx.weights(f"{sides.key}|integer|{panels}", pack, sides.key)
    started = ctx.weights(f"{sides.key}|begin {zero}|{panels}", begin, sides.key)
    ctx.step(
        kernel,
        [ctx.output(node.outputs[0])],
        [x, packed, started, scalars_of(ctx, operands), *others],
        tasks=ceildiv(rows, block) * -(-panels.count // group),
        numbers=[rows],
        node=node,
    )


def _operand(ctx: Lowering, node: Node, operands: Operands, name: str, panels: Panels) -> Buffer:
    values = operands.columns.get(name)
    if values is None:
        return ctx.plain(name, node)
    missing = panels.padded - values.size
    return ctx.weights(f"{name}|columns|{panels}", lambda: np.pad(values, (0, missing)), name)


def _whole_quads(ctx: Lowering, node: Node, name: str, rows: Dim, k: int) -> tuple[Buffer, int]:
    """Return the left side with rows of whole quads, copied if need be, and its pitch."""
    x, pitch = ctx.plain(name, node), -(-k // QUAD) * QUAD
    if pitch == k:
        return x, k
    padded = ctx.temporary_plain(f"{name}.padded", (rows, pitch), DType.UINT8)
    axes = [Axis(rows, pitch, k), Axis(k, 1, 1)]
    strided_copy(ctx, padded, x, axes, ctx.dtype(name), node)
    return padded, pitch
