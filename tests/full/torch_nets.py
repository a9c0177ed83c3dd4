"""Classifiers written by hand in torch, and their export with both of torch's exporters.

Run as a program with a Python that has torch: `python tests/full/torch_nets.py FOLDER`. Writes, per
net, exporter and kind of batch, `NAME.onnx` and `NAME.npz` with an input `x` of three rows and
torch's output `y`.
"""

from __future__ import annotations

import itertools
import sys
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

ROWS = 3
SIZE = 64
CLASSES = 10


def conv_bn(
    inputs: int,
    outputs: int,
    kernel: int = 3,
    stride: int = 1,
    groups: int = 1,
    act: bool = True,
    kind: type[nn.Module] = nn.ReLU,
) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    parts: list[nn.Module] = [conv, nn.BatchNorm2d(outputs)]
    return nn.Sequential(*parts, *([kind()] if act else []))


class BasicBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv_bn(inputs, outputs, 3, stride), conv_bn(outputs, outputs, act=False)
        )
        same = stride == 1 and inputs == outputs
        self.short = nn.Identity() if same else conv_bn(inputs, outputs, 1, stride, act=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.short(x))


class ResNet18(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_bn(3, 64, 7, 2), nn.MaxPool2d(3, 2, 1))
        widths = [64, 64, 128, 256, 512]
        blocks = []
        for before, after in itertools.pairwise(widths):
            blocks += [
                BasicBlock(before, after, 1 if before == after else 2),
                BasicBlock(after, after, 1),
            ]
        self.blocks = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(512, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.flatten(self.pool(self.blocks(self.stem(x))), 1))


