"""The three engines: a case's inputs in, its outputs out.

Each is used the way its users use it. Their packages are imported when first needed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.conformance.cases import Content
from benchmarks.conformance.compare import Mismatch
from benchmarks.conformance.ort_values import from_ort, to_ort

Runner = Callable[[Sequence[Any]], list[Any]]
THREADS = 1
ORT_NEWEST_IR = 13  # the newest file version that the installed one reads


def millrace(content: Content, device: str = "cpu") -> Runner:
    """Our engine: `engine.load`, `run`; inferred types must be what comes out."""
    import engine

    model = engine.load(content.model, device=device)

    def run(values: Sequence[Any]) -> list[Any]:
        known = {spec.name for spec in model.inputs}
        # Some files give an input a value of its own as well: then it is no input of ours.
        feeds = {n: v for n, v in zip(content.inputs, values, strict=True) if n in known}
        results = model.run(feeds)
        for spec in model.outputs:
            _check_spec(spec, results[spec.name])
        return [results[name] for name in content.outputs]

    return run


def onnxruntime(content: Content) -> Runner:
    """ONNX Runtime on its CPU provider; files of a newer version than it knows are called older."""
    import onnx
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = THREADS
    options.log_severity_level = 4
    model = onnx.ModelProto.FromString(content.model)
    model.ir_version = min(model.ir_version, ORT_NEWEST_IR)
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = {value.name for value in session.get_inputs()}
    outputs = [value.name for value in session.get_outputs()]
    kinds = [value.type for value in (*session.get_inputs(), *session.get_outputs())]
    are_numbers = all(k.startswith("tensor") and k != "tensor(string)" for k in kinds)

    def run(values: Sequence[Any]) -> list[Any]:
        feeds = {n: v for n, v in zip(content.inputs, values, strict=True) if n in names}
        if not are_numbers:
            return list(session.run(None, feeds))
        given = {name: to_ort(ort, value) for name, value in feeds.items()}
        return [from_ort(value) for value in session.run_with_ort_values(outputs, given)]

    return run


def onnx_reference(content: Content) -> Runner:
    """`onnx.reference`, the package's own definition in Python."""
    import onnx
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(onnx.ModelProto.FromString(content.model))

    def run(values: Sequence[Any]) -> list[Any]:
        results: list[Any] = evaluator.run(None, dict(zip(content.inputs, values, strict=True)))
        return results

    return run


ENGINES: dict[str, Callable[[Content], Runner]] = {
    "millrace": millrace,
    "onnxruntime": onnxruntime,
    "onnx.reference": onnx_reference,
}


def _check_spec(spec: Any, value: Any) -> None:
    """Hold what the engine told of an output, before it ran, to what came out."""
    if not isinstance(value, np.ndarray):
        return
    if getattr(spec, "dtype", None) not in (value.dtype.name, None) and value.dtype.kind != "O":
        raise Mismatch(f"output {spec.name!r}: told to be {spec.dtype}, is {value.dtype}")
    if spec.shape is None:
        return
    fits = len(spec.shape) == value.ndim and all(
        not isinstance(dim, int) or dim == size
        for dim, size in zip(spec.shape, value.shape, strict=False)
    )
    if not fits:
        raise Mismatch(f"output {spec.name!r}: told {list(spec.shape)}, is {list(value.shape)}")
