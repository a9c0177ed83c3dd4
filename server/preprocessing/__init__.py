"""Pictures from outside become arrays: limits, decoding, and the declared transform.

Knows Pillow and numpy, and nothing of HTTP, tasks or models. `server.tasks` stands above it,
`server.errors` below.
"""

from .decode import FORMATS, Picture, decode_image
from .limits import ImageLimits
from .mosaic import Tile, draw_mosaic
from .sniff import picture_format
from .thumbnail import is_small, shrink
from .transform import ImageTransform, build_transform

__all__ = [
    "FORMATS",
    "ImageLimits",
    "ImageTransform",
    "Picture",
    "Tile",
    "build_transform",
    "decode_image",
    "draw_mosaic",
    "is_small",
    "picture_format",
    "shrink",
]
