"""Convolutional classifiers of pictures, as in the papers that introduced them."""

# mypy: disable-error-code="no-any-return"
# (torch says nothing of what calling a module returns)

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from benchmarks.engine.networks.building import (
    Exportable,
    batch_axis,
    draw_weights,
    end_residual,
    random_tensor,
    settle_statistics,
)


def conv_norm(
    source: int,
    target: int,
    kernel: int,
    stride: int = 1,
    groups: int = 1,
    activation: type[nn.Module] | None = nn.ReLU,
) -> nn.Sequential:
    """Return convolution, batch norm and activation, padded to keep or halve the size."""
    layers: list[nn.Module] = [
        nn.Conv2d(source, target, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(target),
    ]
    if activation is not None:
        layers.append(activation())
    return nn.Sequential(*layers)


def _head(channels: int, dropout: float = 0.0) -> nn.Sequential:
    return nn.Sequential(
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout), nn.Linear(channels, 1000)
    )


class Bottleneck(nn.Module):
    """He et al., "Deep Residual Learning": 1x1, 3x3 (with the stride), 1x1, and a shortcut."""

    def __init__(self, source: int, width: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv_norm(source, width, 1),
            conv_norm(width, width, 3, stride),
            conv_norm(width, 4 * width, 1, activation=None),
        )
        end_residual(self.body)
        same = stride == 1 and source == 4 * width
        self.shortcut = (
            nn.Identity() if same else conv_norm(source, 4 * width, 1, stride, activation=None)
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


class InvertedResidual(nn.Module):
    """Sandler et al., "MobileNetV2": widen, depthwise, narrow without activation."""

    def __init__(self, source: int, target: int, stride: int, widening: int) -> None:
        super().__init__()
        wide = source * widening
        layers = [conv_norm(source, wide, 1, activation=nn.ReLU6)] if widening > 1 else []
        layers.append(conv_norm(wide, wide, 3, stride, groups=wide, activation=nn.ReLU6))
        layers.append(conv_norm(wide, target, 1, activation=None))
        self.body = nn.Sequential(*layers)
        self.residual = stride == 1 and source == target
        if self.residual:
            end_residual(self.body)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.residual else self.body(x)


class SqueezeExcite(nn.Module):
    """Hu et al.: scale the channels by what their means say."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, squeezed, 1),
            nn.SiLU(),
            nn.Conv2d(squeezed, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x)


class MBConv(nn.Module):
    """Tan and Le, "EfficientNet": an inverted residual with squeeze and excitation, and SiLU."""

    def __init__(self, source: int, target: int, kernel: int, stride: int, widening: int) -> None:
        super().__init__()
        wide = source * widening
        layers: list[nn.Module] = []
        if widening > 1:
            layers.append(conv_norm(source, wide, 1, activation=nn.SiLU))
        layers.append(conv_norm(wide, wide, kernel, stride, groups=wide, activation=nn.SiLU))
        layers.append(SqueezeExcite(wide, max(1, source // 4)))
        layers.append(conv_norm(wide, target, 1, activation=None))
        self.body = nn.Sequential(*layers)
        self.residual = stride == 1 and source == target
        if self.residual:
            end_residual(self.body)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.residual else self.body(x)


class Fire(nn.Module):
    """Iandola et al., "SqueezeNet": squeeze by 1x1, widen by 1x1 and 3x3 side by side."""

    def __init__(self, source: int, squeezed: int, wide: int) -> None:
        super().__init__()
        self.squeeze = nn.Sequential(nn.Conv2d(source, squeezed, 1), nn.ReLU())
        self.left = nn.Sequential(nn.Conv2d(squeezed, wide, 1), nn.ReLU())
        self.right = nn.Sequential(nn.Conv2d(squeezed, wide, 3, padding=1), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        squeezed = self.squeeze(x)
        return torch.cat([self.left(squeezed), self.right(squeezed)], 1)


def resnet50() -> Exportable:
    """Return ResNet-50 with the stride in the 3x3 convolution: 4.1 GMAC a picture."""
    layers: list[nn.Module] = [conv_norm(3, 64, 7, 2), nn.MaxPool2d(3, 2, 1)]
    channels = 64
    for width, blocks, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for number in range(blocks):
            layers.append(Bottleneck(channels, width, stride if number == 0 else 1))
            channels = 4 * width
    return _classifier([*layers, _head(channels)], 50)


def mobilenetv2() -> Exportable:
    """Return MobileNetV2 at width 1: 0.3 GMAC a picture."""
    layers: list[nn.Module] = [conv_norm(3, 32, 3, 2, activation=nn.ReLU6)]
    channels = 32
    stages = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2)]
    stages += [(6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    for widening, target, blocks, stride in stages:
        for number in range(blocks):
            layers.append(
                InvertedResidual(channels, target, stride if number == 0 else 1, widening)
            )
            channels = target
    layers.append(conv_norm(channels, 1280, 1, activation=nn.ReLU6))
    return _classifier([*layers, _head(1280, 0.2)], 51)


def efficientnet_b0() -> Exportable:
    """Return EfficientNet-B0: 0.4 GMAC a picture."""
    layers: list[nn.Module] = [conv_norm(3, 32, 3, 2, activation=nn.SiLU)]
    channels = 32
    stages = [(1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3)]
    stages += [(6, 112, 3, 1, 5), (6, 192, 4, 2, 5), (6, 320, 1, 1, 3)]
    for widening, target, blocks, stride, kernel in stages:
        for number in range(blocks):
            step = stride if number == 0 else 1
            layers.append(MBConv(channels, target, kernel, step, widening))
            channels = target
    layers.append(conv_norm(channels, 1280, 1, activation=nn.SiLU))
    return _classifier([*layers, _head(1280, 0.2)], 52)


def squeezenet() -> Exportable:
    """Return SqueezeNet 1.1: 0.35 GMAC a picture, no batch norm."""
    pool = nn.MaxPool2d(3, 2, ceil_mode=True)
    return _classifier(
        [
            nn.Conv2d(3, 64, 3, 2),
            nn.ReLU(),
            pool,
            Fire(64, 16, 64),
            Fire(128, 16, 64),
            pool,
            Fire(128, 32, 128),
            Fire(256, 32, 128),
            pool,
            Fire(256, 48, 192),
            Fire(384, 48, 192),
            Fire(384, 64, 256),
            Fire(512, 64, 256),
            nn.Dropout(0.5),
            nn.Conv2d(512, 1000, 1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        ],
        53,
    )


def _classifier(layers: Sequence[nn.Module], seed: int) -> Exportable:
    module = nn.Sequential(*layers)
    draw_weights(module, seed)
    settle_statistics(module, random_tensor(16, 3, 224, 224))
    example = (random_tensor(2, 3, 224, 224),)
    return Exportable(module, example, ("input",), ("logits",), batch_axis("input", "logits"))
