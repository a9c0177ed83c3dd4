"""Where each pixel of the result comes from: sizes, crop window and padding. Pure arithmetic."""

from __future__ import annotations

from dataclasses import dataclass

HeightWidth = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Geometry:
    """Resize the picture to `resized`, keep `window` of it, paste that into `out` at `offset`."""

    resized: HeightWidth
    window: tuple[int, int, int, int]  # top, left, height, width, inside `resized`
    offset: HeightWidth  # where the window lies in the result; what is left over is padding
    out: HeightWidth


@dataclass(frozen=True, slots=True)
class SizePlan:
    """What was declared: at most one of the two resizes, then perhaps a crop."""

    resize: HeightWidth | None = None
    resize_short: int | None = None
    crop: HeightWidth | None = None

    @property
    def final(self) -> HeightWidth | None:
        """The size of every result, or None when it depends on the picture."""
        return self.crop or self.resize

    @property
    def cover(self) -> HeightWidth | None:
        """The least size that a decoded picture must have, or None when every pixel counts."""
        if self.resize_short is not None:
            return self.resize_short, self.resize_short
        return self.resize

    def apply(self, size: HeightWidth) -> Geometry:
        """Plan a picture of `size`."""
        resized = self._resized(size)
        out = self.crop or resized
        top, offset_top, height = _centre(resized[0], out[0])
        left, offset_left, width = _centre(resized[1], out[1])
        return Geometry(resized, (top, left, height, width), (offset_top, offset_left), out)

    def _resized(self, size: HeightWidth) -> HeightWidth:
        if self.resize is not None:
            return self.resize
        if self.resize_short is not None:
            return scale_short_side(size, self.resize_short)
        return size


def scale_short_side(size: HeightWidth, short: int) -> HeightWidth:
    """Return the size whose shorter side is `short`; the longer one is rounded down.

    That rounding is torchvision's and Hugging Face's: `int(short * longer / shorter)`.
    """
    height, width = size
    if width <= height:
        return int(short * height / width), short
    return short, int(short * width / height)


def _centre(have: int, want: int) -> tuple[int, int, int]:
    """Return (start in the picture, start in the result, length) of a centred cut or pad.

    As torchvision's CenterCrop: a cut starts at the half rounded to even, a pad is rounded down.
    """
    if want <= have:
        return round((have - want) / 2), 0, want
    return 0, (want - have) // 2, have
