"""Models with bodies: built in a few lines, run by the engine at two levels and by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import engine
from engine.compiler import CompileRequest, compile_model
from engine.dtypes import DType
from engine.ir.types import SymDim, TensorType, evaluate, symbols_of
from engine.ir.value_types import OptionalType, SequenceType, ValueType
from engine.loading import model_from_artifact
from tests.engine.onnx_models import ort_run

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
Typed = onnx.ValueInfoProto


def tensor(name: str, shape: Sequence[int | str | None] | None, kind: int = FLOAT) -> Typed:
    """A declared tensor."""
    return helper.make_tensor_value_info(name, kind, shape)


def untyped(*names: str) -> list[Typed]:
    """Names that declare no type."""
    return [Typed(name=name) for name in names]


def graph(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[Typed],
    outputs: Sequence[Typed],
    name: str = "body",
    **fixed: Any,
) -> onnx.GraphProto:
    """A graph; `fixed` are its initializers."""
    weights = [numpy_helper.from_array(np.asarray(v), n) for n, v in fixed.items()]
    return helper.make_graph(list(nodes), name, list(inputs), list(outputs), weights)


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[Typed],
    outputs: Sequence[Typed],
    opset: int = 21,
    **fixed: Any,
) -> bytes:
    """A whole model."""
    built = helper.make_model(
        graph(nodes, inputs, outputs, "main", **fixed),
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=10,
    )
    return built.SerializeToString()


def loads(data: bytes) -> list[engine.Model]:
    """The model as it came, and optimised."""
    artifacts = (compile_model(data, CompileRequest(level=level)) for level in (0, 2))
    return [model_from_artifact(artifact, "reference") for artifact in artifacts]


def check(
    data: bytes, feeds: Mapping[str, Any], expected: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Hold the engine, at both levels, to ONNX Runtime (or to `expected`), types included."""
    wanted = ort_run(data, feeds) if expected is None else expected
    for net in loads(data):
        found = net.run(feeds)
        bindings = bound({v.name: v.type for v in net.graph.inputs}, feeds)
        for value in net.graph.outputs:
            fits(found[value.name], value.type, bindings)
            same(found[value.name], wanted[value.name])
    return dict(found)


def bound(types: Mapping[str, ValueType], feeds: Mapping[str, Any]) -> dict[str, int]:
    """What the symbols of the inputs are."""
    return {
        str(dim): size
        for name, kind in types.items()
        if isinstance(kind, TensorType)
        for dim, size in zip(kind.shape or (), feeds[name].shape, strict=False)
        if isinstance(dim, SymDim) and dim.is_symbol
    }


def fits(value: Any, kind: ValueType, bindings: Mapping[str, int]) -> None:
    """Hold a value to its inferred type; symbols that no input binds may be anything."""
    match kind:
        case OptionalType():
            if value is not None:
                fits(value, kind.element, bindings)
        case SequenceType():
            assert isinstance(value, list)
            length = kind.length
            if length is not None and symbols_of(length) <= bindings.keys():
                assert evaluate(length, bindings) == len(value)
            for each in value:
                fits(each, kind.element, bindings)
        case TensorType():
            assert DType.from_numpy(value.dtype) is kind.dtype
            if kind.shape is not None:
                assert len(kind.shape) == value.ndim, f"{kind}, is {value.shape}"
                for dim, size in zip(kind.shape, value.shape, strict=True):
                    if symbols_of(dim) <= bindings.keys():
                        assert evaluate(dim, bindings) == size, f"{kind}, is {value.shape}"


def same(found: Any, wanted: Any) -> None:
    """Compare values of any kind."""
    if wanted is None or isinstance(wanted, list):
        assert type(found) is type(wanted)
        for one, other in zip(found or [], wanted or [], strict=True):
            same(one, other)
        return
    wanted = np.asarray(wanted)
    assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape)
    if wanted.dtype.kind == "f":
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    else:
        np.testing.assert_array_equal(found, wanted)
