"""Products of bytes: MatMulInteger with fixed weights, alone or with what scales its sums."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from engine.cpu.buffers import Buffer, StridedView
from engine.cpu.expressions import unsupported
from engine.cpu.kernels.int8_batched import Broadcast, IntegerBatched
from engine.cpu.kernels.int8_dynamic import SumsTimesZero
from engine.cpu.kernels.int8_gemm import IntegerGemm
from engine.cpu.kernels.int8_packing import PackLeft, PackRight, left_pitch, right_quad_bytes
from engine.cpu.kernels.int8_products import QUAD, pack_integer_panels
from engine.cpu.kernels.panels import Panels
from engine.cpu.lower.context import BYTES, Lowering
from engine.cpu.lower.epilogue import contraction_inputs
from engine.cpu.lower.int8_conv import scalars_of
from engine.cpu.lower.int8_operands import Operands, Sides, operands_of, sides_of
from engine.cpu.lower.int8_schedule import integer_gemm_schedule
from engine.cpu.lower.rules import NoKernel, lowers
from engine.cpu.lower.strided import Axis, strided_copy, strides_of
from engine.dtypes import DType
from engine.ir.expr_text import read_expr
from engine.ir.graph import Node
from engine.ir.types import Dim, Shape, ceildiv, element_count
from engine.ops.fused import FUSED_DOMAIN, text_of_attribute


@lowers("MatMulInteger")
@lowers("MatMulInteger", domain="millrace")
def integer_matmul(ctx: Lowering, node: Node) -> None:
    """A product with a fixed matrix, its rows all leading dims together; or of computed ones."""
    if ctx.constant(node.inputs[1]) is None:
        _lower_batched(ctx, node)
        return
    sides = sides_of(ctx, node, -1)
    shape, w = ctx.shape(sides.x), sides.weights
    if len(shape) < 2 or w.ndim < 2 or any(d != 1 for d in w.shape[:-2]) or w.ndim > len(shape):
        raise NoKernel(f"the fixed side has the shape {list(w.shape)}")
    ctx.require_equal(shape[-1], w.shape[-2], node, "the inner dims of a product differ")
    _lower(ctx, node, sides, operands_of(ctx, node, -1))


def _lower(ctx: Lowering, node: Node, sides: Sides, operands: Operands) -> None:
    (k, n), target = sides.weights.shape[-2:], ctx.target
    parts = [part.reshape(k, n) for part in sides.parts]
    panels = Panels.of(n, target)
    rows: Dim = element_count(ctx.shape(sides.x)[:-1])
    block, group, ahead = integer_gemm_schedule(k, n, target)

    def pack() -> np.ndarray:
        padded = [np.pad(part, ((0, -k % QUAD), (0, 0))) for part in parts]
        return pack_integer_panels(np.concatenate(padded), panels, target)

    others = [_operand(ctx, node, operands, name, panels) for name in operands.names]
    x, pitch = _whole_quads(ctx, node, sides.x, rows, k)
    names = iter(operands.names)
    kernel = IntegerGemm(
        k,
        n,
        pitch,
        block,
        group,
        operands.text,
        tuple(_kind(ctx, kind, names) for kind in operands.kinds),
        ctx.dtype(node.outputs[0]),
        sides.signed,
        len(parts),
        ahead,
    )
    packed = ctx.weights(f"{sides.key}|integer|{panels}", pack, sides.key)
    started = _begin(ctx, node, sides, kernel.lift(target), panels)
    ctx.step(
        kernel,
        [ctx.output(node.outputs[0])],
        [x, packed, started, scalars_of(ctx, operands), *others],
        tasks=ceildiv(rows, block) * -(-panels.count // group),
        numbers=[rows],
        node=node,
    )


def _kind(ctx: Lowering, kind: str, names: Iterator[str]) -> str | DType:
    """Return what the kernel calls an operand; all but scalars have a name."""
    if kind == "scalar":
        return kind
    name = next(names)
    return ctx.dtype(name) if kind == "value" else kind


def _begin(ctx: Lowering, node: Node, sides: Sides, lift: int, panels: Panels) -> Buffer:
    """Return what the sums begin at: minus the zero point of the left side times the columns."""

    def scaled(factor: int) -> np.ndarray:
        matrix = sides.weights.reshape(sides.weights.shape[-2:])
        sums = matrix.sum(axis=0, dtype=np.int32)
        return np.pad(sums * np.int32(factor), (0, panels.padded - sums.size))

    if sides.zero is not None:
        factor = -(sides.zero + lift)
        key = f"{sides.key}|begin {factor}|{panels}"
        return ctx.weights(key, lambda: scaled(factor), sides.key)
    sums = ctx.weights(f"{sides.key}|sums|{panels}", lambda: scaled(1), sides.key)
    begin = ctx.temporary(f"{node.outputs[0]}.begin", 4 * panels.padded)
    kernel = SumsTimesZero(sides.signed, lift)
    zero = ctx.plain(sides.zero_name, node)
    ctx.step(kernel, [begin], [sums, zero], tasks=1, numbers=[panels.padded], node=node)
    return begin


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


# ---------------------------------------------------------------------- both sides computed


def _lower_batched(ctx: Lowering, node: Node) -> None:
    """Add the steps of a product of computed matrices, with one zero point each."""
    left, right, *zeros = contraction_inputs(ctx, node)
    shape, other = ctx.shape(left), ctx.shape(right)
    if ctx.dtype(left) not in BYTES or ctx.dtype(right) not in BYTES:
        raise NoKernel("the values are no bytes")
    if not 2 <= len(shape) == len(other) <= 4 or shape[:-2] != other[:-2]:
        raise NoKernel("the two sides are no matrices in equal numbers")
    left_zero, right_zero = (_zero_of(ctx, name) for name in (*zeros, "", "")[:2])
    height, terms, columns = shape[-2], shape[-1], other[-1]
    ctx.require_equal(terms, other[-2], node, "the inner dims of a product differ")
    operands = batched_operands(ctx, node)
    target, count = ctx.target, element_count(shape[:-2])
    tiles, panels = ceildiv(height, target.tile_rows), ceildiv(columns, target.tile_columns)
    quads = ceildiv(terms, QUAD)
    signed = ctx.dtype(left) is DType.INT8, ctx.dtype(right) is DType.INT8

    def temporary(label: str, size: Dim) -> Buffer:
        return ctx.temporary(f"{node.outputs[0]}.{label}", size)

    x = temporary("left", count * tiles * quads * (QUAD * left_pitch(target)))
    x_sums = temporary("sums of rows", count * tiles * (4 * left_pitch(target)))
    w = temporary("right", count * panels * quads * right_quad_bytes(target))
    w_sums = temporary("sums of columns", count * panels * (4 * target.tile_columns))
    rows, by_row = _lines(ctx, left, node, -1)
    turned = _is_turned(ctx, right, node)
    lines, by_line = _lines(ctx, right, node, -2 if turned else -1)
    ctx.step(
        PackLeft(signed[0]),
        [x, x_sums],
        [rows],
        tasks=count * tiles,
        numbers=[height, terms, *by_row],
        node=node,
    )
    ctx.step(
        PackRight(signed[1], turned),
        [w, w_sums],
        [lines],
        tasks=count * panels,
        numbers=[terms, columns, *by_line],
        node=node,
    )
    result = ctx.shape(node.outputs[0])
    numbers = [
        height,
        terms,
        columns,
        left_zero + 128 * signed[0],
        right_zero - 128 * (not signed[1]),
        shape[-3] if len(shape) > 2 else 1,
    ]
    kinds: list[str | Broadcast] = []
    moving = iter(operands.names)
    for kind in operands.kinds:
        if kind == "scalar":
            kinds.append(kind)
            continue
        name = next(moving)
        strides = broadcast_strides(ctx.shape(name), result)
        kinds.append(Broadcast(ctx.dtype(name), strides[-1] == 1))
        numbers += strides[:-1]
    kernel = IntegerBatched(operands.text, tuple(kinds), ctx.dtype(node.outputs[0]))
    others = [ctx.plain(name, node) for name in operands.names]
    ctx.step(
        kernel,
        [ctx.output(node.outputs[0])],
        [x, x_sums, w, w_sums, scalars_of(ctx, operands), *others],
        tasks=count * tiles,
        numbers=numbers,
        node=node,
    )


def _is_turned(ctx: Lowering, name: str, node: Node) -> bool:
    """Whether a view's columns are runs of neighbours, not its rows."""
    return ctx.is_view(name) and ctx.strided(name, node).strides[-2] == 1


