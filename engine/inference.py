"""Types one node: runs its type rule, and carries small integer values along; `evaluation` walks
the graph.

Shape arithmetic (Shape -> Gather -> Mul -> Concat -> Reshape) is known by value long before
anything runs: integers travel as object arrays of `int` and `SymDim`, through rules of their own
(`Operator.values`) or, where an operator only moves elements (`Operator.moves`), through its
portable definition.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from engine.dtypes import DType
from engine.errors import GraphInvalid, InvalidModel
from engine.ir.graph import Array, Node
from engine.ir.types import SymDim, TensorType
from engine.ir.value_types import ValueType
from engine.ops.contexts import ComputeContext, InferContext
from engine.ops.registry import Operator

MAX_SYMBOLIC = 1024  # elements of an integer tensor that are worth knowing by value


@dataclass
class Scope:
    """What is known of the names seen so far; a body's scope looks through to the one around it."""

    types: MutableMapping[str, ValueType] = field(default_factory=dict)
    constants: MutableMapping[str, Array] = field(default_factory=dict)
    symbolic: MutableMapping[str, np.ndarray] = field(default_factory=dict)
    # What is known inside a node's bodies, by the node's id and the attribute; nodes are kept, so
    # that no other one gets the id.
    bodies: dict[tuple[int, str], tuple[Node, Scope]] = field(default_factory=dict)

    def inner(self) -> Scope:
        """Return a scope for a body: sees everything here, adds nothing here."""
        return Scope(
            ChainMap({}, self.types), ChainMap({}, self.constants), ChainMap({}, self.symbolic)
        )

    def body(self, node: Node, attribute: str) -> Scope | None:
        """Return what is known inside a body of a node seen here, None when it was not walked."""
        found = self.bodies.get((id(node), attribute))
        return None if found is None else found[1]

    def add_constant(self, name: str, value: Array) -> None:
        """Take in a fixed value with its type."""
        self.constants[name] = value
        self.types[name] = type_of(value)
        known = as_symbolic(value)
        if known is not None:
            self.symbolic[name] = known


def type_of(value: Array) -> TensorType:
    """Return the type of an array."""
    return TensorType(DType.from_numpy(value.dtype), tuple(map(int, value.shape)))


def as_symbolic(value: Array) -> np.ndarray | None:
    """Return a small integer array as an object array of Python numbers; None for another one."""
    if value.size > MAX_SYMBOLIC or value.dtype.kind not in "ib":
        return None
    return np.asarray(value).astype(object)


def infer_context(op: Operator, node: Node, scope: Scope) -> InferContext:
    """Return the context in which the rules of `op` look at a node, from what precedes it."""
    return InferContext(
        node=node,
        types=tuple(_known_type(name, node, scope) for name in node.inputs),
        attributes=op.complete(node),
        constants=tuple(scope.constants.get(name) for name in node.inputs),
        symbolic=tuple(scope.symbolic.get(name) for name in node.inputs),
        version=node.version,
    )


def infer_types(op: Operator, ctx: InferContext) -> tuple[ValueType, ...]:
    """Return one type per output of the node; whatever else a rule raises is the model's fault."""
    if op.tensors_only:
        for i, kind in enumerate(ctx.types):
            if kind is not None and not isinstance(kind, TensorType):
                ctx.fail(f"input {i} is {kind}, expected a tensor")
    try:
        types = tuple(op.infer(ctx))
    except (TypeError, ValueError, IndexError, KeyError, ArithmeticError) as error:
        node = ctx.node
        raise InvalidModel(
            f"node {node.label!r} ({node.op}): its inputs or attributes do not fit the operator: "
            f"{type(error).__name__}: {error}"
        ) from error
    if len(types) < len(ctx.node.outputs):
        ctx.fail(f"has {len(ctx.node.outputs)} outputs, the operator gives {len(types)}")
    return types[: len(ctx.node.outputs)]


def infer_values(op: Operator, ctx: InferContext) -> Sequence[np.ndarray | None]:
    """Return the outputs that are known by value as object arrays, None for the others."""
    nothing = (None,) * ctx.n_outputs
    if op.values is not None:
        return op.values(ctx)
    unknown = any(s is None and t is not None for s, t in zip(ctx.symbolic, ctx.types, strict=True))
    if unknown or not op.moves:
        return nothing
    inputs = [None if known is None else _concrete(known) for known in ctx.symbolic]
    compute_ctx = ComputeContext(
        xp=np, node=ctx.node, attributes=ctx.attributes, version=ctx.version, types=ctx.types
    )
    try:
        results = op.compute(compute_ctx, *inputs)
    except Exception:  # a definition may rely on numbers: then the value is simply not known
        return nothing
    return [None if r is None else np.asarray(r).astype(object) for r in results]


def _known_type(name: str, node: Node, scope: Scope) -> ValueType | None:
    if not name:
        return None
    found = scope.types.get(name)
    if found is None:
        raise GraphInvalid(f"node {node.label!r} reads {name!r}, which nothing before it defines")
    return found


def _concrete(known: np.ndarray) -> np.ndarray:
    flat: list[Any] = known.reshape(-1).tolist()
    if any(isinstance(v, SymDim) for v in flat):
        return known
    return known.astype(bool if flat and isinstance(flat[0], bool) else np.int64)
