"""Geometry of images: AffineGrid, CenterCropPad, Col2Im, MaxUnpool."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

from engine.ir.types import Dim, Shape, TensorType
from engine.ops.common import (
    Array,
    axes_of,
    check_size,
    int_value,
    ints,
    narrow,
    normalize_axes,
    static_ints,
    widen,
)
from engine.ops.contexts import ComputeContext, InferContext
from engine.ops.cores.windows import Window, pad_spatial, tap_slices
from engine.ops.registry import REQUIRED, operator
from engine.ops.row_rules import follow, leading
from engine.ops.rows import RowContext, RowState

SIZE_RANKS = (4, 5)  # of what AffineGrid makes a grid for: (N, C, H, W) or (N, C, D, H, W)


@operator("AffineGrid", since=20)
class AffineGrid:
    """Where each pixel of an image comes from under an affine map: the grid of `GridSample`."""

    attributes = {"align_corners": 0}

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """(N, H, W, 2) or (N, D, H, W, 3)."""
        theta, size = ctx.shape(0), ctx.value(1)
        rank = AffineGrid.rank(ctx, theta)
        batch = ctx.fresh_dim("N") if theta is None else theta[0]
        if size is not None:
            if len(size) not in SIZE_RANKS or rank not in (None, len(size) - 2):
                ctx.fail(f"a size of {len(size)} numbers does not fit theta of shape {theta}")
            if isinstance(batch, int) and isinstance(size[0], int) and batch != size[0]:
                ctx.fail(f"theta is for {batch} images, the size for {size[0]}")
            return [ctx.type(0).with_shape((size[0], *size[2:], len(size) - 2))]
        if rank is None:
            return [ctx.type(0).with_shape(None)]
        return [ctx.type(0).with_shape((batch, *(ctx.fresh_dim() for _ in range(rank)), rank))]

    @staticmethod
    def rank(ctx: InferContext, theta: Shape | None) -> int | None:
        """How many spatial axes theta is for, when its shape tells."""
        if theta is None:
            return None
        if len(theta) != 3:
            ctx.fail(f"theta must have rank 3, got shape {list(theta)}")
        known = static_ints(theta[1:])
        if known is not None and known not in ((2, 3), (3, 4)):
            ctx.fail(f"theta must hold matrices of 2 x 3 or 3 x 4, got {list(theta)}")
        rows, columns = int_value(theta[1]), int_value(theta[2])
        return rows if rows is not None else None if columns is None else columns - 1

    @staticmethod
    def compute(ctx: ComputeContext, theta: Array, size: Array) -> Sequence[Array]:
        """Narrow floats compute in float32 and round once."""
        xp, sizes = ctx.xp, ints(size)
        rank = len(sizes) - 2
        if len(sizes) not in SIZE_RANKS or theta.shape != (sizes[0], rank, rank + 1):
            raise ValueError(f"theta of shape {theta.shape} does not fit the size {list(sizes)}")
        if min(sizes) < 0:
            raise ValueError(f"the size {list(sizes)} has a negative number")
        wide = widen(xp, theta)
        check_size(ctx, (sizes[0], *sizes[2:], rank + 1), wide.dtype)
        check_size(ctx, (*sizes[2:], rank + 1), wide.dtype)  # laid out once, for no image too
        check_size(ctx, (max(sizes[2:]), 8), wide.dtype)
        corners = bool(ctx.attributes["align_corners"])
        lines = [_positions(xp, n, corners, wide.dtype) for n in sizes[2:]]
        # Coordinates are named x, y, z: the last axis comes first.
        axes = xp.meshgrid(*lines, indexing="ij")[::-1]
        points = xp.stack([*axes, xp.ones_like(axes[0])], axis=-1).reshape(-1, rank + 1)
        y = xp.matmul(points[None], wide.swapaxes(1, 2))  # (N, P, rank)
        return [narrow(y.reshape(sizes[0], *sizes[2:], rank), theta.dtype)]

    @staticmethod
    def rows(ctx: RowContext) -> Sequence[RowState]:
        """Each image has a matrix of its own; the size must name their number."""
        size, kind = ctx.values[1] if len(ctx.values) > 1 else None, ctx.types[0]
        if size is None or kind is None or kind.shape is None or size[0] != kind.shape[0]:
            return ctx.mixed("its size does not follow the number of items")
        return follow(ctx, lambda axis: 0 if axis == 0 else None, sizes=(1,))


def _positions(xp: Any, count: int, corners: bool, dtype: Any) -> Array:
    """Centres of `count` pixels from -1 to 1; with `corners` the outermost ones lie on the ends."""
    step = xp.arange(count).astype(dtype)
    if not corners:
        return (2 * step + 1) / dtype.type(max(count, 1)) - 1
    # A single pixel lies in the middle, as torch has it; ONNX's text divides by zero here.
    return 2 * step / dtype.type(count - 1) - 1 if count > 1 else step


@operator("CenterCropPad", since=18)
class CenterCropPad:
    """The middle of a tensor, or the tensor in the middle of zeros; the odd one goes to the end."""

    attributes = {"axes": None}

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """The sizes asked for on the axes named."""
        x, known = ctx.type(0), ctx.value(1)
        if x.shape is None:
            return [x]
        named = ctx.attributes["axes"]
        axes = axes_of(ctx, range(len(x.shape)) if named is None else named, len(x.shape))
        target: Sequence[Dim] = [ctx.fresh_dim() for _ in axes] if known is None else known
        if len(target) != len(axes):
            ctx.fail(f"{len(target)} sizes for {len(axes)} axes")
        if any(isinstance(d, int) and d < 0 for d in target):
            ctx.fail(f"sizes must be 0 or more, got {list(target)}")
        dims = list(x.shape)
        for axis, size in zip(axes, target, strict=True):
            dims[axis] = size
        return [x.with_shape(dims)]

    @staticmethod
    def compute(ctx: ComputeContext, x: Array, shape: Array) -> Sequence[Array]:
        """A copy."""
        named, sizes = ctx.attributes["axes"], ints(shape)
        axes = normalize_axes(range(x.ndim) if named is None else named, x.ndim)
        if len(sizes) != len(axes) or min(sizes, default=0) < 0:
            raise ValueError(f"sizes {list(sizes)} do not fit the axes {list(axes)}")
        begins, ends = [0] * x.ndim, [0] * x.ndim
        for axis, size in zip(axes, sizes, strict=True):
            more = size - x.shape[axis]
            begins[axis] = more // 2 if more > 0 else -(-more // 2)
            ends[axis] = more - begins[axis]
        check_size(ctx, [d + b + e for d, b, e in zip(x.shape, begins, ends, strict=True)], x.dtype)
        return [pad_spatial(ctx.xp, x, begins, ends, "" if x.dtype == object else 0)]

    @staticmethod
    def rows(ctx: RowContext) -> Sequence[RowState]:
        """The items' axis must keep its size."""
        kind, out = ctx.types[0], ctx.outputs[0].shape
        if kind is None or kind.shape is None or out is None:
            return ctx.mixed("a shape is unknown")
        same = {k for k, (a, b) in enumerate(zip(kind.shape, out, strict=True)) if a == b}
        return follow(ctx, lambda axis: axis if axis in same else None, sizes=(1,))


