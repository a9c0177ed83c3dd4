"""A residual net for 64 x 64 pictures whose pooled, normalized features are an embedding.

The parts are those of `recipes.photos` (a fixed whitening convolution, filters that begin as
identities, K. Jordan, arXiv:2404.00498) in the outline of a ResNet (He et al., arXiv:1512.03385):
halving by stride, blocks of two convolutions, global average. The normalization between pool and
head follows Luo et al., "Bag of Tricks ... for Deep Person Re-Identification" (arXiv:1903.07071):
features of equal spread suit comparing by angle.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional

PATCH = 4                                 # side of the patches that the first layer whitens
DIRECTIONS = 32                           # how many principal directions it keeps
WHITENING_EPSILON = 5e-4
EMBEDDING = 320
# Channels and residual blocks of each stage; every stage but the first halves the picture.
STAGES = ((64, 1), (128, 1), (192, 2), (EMBEDDING, 1))


class Convolution(nn.Conv2d):
    """A 3 x 3 convolution without bias whose first filters begin as the identity."""

    def __init__(self, channels_in: int, channels_out: int, stride: int = 1) -> None:
        """Pad so that height and width stay as they are, or are divided by `stride`."""
        super().__init__(channels_in, channels_out, 3, stride, padding=1, bias=False)

    def reset_parameters(self) -> None:
        """Start as the identity as far as there are inputs, and at random beyond."""
        super().reset_parameters()
        nn.init.dirac_(self.weight.data[: self.in_channels])


class Norm(nn.BatchNorm2d):
    """Batch normalization that learns a bias and no scale."""

    def __init__(self, channels: int) -> None:
        """Freeze the scale at one: with a normalized weight before it, it has little to say."""
        super().__init__(channels, momentum=0.1)
        self.weight.requires_grad_(False)


def unit(channels_in: int, channels_out: int, stride: int = 1) -> nn.Sequential:
    """Return a convolution with its normalization."""
    return nn.Sequential(Convolution(channels_in, channels_out, stride), Norm(channels_out))


class Block(nn.Module):
    """Two convolutions whose result is added to what came in."""

    def __init__(self, channels: int) -> None:
        """Keep channels, height and width."""
        super().__init__()
        self.first, self.second = unit(channels, channels), unit(channels, channels)
        self.activation = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        return self.activation(x + self.second(self.activation(self.first(x))))


class ObjectNet(nn.Module):
    """Pictures (N, 3, 64, 64) to `logits` (N, classes) and the `embedding` (N, 320) under them."""

    def __init__(self, classes: int = 200) -> None:
        """Build with random weights; `whiten` then sets the first layer from data."""
        super().__init__()
        self.whitening = nn.Conv2d(3, 2 * DIRECTIONS, PATCH, stride=2, padding=1)
        self.whitening.weight.requires_grad_(False)
        nn.init.zeros_(self.whitening.bias)
        layers: list[nn.Module] = []
        width = self.whitening.out_channels
        for k, (channels, blocks) in enumerate(STAGES):
            if k > 0:
                layers += [unit(width, channels, stride=2), nn.GELU()]
            layers += [Block(channels) for _ in range(blocks)]
            width = channels
        self.activation = nn.GELU()
        self.body = nn.Sequential(*layers)
        self.neck = nn.BatchNorm1d(width, affine=False)
        self.head = nn.Linear(width, classes)

    @torch.no_grad()
    def whiten(self, images: Tensor) -> None:
        """Set the first layer to the principal directions of patches, and their negatives."""
        patches = functional.unfold(images, PATCH, stride=PATCH).transpose(1, 2)
        patches = patches.reshape(-1, 3 * PATCH * PATCH)
        values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
        filters = (vectors / (values + WHITENING_EPSILON).sqrt()).T.flip(0)[:DIRECTIONS]
        filters = filters.reshape(DIRECTIONS, 3, PATCH, PATCH)
        self.whitening.weight.copy_(torch.cat([filters, -filters]))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return `(logits, embedding)`."""
        x = self.body(self.activation(self.whitening(images)))  # (N, 320, H / 16, W / 16)
        embedding = self.neck(x.float().mean((2, 3)))           # (N, 320)
        return self.head(embedding), embedding

    @torch.no_grad()
    def deployed(self) -> ObjectNet:
        """Return a copy for inference, with every normalization folded into its convolution."""
        net = copy.deepcopy(self).cpu().eval()
        for layers in net.modules():
            if isinstance(layers, nn.Sequential) and len(layers) == 2:
                _fold(layers)
        return net


def _fold(layers: nn.Sequential) -> None:
    """Give the convolution of a `unit` the factor and bias of the normalization behind it."""
    convolution, norm = layers[0], layers[1]
    if not isinstance(convolution, Convolution) or not isinstance(norm, Norm):
        return
    assert norm.running_var is not None and norm.running_mean is not None
    factor = norm.weight / (norm.running_var + norm.eps).sqrt()
    convolution.weight.mul_(factor[:, None, None, None])
    convolution.bias = nn.Parameter(norm.bias - factor * norm.running_mean)
    layers[1] = nn.Identity()
