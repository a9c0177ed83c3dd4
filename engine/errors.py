"""What can go wrong in the engine, in one tree that says who is at fault.

    EngineError
    ├── InvalidModel         the file: malformed, hostile, or against the ONNX rules
    │   ├── UnsupportedOp    the file needs an operator that the engine does not have
    │   └── NotRecognised    the file is no graph of the kind that it was loaded as
    ├── ResourceLimit        the file or the call: needs more than `Limits` allow
    ├── InvalidInput         the caller: wrong feeds or fetches
    ├── DeviceUnavailable    the machine: the device is unknown, or parts of it are missing
    ├── RunFailed            the values: an operator cannot compute these inputs
    ├── RunCancelled         nobody: the caller asked the run to stop
    ├── ModelClosed          the caller: the model was closed before the call
    └── GraphInvalid         the engine itself: a pass or an importer built a wrong graph

Every class takes its message first or builds it from its facts; the facts stay readable as
attributes.
"""

from __future__ import annotations


class EngineError(Exception):
    """Anything the engine raises on purpose."""


class InvalidModel(EngineError):
    """The model file is malformed or breaks ONNX's rules; the message names the place."""


class UnsupportedOp(InvalidModel):
    """The model needs an operator, or a version or type of one, that the engine does not have."""

    def __init__(self, node: str, op: str, domain: str, opset: int, reason: str = "") -> None:
        """Name the node, its operator and the opset that the model declares for the domain."""
        self.node, self.op, self.domain, self.opset = node, op, domain, opset
        why = reason or "no such operator is registered; pass one with engine.load(..., ops=(...,))"
        name = f"{domain}.{op}" if domain else op
        super().__init__(f"node {node!r}: operator {name} at opset {opset}: {why}")
        self.reason = why

    def __reduce__(self) -> tuple[object, ...]:
        """Cross a process boundary whole: exceptions otherwise pickle their message alone."""
        return type(self), (self.node, self.op, self.domain, self.opset, self.reason)


class NotRecognised(InvalidModel):
    """The graph may be right, but has not the form that its role in a folder asks for."""


class ResourceLimit(EngineError):
    """Loading or running needs more than a limit allows."""

    def __init__(self, node: str, need: object, limit: object) -> None:
        """Name the node or stage, what it needs, and the limit that it breaks."""
        self.node, self.need, self.limit = node, need, limit
        super().__init__(f"{node}: needs {need}, the limit is {limit}; raise it in engine.Limits")

    def __reduce__(self) -> tuple[object, ...]:
        """Cross a process boundary whole."""
        return type(self), (self.node, self.need, self.limit)


class InvalidInput(EngineError):
    """Feeds or fetches do not fit the model; the message says what was expected, what came."""


class DeviceUnavailable(EngineError):
    """No device has this name, or what it needs is missing here; the message says what."""


class RunFailed(EngineError):
    """An operator failed on the values it was given."""

    def __init__(self, node: str, op: str, reason: str) -> None:
        """Name the node and its operator; `reason` is one line without a stack trace."""
        self.node, self.op, self.reason = node, op, reason
        super().__init__(f"node {node!r} ({op}) failed: {reason}")

    def __reduce__(self) -> tuple[object, ...]:
        """Cross a process boundary whole."""
        return type(self), (self.node, self.op, self.reason)


class RunCancelled(EngineError):
    """The caller cancelled the run; nothing was returned."""


class ModelClosed(EngineError):
    """The model was closed; load it again."""


class GraphInvalid(EngineError):
    """A graph breaks the rules of the IR: a fault of the engine, never of the model's author."""
