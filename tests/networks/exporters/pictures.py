"""Nets that give pictures or boxes: segmentation, style, enlarging, generators, detectors."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.networks.exporters.classifiers import FREE_SIZE, conv_bn, pictures
from tests.networks.exporters.common import Export, network, numbers
from tests.networks.exporters.from_torch import dynamo, script, settled

FREE_PICTURE = {"y": {0: "batch", 2: "out_height", 3: "out_width"}}


class UNet(nn.Module):
    def __init__(self, bilinear: bool) -> None:
        super().__init__()
        self.down = nn.ModuleList([conv_bn(3, 8), conv_bn(8, 12), conv_bn(12, 16)])
        self.up: nn.ModuleList
        if bilinear:
            make = [nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)] * 2
            self.up, widths = nn.ModuleList(make), (16 + 12, 12 + 8)
        else:
            pairs = [nn.ConvTranspose2d(16, 12, 2, 2), nn.ConvTranspose2d(12, 8, 2, 2)]
            self.up, widths = nn.ModuleList(pairs), (24, 16)
        self.join = nn.ModuleList([conv_bn(widths[0], 12), conv_bn(widths[1], 8)])
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.down[0](x)
        second = self.down[1](F.max_pool2d(first, 2))
        y = self.down[2](F.max_pool2d(second, 2))
        y = self.join[0](torch.cat([second, self.up[0](y)], 1))
        y = self.join[1](torch.cat([first, self.up[1](y)], 1))
        return torch.sigmoid(self.head(y))


class Segmenter(nn.Module):
    """A fully convolutional net whose map is resized to its input's size."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv_bn(3, 8, 3, 2),
            conv_bn(8, 16, 3, 2),
            nn.Conv2d(16, 16, 3, padding=2, dilation=2),
            nn.ReLU(),
        )
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(16, 16, 1), nn.ReLU())
        self.head = nn.Conv2d(32, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        whole = F.interpolate(self.pool(y), size=y.shape[-2:], mode="nearest")
        y = self.head(torch.cat([y, whole], 1))
        return F.interpolate(y, size=x.shape[-2:], mode="bilinear", align_corners=False)


class Style(nn.Module):
    """Fast style transfer: reflected borders, instance normalization, upsampling."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 9)
        self.down = nn.Conv2d(8, 16, 3, 2)
        self.inner = nn.ModuleList([nn.Conv2d(16, 16, 3) for _ in range(2)])
        self.up, self.last = nn.Conv2d(16, 8, 3), nn.Conv2d(8, 3, 9)
        self.norms = nn.ModuleList([nn.InstanceNorm2d(c, affine=True) for c in (8, 16, 16, 8)])

    def forward(self, x: Tensor) -> Tensor:
        def conv(layer: nn.Module, value: Tensor, pad: int) -> Tensor:
            return layer(F.pad(value, (pad, pad, pad, pad), mode="reflect"))

        x = F.relu(self.norms[0](conv(self.first, x, 4)))
        x = F.relu(self.norms[1](conv(self.down, x, 1)))
        y = F.relu(self.norms[2](conv(self.inner[0], x, 1)))
        x = x + conv(self.inner[1], y, 1)
        x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        return conv(self.last, F.relu(self.norms[3](conv(self.up, x, 1))), 4)


class SuperResolution(nn.Module):
    def __init__(self, factor: int = 3) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Conv2d(1, 16, 5, padding=2), nn.Conv2d(16, 16, 3, 1, 1)])
        self.last, self.shuffle = nn.Conv2d(16, factor**2, 3, 1, 1), nn.PixelShuffle(factor)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = F.relu(layer(x))
        return self.shuffle(self.last(x))


@network
def unet() -> Export:
    net, feeds = settled(UNet(bilinear=False)), pictures((1, 24, 32), (2, 16, 20))
    model = script(net, feeds[0], FREE_SIZE, ["y"], opset=11, output_axes=FREE_PICTURE)
    return Export(model, feeds)


@network
def unet_bilinear() -> Export:
    net, feeds = settled(UNet(bilinear=True)), pictures((2, 16, 32), (1, 24, 24))
    return Export(
        dynamo(net, feeds[0], {"x": {0: "batch"}}, ["y"], opset=18),
        [feeds[0], {"x": numbers(3, 3, 16, 32)}],
    )


@network
def segmentation() -> Export:
    net, feeds = settled(Segmenter()), pictures((1, 32, 24), (2, 20, 36))
    model = script(net, feeds[0], FREE_SIZE, ["y"], opset=13, output_axes=FREE_PICTURE)
    return Export(model, feeds)


@network
def style_transfer() -> Export:
    net, feeds = settled(Style()), pictures((1, 24, 24), (1, 32, 20))
    model = script(net, feeds[0], FREE_SIZE, ["y"], opset=11, output_axes=FREE_PICTURE)
    return Export(model, feeds)


@network
def super_resolution() -> Export:
    net = settled(SuperResolution())
    feeds = [{"x": numbers(1, 1, 12, 10)}, {"x": numbers(2, 1, 8, 14)}]
    model = script(net, feeds[0], FREE_SIZE, ["y"], opset=11, output_axes=FREE_PICTURE)
    return Export(model, feeds)


@network
def gan_generator() -> Export:
    net = nn.Sequential(
        nn.ConvTranspose2d(16, 24, 4, bias=False),
        nn.BatchNorm2d(24),
        nn.ReLU(),
        nn.ConvTranspose2d(24, 12, 4, 2, 1, bias=False),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.ConvTranspose2d(12, 3, 3, 2, 1, output_padding=1),
        nn.Tanh(),
    )
    feeds = [{"x": numbers(2, 16, 1, 1)}, {"x": numbers(3, 16, 1, 1, seed=1)}]
    return Export(dynamo(settled(net), feeds[0], {"x": {0: "batch"}}, ["y"], opset=19), feeds)
