"""Pictures in kernels' layouts from plain arrays, and back."""

from __future__ import annotations

import numpy as np

from engine.cpu.image_layout import ImageLayout

UNTOUCHED = np.float32(7.0)  # what lies where a kernel has not written


def to_picture(array: np.ndarray, layout: ImageLayout, between: float = np.nan) -> np.ndarray:
    """(N, C, H, W) as a picture; `between` fills the channels that mean nothing."""
    border, (batch, _, height, width) = layout.border, array.shape
    shape = (batch, height + 2 * border, width + 2 * border, layout.pitch)
    picture = np.zeros(shape, np.float32)
    picture[..., layout.channels :] = between
    inside = picture[:, border : border + height, border : border + width, : layout.channels]
    inside[...] = array.transpose(0, 2, 3, 1)
    return picture


def empty_picture(batch: int, layout: ImageLayout) -> np.ndarray:
    """A picture that nobody has written yet."""
    height, width = layout.height + 2 * layout.border, layout.width + 2 * layout.border
    return np.full((batch, height, width, layout.pitch), UNTOUCHED, np.float32)


def from_picture(picture: np.ndarray, layout: ImageLayout) -> np.ndarray:
    """A picture as (N, C, H, W); checks its border and what it must not touch."""
    border = layout.border
    rows = slice(border, border + layout.height)
    columns = slice(border, border + layout.width)
    outside = picture[..., : layout.held].copy()
    outside[:, rows, columns] = 0
    assert not outside.any(), "the border is not clear"
    assert (picture[..., layout.held :] == UNTOUCHED).all(), "channels of another were written"
    assert np.isfinite(picture[..., : layout.held]).all()
    return picture[:, rows, columns, : layout.channels].transpose(0, 3, 1, 2)
