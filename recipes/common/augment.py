"""Random changes to batches of training pictures, from an explicit generator."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


def random_translate(
    padded: Tensor, size: int, generator: torch.Generator, shifts: Tensor | None = None
) -> Tensor:
    """Cut one `size` x `size` window per picture out of pictures that were padded beforehand."""
    n, slack = len(padded), padded.shape[-1] - size
    if shifts is None:
        shifts = torch.randint(0, slack + 1, (n, 2), generator=generator)
    window = torch.arange(size)
    rows = (shifts[:, :1] + window)[:, None, :, None]           # (n, 1, size, 1)
    columns = (shifts[:, 1:] + window)[:, None, None, :]        # (n, 1, 1, size)
    channels = torch.arange(padded.shape[1])[None, :, None, None]
    return padded[torch.arange(n)[:, None, None, None], channels, rows, columns]


def alternating_flip(images: Tensor, indices: Tensor, epoch: int, side: Tensor) -> Tensor:
    """Mirror every picture in every second epoch; `side` says which pictures begin mirrored.

    Two epochs in a row then always show both sides, which a coin per picture does not.
    """
    mirrored = (side[indices] + epoch) % 2 == 1
    return torch.where(mirrored[:, None, None, None], images.flip(-1), images)


def random_cutout(images: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Set one `size` x `size` square per picture to zero; squares may reach over the edge."""
    if size == 0:
        return images
    n, _, height, width = images.shape
    top = torch.randint(1 - size, height, (n, 1), generator=generator)
    left = torch.randint(1 - size, width, (n, 1), generator=generator)
    rows, columns = torch.arange(height) - top, torch.arange(width) - left
    in_rows, in_columns = (rows >= 0) & (rows < size), (columns >= 0) & (columns < size)
    return images.masked_fill((in_rows[:, :, None] & in_columns[:, None, :])[:, None], 0.0)


def resized(images: Tensor, size: int) -> Tensor:
    """Resize square pictures with antialiasing; those of the right size pass unchanged."""
    if images.shape[-1] == size:
        return images
    return functional.interpolate(images, size=(size, size), mode="bilinear", antialias=True)


@dataclass(frozen=True)
class Warp:
    """How far `random_warp` may go; every figure is drawn evenly from its range."""

    rotate_degrees: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)
    stretch: float = 0.0                  # relative difference between height and width
    shear: float = 0.0
    shift: float = 0.0                    # pixels, either way
    elastic: float = 0.0                  # pixels, standard deviation at the grid's points


def random_warp(images: Tensor, warp: Warp, generator: torch.Generator) -> Tensor:
    """Rotate, scale, shear, shift and bend each picture (N, 1, S, S) in its own way."""
    n, size = len(images), images.shape[-1]
    grid = functional.affine_grid(
        _inverse_affine(n, size, warp, generator), list(images.shape), align_corners=False
    )
    if warp.elastic:
        points = torch.randn(n, 2, 5, 5, generator=generator) * (warp.elastic * 2 / size)
        bend = functional.interpolate(points, size=(size, size), mode="bicubic")
        grid = grid + bend.permute(0, 2, 3, 1)
    return functional.grid_sample(images, grid, align_corners=False)


def _inverse_affine(n: int, size: int, warp: Warp, generator: torch.Generator) -> Tensor:
    """Return (n, 2, 3) maps from places in the result to places in the source."""

    def spread(limit: float) -> Tensor:
        return (torch.rand(n, generator=generator) * 2 - 1) * limit

    low, high = warp.scale
    scale = low + (high - low) * torch.rand(n, generator=generator)
    stretch, angle, shear = spread(warp.stretch), spread(torch.pi / 180), spread(warp.shear)
    angle = angle * warp.rotate_degrees
    wide, tall = 1 / (scale * (1 + stretch)), 1 / (scale * (1 - stretch))
    cos, sin = angle.cos(), angle.sin()
    top = [cos * wide, (shear * cos - sin) * wide]
    bottom = [sin * tall, (shear * sin + cos) * tall]
    rows = torch.stack(top + bottom)
    linear = rows.T.reshape(n, 2, 2)
    # The shift is meant in the result; on the way back it passes through the linear part.
    moved = torch.stack([spread(warp.shift), spread(warp.shift)], 1) * (2 / size)
    return torch.cat([linear, -(linear @ moved[:, :, None])], 2)


def random_thickness(images: Tensor, generator: torch.Generator, thinner: float = 0.5) -> Tensor:
    """Make strokes of some pictures thicker or thinner, by any part of a pixel.

    A third stays, a third grows towards its maximum over 3 x 3, a third shrinks towards its
    minimum, though by `thinner` at most: strokes of one pixel would vanish.
    """
    n = len(images)
    kind = torch.randint(0, 3, (n, 1, 1, 1), generator=generator)
    amount = torch.rand(n, 1, 1, 1, generator=generator)
    thick = functional.max_pool2d(images, 3, stride=1, padding=1)
    thin = -functional.max_pool2d(-images, 3, stride=1, padding=1)
    grown = torch.lerp(images, thick, amount)
    shrunk = torch.lerp(images, thin, amount * thinner)
    return torch.where(kind == 0, images, torch.where(kind == 1, grown, shrunk))


def random_contrast(images: Tensor, generator: torch.Generator) -> Tensor:
    """Vary how dark and how hard-edged ink in 0..1 is, and add a little noise."""
    n = len(images)
    gain = 0.7 + 0.9 * torch.rand(n, 1, 1, 1, generator=generator)
    noise = 0.04 * torch.rand(n, 1, 1, 1, generator=generator)
    noisy = images * gain + noise * torch.randn(images.shape, generator=generator)
    return noisy.clamp(0, 1)
