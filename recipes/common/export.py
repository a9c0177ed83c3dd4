"""Export to ONNX, and the proof that the exported file computes what torch computed."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from recipes.common.halves import store_halves

OPSET = 18
BATCH = "N"


class ExportMismatch(Exception):
    """The exported file and the torch module disagree by more than rounding."""


def export_onnx(
    model: nn.Module, example: Tensor, path: Path, outputs: tuple[str, ...], *, half: bool = False
) -> None:
    """Write `model` with input `image`, the named outputs and a batch dimension called N.

    `half` stores weights as float16 where that says the same.
    """
    model.eval()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)     # it misses torchvision
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")   # the exporter speaks of its own internals
        program = torch.onnx.export(
            model.cpu().to(memory_format=torch.contiguous_format),
            (example,),
            input_names=["image"],
            output_names=list(outputs),
            opset_version=OPSET,
            dynamic_shapes=({0: torch.export.Dim(BATCH, min=1)},),
            dynamo=True,
            optimize=True,
            verbose=False,
        )
    assert program is not None
    proto = plain(program.model_proto)
    if half:
        store_halves(proto)
    onnx.checker.check_model(proto, full_check=True)
    onnx.save(proto, path)


def plain(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Remove what the exporter notes about itself: paths, stack traces, module names."""
    for node in proto.graph.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    for values in (proto.graph.value_info, proto.graph.input, proto.graph.output):
        for value in values:
            value.ClearField("metadata_props")
    proto.graph.ClearField("metadata_props")
    proto.ClearField("metadata_props")
    proto.graph.name = "main"
    return proto


def run_onnx(
    path: Path, images: NDArray[np.float32], batch_size: int = 500
) -> dict[str, NDArray[np.float32]]:
    """Run the file with ONNX Runtime over all pictures; return every output by name."""
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    parts = [
        session.run(names, {"image": images[start : start + batch_size]})
        for start in range(0, len(images), batch_size)
    ]
    return {name: np.concatenate([part[k] for part in parts]) for k, name in enumerate(names)}


def check_agreement(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """Return the largest difference; more than float32 rounding explains is an error."""
    difference = float(np.abs(found - expected).max())
    if not np.allclose(found, expected, rtol=1e-3, atol=1e-4):
        raise ExportMismatch(f"ONNX and torch differ by up to {difference:.2e}")
    return difference
