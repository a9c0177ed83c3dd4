"""A copy of a model that gives every value of its main graph, for comparing with other runtimes."""

from __future__ import annotations

from onnx import ValueInfoProto

from engine.frontend.onnx_importer import parse_model


def expose_values(model: bytes) -> bytes:
    """Return the model with every value as an output; malformed bytes are an `InvalidModel`."""
    proto = parse_model(model)
    known = {value.name for value in proto.graph.output}
    for node in proto.graph.node:
        for name in node.output:
            if name and name not in known:
                known.add(name)
                proto.graph.output.append(ValueInfoProto(name=name))
    data: bytes = proto.SerializeToString()
    return data
