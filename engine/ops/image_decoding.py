"""ImageDecoder: an encoded picture becomes pixels. Needs the package pillow; nothing else does."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from engine.dtypes import DType
from engine.ir.types import TensorType
from engine.ops.common import Array, check_size
from engine.ops.contexts import ComputeContext, InferContext
from engine.ops.registry import operator

pillow: Any
try:
    import PIL.Image as pillow
except ImportError:
    pillow = None

# ONNX's formats. Others are not tried: every decoder is a door.
FORMATS = ("BMP", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
PIXEL_FORMATS = ("RGB", "BGR", "Grayscale")


@operator("ImageDecoder", since=20)
class ImageDecoder:
    """The pixels (height, width, channels) of an encoded picture.

    The type rule refuses the node where pillow is missing. Sizes come out of the picture's header
    and are checked before a pixel is decoded; what cannot be decoded is an error and not, as ONNX
    also allows, an empty tensor that fails somewhere else. Runs on the host.
    """

    attributes = {"pixel_format": "RGB"}
    host = True

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """Height and width lie in the picture."""
        stream, pixels = ctx.type(0), ctx.attributes["pixel_format"]
        if stream.dtype is not DType.UINT8 or stream.rank not in (None, 1):
            ctx.fail(f"expected a vector of uint8, got {stream}")
        if pixels not in PIXEL_FORMATS:
            ctx.fail(f"pixel_format must be one of {', '.join(PIXEL_FORMATS)}, got {pixels!r}")
        if pillow is None:
            ctx.unsupported("it decodes pictures with the package pillow, which is not installed")
        channels = 1 if pixels == "Grayscale" else 3
        return [
            TensorType(DType.UINT8, (ctx.fresh_dim("height"), ctx.fresh_dim("width"), channels))
        ]

    @staticmethod
    def compute(ctx: ComputeContext, stream: Array) -> Sequence[Array]:
        """A new array."""
        content = io.BytesIO(np.asarray(stream).tobytes())
        try:
            picture = pillow.open(content, formats=FORMATS)
        except pillow.UnidentifiedImageError:
            raise ValueError(f"not a picture in one of {', '.join(FORMATS)}") from None
        with picture:
            width, height = picture.size
            check_size(ctx, (height, width, 4), np.uint8)
            grey = ctx.attributes["pixel_format"] == "Grayscale"
            pixels = np.array(picture.convert("L" if grey else "RGB"))
        if grey:
            return [pixels[:, :, None]]
        backwards = ctx.attributes["pixel_format"] == "BGR"
        return [np.ascontiguousarray(pixels[:, :, ::-1]) if backwards else pixels]
