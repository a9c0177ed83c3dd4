"""Detection: choosing among overlapping boxes, and reading features inside of boxes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from engine.dtypes import DType
from engine.ir.types import Dim, TensorType
from engine.ops.common import Array, check_size, narrow, widen
from engine.ops.contexts import ComputeContext, InferContext
from engine.ops.registry import REQUIRED, operator
from engine.ops.rows import SIZES, RowContext, RowKind, RowState

BLOCK = 128  # boxes that are held against each other at once
CELL_BYTES = 256  # what a row or column of cells takes up while a region is pooled
HALF_PIXEL_SINCE = 16  # RoiAlign did not shift boxes by half a pixel before


@operator("NonMaxSuppression", since=(10, 11))
class NonMaxSuppression:
    """The best boxes of each image and class that do not overlap a better one too much.

    Greedy suppression as in Felzenszwalb et al., "Object Detection with Discriminatively Trained
    Part-Based Models" (2010), section 5. It walks lists, so it runs on the host.
    """

    attributes = {"center_point_box": 0}
    host = True

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """As many rows of (image, class, box) as are left over: only running can tell."""
        boxes, scores = ctx.shape(0), ctx.shape(1)
        for name, shape in (("boxes", boxes), ("scores", scores)):
            if shape is not None and len(shape) != 3:
                ctx.fail(f"{name} must have rank 3, got shape {list(shape)}")
        if boxes is not None and isinstance(boxes[2], int) and boxes[2] != 4:
            ctx.fail(f"a box has 4 coordinates, got boxes of shape {list(boxes)}")
        return [TensorType(DType.INT64, (ctx.fresh_dim("selected"), 3))]

    @staticmethod
    def compute(
        ctx: ComputeContext,
        boxes: Array,
        scores: Array,
        most: Array | None = None,
        overlap: Array | None = None,
        threshold: Array | None = None,
    ) -> Sequence[Array]:
        """Rows in the order of images, classes and falling scores; equal scores by index."""
        if boxes.ndim != 3 or scores.ndim != 3 or boxes.shape[::2] != (scores.shape[0], 4):
            raise ValueError(f"boxes {boxes.shape} do not fit scores {scores.shape}")
        if boxes.shape[1] != scores.shape[2]:
            raise ValueError(f"{boxes.shape[1]} boxes, scores for {scores.shape[2]}")
        limit = 0 if most is None else max(int(most.reshape(-1)[0]), 0)
        iou = 0.0 if overlap is None else float(overlap.reshape(-1)[0])
        if not 0 <= iou <= 1:
            raise ValueError(f"iou_threshold must lie in 0..1, got {iou}")
        least = None if threshold is None else float(threshold.reshape(-1)[0])
        corners = corners_of(boxes, bool(ctx.attributes["center_point_box"]))
        rows: list[tuple[int, int, int]] = []
        if not scores.size:  # no box, however many classes
            return [np.zeros((0, 3), dtype=np.int64)]
        for image, of_class in np.ndindex(*scores.shape[:2]):
            chosen = _suppress(corners[image], scores[image, of_class], limit, iou, least)
            rows.extend((image, of_class, box) for box in chosen)
        return [np.array(rows, dtype=np.int64).reshape(-1, 3)]


def corners_of(boxes: np.ndarray, centred: bool) -> np.ndarray:
    """Boxes (..., 4) as low and high corner, whichever way around they were given."""
    if centred:
        middle, half = boxes[..., :2], boxes[..., 2:] / 2
        return np.concatenate((middle - half, middle + half), axis=-1)
    first, second = boxes[..., :2], boxes[..., 2:]
    return np.concatenate((np.minimum(first, second), np.maximum(first, second)), axis=-1)


def _suppress(
    corners: np.ndarray, scores: np.ndarray, limit: int, iou: float, least: float | None
) -> list[int]:
    """Indices of the boxes that stay, best first."""
    order = np.arange(scores.size) if least is None else np.nonzero(scores > least)[0]
    order = order[np.argsort(-scores[order], kind="stable")]
    boxes = np.ascontiguousarray(corners[order].T)  # (4, boxes), best first
    chosen: list[int] = []
    for first in range(0, order.size, BLOCK):
        block = boxes[:, first : first + BLOCK]
        free = np.ones(block.shape[1], dtype=bool)
        for part in range(0, len(chosen), BLOCK):
            better = boxes[:, chosen[part : part + BLOCK]]
            free &= ~_overlaps(better, block, iou).any(axis=0)
        among = _overlaps(block, block, iou)
        for k in range(block.shape[1]):
            if len(chosen) >= limit:
                return [int(order[i]) for i in chosen]
            if free[k]:
                chosen.append(first + k)
                free &= ~among[k]
    return [int(order[i]) for i in chosen]


def _overlaps(better: np.ndarray, boxes: np.ndarray, iou: float) -> np.ndarray:
    """Which boxes (4, N) share more than `iou` of their union with which better ones (4, M).

    Boxes without an area overlap nothing.
    """
    first, second = better[:, :, None], boxes[:, None, :]
    low, high = np.maximum(first[:2], second[:2]), np.minimum(first[2:], second[2:])
    sides = np.maximum(high - low, 0)  # (2, M, N)
    shared = sides[0] * sides[1]
    areas, others = (np.prod(each[2:] - each[:2], axis=0) for each in (first, second))
    union = areas + others - shared
    solid = (areas > 0) & (others > 0) & (union > 0)
    ratio = np.divide(shared, union, out=np.zeros_like(shared), where=solid)
    return np.asarray(ratio > iou)


def _rois_type(ctx: InferContext, columns: int, height: Dim, width: Dim) -> Sequence[TensorType]:
    """One pooled image (C, height, width) per region."""
    x, rois = ctx.shape(0), ctx.shape(1)
    if x is not None and len(x) != 4:
        ctx.fail(f"expected an image of rank 4, got shape {list(x)}")
    if rois is not None and (len(rois) != 2 or (isinstance(rois[1], int) and rois[1] != columns)):
        ctx.fail(f"expected regions of shape [count, {columns}], got {list(rois)}")
    if isinstance(height, int) and isinstance(width, int) and min(height, width) < 1:
        ctx.fail(f"the pooled size must be 1 or more, got {height} x {width}")
    count = ctx.fresh_dim("regions") if rois is None else rois[0]
    channels = ctx.fresh_dim("channels") if x is None else x[1]
    return [ctx.type(0).with_shape((count, channels, height, width))]


def _region_rows(ctx: RowContext, regions: Sequence[int]) -> Sequence[RowState]:
    """Regions of shared images are independent; images that differ by item meet their regions."""
    image, states = ctx.rows[0], {ctx.rows[i] for i in regions}
    state = next(iter(states))
    if image is None or image.kind is not RowKind.SHARED or len(states) > 1 or state is None:
        return ctx.mixed("its regions name images by their number in the batch")
    if not state.is_rows:
        return ctx.all_outputs(SIZES)
    return [state] if state.axis == 0 else ctx.mixed("its regions lie on another axis")


@operator("RoiAlign", since=(10, 16, 22))
class RoiAlign:
    """Features of an image inside of regions, read between the pixels.

    He et al., "Mask R-CNN" (2017), section 3. The largest value is taken over weighted corners and
    not over their sum, as ONNX's definition does since its first version.
    """

    attributes = {
        "coordinate_transformation_mode": "half_pixel",
        "mode": "avg",
        "output_height": 1,
        "output_width": 1,
        "sampling_ratio": 0,
        "spatial_scale": 1.0,
    }

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """Regions, channels, output height and width."""
        attributes = ctx.attributes
        if attributes["mode"] not in ("avg", "max"):
            ctx.fail(f"mode must be avg or max, got {attributes['mode']!r}")
        modes = ("half_pixel", "output_half_pixel")
        if attributes["coordinate_transformation_mode"] not in modes:
            ctx.fail(f"coordinate_transformation_mode must be one of {', '.join(modes)}")
        return _rois_type(ctx, 4, int(attributes["output_height"]), int(attributes["output_width"]))

    @staticmethod
    def compute(ctx: ComputeContext, x: Array, rois: Array, images: Array) -> Sequence[Array]:
        """Region by region; narrow floats compute in float32 and round once."""
        xp, attributes = ctx.xp, ctx.attributes
        if x.ndim != 4 or rois.shape != (images.size, 4):
            raise ValueError(f"regions {rois.shape} do not fit {images.size} image numbers")
        shape = (rois.shape[0], x.shape[1], attributes["output_height"], attributes["output_width"])
        pixels = widen(xp, x)
        check_size(ctx, shape, pixels.dtype)
        y = xp.zeros(shape, dtype=pixels.dtype)
        boxes = _fetched(widen(xp, rois))
        for k, image in enumerate(_image_numbers(_fetched(images), x.shape[0])):
            rows, columns = (
                _samples(ctx, boxes[k, axis::2], shape[3 - axis], x.shape[3 - axis])
                for axis in (1, 0)
            )
            y[k] = _pooled(ctx, pixels[image], rows, columns)
        return [narrow(y, x.dtype)]

    @staticmethod
    def rows(ctx: RowContext) -> Sequence[RowState]:
        """See `_region_rows`."""
        return _region_rows(ctx, (1, 2))


def _fetched(x: Array) -> np.ndarray:
    """A few numbers, of either array library, as numpy has them."""
    return np.array(x.reshape(-1).tolist(), dtype=x.dtype).reshape(x.shape)


def _image_numbers(numbers: np.ndarray, count: int) -> list[int]:
    if numbers.size and not (int(numbers.min()) >= 0 and int(numbers.max()) < count):
        raise IndexError(f"a region names an image outside of the {count} there are")
    return [int(n) for n in numbers.reshape(-1)]


Samples = tuple[int, np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def _samples(ctx: ComputeContext, ends: np.ndarray, bins: int, size: int) -> Samples:
    """Points along one axis of a region.

    Returns points per bin, the pixels below and above each point, and their weights.
    """
    mode = ctx.attributes["coordinate_transformation_mode"]
    shifted = mode == "half_pixel" and ctx.version >= HALF_PIXEL_SINCE
    real = ends.dtype.type
    start, end = ends * real(ctx.attributes["spatial_scale"]) - real(0.5 if shifted else 0)
    length = end - start if shifted else max(end - start, real(1))
    ratio = int(ctx.attributes["sampling_ratio"])
    points = ratio if ratio > 0 else max(math.ceil(length / bins), 0)
    check_size(ctx, (bins, points, 4), np.float64)
    step = length / real(bins)
    within = (np.arange(points) + real(0.5)).astype(ends.dtype) * step / real(max(points, 1))
    place = (start + np.arange(bins)[:, None] * step + within).astype(ends.dtype).reshape(-1)
    outside = (place < -1) | (place > size)
    place = np.clip(place, 0, max(size - 1, 0))
    below = np.minimum(np.floor(place).astype(np.int64), max(size - 1, 0))
    above = np.minimum(below + 1, max(size - 1, 0))
    share = place - below
    weights = [np.where(outside, 0, w).astype(ends.dtype) for w in (1 - share, share)]
    return points, below, above, weights[0], weights[1]


def _pooled(ctx: ComputeContext, pixels: Array, rows: Samples, columns: Samples) -> Array:
    """Pool one region of `pixels` (C, H, W)."""
    xp = ctx.xp
    bins = (rows[1].size // max(rows[0], 1), columns[1].size // max(columns[0], 1))
    if not rows[1].size or not columns[1].size or not pixels.size:
        return xp.zeros((), dtype=pixels.dtype)  # a region turned inside out holds no point
    check_size(ctx, (pixels.shape[0], rows[1].size, columns[1].size, 2), pixels.dtype)
    combine: Callable[..., Array] = xp.add if ctx.attributes["mode"] == "avg" else xp.maximum
    read = None
    for places, shares in ((rows[1], rows[3]), (rows[2], rows[4])):
        lines = pixels[:, xp.asarray(places)]
        weight = xp.asarray(shares)[:, None]
        for others, other_shares in ((columns[1], columns[3]), (columns[2], columns[4])):
            corner = lines[:, :, xp.asarray(others)] * (weight * xp.asarray(other_shares))
            read = corner if read is None else combine(read, corner, out=read)
    assert read is not None
    binned = read.reshape(-1, bins[0], rows[0], bins[1], columns[0])
    return binned.mean(axis=(2, 4)) if combine is xp.add else binned.max(axis=(2, 4))


@operator("MaxRoiPool", since=(1, 22))
class MaxRoiPool:
    """The largest value in each cell of regions that are rounded to whole pixels.

    Girshick, "Fast R-CNN" (2015), section 2.1.
    """

    attributes = {"pooled_shape": REQUIRED, "spatial_scale": 1.0}

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """Regions, channels, pooled height and width."""
        pooled = tuple(ctx.attributes["pooled_shape"])
        if len(pooled) != 2:
            ctx.fail(f"pooled_shape must be height and width, got {list(pooled)}")
        return _rois_type(ctx, 5, *pooled)

    @staticmethod
    def compute(ctx: ComputeContext, x: Array, rois: Array) -> Sequence[Array]:
        """Region by region; cells without a pixel are 0."""
        if x.ndim != 4 or rois.ndim != 2 or rois.shape[1] != 5:
            raise ValueError(f"regions {rois.shape} do not fit an image of {x.shape}")
        pooled = tuple(ctx.attributes["pooled_shape"])
        shape = (rois.shape[0], x.shape[1], *pooled)
        check_size(ctx, shape, x.dtype)
        check_size(ctx, (sum(pooled), CELL_BYTES), np.uint8)
        y = ctx.xp.zeros(shape, dtype=x.dtype)
        regions = _fetched(widen(ctx.xp, rois))
        images = _image_numbers(regions[:, 0].astype(np.int64), x.shape[0])
        scale = regions.dtype.type(ctx.attributes["spatial_scale"])
        for k, image in enumerate(images):
            rows, columns = (
                _cells(regions[k, 1 + axis :: 2] * scale, pooled[1 - axis], x.shape[3 - axis])
                for axis in (1, 0)
            )
            y[k] = _cell_maxima(ctx, x[image], rows, columns)
        return [y]

    @staticmethod
    def rows(ctx: RowContext) -> Sequence[RowState]:
        """See `_region_rows`."""
        return _region_rows(ctx, (1,))


def _cells(ends: Any, bins: int, size: int) -> list[slice]:
    """The pixels of each cell along one axis; halves round away from zero."""
    start, end = (int(math.copysign(math.floor(abs(v) + 0.5), v)) for v in ends.tolist())
    step = np.float32(max(end - start + 1, 1)) / np.float32(bins)
    lows = [start + math.floor(np.float32(k) * step) for k in range(bins)]
    highs = [start + math.ceil(np.float32(k + 1) * step) for k in range(bins)]
    return [
        slice(min(max(low, 0), size), min(max(high, 0), size))
        for low, high in zip(lows, highs, strict=True)
    ]


def _cell_maxima(
    ctx: ComputeContext, image: Array, rows: Sequence[slice], columns: Sequence[slice]
) -> Array:  # (C, rows, columns)
    """The largest value of every cell of an image (C, H, W), 0 where a cell has no pixel."""
    xp = ctx.xp
    zero = xp.zeros(image.shape[0], dtype=image.dtype)
    bands = [image[:, row].max(axis=1) if row.stop > row.start else None for row in rows]
    lines = [
        xp.stack([zero if b is None else b[:, c].max(axis=1) for b in bands], axis=1)
        if c.stop > c.start
        else xp.zeros((image.shape[0], len(rows)), dtype=image.dtype)
        for c in columns
    ]
    return xp.stack(lines, axis=2)
