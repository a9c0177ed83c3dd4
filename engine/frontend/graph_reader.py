"""Reads GraphProto into the IR: values, nodes, bodies, and functions, which are expanded where they
are called.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from onnx import AttributeProto, FunctionProto, GraphProto, NodeProto, TensorProto, ValueInfoProto

from engine.errors import InvalidModel, ResourceLimit
from engine.frontend.attributes import AttributeReader, constant_value
from engine.frontend.opsets import plain_domain, read_opsets
from engine.frontend.order import sort_nodes
from engine.frontend.safety import ExternalData
from engine.frontend.schema import check_node
from engine.frontend.tensors import check_text, read_sparse_tensor, read_tensor
from engine.frontend.value_types import DimNames, read_type, read_value
from engine.ir.graph import Attribute, Graph, Node, Value
from engine.limits import Deadline, Limits

FunctionKey = tuple[str, str, str]
FIRST_IDENTITY = 16  # the opset from which Identity takes values of every kind


@dataclass(frozen=True)
class _Scope:
    """What names and attributes mean at one place: in the main graph, a body, or a function's
    expansion.
    """

    opsets: Mapping[str, int]
    outer: frozenset[str] = frozenset()
    depth: int = 0
    names: Mapping[str, str] = field(default_factory=dict)  # a function's names -> the caller's
    prefix: str = ""  # of a function's other names
    attributes: Mapping[str, _Argument] = field(default_factory=dict)
    calls: tuple[FunctionKey, ...] = ()

    def name(self, name: str) -> str:
        """Return the name that a value has in the graph being built."""
        return self.names.get(name, self.prefix + name) if name else name


@dataclass(frozen=True)
class _Argument:
    """An attribute and where it was written: a graph that it holds uses the names of that place."""

    proto: AttributeProto
    scope: _Scope | None = None


@dataclass
class _Building:
    """A graph while its nodes are read."""

    nodes: list[Node] = field(default_factory=list)
    constants: dict[str, np.ndarray] = field(default_factory=dict)


class GraphReader:
    """Reads the graphs of one model; counts nodes and bytes over all of them."""

    def __init__(
        self,
        functions: Iterable[FunctionProto],
        opsets: Mapping[str, int],
        limits: Limits,
        external: ExternalData,
        deadline: Deadline,
        raw: Mapping[int, np.ndarray] | None = None,
    ) -> None:
        """Prepare; `raw` are bytes of the main graph's initializers, by number, that were taken out
        of them.
        """
        self._functions: dict[FunctionKey, FunctionProto] = {}
        for function in functions:
            check_text(function.name, function.domain, *function.input, *function.output)
            key = (plain_domain(function.domain), function.name, function.overload)
            if key in self._functions:
                raise InvalidModel(f"function {key[0]}.{key[1]} is defined twice")
            self._functions[key] = function
        self._opsets = opsets
        self._limits = limits
        self._external = external
        self._deadline = deadline
        self._raw = raw or {}
        self._dims = DimNames()
        self._node_count = 0
        self._prefixes: set[str] = set()  # nodes may share a name, what functions compute may not

    def read_main(self, proto: GraphProto) -> Graph:
        """Read the model's graph; types are only those declared, inference comes later."""
        graph = self._read_graph(proto, _Scope(self._opsets))
        if not graph.outputs:
            raise InvalidModel(f"graph {graph.name!r} has no outputs")
        return graph

    def _read_graph(self, proto: GraphProto, scope: _Scope) -> Graph:
        check_text(proto.name)
        if scope.depth > self._limits.nesting:
            raise ResourceLimit(
                f"graph {proto.name!r}", f"nesting {scope.depth}", f"nesting={self._limits.nesting}"
            )
        scope = _without_hiding(proto, scope)
        raw = self._raw if scope.depth == 0 else {}
        initializers = self._read_initializers(proto, scope, raw)
        inputs = [
            self._value(v, scope, may_be_untyped=scope.depth > 0)
            for v in proto.input
            if scope.name(v.name) not in initializers
        ]
        _check_unique([v.name for v in inputs], f"input of graph {proto.name!r}")
        own = frozenset({*(v.name for v in inputs), *initializers})
        building = _Building()
        known = scope.outer | own | {scope.name(n) for node in proto.node for n in node.output}
        self._read_nodes(proto.node, replace(scope, outer=known), building)
        if clash := own & building.constants.keys():
            raise InvalidModel(f"{min(clash)!r} is defined twice in graph {proto.name!r}")
        available = scope.outer | own | building.constants.keys()
        nodes = sort_nodes(building.nodes, available, proto.name)
        outputs = [self._value(v, scope, may_be_untyped=True) for v in proto.output]
        if scope.depth == 0:  # outputs of a body are told by their place, not by their name
            _check_unique([v.name for v in outputs], f"output of graph {proto.name!r}")
        self._check_outputs(outputs, available | _produced(nodes), proto.name)
        return Graph(
            name=proto.name,
            inputs=tuple(inputs),
            outputs=tuple(outputs),
            nodes=nodes,
            initializers=initializers,
            constants=building.constants,
        )

    def _value(self, proto: ValueInfoProto, scope: _Scope, *, may_be_untyped: bool) -> Value:
        value = read_value(proto, self._dims, may_be_untyped=may_be_untyped)
        return Value(scope.name(value.name), value.type)

    def _check_outputs(self, outputs: Sequence[Value], known: frozenset[str], graph: str) -> None:
        for value in outputs:
            if value.name not in known:
                raise InvalidModel(
                    f"output {value.name!r} of graph {graph!r} is computed by no node"
                )

    def _read_initializers(
        self, proto: GraphProto, scope: _Scope, raw: Mapping[int, np.ndarray]
    ) -> dict[str, np.ndarray]:
        found: dict[str, np.ndarray] = {}
        for number, tensor in enumerate(proto.initializer):
            check_text(tensor.name)
            self._deadline.check(f"initializer {tensor.name!r}")
            value = self._tensor(tensor, raw.get(number))
            self._add_initializer(found, scope.name(tensor.name), value, proto.name)
        for sparse in proto.sparse_initializer:
            array = read_sparse_tensor(sparse, self._external, self._limits.model_bytes)
            self._add_initializer(found, scope.name(sparse.values.name), array, proto.name)
        return found

    @staticmethod
    def _add_initializer(
        found: dict[str, np.ndarray], name: str, array: np.ndarray, graph: str
    ) -> None:
        if not name:
            raise InvalidModel(f"an initializer of graph {graph!r} has no name")
        if name in found:
            raise InvalidModel(f"initializer {name!r} of graph {graph!r} is given twice")
        found[name] = array

    def _tensor(self, proto: TensorProto, raw: np.ndarray | None = None) -> np.ndarray:
        return read_tensor(proto, self._external, self._limits.model_bytes, raw)

    def _read_nodes(self, protos: Iterable[NodeProto], scope: _Scope, into: _Building) -> None:
        for proto in protos:
            self._node_count += 1
            if self._node_count > self._limits.nodes:
                raise ResourceLimit(
                    "graph", f"more than {self._limits.nodes} nodes", f"nodes={self._limits.nodes}"
                )
            self._deadline.check(f"node {proto.name!r}")
            self._read_node(proto, scope, into)

    def _read_node(self, proto: NodeProto, scope: _Scope, into: _Building) -> None:
        check_text(proto.name, proto.op_type, proto.domain, *proto.input, *proto.output)
        domain = plain_domain(proto.domain)
        label = scope.prefix + (proto.name or f"{proto.op_type}_{self._node_count - 1}")
        function = self._functions.get((domain, proto.op_type, proto.overload))
        if function is not None:
            self._expand(proto, function, label, scope, into)
            return
        version = scope.opsets.get(domain)
        if version is None:
            raise InvalidModel(
                f"node {label!r} ({proto.op_type}): the model imports no opset of domain {domain!r}"
            )
        check_node(proto, label, version, domain)
        attributes = self._read_attributes(proto, label, scope)
        if proto.op_type == "Constant" and domain == "":
            self._add_constant(proto, attributes, label, scope, into)
            return
        node = Node(
            op=proto.op_type,
            inputs=tuple(map(scope.name, proto.input)),
            outputs=tuple(map(scope.name, proto.output)),
            attributes=attributes,
            domain=domain,
            version=version,
            name=label,
        )
        if not any(node.outputs):
            raise InvalidModel(f"node {label!r} ({node.op}) has no outputs")
        into.nodes.append(node)

    def _add_constant(
        self,
        proto: NodeProto,
        attributes: Mapping[str, Attribute],
        label: str,
        scope: _Scope,
        into: _Building,
    ) -> None:
        name = scope.name(proto.output[0])
        if not name or name in into.constants:
            raise InvalidModel(f"node {label!r} (Constant) defines {name!r} a second time")
        into.constants[name] = constant_value(attributes, f"node {label!r}")

    def _read_attributes(self, proto: NodeProto, label: str, scope: _Scope) -> dict[str, Attribute]:
        found: dict[str, Attribute] = {}
        for attribute in proto.attribute:
            check_text(attribute.name, attribute.ref_attr_name)
            argument = _resolve(attribute, scope)
            if argument is not None:
                own = replace(argument.scope or scope, depth=scope.depth + 1, outer=scope.outer)
                reader = self._attribute_reader(own, label)
                found[attribute.name] = reader.read(argument.proto, f"node {label!r}")
        return found

    def _attribute_reader(self, scope: _Scope, label: str) -> AttributeReader:
        return AttributeReader(
            self._tensor,
            lambda sparse: read_sparse_tensor(sparse, self._external, self._limits.model_bytes),
            lambda graph: self._read_graph(graph, scope),
            lambda kind: read_type(kind, label, self._dims),
        )

    def _expand(
        self, call: NodeProto, function: FunctionProto, label: str, scope: _Scope, into: _Building
    ) -> None:
        """Read a function's nodes in place of the node that calls it."""
        key = (plain_domain(function.domain), function.name, function.overload)
        if key in scope.calls:
            raise InvalidModel(f"function {key[0]}.{key[1]} calls itself")
        if len(scope.calls) >= self._limits.nesting:
            raise ResourceLimit(
                f"node {label!r}",
                f"{len(scope.calls) + 1} nested calls",
                f"nesting={self._limits.nesting}",
            )
        if len(call.input) > len(function.input) or len(call.output) > len(function.output):
            raise InvalidModel(
                f"node {label!r}: more inputs or outputs than function {key[1]!r} has"
            )
        inside = _Scope(
            opsets=_function_opsets(function, scope.opsets),
            depth=scope.depth,
            names=self._function_names(call, function, scope),
            prefix=self._free_prefix(label),
            attributes=_arguments(call, function, scope),
            calls=(*scope.calls, key),
        )
        into.nodes.extend(_handed_through(call, function, scope, inside, label))
        own = {inside.name(name) for node in function.node for name in node.output}
        self._read_nodes(function.node, replace(inside, outer=scope.outer | own), into)

    @staticmethod
    def _function_names(call: NodeProto, function: FunctionProto, scope: _Scope) -> dict[str, str]:
        names = dict.fromkeys(function.input, "")
        names.update(
            (formal, scope.name(actual))
            for formal, actual in zip(function.input, call.input, strict=False)
        )
        for formal, actual in zip(function.output, call.output, strict=False):
            if actual and formal not in function.input:
                names[formal] = scope.name(actual)
        return names

    def _free_prefix(self, label: str) -> str:
        while label in self._prefixes:
            label += "'"
        self._prefixes.add(label)
        return f"{label}/"


