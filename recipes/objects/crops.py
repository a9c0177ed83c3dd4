"""Random resized crops: the part of a picture that a training step sees, and its mirror image."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional


def random_crops(
    n: int, area: tuple[float, float], generator: torch.Generator, stretch: float = 4 / 3
) -> Tensor:
    """Return `n` crops (n, 4): width, height, left and top, all as shares of the picture.

    Areas are drawn evenly from `area`, the ratio of width to height between 1 / `stretch` and
    `stretch` evenly on a logarithmic scale. A negative width means: mirrored.
    """
    share = area[0] + (area[1] - area[0]) * torch.rand(n, generator=generator)
    ratio = torch.exp((torch.rand(n, generator=generator) * 2 - 1) * math.log(stretch))
    width = (share * ratio).sqrt().clamp(max=1)
    height = (share / ratio).sqrt().clamp(max=1)
    left = torch.rand(n, generator=generator) * (1 - width)
    top = torch.rand(n, generator=generator) * (1 - height)
    side = torch.randint(0, 2, (n,), generator=generator) * 2 - 1
    return torch.stack([width * side, height, left, top], 1)


def cut(images: Tensor, crops: Tensor, size: int) -> Tensor:
    """Cut `crops` out of pictures (n, C, H, W) and bring them to `size` x `size`, bilinearly."""
    width, height, left, top = crops.unbind(1)
    # affine_grid measures from -1 to 1: the scale is a share, the shift the crop's middle.
    across = 2 * left + width.abs() - 1
    down = 2 * top + height - 1
    none = torch.zeros_like(width)
    maps = torch.stack([width, none, across, none, height, down], 1).view(-1, 2, 3)
    shape = [len(images), images.shape[1], size, size]
    grid = functional.affine_grid(maps, shape, align_corners=False)
    return functional.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
