"""Vision networks beyond the classic classifiers: ConvNeXt, vision transformer, U-Net, MLP."""

# mypy: disable-error-code="no-any-return"
# (torch says nothing of what calling a module returns)

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.engine.networks.building import (
    Exportable,
    batch_axis,
    draw_weights,
    random_tensor,
    settle_statistics,
)
from benchmarks.engine.networks.classifiers import conv_norm


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of (N, C, H, W)."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNeXtBlock(nn.Module):
    """Liu et al., "A ConvNet for the 2020s": depthwise 7x7, then an MLP along the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.widen = nn.Linear(channels, 4 * channels)
        self.narrow = nn.Linear(4 * channels, channels)
        self.scale = nn.Parameter(torch.full((channels,), 0.3))

    def forward(self, x: Tensor) -> Tensor:
        y = self.depthwise(x).permute(0, 2, 3, 1)  # (N, H, W, C)
        y = self.scale * self.narrow(functional.gelu(self.widen(self.norm(y))))
        return x + y.permute(0, 3, 1, 2)


class ConvNeXt(nn.Module):
    """ConvNeXt-T: four stages, each but the first begun by a norm and a 2x2 convolution."""

    def __init__(self) -> None:
        super().__init__()
        widths, depths = (96, 192, 384, 768), (3, 3, 9, 3)
        layers: list[nn.Module] = [nn.Conv2d(3, 96, 4, 4), ChannelNorm(96, eps=1e-6)]
        for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            if stage:
                previous = widths[stage - 1]
                layers += [ChannelNorm(previous, eps=1e-6), nn.Conv2d(previous, width, 2, 2)]
            layers += [ConvNeXtBlock(width) for _ in range(depth)]
        self.features = nn.Sequential(*layers)
        self.norm = nn.LayerNorm(768, eps=1e-6)
        self.classify = nn.Linear(768, 1000)

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.norm(self.features(x).mean([2, 3])))


class VisionBlock(nn.Module):
    """A pre-norm transformer layer; one projection makes queries, keys and values."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.first, self.second = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.project, self.join = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.widen, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, width = x.shape
        parts = self.project(self.first(x)).reshape(n, tokens, 3, self.heads, width // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)  # (N, heads, T, D)
        mixed = functional.scaled_dot_product_attention(q, k, v)
        x = x + self.join(mixed.transpose(1, 2).reshape(n, tokens, width))
        return x + self.narrow(functional.gelu(self.widen(self.second(x))))


class VisionTransformer(nn.Module):
    """Dosovitskiy et al.; ViT-S/16: 384 wide, 12 layers, 6 heads, 196 patches and a class token."""

    def __init__(self, width: int = 384, depth: int = 12, heads: int = 6) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 16, 16)
        self.token = nn.Parameter(random_tensor(1, 1, width, seed=2))
        self.places = nn.Parameter(0.1 * random_tensor(1, 197, width, seed=3))
        self.blocks = nn.Sequential(*(VisionBlock(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.classify = nn.Linear(width, 1000)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.patches(x).flatten(2).transpose(1, 2)  # (N, 196, C)
        tokens = torch.cat([self.token.expand(x.shape[0], -1, -1), patches], 1) + self.places
        return self.classify(self.norm(self.blocks(tokens))[:, 0])


class UNet(nn.Module):
    """Ronneberger et al.: five levels of two 3x3 convolutions, joined by shortcuts."""

    def __init__(self, base: int = 32, depth: int = 4) -> None:
        super().__init__()
        widths = [base << level for level in range(depth + 1)]
        self.down = nn.ModuleList(self._pair(a, b) for a, b in pairwise([3, *widths]))
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * w, w, 2, 2) for w in widths[-2::-1])
        self.join = nn.ModuleList(self._pair(2 * w, w) for w in widths[-2::-1])
        self.mask = nn.Conv2d(base, 1, 1)

    @staticmethod
    def _pair(source: int, target: int) -> nn.Sequential:
        return nn.Sequential(conv_norm(source, target, 3), conv_norm(target, target, 3))

    def forward(self, x: Tensor) -> Tensor:
        kept: list[Tensor] = []
        for level, pair in enumerate(self.down):
            x = pair(functional.max_pool2d(x, 2) if level else x)
            kept.append(x)
        for up, join, shortcut in zip(self.up, self.join, kept[-2::-1], strict=True):
            x = join(torch.cat([up(x), shortcut], 1))
        return torch.sigmoid(self.mask(x))


def convnext_tiny() -> Exportable:
    """Return ConvNeXt-T: 4.5 GMAC a picture."""
    return _picture_network(ConvNeXt(), 54, 224, "logits")


def vit_small() -> Exportable:
    """Return ViT-S/16: 4.6 GMAC a picture."""
    return _picture_network(VisionTransformer(), 55, 224, "logits")


def unet() -> Exportable:
    """Return a U-Net of 32 channels at the top, for 256 x 256 pixels: 13.7 GMAC a picture."""
    return _picture_network(UNet(), 56, 256, "mask")


def mlp() -> Exportable:
    """Return the classic digits network 784-512-512-10."""
    layers: list[nn.Module] = [nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU()]
    module = nn.Sequential(*layers, nn.Linear(512, 10)).eval()
    draw_weights(module, 57)
    axes = batch_axis("input", "logits")
    return Exportable(module, (random_tensor(2, 784),), ("input",), ("logits",), axes)


def _picture_network(module: nn.Module, seed: int, size: int, output: str) -> Exportable:
    draw_weights(module, seed)
    settle_statistics(module, random_tensor(8, 3, size, size))
    example = (random_tensor(2, 3, size, size),)
    return Exportable(module, example, ("input",), (output,), batch_axis("input", output))
