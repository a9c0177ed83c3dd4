"""Quantized networks compared segment by segment, from one rounding to bytes to the next.

End to end, a last digit of a norm or a softmax decides now and then which way a value is rounded,
and a deep network spreads that until its values are as far apart as quantization noise makes them,
whoever computes them. Here every segment begins at the reference's own bytes: what differs behind
it is the segment's own doing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

import engine
from engine.compiler import CompileRequest, compile_model
from engine.loading import model_from_artifact

Array = NDArray[np.generic]
GIVEN = "/given"  # ends the names of bytes that come from outside


@dataclass(frozen=True)
class SegmentAgreement:
    """Over all values that are rounded to bytes, each from the reference's own.

    Attributes:
        equal: Share of values that are the same.
        within: Share of values that are at most one step apart.
        worst: The least share of equal values of one tensor.
        tensor: Which one that is.
        tensors: How many there are.
    """

    equal: float
    within: float
    worst: float
    tensor: str
    tensors: int


def quantized_values(model: onnx.ModelProto) -> tuple[str, ...]:
    """Return the names of computed values that are rounded to bytes, in order.

    Raises:
        ValueError: There are none.
    """
    names = tuple(n.output[0] for n in model.graph.node if n.op_type == "QuantizeLinear")
    if not names:
        raise ValueError("no computed value of the model is quantized")
    return names


def cut_at(
    model: onnx.ModelProto, values: Mapping[str, Array], feeds: Mapping[str, Array]
) -> onnx.ModelProto:
    """Return the model with every named value as its only outputs, each read from an input of its
    own; sizes are those of the numbers given.
    """
    cut = onnx.ModelProto()
    cut.CopyFrom(model)
    graph = cut.graph
    for node in graph.node:
        for place, name in enumerate(node.input):
            if name in values:
                node.input[place] = name + GIVEN
    del graph.output[:], graph.input[:], graph.value_info[:]
    graph.output.extend(_value(name, value) for name, value in values.items())
    graph.input.extend(_value(name, value) for name, value in feeds.items())
    graph.input.extend(_value(name + GIVEN, value) for name, value in values.items())
    return cut


def _value(name: str, value: Array) -> onnx.ValueInfoProto:
    kind = helper.np_dtype_to_tensor_dtype(value.dtype)
    return helper.make_tensor_value_info(name, kind, value.shape)


def segment_agreement(
    path: Path, feeds: Mapping[str, Array], threads: int, device: str = "cpu"
) -> SegmentAgreement:
    """Run every segment of a quantized model from the reference's bytes, and compare.

    The reference runs unoptimised: it does what the model says, node by node.
    """
    model = onnx.load(path)
    names = quantized_values(model)
    artifact = compile_model(str(path), CompileRequest(outputs=names, level=0))
    with model_from_artifact(artifact, "reference") as reference:
        want = dict(reference.run(feeds))
    given = {name + GIVEN: value for name, value in want.items()}
    data = cut_at(model, want, feeds).SerializeToString()
    with engine.load(data, device=device, threads=threads) as ours:
        return compared(ours.run({**feeds, **given}), want)


def compared(got: Mapping[str, Array], want: Mapping[str, Array]) -> SegmentAgreement:
    """Count steps between bytes of the same names."""
    equal = within = total = 0
    worst, tensor = 1.0, ""
    for name, expected in want.items():
        apart = np.abs(got[name].astype(np.int64) - expected.astype(np.int64))
        if not apart.size:
            continue
        same = int((apart == 0).sum())
        equal, within, total = equal + same, within + int((apart <= 1).sum()), total + apart.size
        if same / apart.size < worst or not tensor:
            worst, tensor = same / apart.size, name
    if not total:
        return SegmentAgreement(1.0, 1.0, 1.0, tensor, len(want))
    return SegmentAgreement(equal / total, within / total, worst, tensor, len(want))