class Inverted(nn.Module):
    """MobileNetV2's block; with `squeeze` and SiLU it is EfficientNet's."""

    def __init__(self, inputs: int, outputs: int, stride: int, expand: int, squeeze: bool) -> None:
        super().__init__()
        hidden = inputs * expand
        kind: type[nn.Module] = nn.SiLU if squeeze else nn.ReLU6
        self.expand = conv_bn(inputs, hidden, 1, kind=kind) if expand > 1 else nn.Identity()
        self.depth = conv_bn(hidden, hidden, 3, stride, hidden, kind=kind)
        self.squeeze = (
            nn.Sequential(
                nn.AdaptiveAvgPool2d(1),
                nn.Conv2d(hidden, max(1, inputs // 4), 1),
                nn.SiLU(),
                nn.Conv2d(max(1, inputs // 4), hidden, 1),
                nn.Sigmoid(),
            )
            if squeeze
            else None
        )
        self.project = conv_bn(hidden, outputs, 1, act=False)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.depth(self.expand(x))
        if self.squeeze is not None:
            y = y * self.squeeze(y)
        y = self.project(y)
        return x + y if self.residual else y


class Mobile(nn.Module):
    def __init__(self, squeeze: bool) -> None:
        super().__init__()
        plan = [(16, 1, 1), (24, 2, 6), (24, 1, 6), (32, 2, 6), (32, 1, 6), (64, 2, 6), (96, 1, 6)]
        width = 32
        kind: type[nn.Module] = nn.SiLU if squeeze else nn.ReLU6
        blocks: list[nn.Module] = [conv_bn(3, width, 3, 2, kind=kind)]
        for outputs, stride, expand in plan:
            blocks.append(Inverted(width, outputs, stride, expand, squeeze))
            width = outputs
        blocks.append(conv_bn(width, 256, 1, kind=kind))
        self.features = nn.Sequential(*blocks)
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(256, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean([2, 3]))


class ViT(nn.Module):
    """A vision transformer; `fused` uses torch's own encoder layer."""

    def __init__(self, fused: bool, dim: int = 64, heads: int = 4, depth: int = 2) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, dim, 8, 8)
        self.token = nn.Parameter(torch.randn(1, 1, dim))
        self.position = nn.Parameter(torch.randn(1, (SIZE // 8) ** 2 + 1, dim))
        make = EncoderLayer if not fused else _torch_layer
        self.layers = nn.ModuleList([make(dim, heads) for _ in range(depth)])
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)  # (B, 64, dim)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.position
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x)[:, 0])


def _torch_layer(dim: int, heads: int) -> nn.Module:
    return nn.TransformerEncoderLayer(
        dim, heads, 2 * dim, activation="gelu", batch_first=True, norm_first=True
    )


class EncoderLayer(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        b, t, d = x.shape
        qkv = self.qkv(self.norm1(x)).reshape(b, t, 3, self.heads, d // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (B, H, T, D)
        y = F.scaled_dot_product_attention(q, k, v)
        x = x + self.out(y.transpose(1, 2).reshape(b, t, d))
        return x + self.mlp(self.norm2(x))


class ConvNeXt(nn.Module):
    """Channels-last layer norms, layer scale, GELU, large depthwise kernels."""

    def __init__(self, dim: int = 32) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, dim, 4, 4)
        self.depth = nn.Conv2d(dim, dim, 7, padding=3, groups=dim)
        self.norm = nn.LayerNorm(dim)
        self.up, self.down = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
        self.scale = nn.Parameter(torch.randn(dim))
        self.head = nn.Linear(dim, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.norm(self.depth(x).permute(0, 2, 3, 1))
        y = self.scale * self.down(F.gelu(self.up(y)))
        x = x + y.permute(0, 3, 1, 2)
        return self.head(x.mean((-2, -1)))


class Shuffle(nn.Module):
    """Chunk, channel shuffle, resize, padding: what other classifiers use."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 16, 3, 2)
        self.branch = conv_bn(8, 8, kind=nn.Hardswish)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(F.pad(x, (1, 2, 1, 2)))
        a, b = x.chunk(2, dim=1)
        y = torch.cat([a, self.branch(b)], 1)
        n, c, h, w = y.shape
        y = y.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        y = F.interpolate(y, scale_factor=2.0, mode="bilinear", align_corners=False)
        y = F.adaptive_avg_pool2d(F.leaky_relu(y), (2, 2))
        return F.log_softmax(self.head(y.amax((2, 3))), 1)


NETS = {
    "resnet18": ResNet18,
    "mobilenet_v2": lambda: Mobile(squeeze=False),
    "efficientnet": lambda: Mobile(squeeze=True),
    "vit": lambda: ViT(fused=False),
    "vit_torch": lambda: ViT(fused=True),
    "convnext": ConvNeXt,
    "shufflenet": Shuffle,
}


def export(folder: Path) -> None:
    """Write every net, both exporters, with a free batch and for one row."""
    for name, make in NETS.items():
        torch.manual_seed(0)
        net = make().eval()
        with torch.no_grad():
            for module in net.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.running_mean.normal_(0, 0.5)
                    module.running_var.uniform_(0.5, 2)
            x = torch.randn(ROWS, 3, SIZE, SIZE)
            y = net(x)
        for dynamo in (True, False):
            if not dynamo and name == "shufflenet":
                continue  # the older exporter knows no adaptive pooling of a free size
            for free in (True, False):
                stem = f"{name}-{'dynamo' if dynamo else 'script'}-{'free' if free else 'one'}"
                _export(net, x[:2] if free else x[:1], folder / f"{stem}.onnx", dynamo, free)
                np.savez(folder / f"{stem}.npz", x=x.numpy(), y=y.numpy())


def _export(net: nn.Module, x: Tensor, path: Path, dynamo: bool, free: bool) -> None:
    options: dict[str, object] = {"input_names": ["x"], "output_names": ["y"], "dynamo": dynamo}
    if free and dynamo:
        options["dynamic_shapes"] = ({0: torch.export.Dim("batch")},)
    elif free:
        options["dynamic_axes"] = {"x": {0: "batch"}, "y": {0: "batch"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(net, (x,), str(path), **options)


if __name__ == "__main__":
    torch.set_num_threads(1)
    export(Path(sys.argv[1]))
