"""Classifiers of pictures: the convolutional families, each in its own shape, few channels."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.networks.exporters.common import Export, network, numbers
from tests.networks.exporters.from_torch import dynamo, script, settled

CLASSES = 10
AXES = {"x": {0: "batch"}}
FREE_SIZE = {"x": {0: "batch", 2: "height", 3: "width"}}


def conv_bn(
    inputs: int,
    outputs: int,
    kernel: int | tuple[int, int] = 3,
    stride: int = 1,
    groups: int = 1,
    act: type[nn.Module] | None = nn.ReLU,
) -> nn.Sequential:
    """Convolution that keeps the size (but for its stride), normalization, activation."""
    sides = (kernel, kernel) if isinstance(kernel, int) else kernel
    pad = (sides[0] // 2, sides[1] // 2)
    conv = nn.Conv2d(inputs, outputs, sides, stride, pad, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), *([act()] if act else []))


def pictures(*sides: tuple[int, int, int]) -> Sequence[dict[str, object]]:
    """Return one case per (rows, height, width)."""
    return [{"x": numbers(n, 3, h, w, seed=i)} for i, (n, h, w) in enumerate(sides)]


class Residual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int = 1, bottleneck: bool = False):
        super().__init__()
        wide = outputs // 2 if bottleneck else outputs
        first = [conv_bn(inputs, wide, 1)] if bottleneck else []
        last = conv_bn(wide, outputs, 1 if bottleneck else 3, act=None)
        middle = conv_bn(wide if bottleneck else inputs, wide, 3, stride)
        self.body = nn.Sequential(*first, middle, last)
        same = stride == 1 and inputs == outputs
        self.skip = nn.Identity() if same else conv_bn(inputs, outputs, 1, stride, act=None)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.skip(x))


class ResNet(nn.Module):
    def __init__(self, bottleneck: bool) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_bn(3, 8, 7, 2), nn.MaxPool2d(3, 2, 1))
        widths = [8, 8, 16, 24]
        blocks = [
            Residual(a, b, 1 if a == b else 2, bottleneck) for a, b in itertools.pairwise(widths)
        ]
        self.blocks = nn.Sequential(*blocks)
        self.pool, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(widths[-1], CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.flatten(self.pool(self.blocks(self.stem(x))), 1))


class Squeeze(nn.Module):
    """Weighs channels by what the whole picture shows."""

    def __init__(self, channels: int, gate: type[nn.Module], act: type[nn.Module]) -> None:
        super().__init__()
        inner = max(4, channels // 4)
        self.body = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, inner, 1),
            act(),
            nn.Conv2d(inner, channels, 1),
            gate(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.body(x)


class Inverted(nn.Module):
    """The block of MobileNetV2 and V3 and of EfficientNet."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        stride: int,
        act: type[nn.Module],
        kernel: int = 3,
        gate: type[nn.Module] | None = None,
    ) -> None:
        super().__init__()
        wide = inputs * 4
        self.body = nn.Sequential(
            conv_bn(inputs, wide, 1, act=act),
            conv_bn(wide, wide, kernel, stride, wide, act),
            Squeeze(wide, gate, nn.ReLU if gate is nn.Hardsigmoid else act)
            if gate
            else nn.Identity(),
            conv_bn(wide, outputs, 1, act=None),
        )
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.residual else self.body(x)


def mobile(act: type[nn.Module], gate: type[nn.Module] | None) -> nn.Module:
    """Return a net of inverted residuals."""
    return nn.Sequential(
        conv_bn(3, 8, 3, 2, act=act),
        Inverted(8, 12, 2, act),
        Inverted(12, 12, 1, act, 5, gate),
        Inverted(12, 16, 2, act, 3, gate),
        conv_bn(16, 32, 1, act=act),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(32, CLASSES),
    )


class DenseLayer(nn.Module):
    def __init__(self, inputs: int, grow: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.ReLU(),
            nn.Conv2d(inputs, 2 * grow, 1, bias=False),
            nn.BatchNorm2d(2 * grow),
            nn.ReLU(),
            nn.Conv2d(2 * grow, grow, 3, padding=1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.body(x)], 1)


