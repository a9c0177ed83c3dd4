"""Images in other sizes: Resize, and Upsample before it had that name."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from engine.ir.types import Dim, TensorType, floordiv, symbols_of
from engine.ops.common import (
    Array,
    axes_of,
    check_size,
    ints,
    narrow,
    normalize_axes,
    one_of,
    widen,
)
from engine.ops.contexts import ComputeContext, InferContext
from engine.ops.cores.resampling import AxisPlan, Interpolation, reach, resize
from engine.ops.registry import REQUIRED, operator
from engine.ops.row_rules import follow, leading
from engine.ops.rows import RowContext, RowState

COORDINATES_SINCE = 11  # Resize of opset 10 was Upsample with a name of its own
SIZES_AT = 3  # Resize's input of wanted sizes

# What Resize's attributes may say; the modes are Upsample's too.
WORDS = {
    "coordinate_transformation_mode": (
        "align_corners",
        "asymmetric",
        "half_pixel",
        "half_pixel_symmetric",
        "pytorch_half_pixel",
        "tf_crop_and_resize",
        "tf_half_pixel_for_nn",
    ),
    "keep_aspect_ratio_policy": ("not_larger", "not_smaller", "stretch"),
    "mode": ("bilinear", "cubic", "linear", "nearest"),
    "nearest_mode": ("ceil", "floor", "round_prefer_ceil", "round_prefer_floor"),
}


def _untouched_rows(ctx: RowContext) -> Sequence[RowState]:
    """The items' axis must keep its size, with a scale of exactly 1."""
    kind, out = ctx.types[0], ctx.outputs[0].shape
    if kind is None or kind.shape is None or out is None:
        return ctx.mixed("a shape is unknown")
    if ctx.attributes.get("coordinate_transformation_mode") == "tf_crop_and_resize":
        return ctx.mixed("its region of interest may shift the items")
    same = {k for k, (a, b) in enumerate(zip(kind.shape, out, strict=True)) if a == b}
    sizes = (SIZES_AT,) if _sizes_count_items_only(ctx, len(kind.shape)) else ()
    return follow(ctx, lambda axis: axis if axis in same else None, sizes=sizes)


def _sizes_count_items_only(ctx: RowContext, rank: int) -> bool:
    """Whether the wanted sizes are known, and only that of the items' axis depends on their number.

    Exporters write `Concat(Shape(x)[:2], [height, width])`.
    """
    state = ctx.rows[0]
    values = ctx.values[SIZES_AT] if len(ctx.values) > SIZES_AT else None
    if values is None or state is None or not state.is_rows or ctx.batch is None:
        return False
    axes = [axis % rank for axis in ctx.attributes.get("axes") or range(rank)]
    others = [v for axis, v in zip(axes, values, strict=False) if axis != state.axis]
    return not any(symbols_of(v) & symbols_of(ctx.batch) for v in others)


def _scaled_dim(ctx: InferContext, dim: Dim, scale: float) -> Dim:
    """`floor(dim * scale)` for the scales that exact arithmetic can write."""
    if isinstance(dim, int):
        return math.floor(dim * scale)
    if scale == int(scale):
        return dim * int(scale)
    inverse = 1 / scale if scale else 0.0
    return floordiv(dim, int(inverse)) if inverse and inverse == int(inverse) else ctx.fresh_dim()


