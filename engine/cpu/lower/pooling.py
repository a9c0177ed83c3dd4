"""Rules of pooling over windows; pooling over whole pictures is a reduction."""

from __future__ import annotations

from engine.cpu.buffers import Buffer, PlainLayout
from engine.cpu.image_layout import ImageLayout
from engine.cpu.kernels.int8_pictures import BytePool
from engine.cpu.kernels.pooling import Pool, Taps
from engine.cpu.lower.context import BYTES, CONVERTERS, Lowering
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
    if ctx.dtype(x) is not DType.FLOAT32:
        raise NoKernel(f"pools of {ctx.dtype(x)} have no kernel")
    window = _window(ctx, node)
    if min((*window.begins, *window.ends)) < 0:
        raise NoKernel("its padding is negative")
    is_signal = len(ctx.shape(x)) == 3
    if not is_signal and not (ctx.can_be_image(x) and ctx.can_be_image(y)):
        raise NoKernel("pools work on signals and pictures of known size")
    source = signal_picture(ctx, node) if is_signal else ctx.image(x, node)
    target = _result(ctx, y) if is_signal else ctx.output_image(y)
    mean = node.op == "AveragePool"
    counts_padding = mean and bool(attributes["count_include_pad"])
    kernel = Pool(target.image, source.image, *_taps(window), mean, counts_padding)
    tasks = ctx.shape(y)[0] * target.image.height
    ctx.step(kernel, (target,), (source,), tasks=tasks, node=node)
    if is_signal:
        CONVERTERS["to_plain"](ctx, seen_as_picture(ctx.output(y)), target, node)


def signal_picture(ctx: Lowering, node: Node) -> Buffer:
    """Return a signal (N, C, L) as a picture of one row."""
    x = node.inputs[0]
    picture = _result(ctx, x)
    CONVERTERS["to_image"](ctx, picture, seen_as_picture(ctx.plain(x, node)), node)
    return picture


def seen_as_picture(plain: Buffer) -> Buffer:
    """Return the memory of a signal (N, C, L) as (N, C, 1, L)."""
    batch, channels, length = plain.plain.shape
    layout = PlainLayout((batch, channels, 1, length), plain.plain.dtype)
    return Buffer(plain.name, layout, plain.size_bytes, plain.place, plain)


def _result(ctx: Lowering, name: str) -> Buffer:
    """Return the new picture, of one row, of a signal."""
    batch, channels, length = ctx.shape(name)
    if not isinstance(channels, int) or not isinstance(length, int):
        raise NoKernel(f"the size of {name!r} is not known")
    held = ctx.target.whole_vectors(channels)
    layout = ImageLayout(1, length, channels, held, held)
    return ctx.temporary_image(f"{name} as a picture", batch, layout)


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
    """Return the windows along height and width; a signal has a height of one."""
    found = tuple(
        Taps(*each)
        for each in zip(
            window.kernel, window.strides, window.dilations, window.begins, window.ends, strict=True
        )
    )
    rows, columns = (Taps(1, 1, 1, 0, 0), *found)[-2:]
    return rows, columns


def _window(ctx: Lowering, node: Node) -> Window:
    attributes = ctx.attributes(node)
    sizes = [d for d in ctx.shape(node.inputs[0])[2:] if isinstance(d, int)]
    if len(sizes) != len(attributes["kernel_shape"]) or len(sizes) not in (1, 2):
        raise NoKernel("pools work on signals and pictures of known size")
    return resolve_window(
        sizes,
        attributes["kernel_shape"],
        strides=attributes["strides"],
        dilations=attributes["dilations"],
        pads=attributes["pads"],
        auto_pad=attributes["auto_pad"],
    )
