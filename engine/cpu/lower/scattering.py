"""Rules of writing by index, and of choosing the best along an axis."""

from __future__ import annotations

from typing import Any, Final

from engine.cpu.buffers import Buffer
from engine.cpu.kernels.one_hot import OneHot
from engine.cpu.kernels.scatter import REPLACE, ScatterElements, ScatterSlices
from engine.cpu.kernels.top_values import MOST_PLACES, TopValues
from engine.cpu.lower.context import CONVERTERS, Lowering
from engine.cpu.lower.indexing import index_type, picked_axis
from engine.cpu.lower.rules import NoKernel, lowers
from engine.dtypes import DType
from engine.ir.graph import Node
from engine.ir.types import Shape, ceildiv, dim_max, dim_min, element_count, floordiv
from engine.ops.common import normalize_axis

COLUMNS: Final = 1 << 10  # elements side by side in one task
# Elements that are only moved go by their width.
OF_WIDTH: Final = {1: DType.UINT8, 2: DType.UINT16, 4: DType.INT32, 8: DType.INT64}
REDUCTIONS: Final = ("add", "mul", "max", "min")
SORTED: Final = (
    *(DType.FLOAT32, DType.FLOAT16, DType.BFLOAT16),
    *(DType.INT32, DType.UINT32, DType.INT16, DType.UINT16, DType.INT8, DType.UINT8),
)


def _how(ctx: Lowering, node: Node, name: str) -> tuple[DType, str]:
    """Return the type that elements are taken for, and how they are combined."""
    reduction = str(ctx.attributes(node).get("reduction", "none"))
    dtype = ctx.dtype(name)
    if reduction == "none":
        return OF_WIDTH[dtype.itemsize], REPLACE
    # Narrow floats are to be rounded once, after all updates.
    if reduction not in REDUCTIONS or dtype.is_narrow_float or dtype is DType.BOOL:
        raise NoKernel(f"reduction {reduction!r} of {dtype}")
    return dtype, reduction


def _copied(ctx: Lowering, node: Node, reads: Buffer) -> Buffer:
    """Return the output, holding the data."""
    result = ctx.output(node.outputs[0])
    CONVERTERS["copy"](ctx, result, reads, node)
    return result


def _require_same(ctx: Lowering, node: Node, given: Shape, expected: Shape, what: str) -> None:
    if len(given) != len(expected):
        raise NoKernel(f"{what} have the shape {given}, not {expected}")
    for a, b in zip(given, expected, strict=True):
        ctx.require_equal(a, b, node, f"{what} do not fit")


@lowers("ScatterElements", "Scatter")
def scatter_elements(ctx: Lowering, node: Node) -> None:
    """Element by element, along one axis."""
    x, indices, updates = node.inputs
    shape, picks = ctx.shape(x), ctx.shape(indices)
    axis = picked_axis(ctx, node, shape, picks)
    index, (dtype, how) = index_type(ctx, indices), _how(ctx, node, x)
    _require_same(ctx, node, ctx.shape(updates), picks, "updates")
    data, *reads = (ctx.plain(name, node) for name in (x, indices, updates))
    inner = element_count(shape[axis + 1 :])
    message = f"an index is outside of [-{shape[axis]}, {shape[axis]})"
    ctx.step(
        ScatterElements(index, dtype, how),
        (_copied(ctx, node, data), ctx.fault(node, message)),
        reads,
        tasks=element_count(shape[:axis]) * ceildiv(inner, COLUMNS),
        numbers=(picks[axis], shape[axis], inner, COLUMNS),
        node=node,
    )


@lowers("ScatterND")
def scatter_nd(ctx: Lowering, node: Node) -> None:
    """Slices named by tuples."""
    x, indices, updates = node.inputs
    shape, picks = ctx.shape(x), ctx.shape(indices)
    depth = picks[-1] if picks else 0
    if not isinstance(depth, int) or not 0 < depth <= len(shape):
        raise NoKernel(f"tuples of {depth} for {len(shape)} axes")
    index, (dtype, how) = index_type(ctx, indices), _how(ctx, node, x)
    _require_same(ctx, node, ctx.shape(updates), (*picks[:-1], *shape[depth:]), "updates")
    data, *reads = (ctx.plain(name, node) for name in (x, indices, updates))
    width = element_count(shape[depth:])
    ctx.step(
        ScatterSlices(index, depth, dtype, how),
        (_copied(ctx, node, data), ctx.fault(node, "an index is out of range")),
        reads,
        tasks=ceildiv(width, COLUMNS),
        numbers=(width, COLUMNS, element_count(picks[:-1]), *shape[:depth]),
        node=node,
    )


@lowers("OneHot")
def one_hot(ctx: Lowering, node: Node) -> None:
    """A plane of one value, another one where the indices say so."""
    indices, _, values = node.inputs
    shape = ctx.shape(node.outputs[0])
    if ctx.shape(values) != (2,):
        raise NoKernel("its two values are no pair")
    index, dtype = index_type(ctx, indices), OF_WIDTH[ctx.dtype(values).itemsize]
    axis = normalize_axis(int(ctx.attributes(node)["axis"]), len(shape))
    reads = [ctx.plain(indices, node), ctx.plain(values, node)]
    ctx.step(
        OneHot(index, dtype),
        [ctx.output(node.outputs[0])],
        reads,
        tasks=element_count(shape[:axis]),
        numbers=(shape[axis], element_count(shape[axis + 1 :])),
        node=node,
    )


@lowers("TopK")
def top_k(ctx: Lowering, node: Node) -> None:
    """Lines of a tensor side by side."""
    x, (values, places) = node.inputs[0], _two(node)
    attributes, shape, dtype = ctx.attributes(node), ctx.shape(x), ctx.dtype(x)
    if dtype not in SORTED:
        raise NoKernel(f"elements of {dtype}")
    axis = normalize_axis(int(attributes["axis"]), len(shape))
    size, kept = shape[axis], ctx.shape(next(filter(None, node.outputs)))
    keep, inner = kept[axis], element_count(shape[axis + 1 :])
    message = f"k={keep} is not within the axis, or the axis has {MOST_PLACES} elements or more"
    too_many = dim_max(keep - size, 0) + dim_max(-keep, 0) + floordiv(size, MOST_PLACES)
    ctx.require_equal(too_many, 0, node, message)
    reads = [ctx.plain(x, node)]
    writes = [
        ctx.output(name) if name else ctx.temporary_plain(f"{node.label}/{k}", kept, kind)
        for k, (name, kind) in enumerate(((values, dtype), (places, DType.INT64)))
    ]
    ctx.step(
        TopValues(dtype, bool(attributes["largest"]), inner == 1),
        writes,
        reads,
        tasks=element_count(shape[:axis]) * inner * dim_min(keep, 1),
        numbers=(keep, size, inner),
        node=node,
    )


def _two(node: Node) -> tuple[Any, ...]:
    return (*node.outputs, "", "")[:2]
