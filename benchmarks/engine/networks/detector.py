"""A one-stage detector in the manner of YOLOv8-n, with NonMaxSuppression inside the graph."""

# mypy: disable-error-code="no-any-return"
# (torch says nothing of what calling a module returns)

from __future__ import annotations

from typing import Any

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
from benchmarks.engine.networks.classifiers import conv_norm

SIZE, CLASSES, BINS, STRIDES = 640, 80, 16, (8, 16, 32)
MOST, OVERLAP = 100, 0.5
SHARE = 0.0005  # of all scores that pass the threshold: a few hundred candidates a picture


def conv(source: int, target: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Return convolution, batch norm and SiLU."""
    return conv_norm(source, target, kernel, stride, activation=nn.SiLU)


class Split(nn.Module):
    """A stage that sends half of its channels through residual pairs and joins all that came."""

    def __init__(self, source: int, target: int, pairs: int, residual: bool) -> None:
        super().__init__()
        half = target // 2
        self.residual = residual
        self.enter = conv(source, target, 1)
        self.pairs = nn.ModuleList(
            nn.Sequential(conv(half, half), conv(half, half)) for _ in range(pairs)
        )
        for pair in self.pairs if residual else ():
            end_residual(pair)
        self.leave = conv((2 + pairs) * half, target, 1)

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.enter(x).chunk(2, 1))
        for pair in self.pairs:
            y = pair(parts[-1])
            parts.append(parts[-1] + y if self.residual else y)
        return self.leave(torch.cat(parts, 1))


class PyramidPool(nn.Module):
    """Three 5x5 maximum pools in a row, joined with what they began from."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.enter, self.leave = conv(channels, channels // 2, 1), conv(2 * channels, channels, 1)
        self.pool = nn.MaxPool2d(5, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.enter(x)]
        for _ in range(3):
            parts.append(self.pool(parts[-1]))
        return self.leave(torch.cat(parts, 1))


class Suppress(torch.autograd.Function):
    """ONNX's NonMaxSuppression; outside of an export it selects nothing."""

    @staticmethod
    def forward(ctx: Any, boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
        return torch.zeros((2, 3), dtype=torch.int64)

    @staticmethod
    def symbolic(g: Any, boxes: Any, scores: Any, threshold: float) -> Any:
        """Return the node that the exporter writes."""
        most = g.op("Constant", value_t=torch.tensor([MOST]))
        overlap = g.op("Constant", value_t=torch.tensor([OVERLAP]))
        least = g.op("Constant", value_t=torch.tensor([threshold]))
        return g.op("NonMaxSuppression", boxes, scores, most, overlap, least)


def suppress(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Return (K, 3): picture, class and place of each box that stays."""
    chosen: Tensor = Suppress.apply(boxes, scores, threshold)  # type: ignore[no-untyped-call]
    return chosen


class Detector(nn.Module):
    """Backbone, pyramid in both directions, and a head without anchors for each of three scales.

    Boxes come as distances to four sides, each the mean of a distribution over 16 bins.
    """

    places: Tensor
    scales: Tensor
    bins: Tensor

    def __init__(self) -> None:
        super().__init__()
        c = (16, 32, 64, 128, 256)
        self.stem = nn.Sequential(conv(3, c[0], 3, 2), conv(c[0], c[1], 3, 2))
        self.stage2 = Split(c[1], c[1], 1, True)
        self.stage3 = nn.Sequential(conv(c[1], c[2], 3, 2), Split(c[2], c[2], 2, True))
        self.stage4 = nn.Sequential(conv(c[2], c[3], 3, 2), Split(c[3], c[3], 2, True))
        self.stage5 = nn.Sequential(
            conv(c[3], c[4], 3, 2), Split(c[4], c[4], 1, True), PyramidPool(c[4])
        )
        self.enlarge = nn.Upsample(scale_factor=2.0, mode="nearest")
        self.up4, self.up3 = Split(c[4] + c[3], c[3], 1, False), Split(c[3] + c[2], c[2], 1, False)
        self.halve3, self.halve4 = conv(c[2], c[2], 3, 2), conv(c[3], c[3], 3, 2)
        self.down4 = Split(c[2] + c[3], c[3], 1, False)
        self.down5 = Split(c[3] + c[4], c[4], 1, False)
        self.boxes = nn.ModuleList(self._head(w, 64, 4 * BINS) for w in c[2:])
        self.classes = nn.ModuleList(self._head(w, CLASSES, CLASSES) for w in c[2:])
        places, scales = zip(*(_centres(stride) for stride in STRIDES), strict=True)
        self.register_buffer("places", torch.cat(places, 1))  # (2, A)
        self.register_buffer("scales", torch.cat(scales))  # (A,)
        self.register_buffer("bins", torch.arange(BINS, dtype=torch.float32).view(1, BINS, 1, 1))
        self.threshold = 0.0

    @staticmethod
    def _head(source: int, width: int, outputs: int) -> nn.Sequential:
        return nn.Sequential(conv(source, width), conv(width, width), nn.Conv2d(width, outputs, 1))

    def calm_scores(self) -> None:
        """Keep scores small as in a trained detector: without it many are 1.0, and their order is
        a matter of rounding.
        """
        with torch.no_grad():
            for head in self.classes:
                last = list(head.children())[-1]
                assert isinstance(last, nn.Conv2d) and last.bias is not None
                last.weight.mul_(0.3)
                last.bias.copy_(last.bias - 4.0)

    def features(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the pyramid's three maps."""
        p3 = self.stage3(self.stage2(self.stem(x)))
        p4 = self.stage4(p3)
        p5 = self.stage5(p4)
        u4 = self.up4(torch.cat([self.enlarge(p5), p4], 1))
        u3 = self.up3(torch.cat([self.enlarge(u4), p3], 1))
        d4 = self.down4(torch.cat([self.halve3(u3), u4], 1))
        return u3, d4, self.down5(torch.cat([self.halve4(d4), p5], 1))

    def decode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return boxes (N, A, 4), as two corners, and scores (N, classes, A)."""
        maps = self.features(x)
        sides = [head(m).flatten(2) for head, m in zip(self.boxes, maps, strict=True)]
        logits = [head(m).flatten(2) for head, m in zip(self.classes, maps, strict=True)]
        joined = torch.cat(sides, 2)  # (N, 4 * BINS, A)
        spread = joined.view(joined.shape[0], 4, BINS, joined.shape[2]).transpose(1, 2).softmax(1)
        distances = (spread * self.bins).sum(1)  # (N, 4, A)
        low, high = distances.chunk(2, 1)
        corners = torch.cat([self.places - low, self.places + high], 1) * self.scales
        return corners.transpose(1, 2), torch.cat(logits, 2).sigmoid()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        boxes, scores = self.decode(x)
        if self.training:
            return boxes, scores, scores
        chosen = suppress(boxes, scores, self.threshold)  # (K, 3): picture, class, place
        picture, kind, place = chosen.unbind(1)
        return boxes[picture, place], scores[picture, kind, place], chosen


def _centres(stride: int) -> tuple[Tensor, Tensor]:
    steps = torch.arange(SIZE // stride) + 0.5
    rows, columns = torch.meshgrid(steps, steps, indexing="ij")
    places = torch.stack([columns.flatten(), rows.flatten()])
    return torch.cat([places[0:1], places[1:2]]), torch.full((places.shape[1],), float(stride))


def yolo() -> Exportable:
    """Return the detector for 640 x 640 pixels and 80 classes: 4.4 GMAC a picture."""
    module = Detector()
    draw_weights(module, 58)
    module.calm_scores()
    example = random_tensor(2, 3, SIZE, SIZE, seed=5)
    settle_statistics(module, random_tensor(8, 3, SIZE, SIZE))
    with torch.no_grad():  # of pictures that the statistics have not seen
        scores = module.decode(example)[1].flatten()
    module.threshold = float(scores.kthvalue(int(scores.numel() * (1 - SHARE))).values)
    axes = {**batch_axis("images"), **{name: {0: "K"} for name in ("boxes", "scores", "chosen")}}
    return Exportable(module, (example,), ("images",), ("boxes", "scores", "chosen"), axes)
