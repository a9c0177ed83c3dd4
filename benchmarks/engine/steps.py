"""Outputs of quantized networks, compared in quantization steps."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

Array = NDArray[np.generic]


def output_steps(model: onnx.ModelProto) -> dict[str, float]:
    """Return for each output the scale of the last activation that was quantized before it.

    Raises:
        ValueError: Nothing before an output is quantized.
    """
    graph = model.graph
    producers = {name: node for node in graph.node for name in node.output}
    scales = {
        tensor.name: float(numpy_helper.to_array(tensor))
        for tensor in graph.initializer
        if not tensor.dims
    }
    found = {}
    for output in graph.output:
        scale = _nearest_scale(output.name, producers, scales)
        if scale is None:
            raise ValueError(f"nothing before output {output.name!r} is quantized")
        found[output.name] = scale
    return found


def _nearest_scale(
    name: str, producers: Mapping[str, onnx.NodeProto], scales: Mapping[str, float]
) -> float | None:
    """Search backwards, nearest first; weights come from initializers and are not met."""
    waiting, seen = [name], {name}
    for current in waiting:
        node = producers.get(current)
        if node is None:
            continue
        quantized = node.op_type == "DequantizeLinear" and node.input[0] in producers
        if quantized and node.input[1] in scales:
            return scales[node.input[1]]
        new = [source for source in node.input if source and source not in seen]
        seen.update(new)
        waiting += new
    return None


@lru_cache(maxsize=1)
def steps_of_file(path: Path) -> Mapping[str, float]:
    """Return the outputs' steps of a model file, which is read once."""
    return output_steps(onnx.load(path))


def within_one_step(
    steps: Mapping[str, float], got: Mapping[str, Array], expected: Mapping[str, Array]
) -> float:
    """Return the share of values that are at most one step apart, of the worst output."""
    worst = 1.0
    for name, step in steps.items():
        apart = np.abs(got[name].astype(np.float64) - expected[name].astype(np.float64))
        if apart.size:
            # The products before the comparison are rounded to float32.
            worst = min(worst, float(np.mean(apart <= step * (1 + 1e-5))))
    return worst