@operator("Col2Im", since=18)
class Col2Im:
    """Blocks laid over an image, what overlaps added up: the reverse of unfolding."""

    attributes = {"dilations": (), "pads": (), "strides": ()}
    rows = staticmethod(leading)

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """(N, C * block, L) -> (N, C, *image)."""
        x, image, block = ctx.type(0), ctx.value(1), ctx.value(2)
        if x.shape is not None and len(x.shape) != 3:
            ctx.fail(f"expected columns of shape [N, C * block, L], got {list(x.shape)}")
        if any(ctx.type(i).rank not in (1, None) for i in (1, 2)):
            ctx.fail("image_shape and block_shape must be vectors")
        n, columns = (ctx.fresh_dim("N"), None) if x.shape is None else x.shape[:2]
        if image is None:
            shape = ctx.shape(1)
            count = int_value(shape[0]) if shape else None
            if count is None:
                return [x.with_shape(None)]
            image = ctx.fresh_dims(count, "size")
        known, taken = static_ints(block), int_value(columns)
        channels: Dim = ctx.fresh_dim("C")
        if known is not None and taken is not None:
            if len(known) != len(image) or min(known, default=1) < 1 or taken % math.prod(known):
                ctx.fail(f"{taken} columns do not divide into blocks of {list(known)}")
            channels = taken // math.prod(known)
        return [x.with_shape((n, channels, *image))]

    @staticmethod
    def compute(ctx: ComputeContext, x: Array, image: Array, block: Array) -> Sequence[Array]:
        """One addition per element of the block; narrow floats add in float32."""
        xp = ctx.xp
        sizes, window = ints(image), Col2Im.window(ctx, ints(image), ints(block))
        places = window.output_sizes(sizes)
        elements = math.prod(window.kernel)
        if x.ndim != 3 or x.shape[1] % elements or x.shape[2] != math.prod(places):
            raise ValueError(
                f"columns of shape {x.shape} are not blocks of {list(window.kernel)} "
                f"at {list(places)} places"
            )
        canvas = (x.shape[0], x.shape[1] // elements, *window.padded_sizes(sizes))
        wide = widen(xp, x)
        check_size(ctx, canvas, wide.dtype)
        if not x.size:
            return [xp.zeros((*canvas[:2], *sizes), dtype=x.dtype)]
        total = xp.zeros(canvas, dtype=wide.dtype)
        blocks = wide.reshape(*canvas[:2], *window.kernel, *places)
        for tap in itertools.product(*map(range, window.kernel)):
            offsets = [k * d for k, d in zip(tap, window.dilations, strict=True)]
            total[(..., *tap_slices(offsets, window.strides, places))] += blocks[
                (slice(None), slice(None), *tap)
            ]
        begins, ends = [-b for b in window.begins], [-e for e in window.ends]
        return [narrow(pad_spatial(xp, total, begins, ends), x.dtype)]

    @staticmethod
    def window(ctx: ComputeContext, sizes: Sequence[int], block: Sequence[int]) -> Window:
        """The node's window, checked."""
        rank = len(sizes)
        strides, dilations, pads = (
            tuple(ctx.attributes[name]) or (default,) * count
            for name, default, count in (
                ("strides", 1, rank),
                ("dilations", 1, rank),
                ("pads", 0, 2 * rank),
            )
        )
        if {len(block), len(strides), len(dilations), len(pads) / 2} != {rank}:
            raise ValueError(f"block, strides, dilations and pads do not fit {rank} axes")
        if (
            min((*block, *strides, *dilations), default=1) < 1
            or min((*sizes, *pads), default=0) < 0
        ):
            raise ValueError(
                "block, strides and dilations must be 1 or more, sizes and pads 0 or more"
            )
        return Window(tuple(block), strides, dilations, pads[:rank], pads[rank:])


@operator("MaxUnpool", since=(9, 11, 22))
class MaxUnpool:
    """Values put back where MaxPool found them, zeros elsewhere.

    Positions count through the result as `kernel_shape`, `strides` and `pads` make it. A stated
    `output_shape` then holds it in its first corner, as ONNX's reference has it.
    """

    attributes = {"kernel_shape": REQUIRED, "pads": (), "strides": ()}

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """The pooled input's size before pooling, or the one that is stated."""
        x = ctx.type(0)
        rank = len(ctx.attributes["kernel_shape"])
        if x.shape is not None and len(x.shape) != rank + 2:
            ctx.fail(f"a kernel of {rank} axes does not fit an input of {list(x.shape)}")
        _check_unpool(ctx)
        if ctx.has(2):
            stated = ctx.value(2)
            if stated is not None and len(stated) != rank + 2:
                ctx.fail(f"output_shape must have {rank + 2} numbers, got {len(stated)}")
            return [x.with_shape(stated or [ctx.fresh_dim() for _ in range(rank + 2)])]
        return [x if x.shape is None else x.with_shape(unpooled_shape(ctx.attributes, x.shape))]

    @staticmethod
    def compute(
        ctx: ComputeContext, x: Array, indices: Array, output_shape: Array | None = None
    ) -> Sequence[Array]:
        """Where a position is named twice, one of the values stays."""
        xp = ctx.xp
        shape = ints(unpooled_shape(ctx.attributes, x.shape))
        if indices.shape != x.shape or min(shape) < 0:
            raise ValueError(f"positions {indices.shape} for {x.shape} values in {list(shape)}")
        count = math.prod(shape)
        if indices.size and (int(indices.min()) < 0 or int(indices.max()) >= count):
            raise IndexError(f"a position is outside of the {count} elements of {list(shape)}")
        check_size(ctx, shape, x.dtype)
        flat = xp.zeros(count, dtype=x.dtype)
        flat[indices.reshape(-1)] = x.reshape(-1)
        y = flat.reshape(shape)
        if output_shape is None:
            return [y]
        stated = ints(output_shape)
        if len(stated) != y.ndim or any(s < d for s, d in zip(stated, shape, strict=True)):
            raise ValueError(f"output_shape {list(stated)} does not hold {list(shape)}")
        check_size(ctx, stated, x.dtype)
        more = [s - d for s, d in zip(stated, shape, strict=True)]
        return [pad_spatial(xp, y, [0] * y.ndim, more)]


def _check_unpool(ctx: InferContext) -> None:
    attributes, rank = ctx.attributes, len(ctx.attributes["kernel_shape"])
    lengths = {len(attributes["strides"]) or rank, len(attributes["pads"]) / 2 or rank}
    numbers = (*attributes["kernel_shape"], *attributes["strides"])
    if lengths != {rank} or min(numbers, default=1) < 1:
        ctx.fail(f"strides and pads do not fit a kernel of {rank} axes, or are less than 1")


def unpooled_shape(attributes: Any, shape: Shape) -> Shape:
    """What a pool of these attributes came from, where it left no element out."""
    kernel = attributes["kernel_shape"]
    rank = len(kernel)
    strides = tuple(attributes["strides"]) or (1,) * rank
    pads = tuple(attributes["pads"]) or (0,) * (2 * rank)
    sizes = (
        (shape[2 + k] - 1) * strides[k] - pads[k] - pads[k + rank] + kernel[k] for k in range(rank)
    )
    return (*shape[:2], *sizes)
