"""The two nets of `digits`. Both take (N, 1, 28, 28) and give logits (N, 10)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class FullyConnected(nn.Module):
    """Version 1: two hidden layers of rectified units."""

    def __init__(self, hidden: tuple[int, int] = (384, 128), dropout: float = 0.2) -> None:
        """Dropout acts in training only and leaves no trace in the exported graph."""
        super().__init__()
        first, second = hidden
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(28 * 28, first),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(first, second),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(second, 10),
        )

    def forward(self, image: Tensor) -> tuple[Tensor]:
        """Return `(logits,)`."""
        return (self.layers(image),)


def block(channels_in: int, channels_out: int, size: int = 3) -> nn.Sequential:
    """Convolution of `size` x `size`, normalization, rectification."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, size, padding=size // 2, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(),
    )


class Convolutional(nn.Module):
    """Version 2: five convolutions in three stages, and a global average.

    The average over all positions is what lets a digit stand anywhere in the picture.
    """

    def __init__(self, widths: tuple[int, int, int] = (32, 48, 96)) -> None:
        """`widths` are the channels at 28 x 28, 14 x 14 and 7 x 7."""
        super().__init__()
        a, b, c = widths
        self.features = nn.Sequential(
            block(1, a, size=5),
            nn.MaxPool2d(2),
            block(a, b),
            block(b, b),
            nn.MaxPool2d(2),
            block(b, c),
            block(c, c),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.dropout = nn.Dropout(0.2)
        self.head = nn.Linear(c, 10)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return `(logits, embedding)`."""
        embedding = self.features(image)                        # (N, 96)
        return self.head(self.dropout(embedding)), embedding


def parameter_count(model: nn.Module) -> int:
    """Return how many numbers were learnt."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def zero_image(rows: int = 2) -> Tensor:
    """Return an input of the right shape, for the exporter."""
    return torch.zeros(rows, 1, 28, 28)