class Mixed(nn.Module):
    """Inception's block: branches of unlike kernels, joined."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.one = conv_bn(inputs, 8, 1)
        self.wide = nn.Sequential(
            conv_bn(inputs, 8, 1), conv_bn(8, 8, (1, 7)), conv_bn(8, 8, (7, 1))
        )
        self.twice = nn.Sequential(conv_bn(inputs, 8, 1), conv_bn(8, 8), conv_bn(8, 8))
        self.pool = conv_bn(inputs, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.pool(F.avg_pool2d(x, 3, stride=1, padding=1))
        return torch.cat([self.one(x), self.wide(x), self.twice(x), pooled], 1)


class Inception(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_bn(3, 8, 3, 2), nn.MaxPool2d(3, 2, ceil_mode=True))
        self.first, self.second = Mixed(8), Mixed(32)
        self.head = nn.Linear(32, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.first(self.stem(x)), 3, 2)
        x = F.adaptive_avg_pool2d(self.second(x), 1)
        return self.head(F.dropout(x, training=self.training).flatten(1))


class ShuffleUnit(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.branch = nn.Sequential(
            conv_bn(half, half, 1),
            conv_bn(half, half, 3, groups=half, act=None),
            conv_bn(half, half, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        kept, changed = x.chunk(2, dim=1)
        y = torch.cat([kept, self.branch(changed)], 1)
        n, c, h, w = y.shape
        return y.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


class Fire(nn.Module):
    """SqueezeNet's block."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, outputs // 4, 1)
        self.one = nn.Conv2d(outputs // 4, outputs // 2, 1)
        self.three = nn.Conv2d(outputs // 4, outputs // 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.squeeze(x))
        return torch.cat([F.relu(self.one(x)), F.relu(self.three(x))], 1)


class ConvNeXtBlock(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.depth = nn.Conv2d(dim, dim, 7, padding=3, groups=dim)
        self.norm = nn.LayerNorm(dim)
        self.up, self.down = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
        self.scale = nn.Parameter(torch.randn(dim))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depth(x).permute(0, 2, 3, 1))
        y = self.scale * self.down(F.gelu(self.up(y)))
        return x + y.permute(0, 3, 1, 2)


def head(channels: int) -> list[nn.Module]:
    """Average over the picture, then classes."""
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, CLASSES)]


@network
def resnet() -> Export:
    net, feeds = settled(ResNet(bottleneck=False)), pictures((2, 32, 32), (3, 32, 32))
    return Export(script(net, feeds[0], AXES, ["y"], opset=9), feeds)


@network
def resnet_bottleneck() -> Export:
    net, feeds = settled(ResNet(bottleneck=True)), pictures((2, 32, 32), (1, 40, 36))
    return Export(dynamo(net, feeds[0], FREE_SIZE, ["y"], opset=18), feeds)


@network
def mobilenet_v2() -> Export:
    net, feeds = settled(mobile(nn.ReLU6, None)), pictures((2, 32, 32), (1, 32, 32))
    return Export(script(net, feeds[0], AXES, ["y"], opset=10), feeds)


@network
def mobilenet_v3() -> Export:
    net = settled(mobile(nn.Hardswish, nn.Hardsigmoid))
    feeds = pictures((2, 32, 32), (1, 48, 40))
    return Export(script(net, feeds[0], FREE_SIZE, ["y"], opset=14), feeds)


@network
def efficientnet() -> Export:
    net, feeds = settled(mobile(nn.SiLU, nn.Sigmoid)), pictures((2, 32, 32), (3, 32, 32))
    return Export(dynamo(net, feeds[0], AXES, ["y"], opset=20), feeds)


@network
def densenet() -> Export:
    net = nn.Sequential(
        conv_bn(3, 8, 3, 2),
        *(DenseLayer(8 + 4 * i, 4) for i in range(3)),
        nn.BatchNorm2d(20),
        nn.ReLU(),
        nn.Conv2d(20, 10, 1, bias=False),
        nn.AvgPool2d(2),
        *(DenseLayer(10 + 4 * i, 4) for i in range(2)),
        *head(18),
    )
    feeds = pictures((2, 24, 24), (3, 24, 24))
    return Export(script(settled(net), feeds[0], AXES, ["y"], opset=11), feeds)


@network
def inception() -> Export:
    net, feeds = settled(Inception()), pictures((2, 33, 33), (1, 33, 33))
    return Export(script(net, feeds[0], AXES, ["y"], opset=10), feeds)


@network
def shufflenet() -> Export:
    net = nn.Sequential(conv_bn(3, 16, 3, 2), ShuffleUnit(16), ShuffleUnit(16), *head(16))
    feeds = pictures((2, 24, 24), (3, 24, 24))
    return Export(script(settled(net), feeds[0], AXES, ["y"], opset=12), feeds)


@network
def squeezenet() -> Export:
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        Fire(16, 16),
        Fire(16, 32),
        nn.Conv2d(32, CLASSES, 1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.LogSoftmax(1),
    )
    feeds = pictures((2, 32, 32), (1, 32, 32))
    return Export(dynamo(settled(net), feeds[0], AXES, ["y"], opset=18), feeds)


@network
def convnext() -> Export:
    net = nn.Sequential(nn.Conv2d(3, 16, 4, 4), ConvNeXtBlock(16), ConvNeXtBlock(16), *head(16))
    feeds = pictures((2, 32, 32), (3, 32, 32))
    return Export(dynamo(settled(net), feeds[0], AXES, ["y"], opset=23), feeds)
