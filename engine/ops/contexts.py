"""What an operator's rules are given: `InferContext` for types, `ComputeContext` for values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np

from engine.dtypes import DType
from engine.errors import InvalidModel, UnsupportedOp
from engine.ir.graph import Array, Node
from engine.ir.types import Dim, Shape, SymDim, TensorType, fresh_symbol
from engine.ir.value_types import ValueType
from engine.limits import MAX_RANK, Limits

BodyInference = Callable[..., "BodyFacts"]  # (body, types of its inputs, fixed values of them)
BodyRun = Callable[[Sequence[Array]], Sequence[Array]]


@dataclass(frozen=True)
class BodyFacts:
    """What is known of a body's outputs: their types, and their values where those are fixed."""

    types: Sequence[ValueType]
    constants: Sequence[Array | None]


@dataclass(frozen=True)
class InferContext:
    """What `infer`, `values` and `flops` may look at.

    Attributes:
        node: The node.
        types: The type of every input; None when the input is absent.
        attributes: Stated attributes over the operator's defaults.
        constants: Fixed values of inputs; None where the value is not fixed or the input is absent.
        symbolic: Integer inputs known by value, as object arrays of `int` and `SymDim`; None
            elsewhere. Fixed small integer inputs are among them, so a rule need not look at
            `constants` too.
        version: The opset that the model declares for the operator's domain.
        infer_body: Types a body graph's outputs from its inputs' types (None keeps what the body
            declares) and, if given, from fixed values of some inputs (None for the others). Of
            several calls the last one counts: it decides what the body looks like from now on.
        hurried: Whether bodies in bodies have been typed so often already that one look at each
            has to do: otherwise, time would grow exponentially with their depth.
    """

    node: Node
    types: Sequence[ValueType | None]
    attributes: Mapping[str, Any]
    constants: Sequence[Array | None]
    symbolic: Sequence[np.ndarray | None]
    version: int
    infer_body: BodyInference | None = None
    hurried: bool = False

    @property
    def n_outputs(self) -> int:
        """How many outputs the node names (absent ones in between included)."""
        return len(self.node.outputs)

    def has(self, i: int) -> bool:
        """Whether input `i` is present."""
        return i < len(self.types) and self.types[i] is not None

    def type(self, i: int) -> TensorType:
        """Return the type of input `i`; an absent input, or no tensor, is an `InvalidModel`."""
        kind = self.value_type(i)
        if not isinstance(kind, TensorType):
            self.fail(f"input {i} is {kind}, expected a tensor")
        return kind

    def value_type(self, i: int) -> ValueType:
        """Return the type of input `i`, of whatever kind; an absent input is an `InvalidModel`."""
        kind = self.types[i] if i < len(self.types) else None
        if kind is None:
            self.fail(f"input {i} is required")
        return kind

    def dtype(self, i: int = 0) -> DType:
        """Return the element type of input `i`."""
        return self.type(i).dtype

    def shape(self, i: int = 0) -> Shape | None:
        """Return the shape of input `i`, None when its rank is unknown."""
        return self.type(i).shape

    def constant(self, i: int) -> Array | None:
        """Return the fixed value of input `i`, or None when absent or not fixed."""
        return self.constants[i] if i < len(self.constants) else None

    def value(self, i: int) -> tuple[Dim, ...] | None:
        """Return the integers of input `i`, flat and maybe symbolic, or None when not known."""
        known = self.symbolic[i] if i < len(self.symbolic) else None
        return None if known is None else tuple(known.reshape(-1).tolist())

    def fresh_dim(self, hint: str = "d") -> SymDim:
        """Return a new symbol for a size that only running can tell."""
        return fresh_symbol(hint)

    def fresh_dims(self, count: int, hint: str = "d") -> tuple[SymDim, ...]:
        """Return new symbols for a shape of `count` dims; more than numpy has is an `InvalidModel`.

        A rank that comes out of a file may be any number.
        """
        if count > MAX_RANK:
            self.fail(f"a shape of {count} dims; there may be {MAX_RANK}")
        return tuple(self.fresh_dim(hint) for _ in range(count))

    def normal_axis(self, axis: int, rank: int) -> int:
        """Return `axis` counted from the front; out of range is an `InvalidModel`."""
        if not -rank <= axis < rank:
            self.fail(f"axis {axis} is outside of the {rank} axes there are")
        return axis % rank

    def fail(self, why: str) -> NoReturn:
        """Raise `InvalidModel`, naming the node."""
        raise InvalidModel(f"node {self.node.label!r} ({self.node.op}): {why}")

    def unsupported(self, why: str) -> NoReturn:
        """Raise `UnsupportedOp`, naming the node: right by ONNX, but not done here."""
        node = self.node
        raise UnsupportedOp(node.label, node.op, node.domain, self.version, why)


@dataclass(frozen=True)
class ComputeContext:
    """What `compute` and `bind` may look at. Made once per node when a plan is built, not once per
    call.

    Attributes:
        xp: The array namespace: numpy, or cupy on a GPU.
        node: The node.
        attributes: Stated attributes over the operator's defaults.
        version: The opset that the model declares for the operator's domain.
        types: Types of the inputs, None when absent. Empty when a node runs outside of a typed
            graph.
        outputs: Types of the outputs. Empty likewise.
        constants: Fixed values of inputs on the device, None elsewhere. Empty likewise.
        limits: Bounds of the run.
        bodies: Runs the graph held by an attribute: inputs -> outputs, captured names already
            provided.
        check_cancel: Raises when the run was cancelled. For nodes with bodies, which call it in
            every pass; other nodes run to their end.
        charge: Counts bytes that a node with bodies collects while it runs; raises `ResourceLimit`.
        dim_value: The number that a dim of the node's types has in this run, None where its inputs
            do not tell. For nodes with bodies.
    """

    xp: Any
    node: Node
    attributes: Mapping[str, Any]
    version: int
    types: Sequence[ValueType | None] = ()
    outputs: Sequence[ValueType] = ()
    constants: Sequence[Array | None] = ()
    limits: Limits = field(default_factory=Limits)
    bodies: Mapping[str, BodyRun] | None = None
    check_cancel: Callable[[], None] | None = None
    charge: Callable[[int], None] | None = None
    dim_value: Callable[[Dim], int | None] | None = None

    @property
    def n_outputs(self) -> int:
        """How many outputs the node names (absent ones in between included)."""
        return len(self.node.outputs)

    def constant(self, i: int) -> Array | None:
        """Return the fixed value of input `i`, or None when absent or not fixed."""
        return self.constants[i] if i < len(self.constants) else None
