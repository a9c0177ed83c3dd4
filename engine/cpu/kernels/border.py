"""Clearing the border of a picture, a share of it per task."""

from __future__ import annotations

from engine.cpu.builder import Builder, Number, Value
from engine.cpu.image_layout import ImageLayout


def clear_border(
    f: Builder,
    picture: Value,
    layout: ImageLayout,
    part: Number,
    parts: Number,
    byte: Value | None = None,
) -> None:
    """Write zeros around one picture; task number `part` of `parts` clears its share of the rows.

    `picture` points at the first byte of the picture, its border included; `byte` is what a border
    of bytes holds instead of zero.
    """
    if layout.border == 0:
        return
    rows = layout.height + 2 * layout.border
    low = f.div(f.mul(part, rows), parts)
    high = f.div(f.mul(f.add(part, 1), rows), parts)
    with f.loop(low, high) as y:
        row = f.at(picture, f.mul(y.i, layout.row), layout.dtype)
        above = f.less(y.i, layout.border)
        below = f.b.icmp_signed(">=", y.i, y.i.type(layout.border + layout.height))
        with f.if_else(f.b.or_(above, below)) as (outside, inside):
            with outside:
                _clear_pixels(f, row, layout, layout.width + 2 * layout.border, byte)
            with inside:
                _clear_pixels(f, row, layout, layout.border, byte)
                right = (layout.border + layout.width) * layout.pitch
                _clear_pixels(f, f.at(row, right, layout.dtype), layout, layout.border, byte)


def _clear_pixels(
    f: Builder, first: Value, layout: ImageLayout, count: int, byte: Value | None
) -> None:
    """Clear `held` channels of neighbouring pixels; what lies between them is another's."""
    size = layout.dtype.itemsize
    if layout.pitch == layout.held:
        f.clear(first, count * layout.held * size, byte)
        return
    with f.loop(0, count) as x:
        f.clear(f.at(first, f.mul(x.i, layout.pitch), layout.dtype), layout.held * size, byte)
