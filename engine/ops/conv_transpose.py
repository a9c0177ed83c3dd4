"""The transpose of convolution: every input position spreads a filter over the output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from engine.ir.types import Dim, Shape, TensorType, element_count
from engine.ops.common import Array, check_size, int_value, narrow, widen
from engine.ops.contexts import ComputeContext, InferContext
from engine.ops.conv import AUTO_PADS, CONV_ATTRIBUTES, with_bias
from engine.ops.cores.convolution import convolve_transposed
from engine.ops.cores.windows import Window
from engine.ops.registry import operator
from engine.ops.row_rules import leading


def transposed_axis(
    attributes: Mapping[str, Any], axis: int, rank: int, size: Dim, kernel: int
) -> tuple[Dim, Dim]:
    """Output positions of one spatial axis, and how many are cropped at its beginning."""
    stride = (tuple(attributes["strides"]) or (1,) * rank)[axis]
    dilation = (tuple(attributes["dilations"]) or (1,) * rank)[axis]
    extra = (tuple(attributes["output_padding"]) or (0,) * rank)[axis]
    full = stride * (size - 1) + extra + (kernel - 1) * dilation + 1
    auto_pad, pads = attributes["auto_pad"], tuple(attributes["pads"])
    output: Dim
    if attributes["output_shape"]:
        output = tuple(attributes["output_shape"])[-rank:][axis]
    elif auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        output = size * stride
    else:
        stated = pads if pads and auto_pad != "VALID" else (0,) * (2 * rank)
        return full - stated[axis] - stated[axis + rank], stated[axis]
    total = full - output
    if isinstance(total, int):
        total = max(total, 0)
    half = total // 2
    return output, (half if auto_pad == "SAME_UPPER" else total - half)


@operator("ConvTranspose", since=(1, 11, 22))
class ConvTranspose:
    """Transposed convolution, in groups."""

    attributes = {**CONV_ATTRIBUTES, "output_padding": (), "output_shape": ()}
    rows = staticmethod(leading)

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """One channel per filter and group."""
        return [TensorType(ctx.dtype(0), ConvTranspose.shape(ctx))]

    @staticmethod
    def shape(ctx: InferContext) -> Shape | None:
        """The shape of the result."""
        x, w, attributes = ctx.shape(0), ctx.shape(1), ctx.attributes
        if x is None or w is None:
            return None
        if len(x) < 3 or len(x) != len(w):
            ctx.fail(f"input and filter must have the same rank, 3 or more; got {x} and {w}")
        channels, filters = int_value(x[1]), int_value(w[0])
        if channels is not None and filters is not None and channels != filters:
            ctx.fail(f"the input has {channels} channels, the filter takes {filters}")
        rank = len(x) - 2
        kernel = tuple(attributes["kernel_shape"]) or tuple(map(int_value, w[2:]))
        ConvTranspose.check(ctx, kernel, rank)
        sizes = tuple(
            ctx.fresh_dim("out")
            if kernel[k] is None
            else transposed_axis(attributes, k, rank, x[2 + k], kernel[k] or 1)[0]
            for k in range(rank)
        )
        return (x[0], w[1] * attributes["group"], *sizes)

    @staticmethod
    def check(ctx: InferContext, kernel: Sequence[int | None], rank: int) -> None:
        """Hold the attributes to the number of spatial axes and to what makes sense."""
        attributes = ctx.attributes
        lengths = {
            "kernel_shape": (len(kernel), (rank,)),
            "pads": (len(attributes["pads"]), (0, 2 * rank)),
            # Some files state the whole shape of the output, batch and channels in front.
            "output_shape": (len(attributes["output_shape"]), (0, rank, rank + 2)),
        }
        for name in ("dilations", "output_padding", "strides"):
            lengths[name] = len(attributes[name]), (0, rank)
        for name, (length, allowed) in lengths.items():
            if length not in allowed:
                ctx.fail(f"{name} has {length} entries, which do not fit {rank} spatial axes")
        if min((*attributes["pads"], *attributes["output_padding"]), default=0) < 0:
            ctx.fail("pads and output_padding must not be negative")
        sizes = [k for k in kernel if k is not None]
        positive = (*sizes, *attributes["strides"], *attributes["dilations"], attributes["group"])
        if min(positive) < 1 or attributes["auto_pad"] not in AUTO_PADS:
            ctx.fail(
                "kernel sizes, strides, dilations and group must be 1 or more, "
                f"auto_pad one of {', '.join(AUTO_PADS)}"
            )

    @staticmethod
    def compute(
        ctx: ComputeContext, x: Array, w: Array, bias: Array | None = None
    ) -> Sequence[Array]:
        """Narrow floats compute in float32 and round once."""
        attributes, rank = ctx.attributes, x.ndim - 2
        group = int(attributes["group"])
        if rank < 1 or x.ndim != w.ndim or x.shape[1] != w.shape[0] or w.shape[0] % group:
            raise ValueError(f"input {x.shape} does not fit filter {w.shape} in {group} groups")
        if tuple(attributes["kernel_shape"]) not in ((), w.shape[2:]) or min(w.shape[2:]) < 1:
            raise ValueError(
                f"kernel_shape {attributes['kernel_shape']} is not the filter's {w.shape}"
            )
        axes = [
            transposed_axis(attributes, k, rank, x.shape[2 + k], w.shape[2 + k])
            for k in range(rank)
        ]
        outputs, begins = (tuple(int(a[i]) for a in axes) for i in (0, 1))  # type: ignore[arg-type]
        window = Window(
            kernel=w.shape[2:],
            strides=tuple(attributes["strides"]) or (1,) * rank,
            dilations=tuple(attributes["dilations"]) or (1,) * rank,
            begins=begins,
            ends=(0,) * rank,
        )
        shape = (x.shape[0], w.shape[1] * group, *outputs)
        if min(outputs) < 0:
            raise ValueError(f"pads take more than there is: the output would be {list(shape)}")
        if 0 in shape:
            return [ctx.xp.zeros(shape, dtype=x.dtype)]
        canvas = window.transposed_sizes(x.shape[2:], outputs)
        check_size(ctx, (x.shape[0], w.shape[1] * group, *canvas), "float32")
        y = convolve_transposed(ctx.xp, widen(ctx.xp, x), widen(ctx.xp, w), window, outputs, group)
        return [narrow(with_bias(y, bias), x.dtype)]

    @staticmethod
    def flops(ctx: InferContext) -> Dim:
        """Two per multiply-add."""
        x, w = ctx.shape(0), ctx.shape(1)
        return 0 if x is None or w is None else 2 * element_count(x) * element_count(w[1:])
