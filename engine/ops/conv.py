"""Convolution and its transpose, for one, two and three spatial axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engine.ir.types import Dim, Shape, TensorType, ceildiv, element_count
from engine.ops.common import Array, check_size, int_value, narrow, widen
from engine.ops.contexts import ComputeContext, InferContext
from engine.ops.cores.convolution import convolve
from engine.ops.cores.windows import Window, output_size, resolve_window
from engine.ops.registry import Kernel, operator
from engine.ops.row_rules import leading

AUTO_PADS = ("NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID")
CONV_ATTRIBUTES: dict[str, Any] = {
    "auto_pad": "NOTSET",
    "dilations": (),
    "group": 1,
    "kernel_shape": (),
    "pads": (),
    "strides": (),
}


def conv_shape(ctx: InferContext, x: Shape | None, w: Shape | None) -> Shape | None:
    """The shape of a convolution's result."""
    if x is None and w is None:
        return None
    rank = len(x or w or ())
    if rank < 3 or (x and w and len(x) != len(w)):
        ctx.fail(f"input and filter must have the same rank, 3 or more; got {x} and {w}")
    attributes = ctx.attributes
    _check_channels(ctx, x, w, attributes["group"])
    kernel = tuple(attributes["kernel_shape"]) or tuple(map(int_value, w[2:] if w else ()))
    batch, filters = x[0] if x else ctx.fresh_dim("N"), w[0] if w else ctx.fresh_dim("M")
    if not x or not kernel or None in kernel:
        return (batch, filters, *(ctx.fresh_dim("out") for _ in range(rank - 2)))
    return (batch, filters, *window_outputs(ctx, x[2:], kernel))


def _check_channels(ctx: InferContext, x: Shape | None, w: Shape | None, group: int) -> None:
    if group < 1:
        ctx.fail(f"group must be 1 or more, got {group}")
    channels = int_value(x[1]) if x else None
    filters, per_group = (int_value(w[0]), int_value(w[1])) if w else (None, None)
    if channels is not None and per_group is not None and channels != per_group * group:
        ctx.fail(
            f"the input has {channels} channels, the filter takes {per_group} x {group} groups"
        )
    if filters is not None and filters % group:
        ctx.fail(f"{filters} filters do not divide into {group} groups")


