"""Normalizations over trailing axes, with what is added before, and over groups of channels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from engine.cpu.buffers import Buffer
from engine.cpu.expressions import unsupported
from engine.cpu.kernels.local_response import LocalResponse
from engine.cpu.kernels.normalize import Normalize, RowInput
from engine.cpu.lower.broadcasting import View, broadcast_step
from engine.cpu.lower.context import Lowering
from engine.cpu.lower.exact import is_rounded_next
from engine.cpu.lower.half_rows import Half, output_as_half, wish
from engine.cpu.lower.rules import NoKernel, lowers
from engine.dtypes import DType
from engine.ir.expr import Expr, argument, cast
from engine.ir.expr_text import write_expr
from engine.ir.graph import Node
from engine.ir.types import Dim, Shape, ceildiv, dim_max, element_count, floordiv
from engine.ops.normalization import PER_CHANNEL_SINCE

TASK: Final = 1 << 12  # elements of one task
NARROW: Final = (DType.FLOAT32, DType.FLOAT16, DType.BFLOAT16)
MICROSOFT: Final = "com.microsoft"


@dataclass(frozen=True)
class Norm:
    """A normalization of rows, before it is brought into a step.

    Attributes:
        summands: Names whose sum the rows are.
        axis: The first normalized axis.
        scale: Name of the factors, "" for none.
        bias: Name of the summands after, "" for none.
        epsilon: Added to the variance.
        is_centred: Whether the mean is taken out.
        outputs: Names of result, mean, inverse deviation and sum; "" for what is not wanted.
    """

    summands: tuple[str, ...]
    axis: int
    scale: str
    bias: str
    epsilon: float
    is_centred: bool
    outputs: tuple[str, str, str, str]


@lowers("LayerNormalization")
def layer_normalization(ctx: Lowering, node: Node) -> None:
    """Mean and variance over the axes from `axis` on."""
    attributes = ctx.attributes(node)
    x, scale, bias = _padded(node.inputs, 3)
    y, mean, inverse = _padded(node.outputs, 3)
    axis, epsilon = _axis(ctx, node, x), float(attributes["epsilon"])
    lower_norm(ctx, node, Norm((x,), axis, scale, bias, epsilon, True, (y, mean, inverse, "")))


@lowers("RMSNormalization", "SimplifiedLayerNormalization")
def rms_normalization(ctx: Lowering, node: Node) -> None:
    """The mean square over the axes from `axis` on."""
    x, scale = node.inputs
    y, inverse = _padded(node.outputs, 2)
    epsilon = float(ctx.attributes(node)["epsilon"])
    norm = Norm((x,), _axis(ctx, node, x), scale, "", epsilon, False, (y, "", inverse, ""))
    lower_norm(ctx, node, norm)


@lowers("SkipLayerNormalization", domain=MICROSOFT)
def skip_layer_normalization(ctx: Lowering, node: Node) -> None:
    """LayerNormalization over the last axis of a sum, which may be wanted, too."""
    x, skip, scale, bias, before = _padded(node.inputs, 5)
    _lower_skip(ctx, node, (x, skip, before), (scale, bias), is_centred=True)


@lowers("SkipSimplifiedLayerNormalization", domain=MICROSOFT)
def skip_rms_normalization(ctx: Lowering, node: Node) -> None:
    """RMSNormalization over the last axis of a sum, which may be wanted, too."""
    if len(node.outputs) > 1 and node.outputs[1]:
        raise NoKernel("it wants a mean that there is none of")
    x, skip, scale, before = _padded(node.inputs, 4)
    _lower_skip(ctx, node, (x, skip, before), (scale, ""), is_centred=False)


def _lower_skip(
    ctx: Lowering,
    node: Node,
    summands: tuple[str, str, str],
    affine: tuple[str, str],
    *,
    is_centred: bool,
) -> None:
    y, mean, inverse, total = _padded(node.outputs, 4)
    axis = len(ctx.shape(summands[0])) - 1
    epsilon = float(ctx.attributes(node)["epsilon"])
    given = tuple(filter(None, summands))
    outputs = (y, mean, inverse, total)
    lower_norm(ctx, node, Norm(given, axis, *affine, epsilon, is_centred, outputs))


def _padded(names: Sequence[str], count: int) -> list[str]:
    return [*names, *[""] * (count - len(names))]


def _axis(ctx: Lowering, node: Node, x: str) -> int:
    rank = len(ctx.shape(x))
    if not rank:
        raise NoKernel("a single number is no row")
    return int(ctx.attributes(node)["axis"]) % rank


def lower_norm(ctx: Lowering, node: Node, norm: Norm) -> None:
    """Add the step of a normalization; `NoKernel` for types and shapes that it cannot do."""
    shape = ctx.shape(norm.summands[0])
    inner = shape[norm.axis :]
    names = [*norm.summands, *filter(None, (norm.scale, norm.bias))]
    outputs = [name for name in norm.outputs if name]
    for name in (*names, *outputs):
        if ctx.dtype(name) not in NARROW:
            raise NoKernel(f"{ctx.dtype(name)} is not normalized natively")
    inputs = tuple(
        RowInput(ctx.dtype(name), _is_shared(ctx.shape(name), shape, inner))
        for name in norm.summands
    )
    expr = _sum([i.dtype for i in inputs])
    reason = unsupported(expr, ctx.target)
    if reason:
        raise NoKernel(reason)
    for name in filter(None, (norm.scale, norm.bias)):
        if not _is_shared(ctx.shape(name), shape, inner):
            raise NoKernel(f"{name!r} has the shape {list(map(str, ctx.shape(name)))}")
    y, mean, inverse, total = norm.outputs
    width = element_count(inner)
    half = wish(ctx, y) if inner == shape[-1:] else Half.NO
    kernel = Normalize(
        write_expr(expr),
        inputs,
        DType.BFLOAT16 if half is Half.ONLY else ctx.dtype(y),
        width if isinstance(width, int) else None,
        norm.epsilon,
        norm.is_centred,
        ctx.dtype(norm.scale) if norm.scale else None,
        ctx.dtype(norm.bias) if norm.bias else None,
        bool(mean),
        bool(inverse),
        ctx.dtype(total) if total else None,
        DType.BFLOAT16 if half is Half.TOO else None,
        is_exact=bool(y) and is_rounded_next(ctx, y),
    )
    reads = [ctx.plain(name, node) for name in names]
    writes = [
        output_as_half(ctx, name) if name == y and half is Half.ONLY else ctx.output(name)
        for name in outputs
    ]
    if half is Half.TOO:
        writes.append(output_as_half(ctx, y))
    _add_step(ctx, node, kernel, writes, reads, element_count(shape[: norm.axis]), width)


def _add_step(
    ctx: Lowering,
    node: Node,
    kernel: Normalize,
    writes: Sequence[Buffer],
    reads: Sequence[Buffer],
    rows: Dim,
    width: Dim,
) -> None:
    height = dim_max(1, floordiv(TASK, dim_max(width, 1)))
    numbers: list[Dim] = [rows, height] if kernel.width is not None else [rows, height, width]
    # Each row is read as a whole before it is written.
    in_place = kernel.rows is None and all(i.dtype is kernel.result for i in kernel.inputs[:1])
    ctx.step(
        kernel,
        writes,
        reads,
        tasks=ceildiv(rows, height),
        numbers=numbers,
        node=node,
        in_place=in_place and len(kernel.inputs) == 1,
    )


def _is_shared(shape: Shape, whole: Shape, inner: Shape) -> bool:
    """Whether a value is one row for all rows; `NoKernel` when it is neither that nor all rows."""
    if shape == whole and len(inner) < len(whole):
        return False
    while shape and shape[0] == 1 and len(shape) > len(inner):
        shape = shape[1:]
    if shape == inner:
        return True
    raise NoKernel(f"{list(map(str, shape))} are not the rows of {list(map(str, whole))}")


def _sum(dtypes: Sequence[DType]) -> Expr:
    first, *others = (cast(argument(i, d), DType.FLOAT32) for i, d in enumerate(dtypes))
    for each in others:
        first = first + each
    return first


@lowers("InstanceNormalization")
def instance_normalization(ctx: Lowering, node: Node) -> None:
    """Each channel of each item by itself, then a factor and a summand per channel."""
    shape = ctx.shape(node.inputs[0])
    if len(shape) < 3:
        raise NoKernel(f"a value of {len(shape)} axes has no places to take a mean over")
    _lower_groups(ctx, node, shape[0] * shape[1], element_count(shape[2:]), shape[1])


@lowers("GroupNormalization")
def group_normalization(ctx: Lowering, node: Node) -> None:
    """Groups of neighbouring channels, then a factor and a summand per channel (or group)."""
    shape = ctx.shape(node.inputs[0])
    groups = int(ctx.attributes(node)["num_groups"])
    channels = shape[1] if len(shape) > 1 else 0
    if not isinstance(channels, int) or channels % groups or not channels:
        raise NoKernel(f"{channels} channels are not known to divide into {groups} groups")
    width = channels // groups * element_count(shape[2:])
    per = channels if node.version >= PER_CHANNEL_SINCE else groups
    _lower_groups(ctx, node, shape[0] * groups, width, per)


def _lower_groups(ctx: Lowering, node: Node, rows: Dim, width: Dim, per: Dim) -> None:
    """Standardize rows, then scale and shift parts of them, `per` for each item."""
    x, scale, bias = node.inputs
    y = node.outputs[0]
    shape, dtype = ctx.shape(x), ctx.dtype(x)
    for name in (x, scale, bias):
        if ctx.dtype(name) not in NARROW:
            raise NoKernel(f"{ctx.dtype(name)} is not normalized natively")
    expr = _sum([dtype])
    affine = argument(0, DType.FLOAT32)
    for name, how in ((scale, "mul"), (bias, "add")):
        if ctx.shape(name) != (per,):
            raise NoKernel(f"{name!r} has the shape {list(map(str, ctx.shape(name)))}")
        number = cast(argument(1 if how == "mul" else 2, ctx.dtype(name)), DType.FLOAT32)
        affine = affine * number if how == "mul" else affine + number
    affine = cast(affine, dtype)
    for each in (expr, affine):
        reason = unsupported(each, ctx.target)
        if reason:
            raise NoKernel(reason)
    epsilon = float(ctx.attributes(node)["epsilon"])
    fixed = width if isinstance(width, int) else None
    kernel = Normalize(write_expr(expr), (RowInput(dtype),), DType.FLOAT32, fixed, epsilon)
    standard = ctx.temporary_plain(f"{y}: standardized", shape, DType.FLOAT32)
    reads = [ctx.plain(name, node) for name in node.inputs]
    _add_step(ctx, node, kernel, [standard], reads[:1], rows, width)
    # (items, parts, elements of a part): a factor and a summand per part
    inner = floordiv(element_count(shape[1:]), dim_max(per, 1))
    parts: Shape = (shape[0], per, inner)
    views = [View(standard, parts, DType.FLOAT32)]
    views += [
        View(buffer, (per, 1), ctx.dtype(name))
        for buffer, name in zip(reads[1:], (scale, bias), strict=True)
    ]
    target = View(ctx.output(y), parts, dtype)
    broadcast_step(ctx, node, affine, views, target)


@lowers("LRN")
def local_response(ctx: Lowering, node: Node) -> None:
    """Over a power of the mean square of neighbouring channels."""
    x, attributes = node.inputs[0], ctx.attributes(node)
    shape, dtype = ctx.shape(x), ctx.dtype(x)
    size = int(attributes["size"])
    if dtype not in NARROW or (dtype is DType.FLOAT16 and ctx.target.isa == "sse2"):
        raise NoKernel(f"{dtype} is not normalized natively")
    if len(shape) < 2 or size < 1:
        raise NoKernel(f"a window of {size} channels over {len(shape)} axes")
    numbers = (float(attributes[name]) for name in ("alpha", "beta", "bias"))
    kernel = LocalResponse(dtype, size, *numbers)
    rows, places = element_count(shape[:2]), element_count(shape[2:])
    height = dim_max(1, floordiv(TASK, dim_max(places, 1) * size))
    source = ctx.plain(x, node)
    ctx.step(
        kernel,
        [ctx.output(node.outputs[0])],
        [source],
        tasks=ceildiv(rows, height),
        numbers=[shape[1], places, rows, height],
        node=node,
    )