def _without_hiding(proto: GraphProto, scope: _Scope) -> _Scope:
    """Give a body's values other names where they would hide values around it."""
    defined = [v.name for v in proto.input]
    defined += [t.name for t in proto.initializer]
    defined += [name for node in proto.node for name in node.output]
    check_text(*defined)
    names = dict(scope.names)
    for name in defined:
        clean = scope.name(name)
        if clean in scope.outer:
            while clean in scope.outer:
                clean += "'"
            names[name] = clean
    return replace(scope, names=names)


def _resolve(attribute: AttributeProto, scope: _Scope) -> _Argument | None:
    """Return the attribute that a reference inside a function means; None when the caller left it
    out.
    """
    if not attribute.ref_attr_name:
        return _Argument(attribute)
    return scope.attributes.get(attribute.ref_attr_name)


def _arguments(call: NodeProto, function: FunctionProto, scope: _Scope) -> dict[str, _Argument]:
    values = {default.name: _Argument(default) for default in function.attribute_proto}
    for attribute in call.attribute:
        resolved = _resolve(attribute, scope)
        if resolved is not None:
            values[attribute.name] = _Argument(resolved.proto, resolved.scope or scope)
    return values


def _handed_through(
    call: NodeProto, function: FunctionProto, scope: _Scope, inside: _Scope, label: str
) -> Iterator[Node]:
    """Yield what gives a call's outputs that the function takes unchanged from its inputs."""
    for formal, actual in zip(function.output, call.output, strict=False):
        if actual and formal in function.input:
            source = inside.name(formal)
            if not source:
                raise InvalidModel(
                    f"node {label!r}: it returns its input {formal!r}, left out here"
                )
            version = scope.opsets.get("", FIRST_IDENTITY)
            yield Node("Identity", (source,), (scope.name(actual),), version=version, name=label)


def _function_opsets(function: FunctionProto, outer: Mapping[str, int]) -> dict[str, int]:
    return {**outer, **read_opsets(function.opset_import)}


def _produced(nodes: Iterable[Node]) -> frozenset[str]:
    return frozenset(name for node in nodes for name in node.outputs if name)


def _check_unique(names: Sequence[str], what: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise InvalidModel(f"{what}: {name!r} is there twice")
        seen.add(name)
