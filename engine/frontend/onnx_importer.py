"""ONNX in, typed graph out.

Every malformed file is an `InvalidModel` that says what is wrong with it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # ships no types
from onnx import ModelProto

from engine.errors import InvalidModel, ResourceLimit
from engine.evaluation import evaluate_graph
from engine.frontend.graph_reader import GraphReader
from engine.frontend.opsets import opset_versions
from engine.frontend.safety import ExternalData, opened_model, read_whole
from engine.frontend.shared_types import check_shared_types
from engine.frontend.tensors import check_text
from engine.frontend.value_types import UNTYPED
from engine.frontend.wire import FileSource, MemorySource, outline
from engine.ir.graph import Graph
from engine.ir.types import TensorType
from engine.ir.value_types import covers
from engine.limits import Deadline, Limits
from engine.ops.registry import Registry


def import_model(
    source: str | os.PathLike[str] | bytes,
    *,
    limits: Limits,
    registry: Registry,
    base_dir: Path | None = None,
    deadline: Deadline | None = None,
) -> Graph:
    """Read an ONNX model and return its typed graph; see `read_model`."""
    return read_model(
        source, limits=limits, registry=registry, base_dir=base_dir, deadline=deadline
    ).graph


class Imported(NamedTuple):
    """A typed graph, and the other files that its weights came from (`ExternalData.files`)."""

    graph: Graph
    external: dict[str, tuple[int, ...]]


def read_model(
    source: str | os.PathLike[str] | bytes,
    *,
    limits: Limits,
    registry: Registry,
    base_dir: Path | None = None,
    deadline: Deadline | None = None,
) -> Imported:
    """Read an ONNX model from a path or from bytes.

    Args:
        source: A path, or the file's bytes.
        limits: Bounds on bytes, nodes, nesting and time.
        registry: Where operators are looked up.
        base_dir: Folder of external data; by default the folder of a path, and none for bytes.
        deadline: When loading must be over; by default `limits.load_s` from now.
    """
    deadline = deadline or Deadline(limits.load_s)
    if isinstance(source, (bytes, bytearray, memoryview)):
        data = bytes(source)
        if len(data) > limits.model_bytes:
            raise ResourceLimit("model", f"{len(data)} bytes", f"model_bytes={limits.model_bytes}")
        cut = outline(MemorySource(data))
    else:
        path = Path(source)
        with opened_model(path, limits.model_bytes) as (descriptor, size):
            cut = outline(FileSource(descriptor, size))
            data = b"" if cut else read_whole(descriptor, size, path.name)
        base_dir = base_dir or path.parent
    model = parse_model(cut.rest if cut else data)
    external = ExternalData(base_dir, limits.model_bytes)
    try:
        reader = GraphReader(
            functions=model.functions,
            opsets=opset_versions(model),
            limits=limits,
            external=external,
            deadline=deadline,
            raw=cut.raw if cut else {},
        )
        graph = reader.read_main(model.graph)
        metadata = read_metadata(model)
    except UnicodeDecodeError as error:  # as older protobuf libraries tell it
        raise InvalidModel(f"the model holds text that is not UTF-8: {error.reason}") from error
    typed = evaluate_graph(graph, registry, limits=limits, deadline=deadline).graph
    check_declared(graph, typed)
    check_shared_types(typed)
    return Imported(typed.replace(metadata=metadata), external.files)


def parse_model(data: bytes) -> ModelProto:
    """Parse the protobuf and check that this is a model of a version that we know."""
    try:
        model: ModelProto = ModelProto.FromString(data)
    except (DecodeError, RecursionError, ValueError) as error:
        raise InvalidModel(f"not an ONNX file: {error}") from error
    if not model.HasField("graph"):
        raise InvalidModel("not an ONNX model: it has no graph")
    if not 1 <= model.ir_version <= onnx.IR_VERSION:
        raise InvalidModel(f"IR version {model.ir_version}; known are 1 to {onnx.IR_VERSION}")
    return model


def read_metadata(model: ModelProto) -> dict[str, str]:
    """Return the model's free-text metadata, and who made it, under keys of their own."""
    about = {
        "producer_name": model.producer_name,
        "producer_version": model.producer_version,
        "domain": model.domain,
        "model_version": str(model.model_version) if model.model_version else "",
        "description": model.doc_string,
        "graph_name": model.graph.name,
    }
    metadata = {key: text for key, text in about.items() if text}
    metadata.update((entry.key, entry.value) for entry in model.metadata_props)
    check_text(*metadata, *metadata.values())
    return metadata


def check_declared(declared: Graph, inferred: Graph) -> None:
    """Refuse outputs whose declared element type is not what the graph computes."""
    for told, found in zip(declared.outputs, inferred.outputs, strict=True):
        if told.type is UNTYPED or covers(told.type, found.type):
            continue
        kinds = told.type, found.type
        both_tensors = all(isinstance(kind, TensorType) for kind in kinds)
        declared_kind, computed = (k.dtype if both_tensors else k for k in kinds)
        raise InvalidModel(
            f"output {told.name!r} is declared {declared_kind}, the graph computes {computed}"
        )
