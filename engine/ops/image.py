"""Image geometry: GridSample, DepthToSpace, SpaceToDepth."""

from __future__ import annotations

from collections.abc import Sequence

from engine.ir.types import Dim, TensorType, element_count, floordiv
from engine.ops.common import Array, check_size, narrow, one_of, widen
from engine.ops.contexts import ComputeContext, InferContext
from engine.ops.cores.sampling import Sampling, sample
from engine.ops.registry import REQUIRED, operator
from engine.ops.row_rules import leading
from engine.ops.rows import RowContext, RowState

# GridSample's ways between pixels; two of them had other names at first.
MODES = {
    "bicubic": "cubic",
    "bilinear": "linear",
    "cubic": "cubic",
    "linear": "linear",
    "nearest": "nearest",
}
PADDINGS = ("border", "reflection", "zeros")


@operator("GridSample", since=(16, 20, 22))
class GridSample:
    """An image read at the points of a grid."""

    attributes = {"align_corners": 0, "mode": "linear", "padding_mode": "zeros"}

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """Channels of the image, places of the grid."""
        x, grid = ctx.shape(0), ctx.shape(1)
        one_of(ctx, "mode", MODES)
        one_of(ctx, "padding_mode", PADDINGS)
        if x is None or grid is None:
            return [ctx.type(0).with_shape(None)]
        if len(grid) != len(x) or len(x) < 3 or grid[-1] not in (len(x) - 2, *_symbols(grid[-1])):
            ctx.fail(f"a grid of shape {list(grid)} does not fit an image of shape {list(x)}")
        return [ctx.type(0).with_shape((*x[:2], *grid[1:-1]))]

    @staticmethod
    def compute(ctx: ComputeContext, x: Array, grid: Array) -> Sequence[Array]:
        """Narrow floats compute in float32 and round once."""
        xp, attributes = ctx.xp, ctx.attributes
        if grid.ndim != x.ndim or grid.shape[-1] != x.ndim - 2 or grid.shape[0] != x.shape[0]:
            raise ValueError(f"a grid of shape {grid.shape} does not fit an image of {x.shape}")
        how = Sampling(
            MODES[attributes["mode"]], attributes["padding_mode"], bool(attributes["align_corners"])
        )
        check_size(ctx, (*x.shape[:2], *grid.shape[1:-1]), xp.float32)
        if not x.size:
            return [xp.zeros((*x.shape[:2], *grid.shape[1:-1]), dtype=x.dtype)]
        return [narrow(sample(xp, widen(xp, x), widen(xp, grid), how), x.dtype)]

    @staticmethod
    def flops(ctx: InferContext) -> Dim:
        """Two per pixel that a point reads."""
        x, grid = ctx.shape(0), ctx.shape(1)
        if x is None or grid is None:
            return 0
        per_axis = {"nearest": 1, "linear": 2, "cubic": 4}[MODES[ctx.attributes["mode"]]]
        pixels: int = per_axis ** (len(x) - 2)
        return 2 * element_count(grid[:-1]) * x[1] * pixels

    @staticmethod
    def rows(ctx: RowContext) -> Sequence[RowState]:
        """Image and grid carry the items on axis 0."""
        image, grid = ctx.rows[0], ctx.rows[1]
        if image is None or not image.is_rows or image != grid or image.axis != 0:
            return ctx.mixed("its inputs carry the items differently")
        return [image]


def _symbols(dim: Dim) -> tuple[Dim, ...]:
    return () if isinstance(dim, int) else (dim,)


@operator("DepthToSpace", since=(1, 11, 13, 28))
class DepthToSpace:
    """Channels become blocks of pixels."""

    attributes = {"blocksize": REQUIRED, "mode": "DCR"}
    rows = staticmethod(leading)

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """Fewer channels, more pixels."""
        x, b = ctx.type(0), int(ctx.attributes["blocksize"])
        one_of(ctx, "mode", ("CRD", "DCR"))
        if x.shape is None:
            return [x]
        n, c, h, w = x.shape
        if b < 1 or (isinstance(c, int) and c % (b * b)):
            ctx.fail(f"{c} channels do not make blocks of {b} x {b}")
        return [x.with_shape((n, floordiv(c, b * b), h * b, w * b))]

    @staticmethod
    def compute(ctx: ComputeContext, x: Array) -> Sequence[Array]:
        """A copy."""
        b = int(ctx.attributes["blocksize"])
        n, c, h, w = x.shape
        depth = c // (b * b)
        if ctx.attributes["mode"] == "CRD":
            y = x.reshape(n, depth, b, b, h, w).transpose(0, 1, 4, 2, 5, 3)
        else:
            y = x.reshape(n, b, b, depth, h, w).transpose(0, 3, 4, 1, 5, 2)
        return [y.reshape(n, depth, h * b, w * b)]


@operator("SpaceToDepth", since=(1, 13, 28))
class SpaceToDepth:
    """Blocks of pixels become channels."""

    attributes = {"blocksize": REQUIRED, "mode": "DCR"}
    rows = staticmethod(leading)

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """More channels, fewer pixels."""
        x, b = ctx.type(0), int(ctx.attributes["blocksize"])
        one_of(ctx, "mode", ("CRD", "DCR"))
        if x.shape is None:
            return [x]
        n, c, h, w = x.shape
        if b < 1 or any(isinstance(d, int) and d % b for d in (h, w)):
            ctx.fail(f"{h} x {w} pixels do not divide into blocks of {b} x {b}")
        return [x.with_shape((n, c * b * b, floordiv(h, b), floordiv(w, b)))]

    @staticmethod
    def compute(ctx: ComputeContext, x: Array) -> Sequence[Array]:
        """A copy."""
        b = int(ctx.attributes["blocksize"])
        n, c, h, w = x.shape
        order = (0, 1, 3, 5, 2, 4) if ctx.attributes["mode"] == "CRD" else (0, 3, 5, 1, 2, 4)
        y = x.reshape(n, c, h // b, b, w // b, b).transpose(order)
        return [y.reshape(n, c * b * b, h // b, w // b)]
