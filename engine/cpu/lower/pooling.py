"""Rules of pooling over windows; pooling over whole pictures is a reduction."""

from __future__ import annotations

from engine.cpu.kernels.int8_pictures import BytePool
from engine.cpu.kernels.pooling import Pool, Taps
from engine.cpu.lower.context import BYTES, Lowering
from engine.cpu.lower.rules import NoKernel, lowers
from engine.dtypes import DType
from engine.ir.graph import Node
from engine.ops.cores.windows import Window, resolve_window


@lowers("MaxPool", "AveragePool")
def pool(ctx: Lowering, node: Node) -> None:
    """Pictures in, pictures out."""
    x, y, attributes = node.inputs[0], node.outputs[0], ctx.attributes(node)
    if any(node.outputs[1:]):
        raise NoKernel("it is asked for the places of the largest")
    if ctx.dtype(x) in BYTES and node.op == "MaxPool":
        pool_bytes(ctx, node, _window(ctx, node))
        return
    if ctx.dtype(x) is not DType.FLOAT32 or not (ctx.can_be_image(x) and ctx.can_be_image(y)):
        raise NoKernel("pools work on float32 pictures of known size")
    window = _window(ctx, node)
    if min((*window.begins, *window.ends)) < 0:
        raise NoKernel("its padding is negative")
    rows, columns = _taps(window)
    source = ctx.image(x, node)
    target = ctx.output_image(y)
    mean = node.op == "AveragePool"
    kernel = Pool(
        target.image,
        source.image,
        rows,
        columns,
        mean,
        mean and bool(attributes["count_include_pad"]),
    )
    tasks = ctx.shape(y)[0] * target.image.height
    ctx.step(kernel, (target,), (source,), tasks=tasks, node=node)


def pool_bytes(ctx: Lowering, node: Node, window: Window) -> None:
    """The largest bytes of windows."""
    x, y = node.inputs[0], node.outputs[0]
    if not (ctx.can_be_image(x) and ctx.can_be_image(y)):
        raise NoKernel("pools work on pictures of known size")
    if min((*window.begins, *window.ends)) < 0:
        raise NoKernel("its padding is negative")
    source = ctx.image(x, node, dtype=ctx.dtype(x))
    if source.image.held % ctx.target.lanes:
        raise NoKernel("the picture is thin")
    target = ctx.output_image(y, dtype=ctx.dtype(x))
    kernel = BytePool(target.image, source.image, *_taps(window))
    tasks = ctx.shape(y)[0] * target.image.height
    ctx.step(kernel, (target,), (source,), tasks=tasks, node=node, numbers=(ctx.fill(y),))


def _taps(window: Window) -> tuple[Taps, Taps]:
    rows, columns = (
        Taps(*each)
        for each in zip(
            window.kernel, window.strides, window.dilations, window.begins, window.ends, strict=True
        )
    )
    return rows, columns


def _window(ctx: Lowering, node: Node) -> Window:
    attributes = ctx.attributes(node)
    sizes = [d for d in ctx.shape(node.inputs[0])[2:] if isinstance(d, int)]
    return resolve_window(
        sizes,
        attributes["kernel_shape"],
        strides=attributes["strides"],
        dilations=attributes["dilations"],
        pads=attributes["pads"],
        auto_pad=attributes["auto_pad"],
    )