@operator("Resize", since=(10, 11, 13, 18, 19))
class Resize:
    """Resample a tensor to other sizes along some or all axes."""

    attributes = {
        "antialias": 0,
        "axes": None,
        "coordinate_transformation_mode": "half_pixel",
        "cubic_coeff_a": -0.75,
        "exclude_outside": 0,
        "extrapolation_value": 0.0,
        "keep_aspect_ratio_policy": "stretch",
        "mode": "nearest",
        "nearest_mode": "round_prefer_floor",
    }
    rows = staticmethod(_untouched_rows)

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """Sizes by value, or dims times scales."""
        x = ctx.type(0)
        for name, words in WORDS.items():
            one_of(ctx, name, words)
        if x.shape is None:
            return [x]
        named = ctx.attributes["axes"]
        axes = axes_of(ctx, range(len(x.shape)) if named is None else named, len(x.shape))
        dims = list(x.shape)
        for axis, size in zip(axes, Resize.sizes(ctx, axes), strict=True):
            dims[axis] = size
        return [x.with_shape(dims)]

    @staticmethod
    def sizes(ctx: InferContext, axes: Sequence[int]) -> Sequence[Dim]:
        """The new size of each resized axis, fresh where it is not known."""
        shape = ctx.shape(0) or ()
        scales_at, sizes_at = (1, 9) if ctx.version < COORDINATES_SINCE else (2, 3)
        unknown = [ctx.fresh_dim("resized") for _ in axes]
        if ctx.has(sizes_at):
            sizes = ctx.value(sizes_at)
            stretch = ctx.attributes["keep_aspect_ratio_policy"] == "stretch"
            found: Sequence[Dim] = sizes if sizes is not None and stretch else unknown
        else:
            scales = ctx.constant(scales_at)
            if scales is None:
                return unknown
            factors = [float(s) for s in scales.reshape(-1)]
            if len(factors) != len(axes):
                ctx.fail(f"{len(factors)} scales for {len(axes)} axes")
            found = [_scaled_dim(ctx, shape[a], s) for a, s in zip(axes, factors, strict=True)]
        if len(found) != len(axes):
            ctx.fail(f"{len(found)} sizes for {len(axes)} axes")
        return found

    @staticmethod
    def compute(ctx: ComputeContext, x: Array, *others: Array | None) -> Sequence[Array]:
        """Linear and cubic modes compute in at least float32."""
        attributes = ctx.attributes
        if ctx.version < COORDINATES_SINCE:
            return [_resample(ctx, x, _plans(ctx, x, None, others[0], None), _simple(attributes))]
        roi, scales, sizes = (*others, None, None, None)[:3]
        scales = None if scales is None or scales.size == 0 else scales
        sizes = None if sizes is None or sizes.size == 0 else sizes
        how = Interpolation(
            mode=attributes["mode"],
            coordinates=attributes["coordinate_transformation_mode"],
            nearest=attributes["nearest_mode"],
            cubic_a=float(attributes["cubic_coeff_a"]),
            exclude_outside=bool(attributes["exclude_outside"]),
            antialias=bool(attributes["antialias"]),
            extrapolation_value=float(attributes["extrapolation_value"]),
        )
        return [_resample(ctx, x, _plans(ctx, x, roi, scales, sizes), how)]


def _simple(attributes: Any) -> Interpolation:
    """What the operators did before coordinate modes had names."""
    mode = attributes["mode"]
    return Interpolation(
        mode="linear" if mode in ("linear", "bilinear") else "nearest",
        coordinates="asymmetric",
        nearest="simple",
    )


def _plans(
    ctx: ComputeContext, x: Array, roi: Array | None, scales: Array | None, sizes: Array | None
) -> list[AxisPlan]:
    """What happens to each axis."""
    named = ctx.attributes.get("axes")
    axes = normalize_axes(range(x.ndim) if named is None else named, x.ndim)
    region = [0.0] * len(axes) + [1.0] * len(axes)
    crops = ctx.attributes.get("coordinate_transformation_mode") == "tf_crop_and_resize"
    if crops and roi is not None and roi.size:
        region = [float(v) for v in roi.reshape(-1).tolist()]
    if sizes is not None:
        pairs = _from_sizes(ctx, [x.shape[a] for a in axes], ints(sizes))
    elif scales is not None:
        factors = [float(v) for v in scales.reshape(-1).tolist()]
        pairs = [(math.floor(x.shape[a] * f), f) for a, f in zip(axes, factors, strict=True)]
    else:
        raise ValueError("neither scales nor sizes are given")
    if len(region) != 2 * len(axes) or min((p[0] for p in pairs), default=0) < 0:
        raise ValueError(f"region {region} or sizes {pairs} do not fit {len(axes)} axes")
    return [
        AxisPlan(a, x.shape[a], size, scale, (region[k], region[k + len(axes)]))
        for k, (a, (size, scale)) in enumerate(zip(axes, pairs, strict=True))
    ]


