"""Detectors: boxes from anchors at several scales, with and without non-maximum suppression."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.networks.exporters.classifiers import AXES, FREE_SIZE, conv_bn, pictures
from tests.networks.exporters.common import Export, network, numbers
from tests.networks.exporters.from_torch import dynamo, script, settled

CLASSES = 3


class Suppression(torch.autograd.Function):
    """Exported as the operator; when traced, the first boxes stand in for the best."""

    @staticmethod
    def forward(ctx: Any, boxes: Tensor, scores: Tensor) -> Tensor:
        return torch.zeros(2, 3, dtype=torch.int64)

    @staticmethod
    def symbolic(graph: Any, boxes: Any, scores: Any) -> Any:
        limits = (torch.tensor([5]), torch.tensor([0.5]), torch.tensor([0.2]))
        constants = [graph.op("Constant", value_t=value) for value in limits]
        return graph.op("NonMaxSuppression", boxes, scores, *constants)


def decoded(offsets: Tensor, priors: Tensor) -> Tensor:
    """Corners of boxes from offsets to priors (centre, size), as SSD codes them."""
    centre = priors[:, :2] + offsets[..., :2] * 0.1 * priors[:, 2:]
    half = priors[:, 2:] * torch.exp(offsets[..., 2:] * 0.2) / 2
    return torch.cat([centre - half, centre + half], -1)


class SSD(nn.Module):
    """Two scales, two anchors a place."""

    def __init__(self, suppressed: bool) -> None:
        super().__init__()
        self.suppressed = suppressed
        self.body = nn.Sequential(conv_bn(3, 12, 3, 2), conv_bn(12, 16, 3, 2))
        self.coarse = conv_bn(16, 24, 3, 2)
        self.boxes = nn.ModuleList([nn.Conv2d(c, 2 * 4, 3, padding=1) for c in (16, 24)])
        self.scores = nn.ModuleList(
            [nn.Conv2d(c, 2 * (CLASSES + 1), 3, padding=1) for c in (16, 24)]
        )
        self.register_buffer("priors", torch.cat([self._priors(8, 0.2), self._priors(4, 0.4)]))

    @staticmethod
    def _priors(side: int, size: float) -> Tensor:
        place = (torch.arange(side) + 0.5) / side
        y, x = torch.meshgrid(place, place, indexing="ij")
        centres = torch.stack([x, y], -1).reshape(-1, 1, 2).expand(-1, 2, 2)
        sizes = torch.tensor([[size, size], [size, size * 1.5]]).expand(side * side, 2, 2)
        return torch.cat([centres, sizes], -1).reshape(-1, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        fine = self.body(x)
        maps = [fine, self.coarse(fine)]
        pairs = [(self.boxes, 4), (self.scores, CLASSES + 1)]
        offsets, logits = (
            torch.cat(
                [
                    h(m).permute(0, 2, 3, 1).reshape(m.size(0), -1, n)
                    for h, m in zip(heads, maps, strict=True)
                ],
                1,
            )
            for heads, n in pairs
        )
        boxes, scores = decoded(offsets, self.priors), F.softmax(logits, -1)
        if not self.suppressed:
            return boxes, scores
        kept = Suppression.apply(boxes, scores[..., 1:].transpose(1, 2).contiguous())
        rows, classes, places = kept[:, 0], kept[:, 1], kept[:, 2]
        return boxes[rows, places], scores[rows, places, classes + 1], classes, rows


class Yolo(nn.Module):
    """Two scales with a path upwards; cells, anchors and strides decoded in the net."""

    def __init__(self, free_size: bool) -> None:
        super().__init__()
        self.free_size = free_size
        act = nn.SiLU if free_size else nn.LeakyReLU
        self.stem = nn.Sequential(conv_bn(3, 8, 3, 2, act=act), conv_bn(8, 16, 3, 2, act=act))
        self.deep = conv_bn(16, 24, 3, 2, act=act)
        self.lift = conv_bn(24, 8, 1, act=act)
        self.heads = nn.ModuleList([nn.Conv2d(c, 2 * (5 + CLASSES), 1) for c in (24, 24)])
        anchors = [[[10.0, 13.0], [16.0, 30.0]], [[30.0, 61.0], [59.0, 119.0]]]
        self.register_buffer("anchors", torch.tensor(anchors))

    def forward(self, x: Tensor) -> Tensor:
        fine = self.stem(x)
        deep = self.deep(fine)
        fine = torch.cat([fine, F.interpolate(self.lift(deep), scale_factor=2.0)], 1)
        return torch.cat([self._boxes(0, fine, 4), self._boxes(1, deep, 8)], 1)

    def _boxes(self, i: int, features: Tensor, stride: int) -> Tensor:
        y = self.heads[i](features)
        n, _, h, w = y.shape
        y = y.view(n, 2, 5 + CLASSES, h, w).permute(0, 1, 3, 4, 2).sigmoid()
        down, right = torch.arange(h), torch.arange(w)
        rows, columns = down.view(h, 1).expand(h, w), right.view(1, w).expand(h, w)
        grid = torch.stack([columns, rows], -1).to(y.dtype)
        centre = (y[..., :2] * 2 - 0.5 + grid) * stride
        size = (y[..., 2:4] * 2) ** 2 * self.anchors[i].view(1, 2, 1, 1, 2)
        return torch.cat([centre, size, y[..., 4:]], -1).reshape(n, -1, 5 + CLASSES)


@network
def ssd() -> Export:
    net, feeds = settled(SSD(suppressed=False)), pictures((2, 32, 32), (3, 32, 32))
    return Export(script(net, feeds[0], AXES, ["boxes", "scores"], opset=12), feeds)


@network
def detector_nms() -> Export:
    net, feeds = settled(SSD(suppressed=True)), pictures((2, 32, 32), (1, 32, 32))
    outputs = {name: {0: "found"} for name in ("boxes", "scores", "classes", "rows")}
    model = script(net, feeds[0], AXES, list(outputs), opset=11, output_axes=outputs)
    return Export(model, feeds)


@network
def yolo() -> Export:
    net, feeds = settled(Yolo(free_size=False)), pictures((2, 32, 32), (1, 32, 32))
    return Export(script(net, feeds[0], AXES, ["y"], opset=9), feeds)


@network
def yolo_free_size() -> Export:
    net = settled(Yolo(free_size=True))
    feeds = [{"x": numbers(2, 3, 32, 48)}, {"x": numbers(1, 3, 64, 24, seed=1)}]
    output = {"y": {0: "batch", 1: "boxes"}}
    return Export(script(net, feeds[0], FREE_SIZE, ["y"], opset=16, output_axes=output), feeds)


@network
def yolo_dynamo() -> Export:
    net, feeds = settled(Yolo(free_size=True)), pictures((2, 32, 32), (3, 32, 32))
    return Export(dynamo(net, feeds[0], AXES, ["y"], opset=20), feeds)
