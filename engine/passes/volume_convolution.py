"""Convolutions of volumes become convolutions of pictures, which every device has kernels for.

The planes of a volume are pictures. One plane of the result sees `kernel[0]` planes of the input:
laid behind each other, their channels make one picture with that many times more channels, and a
picture's convolution over it sums what the volume's does. All planes of all volumes are one batch.
Where each channel has filters of its own, one convolution per plane of the kernel and a sum are
cheaper: what is laid together would have to be kept apart again.

Only volumes whose sizes are known, with fixed weights; others stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from engine.ir.graph import Array, Graph, Node
from engine.ir.types import Dim, TensorType
from engine.ops.cores.windows import Window, resolve_window
from engine.passes.context import PassContext
from engine.passes.graph_draft import GraphDraft
from engine.passes.rewriting import fixed, shape_of, tensor_type
from engine.passes.transpose_elimination import eliminate_transposes

VERSION: Final = 13  # of the nodes that are put in
PLANES_FIRST: Final = (0, 2, 1, 3, 4)  # channels and planes change places; its own inverse


def split_volumes(graph: Graph, ctx: PassContext) -> Graph:
    """Rewrite every convolution of volumes that can be."""
    draft = GraphDraft(graph, ctx)
    for node in ctx.each(graph.nodes):
        volume = _volume(graph, node)
        if volume is None:
            draft.nodes.append(node)
        else:
            _Writer(draft, volume).write()
    changed = draft.result()
    # Between two of them the axes change places twice.
    return changed if changed is graph else eliminate_transposes(changed, ctx)


@dataclass(frozen=True)
class _Volume:
    """A convolution that is rewritten."""

    node: Node
    batch: Dim
    sizes: tuple[int, int, int]  # of the input: planes, rows, columns
    weights: Array  # (filters, channels per group, planes, rows, columns)
    groups: int
    window: Window
    kind: TensorType

    @property
    def channels(self) -> int:
        return int(self.weights.shape[1]) * self.groups

    @property
    def is_depthwise(self) -> bool:
        return self.groups > 1 and self.weights.shape[1] == 1

    @property
    def outputs(self) -> tuple[int, ...]:
        return self.window.output_sizes(self.sizes)


def _volume(graph: Graph, node: Node) -> _Volume | None:
    if node.op != "Conv" or node.domain or len(node.inputs) < 2:
        return None
    shape, kind = shape_of(graph, node.inputs[0]), tensor_type(graph, node.outputs[0])
    weights = fixed(graph, node.inputs[1])
    if weights is None or weights.ndim != 5 or shape is None or len(shape) != 5 or kind is None:
        return None
    batch, channels, planes, rows, columns = shape
    if not all(isinstance(dim, int) and dim for dim in shape[1:]) or 0 in weights.shape:
        return None
    assert isinstance(planes, int) and isinstance(rows, int) and isinstance(columns, int)
    sizes = (planes, rows, columns)
    given: Mapping[str, Any] = node.attributes
    window = resolve_window(
        sizes,
        weights.shape[2:],
        strides=given.get("strides", ()),
        dilations=given.get("dilations", ()),
        pads=given.get("pads", ()),
        auto_pad=given.get("auto_pad", "NOTSET"),
    )
    groups = int(given.get("group", 1))
    found = _Volume(node, batch, sizes, weights, groups, window, kind)
    fits = found.channels == channels and weights.shape[0] % groups == 0
    if not fits or min(*window.begins, *window.ends) < 0 or min(found.outputs) < 1:
        return None
    return found if kind.shape == (batch, weights.shape[0], *found.outputs) else None


class _Writer:
    """Puts the nodes of one convolution into a draft."""

    def __init__(self, draft: GraphDraft, volume: _Volume) -> None:
        self.draft, self.volume = draft, volume
        self.name = volume.node.outputs[0]
        self.batch = volume.batch
        self.planes, self.rows, self.columns = volume.outputs
        # The result, plane by plane.
        self.flat = (
            self.batch * self.planes,
            int(volume.weights.shape[0]),
            self.rows,
            self.columns,
        )

    def write(self) -> None:
        """From the input to the node's own result."""
        volume, seen = self.volume, self.seen_planes()
        taps = range(len(seen))
        if volume.is_depthwise and len(seen) > 1:
            parts = [self.pictures([seen[tap]], [tap], bias=tap == 0) for tap in taps]
            result = parts[0]
            for part in parts[1:]:
                result = self.add("Add", [result, part], "sum", self.flat)
        else:
            result = self.pictures(seen, list(taps), bias=True)
        filters = volume.weights.shape[0]
        whole = self.reshaped(result, (self.batch, self.planes, filters, self.rows, self.columns))
        node = Node("Transpose", (whole,), (self.name,), {"perm": PLANES_FIRST}, version=VERSION)
        self.draft.nodes.append(node)

    def seen_planes(self) -> list[str]:
        """For each plane of the kernel, what it sees: (N, planes of the result, C, H, W)."""
        volume = self.volume
        (planes, rows, columns), window = volume.sizes, volume.window
        inner = (volume.channels, rows, columns)
        x = volume.node.inputs[0]
        x = self.add("Transpose", [x], "planes", (self.batch, planes, *inner), perm=PLANES_FIRST)
        begin, end = window.begins[0], window.ends[0]
        if begin or end:
            pads = self.int64("pads", [0, begin, 0, 0, 0, 0, end, 0, 0, 0])
            planes += begin + end
            x = self.add("Pad", [x, pads], "padded", (self.batch, planes, *inner))
        stride, dilation = window.strides[0], window.dilations[0]
        span = (self.planes - 1) * stride + 1
        seen = []
        for tap in range(window.kernel[0]):
            first = tap * dilation
            if span == planes and stride == 1:
                seen.append(x)
                continue
            places = [
                self.int64(hint, [value])
                for hint, value in (
                    ("first", first),
                    ("last", first + span),
                    ("axis", 1),
                    ("stride", stride),
                )
            ]
            seen.append(self.add("Slice", [x, *places], "seen", (self.batch, self.planes, *inner)))
        return seen

    def pictures(self, seen: list[str], taps: list[int], *, bias: bool) -> str:
        """Convolve the planes that some taps of the kernel see, as pictures side by side."""
        volume, groups = self.volume, self.volume.groups
        filters, per_group = volume.weights.shape[:2]
        _, rows, columns = volume.sizes
        if len(seen) == 1:
            joined = seen[0]
        elif groups == 1:
            shape = (self.batch, self.planes, len(seen) * per_group, rows, columns)
            joined = self.add("Concat", seen, "joined", shape, axis=2)
        else:  # the channels of one group stay together
            apart = (self.batch, self.planes, groups, per_group, rows, columns)
            together = (*apart[:3], len(seen) * per_group, rows, columns)
            parts = [self.reshaped(name, apart) for name in seen]
            joined = self.add("Concat", parts, "joined", together, axis=3)
        flat = (self.batch * self.planes, len(taps) * volume.channels, rows, columns)
        x = self.reshaped(joined, flat)
        weights = volume.weights[:, :, taps].transpose(0, 2, 1, 3, 4)
        weights = weights.reshape(filters, len(taps) * per_group, *volume.window.kernel[1:])
        inputs = [x, self.draft.constant(f"{self.name}/weights", np.ascontiguousarray(weights))]
        if bias and len(volume.node.inputs) > 2 and volume.node.inputs[2]:
            inputs.append(volume.node.inputs[2])
        window = volume.window
        return self.add(
            "Conv",
            inputs,
            "pictures",
            self.flat,
            kernel_shape=window.kernel[1:],
            strides=window.strides[1:],
            dilations=window.dilations[1:],
            pads=(*window.begins[1:], *window.ends[1:]),
            group=groups,
        )

    # small pieces

    def add(
        self, op: str, inputs: list[str], hint: str, shape: tuple[Dim, ...], **attributes: Any
    ) -> str:
        """Put in one node; returns the name of what it gives."""
        name = self.draft.fresh(f"{self.name}/{hint}")
        self.draft.types[name] = TensorType(self.volume.kind.dtype, shape)
        node = Node(op, tuple(inputs), (name,), attributes, version=VERSION)
        self.draft.nodes.append(node)
        return name

    def reshaped(self, x: str, shape: tuple[Dim, ...]) -> str:
        """Put in a Reshape; the first dim follows from the others."""
        target = self.int64("shape", [-1, *(int(dim) for dim in shape[1:])])  # type: ignore[arg-type]
        return self.add("Reshape", [x, target], "reshaped", shape)

    def int64(self, hint: str, values: list[int]) -> str:
        """Return the name of fixed integers."""
        return self.draft.constant(f"{self.name}/{hint}", np.array(values, np.int64))
