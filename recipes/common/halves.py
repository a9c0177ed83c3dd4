"""Weights stored as float16: half the file, computed with in float32."""

from __future__ import annotations

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

SMALLEST = 1024                           # elements; smaller tensors stay float32


@torch.no_grad()
def halve_weights(net: nn.Module) -> None:
    """Round every larger weight of a net to what float16 can say; do so before it is measured."""
    for tensor in (*net.parameters(), *net.buffers()):
        if tensor.dtype == torch.float32 and tensor.numel() >= SMALLEST:
            tensor.copy_(tensor.half().float())


def store_halves(proto: onnx.ModelProto) -> None:
    """Store as float16, with a Cast behind it, every larger tensor that loses nothing by it."""
    graph = proto.graph
    casts: list[onnx.NodeProto] = []
    for tensor in graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.size < SMALLEST:
            continue
        halves = values.astype(np.float16)
        if not np.array_equal(halves.astype(np.float32), values):
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(halves, f"{name}.float16"))
        casts.append(helper.make_node("Cast", [tensor.name], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