def _lines(ctx: Lowering, name: str, node: Node, axis: int) -> tuple[Buffer, list[Dim]]:
    """Return the memory of matrices whose neighbours along `axis` are neighbours there, and where
    they lie: size of the inner leading axis, steps along both leading axes and the other axis, and
    where they begin.
    """
    view = ctx.strided(name, node)
    if view.strides[axis] != 1:
        shape = ctx.shape(name)
        view = StridedView(ctx.plain(name, node), shape, tuple(strides_of(shape)))
    missing = 4 - len(view.shape)
    steps: list[Dim] = [*[0] * missing, *view.strides]
    sizes: list[Dim] = [*[1] * missing, *view.shape]
    step = steps[-2 if axis == -1 else -1]
    return view.buffer, [sizes[1], steps[0], steps[1], step, view.first]


def _zero_of(ctx: Lowering, name: str) -> int:
    value = ctx.constant(name) if name else np.zeros(1, np.int32)
    if value is None or value.size != 1:
        raise NoKernel("a zero point is computed, or there are several")
    return int(value.reshape(()))


def batched_operands(ctx: Lowering, node: Node) -> Operands:
    """Return the epilogue of a product of computed matrices."""
    if node.domain != FUSED_DOMAIN:
        return Operands()
    own = contraction_inputs(ctx, node)
    text = text_of_attribute(ctx.attributes(node)["epilogue"])
    reason = unsupported(read_expr(text), ctx.target)
    if reason:
        raise NoKernel(reason)
    found = Operands(text, dtype=read_expr(text).dtype)
    for name in node.inputs[len(own) :]:
        value = ctx.constant(name)
        if value is not None and value.size == 1 and value.dtype == np.float32:
            found.kinds.append("scalar")
            found.scalars.append(float(value.reshape(())))
            continue
        broadcast_strides(ctx.shape(name), ctx.shape(node.outputs[0]))
        found.kinds.append("value")
        found.names.append(name)
    return found


def broadcast_strides(shape: Shape, result: Shape) -> list[Dim]:
    """Return the elements between neighbours along (outer, inner, rows, columns) of a result.

    `NoKernel` where a size that only a run can tell decides whether an axis is spread.
    """
    missing = len(result) - len(shape)
    steps = strides_of(shape)
    found: list[Dim] = [0] * (4 - len(result))
    for k, size in enumerate(result):
        dim = shape[k - missing] if k >= missing else 1
        if dim != 1 and dim != size:
            raise NoKernel(f"it is not known whether {dim} is spread to {size}")
        found.append(0 if dim == 1 else steps[k - missing])
    return found
