"""A small residual net for 32 x 32 pictures, shaped to learn in few passes over the data.

It follows what K. Jordan describes in "94% on CIFAR-10 in 3.29 seconds on a single GPU"
(arXiv:2404.00498): a fixed whitening convolution in front, convolutions that begin as
identities, pooling before normalization, and one linear layer behind a global maximum.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTHS = (64, 256, 256)
DEPTHS = (2, 2, 2)                        # convolutions in the residual branch of each stage
WHITENING_EPSILON = 5e-4


class Convolution(nn.Conv2d):
    """A 3 x 3 convolution without bias whose first filters begin as the identity."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        """Pad so that height and width stay as they are."""
        super().__init__(channels_in, channels_out, 3, padding=1, bias=False)

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


class Stage(nn.Module):
    """Widen and halve the picture, then add a residual branch of `depth` convolutions."""

    def __init__(self, channels_in: int, channels_out: int, depth: int) -> None:
        """`channels_in` maps come in, `channels_out` of half the height and width leave."""
        super().__init__()
        self.widen = nn.Sequential(
            Convolution(channels_in, channels_out),
            nn.MaxPool2d(2),
            Norm(channels_out),
            nn.GELU(),
        )
        branch: list[nn.Module] = []
        for _ in range(depth):
            branch += [nn.GELU()] if branch else []
            branch += [Convolution(channels_out, channels_out), Norm(channels_out)]
        self.branch = nn.Sequential(*branch)
        self.activation = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        """Apply the stage."""
        x = self.widen(x)                 # (N, C, H/2, W/2)
        return self.activation(x + self.branch(x))


class PhotoNet(nn.Module):
    """Pictures (N, 3, 32, 32) to `logits` (N, classes) and the `embedding` (N, 256) under them."""

    def __init__(self, classes: int = 10) -> None:
        """Build with random weights; `whiten` then sets the first layer from data."""
        super().__init__()
        self.whitening = nn.Conv2d(3, 2 * 3 * 2 * 2, 2, bias=True)
        self.whitening.weight.requires_grad_(False)
        nn.init.zeros_(self.whitening.bias)
        self.activation = nn.GELU()
        widths = (self.whitening.out_channels, *WIDTHS)
        self.stages = nn.Sequential(
            *(Stage(a, b, d) for a, b, d in zip(widths[:-1], widths[1:], DEPTHS, strict=True))
        )
        self.pool = nn.AdaptiveMaxPool2d(1)
        self.head = nn.Linear(WIDTHS[-1], classes, bias=False)
        self.head.weight.data /= self.head.weight.data.std()
        # Large weights and a small factor: the head then learns at the pace of the other layers.
        self.head_scale: float = 1 / WIDTHS[-1]

    @torch.no_grad()
    def whiten(self, images: Tensor) -> None:
        """Set the first layer to the principal directions of 2 x 2 patches, and their negatives."""
        patches = functional.unfold(images, 2).transpose(1, 2).reshape(-1, 12)
        covariance = patches.T @ patches / len(patches)
        values, vectors = torch.linalg.eigh(covariance)
        filters = (vectors / (values + WHITENING_EPSILON).sqrt()).T.reshape(12, 3, 2, 2)
        filters = filters.flip(0)         # eigh sorts upwards; largest first reads better
        self.whitening.weight.copy_(torch.cat([filters, -filters]))

    def features(self, images: Tensor) -> Tensor:
        """Return the pooled features (N, 256)."""
        x = self.stages(self.activation(self.whitening(images)))
        return self.pool(x).flatten(1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return `(logits, embedding)`."""
        embedding = self.features(images)                       # (N, 256)
        logits = self.head(embedding)
        return logits if self.head_scale == 1 else logits * self.head_scale, embedding

    @torch.no_grad()
    def deployed(self) -> PhotoNet:
        """Return a copy for inference, with every normalization folded into its convolution.

        In `Stage.widen` a maximum stands between the two. Normalization keeps order (its factor
        is positive), so it may as well be applied before the maximum as after it.
        """
        net = copy.deepcopy(self).cpu().eval()
        for stage in net.stages:
            _fold_norms(stage.widen)
            _fold_norms(stage.branch)
        net.head.weight.mul_(net.head_scale)
        net.head_scale = 1.0
        return net


class Mirrored(nn.Module):
    """A net that looks at each picture twice, as it is and mirrored, and averages what it finds."""

    def __init__(self, net: PhotoNet) -> None:
        """Wrap a net for inference."""
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return `(logits, embedding)`, both averaged."""
        both = torch.cat([self.net.features(images), self.net.features(images.flip(-1))], 1)
        embedding = both.unflatten(1, (2, -1)).mean(1)          # (N, 256)
        return self.net.head(embedding) * self.net.head_scale, embedding


def _fold_norms(layers: nn.Sequential) -> None:
    """Replace each convolution by one with the bias and factor of the normalization after it."""
    convolution: nn.Conv2d | None = None
    for k, layer in enumerate(layers):
        if isinstance(layer, nn.Conv2d):
            convolution = layer
        elif isinstance(layer, Norm):
            assert convolution is not None
            factor = layer.weight / (layer.running_var + layer.eps).sqrt()
            convolution.weight.mul_(factor[:, None, None, None])
            convolution.bias = nn.Parameter(layer.bias - factor * layer.running_mean)
            layers[k] = nn.Identity()
