"""What all exporters share: the list of networks, inputs, torch's two exporters, clean files."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

Feeds = dict[str, np.ndarray]
Axes = Mapping[str, Mapping[int, str]]  # input -> axis -> the symbol that its size is
RANDOM_NAME = re.compile(r"[0-9a-f]{32}")


@dataclass
class Export:
    """A network, and what to feed it.

    Attributes:
        model: The ONNX model.
        feeds: The inputs of each case; shapes differ between them.
        plain: Whether ONNX Runtime records its answers without optimisation: fused integer nodes
            move values by whole steps.
        external: Whether the weights are written to a file beside the model.
        asked: The model that ONNX Runtime answers for, where it cannot read this one.
    """

    model: onnx.ModelProto
    feeds: Sequence[Feeds]
    plain: bool = False
    external: bool = False
    asked: onnx.ModelProto | None = None


EXPORTS: dict[str, Callable[[], Export]] = {}


def network(make: Callable[[], Export]) -> Callable[[], Export]:
    """Put a function that exports into the list, under its own name."""
    EXPORTS[make.__name__] = make
    return make


# ---------------------------------------------------------------------- inputs


def numbers(*shape: int, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    """Return normal numbers in steps of 1/16, which compress well."""
    values = np.random.default_rng(seed).standard_normal(shape)
    return (np.round(values * 16) / 16 * scale).astype(np.float32)


def tokens(*shape: int, below: int, seed: int = 0) -> np.ndarray:
    """Return token numbers from 1 on; 0 is left to padding."""
    return np.random.default_rng(seed).integers(1, below, shape, dtype=np.int64)


def mask(rows: int, length: int, *shorter: int) -> np.ndarray:
    """Return an attention mask whose last rows end early, by so many places each."""
    result = np.ones((rows, length), np.int64)
    for row, cut in zip(range(rows - 1, -1, -1), shorter, strict=False):
        result[row, length - cut :] = 0
    return result


# ---------------------------------------------------------------------- clean files


def clean(model: onnx.ModelProto) -> onnx.ModelProto:
    """Take out what exporters write for people (stack traces, source lines, descriptions), and what
    differs between two runs: random names, the order of a set.
    """
    opsets = sorted(model.opset_import, key=lambda opset: opset.domain)
    del model.opset_import[:]
    model.opset_import.extend(opsets)
    if RANDOM_NAME.fullmatch(model.graph.name):
        model.graph.name = "converted"
    del model.metadata_props[:]
    model.doc_string = ""
    for function in model.functions:
        function.doc_string = ""
        del function.metadata_props[:]
        _clean_nodes(function.node)
    _clean_graph(model.graph)
    return model


def _clean_graph(graph: onnx.GraphProto) -> None:
    graph.doc_string = ""
    del graph.metadata_props[:]
    for value in (*graph.input, *graph.output, *graph.value_info):
        value.doc_string = ""
        del value.metadata_props[:]
    for weight in graph.initializer:
        weight.doc_string = ""
        del weight.metadata_props[:]
    _clean_nodes(graph.node)


def _clean_nodes(nodes: Iterable[onnx.NodeProto]) -> None:
    for node in nodes:
        node.doc_string = ""
        del node.metadata_props[:]
        for attribute in node.attribute:
            attribute.doc_string = ""
            if attribute.HasField("g"):
                _clean_graph(attribute.g)


def loaded(buffer: io.BytesIO) -> onnx.ModelProto:
    """Return the model that was written to memory."""
    return clean(onnx.load_model_from_string(buffer.getvalue()))


def shortened(model: onnx.ModelProto) -> onnx.ModelProto:
    """Give inner values and nodes short names: the scopes in an export's names may outweigh it."""
    graph = model.graph
    assert not any(a.HasField("g") for node in graph.node for a in node.attribute)
    kept = {value.name for value in (*graph.input, *graph.output)}
    names = {name: f"v{i}" for i, name in enumerate(_inner_names(graph)) if name not in kept}
    for i, node in enumerate(graph.node):
        node.name = f"n{i}"
        for side in (node.input, node.output):
            side[:] = [names.get(name, name) for name in side]
    for weight in graph.initializer:
        weight.name = names.get(weight.name, weight.name)
    return model


def _inner_names(graph: onnx.GraphProto) -> Iterable[str]:
    yield from (weight.name for weight in graph.initializer)
    yield from (name for node in graph.node for name in node.output if name)
