"""How a picture lies in memory inside of convolutional regions: channels last, with a border.

Channels last makes a row of a convolution's window one contiguous run, so that one register tile
serves every window; the border of zeros makes padding part of that run.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.dtypes import DType


@dataclass(frozen=True)
class ImageLayout:
    """Pictures as (N, height + 2 border, width + 2 border, pitch), of which `held` channels count.

    Channels from `channels` to `held` hold finite values that nobody reads as a result. The buffer
    may be a part of a wider one (`pitch` above `held`): kernels write `held` channels, no more.
    The border holds zeros; who writes a picture clears its border (over `held` channels).

    Attributes:
        height: Rows of the picture.
        width: Columns.
        channels: Channels that mean something.
        held: Channels in memory: whole vectors, or just the channels of a thin input picture.
        pitch: Elements from one pixel to the next.
        border: Rows and columns of zeros on each side.
        dtype: FLOAT32 or BFLOAT16 (others where a kernel says so).
    """

    height: int
    width: int
    channels: int
    held: int
    pitch: int
    border: int = 0
    dtype: DType = DType.FLOAT32

    @property
    def row(self) -> int:
        """Elements from one row to the next."""
        return (self.width + 2 * self.border) * self.pitch

    @property
    def picture(self) -> int:
        """Elements from one picture to the next."""
        return (self.height + 2 * self.border) * self.row

    @property
    def picture_bytes(self) -> int:
        """Bytes from one picture to the next."""
        return self.picture * self.dtype.itemsize

    def at(self, y: int, x: int) -> int:
        """Return the offset in elements of pixel (y, x); either may reach into the border."""
        return (y + self.border) * self.row + (x + self.border) * self.pitch

    @property
    def is_dense(self) -> bool:
        """Whether pixels follow each other without border or gaps: a plain (N, H, W, C) array."""
        return self.border == 0 and self.pitch == self.held == self.channels

    @property
    def is_planar(self) -> bool:
        """Whether a plain (N, C, H, W) array of the same type lies just so."""
        return self.is_dense and (self.channels == 1 or self.height * self.width == 1)

    @property
    def is_flat(self) -> bool:
        """Whether pixel i of all pictures lies at i * pitch."""
        return self.border == 0