def _from_sizes(
    ctx: ComputeContext, old: Sequence[int], new: Sequence[int]
) -> list[tuple[int, float]]:
    """Sizes and scales of the resized axes, the aspect ratio kept if the policy says so."""
    policy = ctx.attributes["keep_aspect_ratio_policy"]
    ratios = [n / o if o else 1.0 for n, o in zip(new, old, strict=True)]
    if policy == "stretch":
        return list(zip(new, ratios, strict=True))
    scale = min(ratios) if policy == "not_larger" else max(ratios)
    return [(math.floor(scale * o + 0.5), scale) for o in old]


def _resample(ctx: ComputeContext, x: Array, plans: list[AxisPlan], how: Interpolation) -> Array:
    # Axes are resized one by one, so what lies between may be larger than both ends.
    shape = list(x.shape)
    for plan in plans:
        shape[plan.axis] = max(plan.output, plan.size)
        check_size(ctx, (plan.output, 2 * reach(plan, how)), ctx.xp.float64)
    check_size(ctx, shape, x.dtype)
    if how.mode == "nearest":
        return resize(ctx.xp, x, plans, how)
    wide = widen(ctx.xp, x)
    if wide.dtype.kind != "f":
        # Integers interpolate in float32 and are cut, as other runtimes do.
        return resize(ctx.xp, x.astype(ctx.xp.float32), plans, how).astype(x.dtype)
    return narrow(resize(ctx.xp, wide, plans, how), x.dtype)


@operator("Upsample", since=(7, 9), until=10)
class Upsample:
    """Resize as it was before it had that name."""

    attributes = {"mode": "nearest", "scales": None}
    rows = staticmethod(_untouched_rows)

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """Dims times scales."""
        x = ctx.type(0)
        one_of(ctx, "mode", WORDS["mode"])
        scales = ctx.attributes["scales"]
        fixed = ctx.constant(1)
        if scales is None and fixed is not None:
            scales = fixed.reshape(-1).tolist()
        if x.shape is None or scales is None:
            return [x.with_shape(x.shape and (ctx.fresh_dim("resized") for _ in x.shape))]
        pairs = zip(x.shape, scales, strict=True)
        return [x.with_shape(_scaled_dim(ctx, dim, float(scale)) for dim, scale in pairs)]

    @staticmethod
    def compute(ctx: ComputeContext, x: Array, scales: Array | None = None) -> Sequence[Array]:
        """Nearest or linear, asymmetric coordinates."""
        factors = ctx.xp.asarray(ctx.attributes["scales"]) if scales is None else scales
        return [_resample(ctx, x, _plans(ctx, x, None, factors, None), _simple(ctx.attributes))]


@operator("Upsample", since=1, until=7)
class UpsamplePlanes:
    """Upsample of version 1: one factor for the height of images and one for their width."""

    attributes = {"height_scale": REQUIRED, "mode": "nearest", "width_scale": REQUIRED}
    rows = staticmethod(leading)

    @staticmethod
    def factors(ctx: InferContext | ComputeContext) -> tuple[float, ...]:
        """One factor per axis."""
        return (
            1.0,
            1.0,
            float(ctx.attributes["height_scale"]),
            float(ctx.attributes["width_scale"]),
        )

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """Height and width times their factors."""
        x, factors = ctx.type(0), UpsamplePlanes.factors(ctx)
        one_of(ctx, "mode", WORDS["mode"])
        if not all(0 < factor < math.inf for factor in factors):
            ctx.fail(f"factors must be positive, got {list(factors[2:])}")
        if x.shape is None:
            return [x]
        if len(x.shape) != 4:
            ctx.fail(f"expected images of rank 4, got shape {list(x.shape)}")
        pairs = zip(x.shape, factors, strict=True)
        return [x.with_shape(_scaled_dim(ctx, dim, factor) for dim, factor in pairs)]

    @staticmethod
    def compute(ctx: ComputeContext, x: Array) -> Sequence[Array]:
        """Nearest or linear, asymmetric coordinates."""
        factors = ctx.xp.asarray(UpsamplePlanes.factors(ctx))
        return [_resample(ctx, x, _plans(ctx, x, None, factors, None), _simple(ctx.attributes))]
