"""Damages model files: bytes that know nothing of the format, and messages that say other things.

Every choice comes from one `random.Random`, so a seed number tells the whole input again.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from functools import cache
from typing import Any

from google.protobuf.message import DecodeError
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, defs

MOST_CHANGES = 4
NUMBERS = (
    *range(-3, 6),
    *(7, 8, 16, 31, 32, 33, 63, 64, 65, 99, 127, 128, 255, 256, 1000, 65536, 10**6, 10**9, 10**12),
    *(2**31 - 1, 2**31, -(2**31), 2**32, 2**40, 2**62, 2**63 - 1, -(2**63)),
)
REALS = (0.0, -0.0, 0.5, -1.0, 1e-38, 1e38, -1e38, float("inf"), float("-inf"), float("nan"))
TEXTS = (
    *("", "x", "NOTSET", "SAME_UPPER", "VALID", "linear", "cubic", "nearest", "reflect", "wrap"),
    *(
        "sum",
        "mean",
        "max",
        "LEQ",
        "Sigmoid",
        "bidirectional",
        "reverse",
        "ij,jk->ik",
        "...->",
        "->",
    ),
    *("(a+)+$", "[", "\\1", "..", "/", "\x00", "ä" * 50, "a" * 2000, "BRANCH_LEQ", "LEAF", "DCR"),
)
DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft", "my", "ai.onnx.preview.training")
ATTRIBUTES = (
    *(
        "axis",
        "axes",
        "perm",
        "to",
        "value",
        "pads",
        "group",
        "strides",
        "dilations",
        "mode",
        "body",
    ),
    *("kernel_shape", "auto_pad", "keepdims", "equation", "num_outputs", "block_size", "alpha"),
    *("then_branch", "num_scan_inputs", "hidden_size", "direction", "batch_dims", "body", "k"),
)


def mutated(model: bytes, rng: random.Random) -> bytes:
    """Return the file with a few changes."""
    if rng.random() < 0.15:
        return bytes_changed(model, rng)
    try:
        proto = ModelProto.FromString(model)
        message_changed(proto, rng)
        data: bytes = proto.SerializeToString()
    except (ValueError, TypeError, DecodeError):  # protobuf refuses to hold such a value
        return bytes_changed(model, rng)
    return bytes_changed(data, rng) if rng.random() < 0.05 else data


def bytes_changed(model: bytes, rng: random.Random) -> bytes:
    """Cut, double, overwrite, anywhere."""
    raw = bytearray(model)
    for _ in range(rng.randint(1, MOST_CHANGES)):
        start = rng.randrange(len(raw) + 1)
        match rng.randrange(5):
            case 0:
                raw[start : start + 1] = rng.randbytes(1)
            case 1:
                del raw[start : start + rng.randint(1, 60)]
            case 2:
                raw[start:start] = rng.randbytes(rng.randint(1, 10))
            case 3:
                raw[start:start] = raw[start : start + rng.randint(1, 60)]
            case 4 if rng.random() < 0.3:
                del raw[max(1, start) :]
    return bytes(raw)


def message_changed(proto: ModelProto, rng: random.Random) -> None:
    """Change what a valid message says, in up to a few places, bodies and functions included."""
    # Mostly one change: a second often hides what the first would have led to.
    for _ in range(rng.choices((1, 2, 3, 4), (6, 3, 1, 1))[0]):
        graphs = list(_graphs(proto.graph))
        graph = rng.choice(graphs)
        what = rng.random()
        if what < 0.65:
            nodes = [*graph.node, *(node for f in proto.functions for node in f.node)]
            if nodes:
                node_changed(rng.choice(nodes), graph, rng)
        elif what < 0.8:
            if graph.initializer:
                tensor_changed(rng.choice(graph.initializer), rng)
        elif what < 0.9:
            value_changed(graph, rng)
        elif what < 0.95:
            graph_changed(graph, rng)
        elif proto.opset_import:
            entry = rng.choice(proto.opset_import)
            if rng.random() < 0.7:
                entry.version = rng.randint(-1, 30)
            else:
                entry.domain = rng.choice(DOMAINS)


def node_changed(node: NodeProto, graph: GraphProto, rng: random.Random) -> None:
    """Another operator, other inputs or outputs, another attribute."""
    kinds = ("op", "input", "output", "attribute", "domain")
    match rng.choices(kinds, (20, 25, 8, 45, 2))[0]:
        case "op":
            node.op_type = rng.choice(_operators())
        case "input":
            names = _names(graph)
            if node.input and rng.random() < 0.6:
                node.input[rng.randrange(len(node.input))] = rng.choice(names)
            elif node.input and rng.random() < 0.5:
                del node.input[rng.randrange(len(node.input))]
            else:
                node.input.append(rng.choice(names))
        case "output":
            if node.output and rng.random() < 0.5:
                node.output[rng.randrange(len(node.output))] = rng.choice(_names(graph))
            elif len(node.output) > 1 and rng.random() < 0.5:
                del node.output[-1]
            else:
                node.output.append(rng.choice(("", "new", *_names(graph))))
        case "attribute":
            if node.attribute and rng.random() < 0.2:
                del node.attribute[rng.randrange(len(node.attribute))]
            elif node.attribute and rng.random() < 0.85:
                attribute_changed(rng.choice(node.attribute), rng)
            else:
                attribute_changed(node.attribute.add(name=_attribute_name(node, rng)), rng)
        case "domain":
            node.domain = rng.choice(DOMAINS)


def attribute_changed(attribute: AttributeProto, rng: random.Random) -> None:
    """Another value, more often of the same kind than of another."""
    if rng.random() < 0.04 or attribute.type == AttributeProto.UNDEFINED:
        attribute.type = rng.randint(0, 14)
    match attribute.type:
        case AttributeProto.INT:
            attribute.i = rng.choice(NUMBERS)
        case AttributeProto.FLOAT:
            attribute.f = rng.choice(REALS)
        case AttributeProto.STRING:
            attribute.s = rng.choice(TEXTS).encode()
        case AttributeProto.INTS:
            _list_changed(attribute.ints, NUMBERS, rng)
        case AttributeProto.FLOATS:
            _list_changed(attribute.floats, REALS, rng)
        case AttributeProto.STRINGS:
            _list_changed(attribute.strings, [text.encode() for text in TEXTS], rng)
        case AttributeProto.TENSOR:
            tensor_changed(attribute.t, rng)
        case _:
            attribute.name = rng.choice(ATTRIBUTES)


def tensor_changed(tensor: TensorProto, rng: random.Random) -> None:
    """Other dims, another type, other numbers, or data that lies elsewhere."""
    kinds = ("dims", "type", "data", "numbers", "external", "typed", "name")
    match rng.choices(kinds, (20, 10, 10, 50, 4, 4, 2))[0]:
        case "dims":
            _list_changed(tensor.dims, NUMBERS, rng)
        case "type":
            tensor.data_type = rng.randint(-1, 29)
        case "data":
            tensor.raw_data = bytes_changed(tensor.raw_data, rng)
        case "numbers":
            _numbers_changed(tensor, rng)
        case "external":
            tensor.data_location = TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value=rng.choice(TEXTS))
            tensor.external_data.add(key="offset", value=str(rng.choice(NUMBERS)))
        case "typed":
            tensor.ClearField("raw_data")
            _list_changed(tensor.int64_data, NUMBERS, rng)
            _list_changed(tensor.float_data, REALS, rng)
        case "name":
            tensor.name = rng.choice(("", "x", "y", "w"))


def value_changed(graph: GraphProto, rng: random.Random) -> None:
    """Another declared type or shape of an input or output."""
    values = [*graph.input, *graph.output]
    if not values:
        return
    value = rng.choice(values)
    kind = value.type.tensor_type
    match rng.choice(("dim", "dim", "type", "rank", "kind", "name")):
        case "dim" if kind.shape.dim:
            dim = rng.choice(kind.shape.dim)
            if rng.random() < 0.5:
                dim.dim_value = rng.choice(NUMBERS)
            else:
                dim.dim_param = rng.choice(("N", "M", "N+1", "", "_0", "if"))
        case "type":
            kind.elem_type = rng.randint(-1, 29)
        case "rank":
            if kind.shape.dim and rng.random() < 0.5:
                del kind.shape.dim[-1]
            else:
                kind.shape.dim.add(dim_value=rng.choice(NUMBERS))
        case "kind":
            value.type.sequence_type.elem_type.tensor_type.elem_type = rng.randint(0, 17)
        case _:
            value.name = rng.choice(_names(graph))


def graph_changed(graph: GraphProto, rng: random.Random) -> None:
    """A node, input or weight more or less, or in another place."""
    match rng.choice(("drop", "double", "move", "input", "output")):
        case "drop" if len(graph.node) > 1:
            del graph.node[rng.randrange(len(graph.node))]
        case "double" if graph.node:
            graph.node.add().CopyFrom(rng.choice(graph.node))
        case "move" if len(graph.node) > 1:
            first = NodeProto()
            first.CopyFrom(graph.node[0])
            del graph.node[0]
            graph.node.append(first)
        case "input" if graph.input:
            del graph.input[rng.randrange(len(graph.input))]
        case "output" if graph.output:
            graph.output.add(name=rng.choice(_names(graph)))


def _numbers_changed(tensor: TensorProto, rng: random.Random) -> None:
    """Overwrite elements with numbers that ask for much, or for what is not there."""
    raw = bytearray(tensor.raw_data)
    size = 4 if tensor.data_type in (TensorProto.FLOAT, TensorProto.INT32) else 8
    for _ in range(rng.randint(1, 3)):
        if len(raw) < size:
            return
        place = rng.randrange(len(raw) // size) * size
        if tensor.data_type == TensorProto.FLOAT:
            number = struct.pack("<f", rng.choice(REALS))
        else:
            number = struct.pack("<q", rng.choice(NUMBERS))[:size]
        raw[place : place + size] = number
    tensor.raw_data = bytes(raw)


def _list_changed(values: Any, pool: Any, rng: random.Random) -> None:
    if values and rng.random() < 0.6:
        values[rng.randrange(len(values))] = rng.choice(pool)
    elif values and rng.random() < 0.5:
        del values[rng.randrange(len(values))]
    else:
        values.append(rng.choice(pool))


def _graphs(graph: GraphProto) -> Iterator[GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _graphs(attribute.g)


def _names(graph: GraphProto) -> list[str]:
    found = ["", "nowhere", *(value.name for value in graph.input)]
    found += [tensor.name for tensor in graph.initializer]
    found += [name for node in graph.node for name in node.output]
    return found


def _attribute_name(node: NodeProto, rng: random.Random) -> str:
    """Return an attribute that the operator has and the node does not state, or any."""
    if rng.random() < 0.8 and defs.has(node.op_type, node.domain):
        known = sorted(defs.get_schema(node.op_type, domain=node.domain).attributes)
        if known:
            return str(rng.choice(known))
    return rng.choice(ATTRIBUTES)


@cache
def _operators() -> list[str]:
    return sorted({schema.name for schema in defs.get_all_schemas()})