def window_outputs(
    ctx: InferContext, sizes: Sequence[Dim], kernel: Sequence[int], ceil_mode: bool = False
) -> tuple[Dim, ...]:
    """Output positions of a sliding window over axes of these, maybe symbolic, sizes."""
    attributes, rank = ctx.attributes, len(sizes)
    auto_pad, pads = attributes.get("auto_pad", "NOTSET"), tuple(attributes["pads"])
    strides = tuple(attributes.get("strides", ())) or (1,) * rank
    dilations = tuple(attributes.get("dilations", ())) or (1,) * rank
    lengths = {len(kernel), len(strides), len(dilations), len(pads) // 2 if pads else rank}
    if lengths != {rank} or len(pads) % 2:
        ctx.fail(f"kernel, strides, dilations and pads do not fit {rank} spatial axes")
    if min((*kernel, *strides, *dilations)) < 1:
        ctx.fail("kernel sizes, strides and dilations must be 1 or more")
    if auto_pad not in AUTO_PADS:
        ctx.fail(f"auto_pad must be one of {', '.join(AUTO_PADS)}, got {auto_pad!r}")
    if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        return tuple(ceildiv(size, stride) for size, stride in zip(sizes, strides, strict=True))
    begins = pads[:rank] if pads and auto_pad != "VALID" else (0,) * rank
    ends = pads[rank:] if pads and auto_pad != "VALID" else (0,) * rank
    result = tuple(
        output_size(size, (k - 1) * d + 1, s, b, e, ceil_mode)
        for size, k, d, s, b, e in zip(sizes, kernel, dilations, strides, begins, ends, strict=True)
    )
    if any(isinstance(size, int) and size < 0 for size in result):
        ctx.fail(f"a window of {list(kernel)} does not fit an input of {list(sizes)}")
    return result


def conv_window(ctx: ComputeContext, x: Array, w: Array) -> Window:
    """The node's window for these inputs, checked."""
    attributes = ctx.attributes
    if x.ndim < 3 or x.ndim != w.ndim or x.shape[1] != w.shape[1] * attributes["group"]:
        raise ValueError(
            f"input {x.shape} does not fit filter {w.shape} in {attributes['group']} groups"
        )
    if attributes["kernel_shape"] and tuple(attributes["kernel_shape"]) != w.shape[2:]:
        raise ValueError(f"kernel_shape {attributes['kernel_shape']} is not the filter's {w.shape}")
    return window_for(ctx, x, w.shape[2:])


def check_convolution(ctx: ComputeContext, x: Array, w: Array, window: Window, dtype: Any) -> None:
    """Raise `ResourceLimit` when the result or the padded input, in `dtype`, are too large."""
    check_size(ctx, (x.shape[0], w.shape[0], *window.output_sizes(x.shape[2:])), dtype)
    check_size(ctx, (*x.shape[:2], *window.padded_sizes(x.shape[2:])), dtype)


def window_for(ctx: ComputeContext, x: Array, kernel: Sequence[int]) -> Window:
    """The window that the node's attributes describe over the spatial axes of `x`."""
    attributes = ctx.attributes
    return resolve_window(
        x.shape[2:],
        kernel,
        strides=attributes.get("strides", ()),
        dilations=attributes.get("dilations", ()),
        pads=attributes["pads"],
        auto_pad=attributes.get("auto_pad", "NOTSET"),
    )


def with_bias(y: Array, bias: Array | None) -> Array:
    """Add one number per channel, in place."""
    if bias is not None:
        y += bias.astype(y.dtype).reshape(-1, *(1,) * (y.ndim - 2))
    return y


@operator("Conv", since=(1, 11, 22))
class Conv:
    """Convolution (cross-correlation) over one or more spatial axes, in groups."""

    attributes = CONV_ATTRIBUTES
    rows = staticmethod(leading)

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """One channel per filter, one position per place of the window."""
        return [TensorType(ctx.dtype(0), conv_shape(ctx, ctx.shape(0), ctx.shape(1)))]

    @staticmethod
    def compute(
        ctx: ComputeContext, x: Array, w: Array, bias: Array | None = None
    ) -> Sequence[Array]:
        """Narrow floats compute in float32 and round once."""
        return Conv.apply(ctx, widen(ctx.xp, w), bias, x)

    @staticmethod
    def bind(ctx: ComputeContext) -> Kernel | None:
        """Widen narrow weights once, not in every call."""
        w = ctx.constant(1)
        bias = ctx.constant(2)
        if w is None or w.dtype.itemsize >= 4 or (len(ctx.node.inputs) > 2 and bias is None):
            return None
        wide = widen(ctx.xp, w)
        return lambda x, *_: Conv.apply(ctx, wide, bias, x)

    @staticmethod
    def apply(ctx: ComputeContext, w: Array, bias: Array | None, x: Array) -> Sequence[Array]:
        """Convolve `x` with weights that are wide already."""
        window = conv_window(ctx, x, w)
        check_convolution(ctx, x, w, window, w.dtype)
        y = convolve(ctx.xp, widen(ctx.xp, x), w, window, ctx.attributes["group"])
        return [narrow(with_bias(y, bias), x.dtype)]

    @staticmethod
    def flops(ctx: InferContext) -> Dim:
        """Two per multiply-add."""
        out, w = conv_shape(ctx, ctx.shape(0), ctx.shape(1)), ctx.shape(1)
        return 0 if out is None or w is None else 2 * element_count(out) * element_count(w[1:])
