"""The cases of the ONNX backend suite that the installed `onnx` package carries.

Node cases are computed by the package itself; the others lie in its `data` folder. The light
networks have weights that constants generate, inputs that count from 0 to 1 as the package's own
runner makes them, and recorded outputs.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.backend.test.loader import DATA_DIR, load_model_tests

# Our name of a suite -> what the package calls it.
SUITES = {
    "node": "node",
    "simple": "simple",
    "pytorch-converted": "pytorch-converted",
    "pytorch-operator": "pytorch-operator",
    "light": "real",
}
DataSet = tuple[list[Any], list[Any]]


@dataclass(frozen=True)
class Content:
    """What a case consists of.

    Attributes:
        model: The model file's bytes.
        inputs: Names of the inputs that a data set gives values for, in its order.
        outputs: Names of the outputs, in the order of a data set.
        data_sets: Inputs and expected outputs: arrays, lists (sequences) or None (optionals).
        rtol: Relative tolerance.
        atol: Absolute tolerance.
    """

    model: bytes
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    data_sets: tuple[DataSet, ...]
    rtol: float
    atol: float


def case_names(suite: str) -> list[str]:
    """Return the names of a suite's cases, sorted."""
    return sorted(_cases(suite))


def read_case(suite: str, name: str) -> Content:
    """Return what a case consists of."""
    case = _cases(suite)[name]
    if case.data_sets is not None:
        model, data_sets = case.model, [_as_arrays(each) for each in case.data_sets]
    elif suite == "light":
        path = Path(DATA_DIR) / "light" / Path(case.url).name
        model, data_sets = _read_light(path)
    else:
        folder = Path(case.model_dir)
        model = onnx.load(folder / "model.onnx")
        data_sets = [_read_data_set(each, model) for each in sorted(folder.glob("test_data_set_*"))]
    return Content(
        model=model.SerializeToString(),
        inputs=_fed_names(model, len(data_sets[0][0])),
        outputs=tuple(value.name for value in model.graph.output),
        data_sets=tuple(data_sets),
        rtol=case.rtol,
        atol=case.atol,
    )


@cache
def _cases(suite: str) -> Mapping[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the package computes its cases as it goes
        return {str(case.name): case for case in load_model_tests(kind=SUITES[suite])}


def _fed_names(model: onnx.ModelProto, count: int) -> tuple[str, ...]:
    """Return the inputs that values are given for: all, or those that have none in the file."""
    names = tuple(value.name for value in model.graph.input)
    if len(names) == count:
        return names
    fixed = {tensor.name for tensor in model.graph.initializer}
    return tuple(name for name in names if name not in fixed)[:count]


def _as_arrays(data_set: tuple[Sequence[Any], Sequence[Any]]) -> DataSet:
    inputs, outputs = data_set
    return [_as_array(value) for value in inputs], [_as_array(value) for value in outputs]


def _as_array(value: Any) -> Any:
    if value is None:
        return None
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    if isinstance(value, (list, tuple)):
        return [_as_array(item) for item in value]
    return np.asarray(value)


def _read_data_set(folder: Path, model: onnx.ModelProto) -> DataSet:
    return (
        _read_values(folder, "input", [value.type for value in model.graph.input]),
        _read_values(folder, "output", [value.type for value in model.graph.output]),
    )


def _read_values(folder: Path, kind: str, types: Sequence[onnx.TypeProto]) -> list[Any]:
    count = len(list(folder.glob(f"{kind}_*.pb")))
    paths = [folder / f"{kind}_{i}.pb" for i in range(count)]
    return [_read_value(path, types[i]) for i, path in enumerate(paths)]


def _read_value(path: Path, kind: onnx.TypeProto) -> Any:
    data = path.read_bytes()
    match kind.WhichOneof("value"):
        case "sequence_type":
            return numpy_helper.to_list(onnx.SequenceProto.FromString(data))
        case "optional_type":
            return numpy_helper.to_optional(onnx.OptionalProto.FromString(data))
    return numpy_helper.to_array(onnx.TensorProto.FromString(data))


def _read_light(path: Path) -> tuple[onnx.ModelProto, list[DataSet]]:
    model = onnx.load(path)
    fixed = {tensor.name for tensor in model.graph.initializer}
    inputs = [_counting(value) for value in model.graph.input if value.name not in fixed]
    outputs = [
        numpy_helper.to_array(
            onnx.TensorProto.FromString(path.with_name(f"{path.stem}_output_{i}.pb").read_bytes())
        )
        for i in range(len(model.graph.output))
    ]
    return model, [(inputs, outputs)]


def _counting(value: onnx.ValueInfoProto) -> np.ndarray:
    """Return 0 up to 1 over all elements, which is what the recorded outputs belong to."""
    dims = value.type.tensor_type.shape.dim
    shape = tuple(dim.dim_value if dim.HasField("dim_value") else 1 for dim in dims)
    count = int(np.prod(shape))
    return np.asarray(np.arange(count).reshape(shape) / count, np.float32)
