"""What operators with bodies share: typing a body that runs again and again, reading conditions,
and collecting what the passes give.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.errors import ResourceLimit
from engine.ir.graph import Array, Graph, Value
from engine.ir.types import Dim, SymDim, TensorType, substitute
from engine.ir.value_types import (
    OptionalType,
    SequenceType,
    ValueType,
    join_types,
    symbols_in,
    varying_dim,
)
from engine.ops.contexts import BodyFacts, ComputeContext, InferContext
from engine.transfers import holds

PATIENT_PASSES = 2  # over a body whose states' shapes change, before their shapes are given up
MOST_PASSES = 8


def body_of(ctx: InferContext, attribute: str) -> Graph:
    """Return the graph that an attribute holds."""
    body = ctx.attributes[attribute]
    if not isinstance(body, Graph):
        ctx.fail(f"attribute {attribute!r} must be a graph")
    return body


def infer_body(
    ctx: InferContext,
    body: Graph,
    given: Sequence[ValueType | None],
    fixed: Sequence[Array | None] = (),
) -> BodyFacts:
    """Type a body for inputs of these types."""
    if ctx.infer_body is None:
        ctx.fail("its body cannot be typed here")
    found: BodyFacts = ctx.infer_body(body, given, fixed)
    return found


def joined(ctx: InferContext, a: ValueType, b: ValueType, loose: Collection[str] = ()) -> ValueType:
    """`join_types`, where types that do not go together are the model's fault."""
    try:
        return join_types(a, b, loose)
    except ValueError as error:
        ctx.fail(str(error))


# --------------------------------------------------------------------- loop-carried states


@dataclass(frozen=True)
class Carried:
    """What holds in every pass over a body.

    Attributes:
        states: Types that cover the states before, between and after all passes.
        facts: What is known of the body's outputs in any pass.
        loose: Symbols that stand for another number in each pass.
    """

    states: Sequence[ValueType]
    facts: BodyFacts
    loose: frozenset[str]

    def outside(self, kinds: Sequence[ValueType]) -> list[ValueType]:
        """Return types of values of the same pass as they read behind the loop."""
        fresh = {name: varying_dim() for name in sorted(self.loose)}
        return [kind.substitute(fresh) for kind in kinds] if fresh else list(kinds)


def carried_types(
    ctx: InferContext,
    body: Graph,
    before: Sequence[ValueType | None],
    states: Sequence[ValueType],
    after: Sequence[ValueType | None],
    fixed: Sequence[Array | None] = (),
    skip: int = 0,
) -> Carried:
    """Type a body whose outputs, `skip` left out, become its states of the next pass.

    Widens the states' types until one more pass changes nothing: first dims that differ become
    symbols, then shapes that still change are given up. A widened symbol stands for another number
    in each pass.
    """
    given = [_shapeless(kind) for kind in states] if ctx.hurried else list(states)
    loose = frozenset[str]()
    known = frozenset[str]().union(*map(symbols_in, states))
    for turn in itertools.count():
        facts = infer_body(ctx, body, [*before, *given, *after], fixed)
        results = facts.types[skip : skip + len(given)]
        pairs = zip(given, results, strict=True)
        wider = [joined(ctx, a, b, loose) for a, b in pairs]
        if wider == given:
            return Carried(given, facts, loose)
        if turn == MOST_PASSES:
            ctx.fail("the types of its states do not settle")
        if turn >= PATIENT_PASSES:
            wider = [w if w == g else _shapeless(w) for w, g in zip(wider, given, strict=True)]
        given = wider
        loose = frozenset[str]().union(*map(symbols_in, given)) - known
    raise AssertionError("counting never ends")


def _shapeless(kind: ValueType) -> ValueType:
    match kind:
        case TensorType():
            return kind.with_shape(None)
        case SequenceType():
            return SequenceType(_shapeless(kind.element))
        case OptionalType():
            return OptionalType(_shapeless(kind.element))
    return kind


# --------------------------------------------------------------------- running


def as_flag(value: Array) -> bool:
    """Return the one truth value that a tensor holds."""
    if value.size != 1:
        raise ValueError(f"a condition has one element, got shape {list(value.shape)}")
    return bool(value.reshape(-1)[0])


def too_many(ctx: ComputeContext, need: object) -> ResourceLimit:
    """Return the error of a loop with more iterations than the limits allow."""
    limit = ctx.limits.loop_iterations
    where = f"node {ctx.node.label!r} ({ctx.node.op})"
    return ResourceLimit(where, f"{need} iterations", f"loop_iterations={limit}")


class Collector:
    """Takes one array per pass and stacks them in the end, counting their bytes as they come."""

    def __init__(self, ctx: ComputeContext, value: Value) -> None:
        """Collect values of a body's output."""
        self._ctx = ctx
        self._kind = value.type
        self._parts: list[Array] = []

    def add(self, part: Array) -> None:
        """Take one pass's array."""
        if self._ctx.charge is not None:
            self._ctx.charge(part.nbytes)
        self._parts.append(part)

    def stacked(
        self, bindings: Mapping[str, Dim], axis: int = 0, *, backwards: bool = False
    ) -> Array:
        """Return the arrays along a new axis; without any, an empty one of the type's shape."""
        if not self._parts:
            return self._empty(bindings, axis)
        if self._ctx.charge is not None:
            self._ctx.charge(sum(part.nbytes for part in self._parts))
        parts = self._parts[::-1] if backwards else self._parts
        xp = np if isinstance(parts[0], np.ndarray) else self._ctx.xp
        return xp.stack(parts, axis=axis)

    def _empty(self, bindings: Mapping[str, Dim], axis: int) -> Array:
        """Dims that nothing tells are 0."""
        dims = [self._size(dim, bindings) for dim in self._kind.shape or ()]
        place = axis if axis >= 0 else axis + len(dims) + 1
        dtype = self._kind.dtype.numpy
        xp = self._ctx.xp if holds(self._ctx.xp, dtype) else np
        return xp.empty((*dims[:place], 0, *dims[place:]), dtype)

    def _size(self, dim: Dim, bindings: Mapping[str, Dim]) -> int:
        known = substitute(dim, bindings)
        if isinstance(known, SymDim):
            told = self._ctx.dim_value(known) if self._ctx.dim_value is not None else None
            return max(told or 0, 0)
        return max(known, 0)


def bound_symbols(declared: Sequence[Value], values: Sequence[Any]) -> dict[str, Dim]:
    """Return the numbers that symbols in a body's input types have for these values."""
    found: dict[str, Dim] = {}
    for value, array in zip(declared, values, strict=True):
        if isinstance(value.type, TensorType) and value.type.shape is not None:
            pairs = zip(value.type.shape, array.shape, strict=False)
            found.update((str(dim), int(n)) for dim, n in pairs if isinstance(dim, SymDim))
    return found
