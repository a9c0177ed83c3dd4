"""What a model's image input wants: channels, layout and size, read from its shape."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import Literal

from server.errors import LoadFailed
from server.model_config import PreprocessConfig

from .geometry import SizePlan

ShapeLike = tuple[int | str, ...]
ColourMode = Literal["RGB", "BGR", "L"]


@dataclass(frozen=True, slots=True)
class ImageLayout:
    """How pixels are arranged for the model, and at what size."""

    mode: ColourMode
    channels_last: bool
    sizes: SizePlan
    row_shape: tuple[int, ...] | None  # of one item, when it is not (C, H, W) or (H, W, C)

    @property
    def channels(self) -> int:
        """How many channels a pixel has."""
        return 1 if self.mode == "L" else 3


def resolve_layout(config: PreprocessConfig, shape: ShapeLike, name: str) -> ImageLayout:
    """Combine what `[preprocess]` says with what the model's input says.

    What the section does not set is taken from the input: `mode` from its channels, `layout` from
    where they are, the size from its height and width.

    Raises:
        LoadFailed: the two contradict each other, or the input can hold no picture.
    """
    declared = SizePlan(config.resize, config.resize_short, config.crop)
    if len(shape) == 4:
        return _four_axes(config, declared, shape, name)
    if len(shape) == 3:
        return _three_axes(config, declared, shape, name)
    if len(shape) == 2:
        return _flat(config, declared, shape, name)
    raise LoadFailed(
        f"input `{name}` of shape {_text(shape)} cannot hold pictures; expected (N, C, H, W), "
        "(N, H, W, C), (N, H, W) or (N, features)"
    )


def _four_axes(
    config: PreprocessConfig, declared: SizePlan, shape: ShapeLike, name: str
) -> ImageLayout:
    if "layout" in config.model_fields_set:
        last = config.layout == "NHWC"
    else:
        last = shape[3] in (1, 3) and shape[1] not in (1, 3)
    channels = shape[3] if last else shape[1]
    mode = _mode(config, channels, name)
    height, width = shape[1:3] if last else shape[2:4]
    return ImageLayout(mode, last, _sizes(declared, height, width, name), None)


def _three_axes(
    config: PreprocessConfig, declared: SizePlan, shape: ShapeLike, name: str
) -> ImageLayout:
    mode = _mode(config, 1, name)
    sizes = _sizes(declared, shape[1], shape[2], name)
    layout = ImageLayout(mode, True, sizes, None)
    return layout if sizes.final is None else replace(layout, row_shape=sizes.final)


def _flat(config: PreprocessConfig, declared: SizePlan, shape: ShapeLike, name: str) -> ImageLayout:
    if declared.final is None:
        raise LoadFailed(
            f"input `{name}` of shape {_text(shape)} is flat; set `resize` (or `resize_short` and "
            "`crop`) in [preprocess] so that pictures get a height and a width"
        )
    area = prod(declared.final)
    features = shape[1]
    set_here = "mode" in config.model_fields_set
    mode: ColourMode = config.mode if set_here else ("L" if features == area else "RGB")
    count = area * (1 if mode == "L" else 3)
    if isinstance(features, int) and features != count:
        raise LoadFailed(
            f"input `{name}` wants {features} values an item; [preprocess] makes "
            f"{count} (size {declared.final}, mode {mode})"
        )
    return ImageLayout(mode, config.layout == "NHWC", declared, (count,))


def _mode(config: PreprocessConfig, channels: int | str, name: str) -> ColourMode:
    if "mode" not in config.model_fields_set:
        mode: ColourMode = "L" if channels == 1 else "RGB"
    else:
        mode = config.mode
    have = 1 if mode == "L" else 3
    if isinstance(channels, int) and channels != have:
        raise LoadFailed(
            f'input `{name}` has {channels} channels, `mode = "{mode}"` in [preprocess] makes '
            f'{have}; set mode to "L" for 1, to "RGB" or "BGR" for 3, and check `layout`'
        )
    return mode


def _sizes(declared: SizePlan, height: int | str, width: int | str, name: str) -> SizePlan:
    """Fill in the model's own size where none is declared; refuse one that it cannot take."""
    final = declared.final
    if final is None:
        if not (isinstance(height, int) and isinstance(width, int)):
            return declared
        fixed = (height, width)
        if declared.resize_short is not None:
            return replace(declared, crop=fixed)
        return replace(declared, resize=fixed)
    for axis, (want, have) in enumerate(zip((height, width), final, strict=True)):
        if isinstance(want, int) and want != have:
            raise LoadFailed(
                f"input `{name}` wants a {'width' if axis else 'height'} of {want}, [preprocess] "
                f"makes pictures of (height, width) {final}; set `crop` or `resize` to match"
            )
    return declared


def _text(shape: ShapeLike) -> str:
    return "(" + ", ".join(map(str, shape)) + ")"
