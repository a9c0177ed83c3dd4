"""What of a model its outputs need, and a copy that holds nothing else.

Works on the file's own words and not on the IR, so that what stays is written as it came.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto

from engine.frontend.opsets import plain_domain

FunctionKey = tuple[str, str, str]


def keep_used(model: ModelProto) -> None:
    """Take out of a model, in place, what its outputs do not need: nodes, inputs, weights, notes
    on values, and functions that nobody calls any more.
    """
    graph = model.graph
    needed = _needed_names(graph)
    _keep(graph.node, lambda node: not needed.isdisjoint(node.output))
    _keep(graph.initializer, lambda tensor: tensor.name in needed)
    _keep(graph.sparse_initializer, lambda sparse: sparse.values.name in needed)
    _keep(graph.input, lambda value: value.name in needed)
    _keep(graph.value_info, lambda value: value.name in needed)
    _keep(graph.quantization_annotation, lambda note: note.tensor_name in needed)
    called = _called_functions(model)
    _keep(model.functions, lambda function: _key_of(function) in called)


def names_in(graph: GraphProto) -> set[str]:
    """Return every name of a value in a graph and the graphs within it."""
    names = {v.name for v in (*graph.input, *graph.output, *graph.value_info)}
    names.update(t.name for t in graph.initializer)
    names.update(t.values.name for t in graph.sparse_initializer)
    for node in graph.node:
        names.update(node.input, node.output)
        for body in bodies(node):
            names |= names_in(body)
    return names


def bodies(node: NodeProto) -> Iterator[GraphProto]:
    """Return the graphs that a node holds."""
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH or attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def tensors_in(model: ModelProto) -> Iterator[TensorProto]:
    """Return every tensor of a model: weights, and constants of nodes, wherever they stand."""
    yield from _graph_tensors(model.graph)
    for function in model.functions:
        for node in function.node:
            yield from _node_tensors(node)


def _graph_tensors(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield sparse.values
        yield sparse.indices
    for node in graph.node:
        yield from _node_tensors(node)


def _node_tensors(node: NodeProto) -> Iterator[TensorProto]:
    for attribute in node.attribute:
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
            yield sparse.values
            yield sparse.indices
    for body in bodies(node):
        yield from _graph_tensors(body)


def _needed_names(graph: GraphProto) -> set[str]:
    """Return the values that the outputs are computed from, themselves included."""
    makers = {name: node for node in graph.node for name in node.output if name}
    needed: set[str] = set()
    waiting = [value.name for value in graph.output]
    while waiting:
        name = waiting.pop()
        if name in needed:
            continue
        needed.add(name)
        if name in makers:
            waiting.extend(_read_by(makers[name]))
    return needed


def _read_by(node: NodeProto) -> Iterator[str]:
    """Return what a node reads: its inputs, and what graphs within it may take from outside."""
    yield from filter(None, node.input)
    for body in bodies(node):
        yield from names_in(body)


def _called_functions(model: ModelProto) -> set[FunctionKey]:
    by_key = {_key_of(function): function for function in model.functions}
    called: set[FunctionKey] = set()
    waiting = list(_calls(model.graph.node))
    while waiting:
        key = waiting.pop()
        if key in by_key and key not in called:
            called.add(key)
            waiting.extend(_calls(by_key[key].node))
    return called


def _calls(nodes: Iterable[NodeProto]) -> Iterator[FunctionKey]:
    for node in nodes:
        yield plain_domain(node.domain), node.op_type, node.overload
        for body in bodies(node):
            yield from _calls(body.node)


def _key_of(function: FunctionProto) -> FunctionKey:
    return plain_domain(function.domain), function.name, function.overload


def _keep(field: Any, is_kept: Callable[[Any], bool]) -> None:
    """Delete the messages of a repeated field that are not to be kept."""
    for i in reversed(range(len(field))):
        if not is_kept(field[i]):
            del field[i]
