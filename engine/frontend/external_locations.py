"""Which other files a model's tensors lie in, read from the model file alone.

Who copies a model has to copy these as well: PyTorch's exporter writes every model as two files.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from onnx import AttributeProto, GraphProto, ModelProto, TensorProto

from engine.errors import InvalidModel
from engine.frontend.onnx_importer import parse_model
from engine.frontend.safety import opened_model, read_whole, safe_components
from engine.frontend.wire import FileSource, outline
from engine.limits import Limits


def external_locations(path: Path, limits: Limits) -> tuple[str, ...]:
    """Return the files that the tensors of a model file lie in, as `external_data_files`."""
    with opened_model(path, limits.model_bytes) as (descriptor, size):
        cut = outline(FileSource(descriptor, size))
        data = cut.rest if cut else read_whole(descriptor, size, path.name)
    found = set()
    for tensor in _tensors_of_model(parse_model(data), limits.nesting):
        if tensor.data_location == TensorProto.EXTERNAL:
            location = next((e.value for e in tensor.external_data if e.key == "location"), "")
            found.add("/".join(safe_components(f"tensor {tensor.name!r}", location)))
    return tuple(sorted(found))


def _tensors_of_model(model: ModelProto, depth: int) -> Iterator[TensorProto]:
    yield from _tensors_of_graph(model.graph, depth)
    for function in model.functions:
        for node in function.node:
            yield from _tensors_of_attributes(node.attribute, depth)


def _tensors_of_graph(graph: GraphProto, depth: int) -> Iterator[TensorProto]:
    if depth < 0:
        raise InvalidModel("graphs nest too deeply")
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        yield from _tensors_of_attributes(node.attribute, depth)


def _tensors_of_attributes(found: Iterable[AttributeProto], depth: int) -> Iterator[TensorProto]:
    for attribute in found:
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        if attribute.HasField("sparse_tensor"):
            yield from (attribute.sparse_tensor.values, attribute.sparse_tensor.indices)
        if attribute.HasField("g"):
            yield from _tensors_of_graph(attribute.g, depth - 1)
        for graph in attribute.graphs:
            yield from _tensors_of_graph(graph, depth - 1)
