"""Classifiers as torch users write them, small: what the exporters of torch are tried on."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional


def conv_norm(
    inputs: int, outputs: int, size: int, stride: int = 1, group: int = 1
) -> list[nn.Module]:
    return [
        nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=group, bias=False),
        nn.BatchNorm2d(outputs),
    ]


class Residual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        first, second = conv_norm(inputs, outputs, 3, stride), conv_norm(outputs, outputs, 3)
        self.body = nn.Sequential(*first, nn.ReLU(), *second)
        same = stride == 1 and inputs == outputs
        self.skip = nn.Identity() if same else nn.Sequential(*conv_norm(inputs, outputs, 1, stride))

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.body(x) + self.skip(x))


class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        stem = [*conv_norm(3, 8, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
        self.body = nn.Sequential(*stem, Residual(8, 8), Residual(8, 16, 2), Residual(16, 16))
        self.pool, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.flatten(self.pool(self.body(x)), 1))


class Squeeze(nn.Module):
    """Weigh channels by what the whole image shows."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(1, channels // 4)
        self.body = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, inner, 1),
            nn.SiLU(),
            nn.Conv2d(inner, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.body(x)


class Inverted(nn.Module):
    def __init__(
        self, inputs: int, outputs: int, stride: int, act: type[nn.Module], squeeze: bool
    ) -> None:
        super().__init__()
        wide = inputs * 4
        self.body = nn.Sequential(
            *conv_norm(inputs, wide, 1),
            act(),
            *conv_norm(wide, wide, 3, stride, wide),
            act(),
            Squeeze(wide) if squeeze else nn.Identity(),
            *conv_norm(wide, outputs, 1),
        )
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.residual else self.body(x)


class MobileNet(nn.Module):
    def __init__(self, act: type[nn.Module] = nn.ReLU6, squeeze: bool = False) -> None:
        super().__init__()
        blocks = [Inverted(8, 16, 2, act, squeeze), Inverted(16, 16, 1, act, squeeze)]
        self.body = nn.Sequential(*conv_norm(3, 8, 3, 2), act(), *blocks)
        self.drop, self.head = nn.Dropout(0.2), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(self.body(x).mean([2, 3])))


class Encoder(nn.Module):
    """A transformer block over torch's own attention module."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.before, self.behind = nn.LayerNorm(size), nn.LayerNorm(size)
        self.attention = nn.MultiheadAttention(size, 4, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(size, 2 * size), nn.GELU(), nn.Linear(2 * size, size))

    def forward(self, x: Tensor) -> Tensor:
        y = self.before(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.behind(x))


class FusedEncoder(nn.Module):
    """A transformer block over one product for queries, keys and values, as timm writes it."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.before, self.behind = nn.LayerNorm(size), nn.LayerNorm(size)
        self.qkv, self.out = nn.Linear(size, 3 * size), nn.Linear(size, size)
        act = nn.GELU(approximate="tanh")
        self.mlp = nn.Sequential(nn.Linear(size, 2 * size), act, nn.Linear(2 * size, size))

    def forward(self, x: Tensor) -> Tensor:
        b, length, size = x.shape
        qkv = self.qkv(self.before(x)).reshape(b, length, 3, 4, size // 4).permute(2, 0, 3, 1, 4)
        y = functional.scaled_dot_product_attention(*qkv.unbind(0))
        x = x + self.out(y.transpose(1, 2).reshape(b, length, size))
        return x + self.mlp(self.behind(x))


class ViT(nn.Module):
    def __init__(self, block: type[nn.Module]) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 32, 8, 8)
        self.token = nn.Parameter(torch.randn(1, 1, 32))
        self.places = nn.Parameter(torch.randn(1, 17, 32))
        self.body = nn.Sequential(block(32), block(32), nn.LayerNorm(32))
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        count = x.shape[0]
        x = self.patches(x).flatten(2).permute(0, 2, 1)
        x = torch.cat([self.token.expand(count, -1, -1), x], 1) + self.places
        return self.head(self.body(x)[:, 0])


def mlp() -> nn.Module:
    hidden = [nn.Linear(3 * 32 * 32, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout()]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(32, 10), nn.Softmax(1))


NETS: dict[str, Callable[[], nn.Module]] = {
    "resnet": ResNet,
    "mobilenet": MobileNet,
    "mobilenet_v3": lambda: MobileNet(nn.Hardswish, squeeze=True),
    "efficientnet": lambda: MobileNet(nn.SiLU, squeeze=True),
    "vit": lambda: ViT(Encoder),
    "vit_fused": lambda: ViT(FusedEncoder),
    "mlp": mlp,
}
