"""How large a picture may be, and the checks that run before its pixels are decoded."""

from __future__ import annotations

from dataclasses import dataclass

from server.errors import PayloadTooLarge

MIB = 1 << 20
MAX_SIDE = 65_535  # JPEG's own; a longer side makes the tables of a resize large, not the picture
SLOW_DECODER_PIXELS = 4_000_000  # Pillow decodes a few rare encodings in Python, pixel by pixel


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """Bounds on one picture; the defaults suit photographs from any telephone."""

    max_image_bytes: int = 64 * MIB  # as it arrives
    max_image_pixels: int = 50_000_000  # as its header declares it

    def check_bytes(self, count: int, field: str) -> None:
        """Refuse a file that is too long to look at."""
        if count > self.max_image_bytes:
            raise PayloadTooLarge(
                f"the picture has {count} bytes, at most {self.max_image_bytes} are read; "
                "send a smaller or more compressed one",
                field=field,
                expected=f"at most {self.max_image_bytes} bytes",
                got=count,
            )

    def check_pixels(self, width: int, height: int, field: str, what: str = "picture") -> None:
        """Refuse a header that promises more pixels than will be decoded."""
        if max(width, height) > MAX_SIDE:
            raise PayloadTooLarge(
                f"the {what} is {width} x {height}, no side may be longer than {MAX_SIDE} pixels",
                field=field,
                expected=f"sides of at most {MAX_SIDE} pixels",
                got=max(width, height),
            )
        if width * height > self.max_image_pixels:
            raise PayloadTooLarge(
                f"the {what} is {width} x {height} = {width * height} pixels, at most "
                f"{self.max_image_pixels} are decoded; send a smaller one",
                field=field,
                expected=f"at most {self.max_image_pixels} pixels",
                got=width * height,
            )

    def lowered_to(self, pixels: int) -> ImageLimits:
        """Return the same limits with at most `pixels` pixels."""
        return ImageLimits(self.max_image_bytes, min(self.max_image_pixels, pixels))
