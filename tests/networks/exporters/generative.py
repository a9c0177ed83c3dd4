"""Attention and diffusion written out in torch, and nets with operators of their own kind."""

from __future__ import annotations

import math

import onnx
import torch
from onnx import version_converter
from torch import Tensor, nn
from torch.nn import functional as F

from tests.networks.exporters.classifiers import AXES, CLASSES, conv_bn, pictures
from tests.networks.exporters.common import Axes, Export, clean, network, numbers, tokens
from tests.networks.exporters.from_torch import dynamo, script, settled


class ViT(nn.Module):
    """A vision transformer over torch's own encoder layer."""

    def __init__(self, dim: int = 24) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, dim, 8, 8)
        self.token = nn.Parameter(torch.randn(1, 1, dim))
        self.position = nn.Parameter(torch.randn(1, 17, dim))
        layer = nn.TransformerEncoderLayer(
            dim, 4, 2 * dim, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(dim, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)  # (B, 16, dim)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.position
        return self.head(self.layers(x)[:, 0])


class Mixer(nn.Module):
    """An MLP-Mixer whose products are written with einsum."""

    def __init__(self, places: int = 16, dim: int = 16) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, dim, 8, 8)
        self.across = nn.Parameter(torch.randn(places, 2 * places) / 4)
        self.back = nn.Parameter(torch.randn(2 * places, places) / 6)
        self.norms = nn.ModuleList([nn.LayerNorm(dim), nn.LayerNorm(dim)])
        self.mlp = nn.Sequential(
            nn.Linear(dim, 32), nn.GELU(approximate="tanh"), nn.Linear(32, dim)
        )
        self.head = nn.Linear(dim, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        y = F.gelu(torch.einsum("bpd,pq->bqd", self.norms[0](x), self.across), approximate="tanh")
        x = x + torch.einsum("bqd,qp->bpd", y, self.back)
        x = x + self.mlp(self.norms[1](x))
        return self.head(x.mean(1))


def timestep_embedding(steps: Tensor, dim: int) -> Tensor:
    """Sines and cosines of the number of the step."""
    speed = torch.exp(-math.log(10000.0) * torch.arange(dim // 2) / (dim // 2))
    angle = steps.float().unsqueeze(1) * speed.unsqueeze(0)
    return torch.cat([torch.cos(angle), torch.sin(angle)], 1)


class TimeBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, time: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.GroupNorm(4, inputs), nn.GroupNorm(4, outputs)])
        self.convs = nn.ModuleList(
            [nn.Conv2d(inputs, outputs, 3, padding=1), nn.Conv2d(outputs, outputs, 3, padding=1)]
        )
        self.time = nn.Linear(time, outputs)
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        y = self.convs[0](F.silu(self.norms[0](x))) + self.time(F.silu(time))[:, :, None, None]
        return self.skip(x) + self.convs[1](F.silu(self.norms[1](y)))


class CrossAttention(nn.Module):
    """Pixels look at each other, then at the words of the prompt."""

    def __init__(self, dim: int, context: int, heads: int = 2) -> None:
        super().__init__()
        self.heads, self.norm = heads, nn.GroupNorm(4, dim)
        self.q = nn.ModuleList([nn.Linear(dim, dim, bias=False) for _ in range(2)])
        self.kv = nn.ModuleList([nn.Linear(d, 2 * dim, bias=False) for d in (dim, context)])
        self.out = nn.ModuleList([nn.Linear(dim, dim) for _ in range(2)])

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        n, c, h, w = x.shape
        y = self.norm(x).reshape(n, c, h * w).transpose(1, 2)
        y = y + self._attend(0, y, y)
        y = y + self._attend(1, y, context)
        return x + y.transpose(1, 2).reshape(n, c, h, w)

    def _attend(self, i: int, x: Tensor, seen: Tensor) -> Tensor:
        n, t, c = x.shape
        k, v = self.kv[i](seen).chunk(2, -1)
        q, k, v = (
            u.reshape(n, -1, self.heads, c // self.heads).transpose(1, 2)
            for u in (self.q[i](x), k, v)
        )
        y = F.scaled_dot_product_attention(q, k, v)
        return self.out[i](y.transpose(1, 2).reshape(n, t, c))


class Diffusion(nn.Module):
    """The U-Net of latent diffusion: step, prompt, one level down and up again."""

    def __init__(self) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(16, 24), nn.SiLU(), nn.Linear(24, 24))
        self.first = nn.Conv2d(4, 8, 3, padding=1)
        self.high, self.down = TimeBlock(8, 8, 24), nn.Conv2d(8, 12, 3, 2, 1)
        self.low, self.look = TimeBlock(12, 12, 24), CrossAttention(12, 10)
        self.up, self.join = nn.Conv2d(12, 8, 3, padding=1), TimeBlock(16, 8, 24)
        self.last = nn.Sequential(nn.GroupNorm(4, 8), nn.SiLU(), nn.Conv2d(8, 4, 3, padding=1))

    def forward(self, sample: Tensor, timestep: Tensor, prompt: Tensor) -> Tensor:
        time = self.time(timestep_embedding(timestep, 16))
        high = self.high(self.first(sample), time)
        low = self.look(self.low(self.down(high), time), prompt)
        y = self.up(F.interpolate(low, scale_factor=2.0, mode="nearest"))
        return self.last(self.join(torch.cat([y, high], 1), time))


class Warp(nn.Module):
    """A spatial transformer: finds a transformation and resamples the picture by it."""

    def __init__(self) -> None:
        super().__init__()
        self.find = nn.Sequential(
            conv_bn(3, 8, 5, 4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 6)
        )
        self.head = conv_bn(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        theta = self.find(x).view(-1, 2, 3) * 0.3 + torch.eye(2, 3)
        y, z = torch.meshgrid(torch.linspace(-1, 1, 16), torch.linspace(-1, 1, 16), indexing="ij")
        base = torch.stack([z, y, torch.ones(16, 16)], -1).view(1, -1, 3)
        grid = torch.matmul(base, theta.transpose(1, 2)).view(-1, 16, 16, 2)
        return self.head(F.grid_sample(x, grid, padding_mode="border", align_corners=True))


class GraphNet(nn.Module):
    """Two rounds of messages along edges, summed where they arrive."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(8, 12), nn.Linear(12, 12)])
        self.head = nn.Linear(12, 3)

    def forward(self, nodes: Tensor, edges: Tensor) -> Tensor:
        for layer in self.layers:
            message = layer(nodes)[edges[0]]
            to = edges[1].unsqueeze(1).expand(-1, message.size(1))
            arrived = torch.zeros(nodes.size(0), message.size(1)).scatter_add(0, to, message)
            nodes = F.elu(arrived)
        return self.head(nodes)


class Recommender(nn.Module):
    """Embeddings of categories, dense features, all their products, a score."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleList([nn.Embedding(n, 8) for n in (30, 50, 20)])
        self.dense = nn.Sequential(nn.Linear(5, 16), nn.PReLU(), nn.Linear(16, 8))
        self.top = nn.Sequential(nn.Linear(14, 16), nn.Softplus(), nn.Linear(16, 1))

    def forward(self, dense: Tensor, categories: Tensor) -> Tensor:
        x = self.dense(dense)
        found = [table(categories[:, i]) for i, table in enumerate(self.tables)]
        every = torch.stack([x, *found], 1)
        products = torch.bmm(every, every.transpose(1, 2))
        rows, columns = torch.triu_indices(4, 4, 1)
        return torch.sigmoid(self.top(torch.cat([x, products[:, rows, columns]], 1)))


def latents(*sizes: tuple[int, int, int, int]) -> list[dict[str, object]]:
    """Return one case per (rows, height, width, words)."""
    return [
        {
            "sample": numbers(n, 4, h, w, seed=i),
            "timestep": tokens(n, below=999, seed=i),
            "prompt": numbers(n, t, 10, seed=i + 9),
        }
        for i, (n, h, w, t) in enumerate(sizes)
    ]


@network
def vit() -> Export:
    net, feeds = settled(ViT()), pictures((2, 32, 32), (3, 32, 32))
    return Export(dynamo(net, feeds[0], AXES, ["y"], opset=18), feeds)


@network
def vit_script() -> Export:
    net, feeds = settled(ViT()), pictures((2, 32, 32), (3, 32, 32))
    return Export(script(net, feeds[0], AXES, ["y"], opset=17), feeds)


@network
def vit_newest_opset() -> Export:
    """The newest opset that the installed onnx knows, which ONNX Runtime may not."""
    asked = vit_script()
    model = version_converter.convert_version(asked.model, onnx.defs.onnx_opset_version())
    return Export(clean(model), asked.feeds, asked=asked.model)


@network
def mixer() -> Export:
    net, feeds = settled(Mixer()), pictures((2, 32, 32), (3, 32, 32))
    return Export(script(net, feeds[0], AXES, ["y"], opset=12), feeds)


@network
def diffusion_unet() -> Export:
    net, feeds = settled(Diffusion()), latents((2, 8, 12, 5), (1, 12, 8, 7))
    axes: Axes = {
        "sample": {0: "batch", 2: "height", 3: "width"},
        "timestep": {0: "batch"},
        "prompt": {0: "batch", 1: "words"},
    }
    output: Axes = {"y": {0: "batch", 2: "height", 3: "width"}}
    return Export(script(net, feeds[0], axes, ["y"], opset=17, output_axes=output), feeds)


@network
def diffusion_unet_dynamo() -> Export:
    net, feeds = settled(Diffusion()), latents((2, 8, 12, 5), (3, 8, 12, 7))
    axes: Axes = {
        "sample": {0: "batch"},
        "timestep": {0: "batch"},
        "prompt": {0: "batch", 1: "words"},
    }
    return Export(dynamo(net, feeds[0], axes, ["y"], opset=21), feeds)


@network
def autoencoder() -> Export:
    net = nn.Sequential(
        nn.Linear(48, 24),
        nn.ELU(),
        nn.Linear(24, 6),
        nn.Linear(6, 24),
        nn.SELU(),
        nn.Linear(24, 48),
    )
    feeds = [{"x": numbers(2, 48)}, {"x": numbers(5, 48, seed=1)}]
    return Export(script(settled(net), feeds[0], AXES, ["y"], opset=9), feeds)


@network
def autoencoder_conv() -> Export:
    net = nn.Sequential(
        conv_bn(3, 8, 3, 2),
        conv_bn(8, 12, 3, 2),
        nn.Upsample(scale_factor=2, mode="nearest"),
        conv_bn(12, 8),
        nn.ConvTranspose2d(8, 3, 4, 2, 1),
        nn.Sigmoid(),
    )
    feeds = pictures((1, 16, 24), (2, 16, 24))
    return Export(script(settled(net), feeds[0], AXES, ["y"], opset=10), feeds)


@network
def spatial_transformer() -> Export:
    net, feeds = settled(Warp()), pictures((2, 24, 24), (1, 24, 24))
    return Export(script(net, feeds[0], AXES, ["y"], opset=16), feeds)


@network
def graph_net() -> Export:
    feeds = [
        {"nodes": numbers(6, 8), "edges": tokens(2, 11, below=6)},
        {"nodes": numbers(4, 8, seed=1), "edges": tokens(2, 5, below=4, seed=1)},
    ]
    axes: Axes = {"nodes": {0: "count"}, "edges": {1: "edge_count"}}
    return Export(script(settled(GraphNet()), feeds[0], axes, ["y"], opset=16), feeds)


@network
def recommender() -> Export:
    feeds = [
        {"dense": numbers(n, 5, seed=n), "categories": tokens(n, 3, below=20, seed=n)}
        for n in (2, 4)
    ]
    axes: Axes = {"dense": {0: "batch"}, "categories": {0: "batch"}}
    return Export(dynamo(settled(Recommender()), feeds[0], axes, ["y"], opset=18), feeds)
