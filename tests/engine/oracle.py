"""What one ONNX node should compute, asked of ONNX Runtime or, failing that, onnx.reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper
from onnx.reference import ReferenceEvaluator

from engine.dtypes import DType
from engine.ir.graph import Node
from engine.ops import REGISTRY
from engine.ops.registry import ComputeContext

LATEST = min(onnx.defs.onnx_opset_version(), 24)  # what ONNX Runtime 1.2x accepts without a warning
# Types that cannot cross into ONNX Runtime as arrays.
FOREIGN = frozenset({DType.BFLOAT16, DType.INT4, DType.UINT4})

ort.set_default_logger_severity(4)


class NoOracle(Exception):
    """Neither library can compute this."""


def one_node_model(
    op: str,
    inputs: Sequence[np.ndarray | None],
    attributes: Mapping[str, Any],
    version: int,
    output: DType,
) -> onnx.ModelProto:
    """Return a model of a single node whose inputs are graph inputs of unknown dims."""
    names = [f"x{i}" if x is not None else "" for i, x in enumerate(inputs)]
    values = [
        helper.make_tensor_value_info(name, DType.from_numpy(x.dtype).onnx, [None] * x.ndim)
        for name, x in zip(names, inputs, strict=True)
        if x is not None
    ]
    result = helper.make_tensor_value_info("y", output.onnx, None)
    node = helper.make_node(op, names, ["y"], **attributes)
    graph = helper.make_graph([node], "one", values, [result])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)], ir_version=10)


def expected(
    op: str,
    inputs: Sequence[np.ndarray | None],
    attributes: Mapping[str, Any],
    version: int,
    output: DType,
) -> np.ndarray:
    """Return what the libraries say; `NoOracle` when neither knows."""
    model = one_node_model(op, inputs, attributes, version, output)
    feeds = {f"x{i}": x for i, x in enumerate(inputs) if x is not None}
    types = {DType.from_numpy(x.dtype) for x in feeds.values()} | {output}
    if not types & FOREIGN:
        try:
            session = ort.InferenceSession(
                model.SerializeToString(), providers=["CPUExecutionProvider"]
            )
            return session.run(None, feeds)[0]
        except Exception:
            pass  # no kernel for these types
    try:
        with np.errstate(all="ignore"):
            return np.asarray(ReferenceEvaluator(model).run(None, feeds)[0])
    except Exception as error:
        raise NoOracle(str(error)) from error


def computed(
    op: str, inputs: Sequence[np.ndarray | None], attributes: Mapping[str, Any], version: int
) -> np.ndarray:
    """Return what the engine's own definition computes."""
    names = tuple(f"x{i}" if x is not None else "" for i, x in enumerate(inputs))
    node = Node(op, names, ("y",), attributes, version=version, name="one")
    operator = REGISTRY.find(node)
    ctx = ComputeContext(np, node, operator.complete(node), version)
    with np.errstate(all="ignore"):
        (result,) = operator.kernel(ctx)(*inputs)
    return result
