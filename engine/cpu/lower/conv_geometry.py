"""What a convolution node says, resolved to numbers: window, groups, sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.cpu.lower.rules import NoKernel
from engine.ir.graph import Graph, Node
from engine.ir.types import TensorType
from engine.ops.cores.windows import Window, resolve_window

CONVOLUTIONS = (
    ("", "Conv"),
    ("millrace", "Conv"),
    ("", "ConvInteger"),
    ("millrace", "ConvInteger"),
)


@dataclass(frozen=True)
class Geometry:
    """A convolution of pictures; one of signals is that of pictures one row high.

    Attributes:
        window: Kernel, strides, dilations and padding of the two axes.
        sizes: Height and width of the input.
        outputs: Height and width of the result.
        groups: Groups of channels.
        rank: Spatial axes that the node has, one or two.
    """

    window: Window
    sizes: tuple[int, int]
    outputs: tuple[int, int]
    groups: int
    rank: int

    @property
    def border(self) -> int:
        """Rows and columns of zeros that the windows reach into, on the side where most are."""
        reach = [
            (count - 1) * stride + extent - begin - size
            for count, stride, extent, begin, size in zip(
                self.outputs,
                self.window.strides,
                self.window.extent,
                self.window.begins,
                self.sizes,
                strict=True,
            )
        ]
        axes = range(2 - self.rank, 2)
        return max(0, *(self.window.begins[a] for a in axes), *(reach[a] for a in axes))


def geometry(attributes: Mapping[str, Any], x_shape: Any, weights: np.ndarray) -> Geometry:
    """Resolve a node; `NoKernel` for what is no convolution of pictures of one known size."""
    rank = weights.ndim - 2
    if rank not in (1, 2) or x_shape is None or len(x_shape) != rank + 2:
        raise NoKernel(f"convolution over {rank} axes; kernels are for one and two")
    if not all(isinstance(d, int) for d in x_shape[1:]):
        raise NoKernel("the size of the pictures is known only at run time")
    kernel, sizes = weights.shape[2:], tuple(x_shape[2:])
    window = resolve_window(
        sizes,
        kernel,
        strides=attributes.get("strides", ()),
        dilations=attributes.get("dilations", ()),
        pads=attributes.get("pads", ()),
        auto_pad=attributes.get("auto_pad", "NOTSET"),
    )
    if min(*window.begins, *window.ends, *kernel) < 0 or 0 in (*weights.shape, *sizes):
        raise NoKernel("negative padding, or nothing to convolve")
    outputs = window.output_sizes(sizes)
    if min(outputs) < 1:
        raise NoKernel("the result is empty")
    if rank == 1:
        window = Window(
            (1, *window.kernel),
            (1, *window.strides),
            (1, *window.dilations),
            (0, *window.begins),
            (0, *window.ends),
        )
        sizes, outputs = (1, *sizes), (1, *outputs)
    groups = int(attributes.get("group", 1))
    if x_shape[1] != weights.shape[1] * groups or weights.shape[0] % groups:
        raise NoKernel("channels do not divide into the groups")
    return Geometry(window, two(sizes), two(outputs), groups, rank)


def two(pair: tuple[int, ...]) -> tuple[int, int]:
    """Return the numbers of two axes."""
    rows, columns = pair
    return rows, columns


def border_of(graph: Graph, node: Node) -> dict[str, int]:
    """Return the border that a node's windows need around pictures that it reads, by name."""
    if (node.domain, node.op) not in CONVOLUTIONS or len(node.inputs) < 2:
        return {}
    weights = graph.constant(node.inputs[1]) if node.inputs[1] else None
    kind = graph.types.get(node.inputs[0])
    if weights is None or not isinstance(kind, TensorType) or weights.ndim != 4:
        return {}
    try:
        found = geometry(node.attributes, kind.shape, weights)
    except (NoKernel, ValueError):
        return {}
    return {node.inputs[0]: found.border} if found.border else {}
