"""Rules of resizing pictures: the definition itself, applied to unit vectors, gives the tables."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

import numpy as np

from engine.cpu.buffers import Buffer
from engine.cpu.kernels.resize import Resize
from engine.cpu.lower.context import Lowering
from engine.cpu.lower.rules import NoKernel, lowers
from engine.dtypes import DType
from engine.ir.graph import Node
from engine.ops.common import normalize_axes
from engine.ops.cores.resampling import AxisPlan, Interpolation, resize
from engine.ops.resizing import COORDINATES_SINCE

TAPS: Final = 16  # most pixels that one pixel of a result is made of
TABLE: Final = 1 << 24  # most numbers of the matrix that a table is read from
SPATIAL: Final = (2, 3)


@dataclass(frozen=True)
class Table:
    """Which places of an axis make up each place of the result.

    Attributes:
        places: (size of the result, taps).
        weights: The same shape.
    """

    places: np.ndarray
    weights: np.ndarray

    @property
    def taps(self) -> int:
        """Places that one place is made of."""
        return int(self.places.shape[1])


@lowers("Resize", "Upsample")
def resized(ctx: Lowering, node: Node) -> None:
    """Pictures whose heights and widths are known."""
    x, y = node.inputs[0], node.outputs[0]
    if ctx.dtype(x) is not DType.FLOAT32 or not (ctx.can_be_image(x) and ctx.can_be_image(y)):
        raise NoKernel("resizing works on float32 pictures of known size")
    how = _interpolation(ctx, node)
    scales = _scales(ctx, node)
    before, after = ctx.shape(x), ctx.shape(y)
    if before[:2] != after[:2] or scales[0] != 1 or scales[1] != 1:
        raise NoKernel("it resizes more than height and width")
    tables = [_table(before[k], after[k], scales[k], how) for k in SPATIAL]
    rows, columns = tables
    if rows.taps * columns.taps > TAPS:
        raise NoKernel(f"a pixel is made of {rows.taps} x {columns.taps}")
    source = ctx.image(x, node)
    target = ctx.output_image(y)
    kernel = Resize(target.image, source.image, rows.taps, columns.taps)
    reads = [source]
    for table, step in ((rows, source.image.row), (columns, source.image.pitch)):
        reads += _operands(ctx, table, step)
    tasks = after[0] * target.image.height
    ctx.step(kernel, (target,), reads, tasks=tasks, node=node)


def _interpolation(ctx: Lowering, node: Node) -> Interpolation:
    attributes = ctx.attributes(node)
    mode = attributes["mode"]
    if node.op == "Upsample" or node.version < COORDINATES_SINCE:
        linear = mode in ("linear", "bilinear")
        return Interpolation("linear" if linear else "nearest", "asymmetric", "simple")
    if attributes["coordinate_transformation_mode"] == "tf_crop_and_resize":
        raise NoKernel("it crops")
    return Interpolation(
        mode=mode,
        coordinates=attributes["coordinate_transformation_mode"],
        nearest=attributes["nearest_mode"],
        cubic_a=float(attributes["cubic_coeff_a"]),
        exclude_outside=bool(attributes["exclude_outside"]),
        antialias=bool(attributes["antialias"]),
    )


def _scales(ctx: Lowering, node: Node) -> list[float]:
    """Return the factor of every axis."""
    attributes = ctx.attributes(node)
    before, after = ctx.shape(node.inputs[0]), ctx.shape(node.outputs[0])
    rank = len(before)
    given: np.ndarray | None
    if node.op == "Upsample":
        if node.version < 7:
            raise NoKernel("the first version of Upsample")
        stated = attributes["scales"]
        given = ctx.constant(node.inputs[1]) if stated is None else np.asarray(stated)
    else:
        if attributes.get("keep_aspect_ratio_policy", "stretch") != "stretch":
            raise NoKernel("it keeps the aspect ratio")
        names = [*node.inputs, "", "", ""]
        place = 1 if node.version < COORDINATES_SINCE else 2
        given = ctx.constant(names[place])
        if names[place] and given is None:
            raise NoKernel("its scales are computed")
    if given is None or not given.size:  # sizes, known as the result's shape is
        pairs = zip(before, after, strict=True)
        return [b / a if isinstance(a, int) and isinstance(b, int) and a else 1.0 for a, b in pairs]
    named = attributes.get("axes")
    axes = normalize_axes(range(rank) if named is None else named, rank)
    scales = [1.0] * rank
    for axis, scale in zip(axes, given.reshape(-1).tolist(), strict=True):
        scales[axis] = float(scale)
    return scales


def _table(before: object, after: object, scale: float, how: Interpolation) -> Table:
    """Return what an axis is made of, read off the columns of the unit matrix resized."""
    if not isinstance(before, int) or not isinstance(after, int) or before < 1 or after < 1:
        raise NoKernel("an axis is empty")
    if before * after > TABLE:
        raise NoKernel(f"a table of {before} x {after}")
    plan = AxisPlan(0, before, after, scale)
    try:
        matrix = resize(np, np.eye(before, dtype=np.float32), [plan], how)
    except ValueError as error:  # a run tells of it
        raise NoKernel(str(error)) from error
    used = matrix != 0
    taps = max(int(used.sum(axis=1).max()), 1)
    # Places with weights come first, others fill up with weights of zero.
    places = np.argsort(~used, axis=1, kind="stable")[:, :taps]
    weights = np.take_along_axis(matrix, places, axis=1)
    if taps == 1 and not (weights == 1).all():  # a lone tap is taken as it is
        places, weights = places.repeat(2, axis=1), np.pad(weights, ((0, 0), (0, 1)))
    return Table(places.astype(np.int64), weights.astype(np.float32))


def _operands(ctx: Lowering, table: Table, step: int) -> list[Buffer]:
    """Return a table's places, as elements of the picture, and its weights."""
    places = np.ascontiguousarray(table.places * step)
    return [fixed_table(ctx, places), fixed_table(ctx, np.ascontiguousarray(table.weights))]


def fixed_table(ctx: Lowering, values: np.ndarray) -> Buffer:
    """Return numbers as a fixed value that is named by what it holds."""
    digest = hashlib.sha256(values.tobytes()).hexdigest()
    return ctx.weights(f"table {values.dtype} {values.shape} {digest}", lambda: values)
