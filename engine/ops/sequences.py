"""Sequences of tensors. At run time they are lists, which are never written to once they are made.

The lists live on the host; the arrays in them stay where they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from engine.dtypes import DType
from engine.errors import ResourceLimit
from engine.ir.graph import Array
from engine.ir.types import Dim, TensorType, ceildiv
from engine.ir.value_types import (
    SequenceType,
    ValueType,
    all_varying,
    join_types,
    refreshed,
    varying_dim,
)
from engine.ir.values import CELL_BYTES, value_bytes
from engine.ops.bodies import body_of, infer_body, joined, too_many
from engine.ops.common import check_size, ints, normalize_axis, static_ints
from engine.ops.contexts import ComputeContext, InferContext
from engine.ops.registry import REQUIRED, operator

INDICES = (DType.INT32, DType.INT64)
List = list[Any]


def sequence_of(ctx: InferContext, i: int) -> SequenceType:
    """Return the type of input `i`, which must be a sequence."""
    kind = ctx.value_type(i)
    if not isinstance(kind, SequenceType):
        ctx.fail(f"input {i} is {kind}, expected a sequence")
    return kind


def check_place(ctx: InferContext, i: int) -> None:
    """Refuse a position that is no single integer."""
    if ctx.has(i) and (ctx.dtype(i) not in INDICES or ctx.type(i).rank not in (None, 0, 1)):
        ctx.fail(f"input {i} is {ctx.type(i)}, expected one int32 or int64")


def place_of(position: Array, count: int) -> int:
    """Return a position counted from the front; outside of `[-count, count)` is an error."""
    place = int(position.reshape(-1)[0])
    if not -count <= place < count:
        raise IndexError(f"position {place} in a sequence of {count}")
    return place % count


@operator("SequenceEmpty", since=11)
class SequenceEmpty:
    """A sequence of nothing."""

    attributes = {"dtype": None}
    tensors_only = False

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[ValueType]:
        """Of no element, so of any shape."""
        number = ctx.attributes["dtype"]
        dtype = DType.FLOAT32 if number is None else DType.from_onnx(number)
        return [SequenceType(TensorType(dtype), 0)]

    @staticmethod
    def compute(ctx: ComputeContext) -> Sequence[List]:
        """An empty list."""
        return [[]]


@operator("SequenceConstruct", since=11)
class SequenceConstruct:
    """The inputs as a sequence."""

    tensors_only = False

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[ValueType]:
        """What the elements have in common."""
        kinds = [ctx.value_type(i) for i in range(len(ctx.types))]
        if not kinds:
            ctx.fail("it needs at least one input")
        found = SequenceType(kinds[0], 1)
        for kind in kinds[1:]:
            found = _joined_sequence(ctx, found, SequenceType(kind, 1))
        return [SequenceType(found.element, len(kinds))]

    @staticmethod
    def compute(ctx: ComputeContext, *values: Any) -> Sequence[List]:
        """A list of the inputs."""
        return [list(values)]


@operator("SequenceAt", since=11)
class SequenceAt:
    """One element."""

    tensors_only = False

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[ValueType]:
        """What differs from element to element is not known."""
        check_place(ctx, 1)
        return [refreshed(sequence_of(ctx, 0).element)]

    @staticmethod
    def compute(ctx: ComputeContext, values: List, position: Array) -> Sequence[Any]:
        """Negative positions count from the end."""
        return [values[place_of(position, len(values))]]


@operator("SequenceInsert", since=11)
class SequenceInsert:
    """The sequence with one more tensor, at the end or in front of a position."""

    tensors_only = False

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[ValueType]:
        """One longer, of what old and new elements have in common."""
        old, new = sequence_of(ctx, 0), ctx.value_type(1)
        check_place(ctx, 2)
        wider = _joined_sequence(ctx, old, SequenceType(new, 1))
        return [SequenceType(wider.element, None if old.length is None else old.length + 1)]

    @staticmethod
    def compute(
        ctx: ComputeContext, values: List, value: Any, position: Array | None = None
    ) -> Sequence[List]:
        """Positions go from `-count` to `count`."""
        place = len(values)
        if position is not None:
            place = int(position.reshape(-1)[0])
            if not -len(values) <= place <= len(values):
                raise IndexError(f"position {place} in a sequence of {len(values)}")
        if place < 0:
            place += len(values)
        return [[*values[:place], value, *values[place:]]]


@operator("SequenceErase", since=11)
class SequenceErase:
    """The sequence without one element, the last by default."""

    tensors_only = False

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[ValueType]:
        """One shorter."""
        kind = sequence_of(ctx, 0)
        check_place(ctx, 1)
        if kind.length == 0:
            ctx.fail("the sequence is empty")
        return [SequenceType(kind.element, None if kind.length is None else kind.length - 1)]

    @staticmethod
    def compute(ctx: ComputeContext, values: List, position: Array | None = None) -> Sequence[List]:
        """Negative positions count from the end."""
        place = place_of(np.array(-1) if position is None else position, len(values))
        return [[*values[:place], *values[place + 1 :]]]


@operator("SequenceLength", since=11)
class SequenceLength:
    """How many elements there are."""

    tensors_only = False

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[ValueType]:
        """A number."""
        sequence_of(ctx, 0)
        return [TensorType(DType.INT64, ())]

    @staticmethod
    def values(ctx: InferContext) -> Sequence[np.ndarray | None]:
        """Known where the type tells it."""
        length = sequence_of(ctx, 0).length
        return [None if length is None else np.array(length, dtype=object)]

    @staticmethod
    def compute(ctx: ComputeContext, values: List) -> Sequence[Array]:
        """A scalar."""
        return [ctx.xp.asarray(len(values), dtype=np.int64)]


@operator("SplitToSequence", since=(11, 24))
class SplitToSequence:
    """Parts of a tensor along an axis: of stated sizes, all of one size but the last, or of one."""

    attributes = {"axis": 0, "keepdims": 1}
    tensors_only = False

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[ValueType]:
        """Sizes that differ are not known per element."""
        x = ctx.type(0)
        split = ctx.value(1) if ctx.has(1) else None
        length = SplitToSequence.length(ctx, x, split)
        if x.shape is None:
            return [SequenceType(x, length)]
        axis = ctx.normal_axis(ctx.attributes["axis"], len(x.shape))
        middle: tuple[Dim, ...]
        if ctx.has(1):
            middle = (SplitToSequence.part(ctx, x.shape[axis], split),)
        else:
            middle = (1,) if ctx.attributes["keepdims"] else ()
        return [
            SequenceType(x.with_shape((*x.shape[:axis], *middle, *x.shape[axis + 1 :])), length)
        ]

    @staticmethod
    def length(ctx: InferContext, x: TensorType, split: Sequence[Dim] | None) -> Dim | None:
        """How many parts there are."""
        if ctx.has(1) and ctx.type(1).rank == 1:
            sizes = ctx.shape(1)
            return sizes[0] if sizes else None
        if x.shape is None:
            return None
        size = x.shape[ctx.normal_axis(ctx.attributes["axis"], len(x.shape))]
        if not ctx.has(1):
            return size
        if ctx.type(1).rank != 0 or not split or not isinstance(split[0], int) or split[0] <= 0:
            return None
        return ceildiv(size, split[0])

    @staticmethod
    def part(ctx: InferContext, size: Dim, split: Sequence[Dim] | None) -> Dim:
        """The size of every part, a varying dim where they differ."""
        known = static_ints(split)
        if known is not None and min(known, default=1) < 0:
            ctx.fail(f"parts of sizes {list(known)}")
        if not known or len(set(known)) > 1:
            return varying_dim()
        divides = isinstance(size, int) and known[0] > 0 and size % known[0] == 0
        return known[0] if ctx.type(1).rank == 1 or divides else varying_dim()

    @staticmethod
    def compute(ctx: ComputeContext, x: Array, split: Array | None = None) -> Sequence[List]:
        """Views."""
        axis = normalize_axis(ctx.attributes["axis"], x.ndim)
        size, front = x.shape[axis], (slice(None),) * axis
        if split is None:
            _check_count(ctx, size)
            keep = ctx.attributes["keepdims"]
            places = (slice(i, i + 1) if keep else i for i in range(size))
            return [[x[(*front, place, ...)] for place in places]]
        sizes = SplitToSequence.sizes(ctx, size, split)
        ends = np.cumsum(sizes).tolist()
        return [[x[(*front, slice(e - n, e))] for n, e in zip(sizes, ends, strict=True)]]

    @staticmethod
    def sizes(ctx: ComputeContext, size: int, split: Array) -> list[int]:
        """Sizes of the parts, checked to add up."""
        stated = list(ints(split))
        if min(stated, default=0) < 0 or (split.ndim == 0 and stated[0] == 0):
            raise ValueError(f"parts of sizes {stated}")
        if split.ndim == 0:
            part = stated[0]
            _check_count(ctx, -(-size // part))
            return [min(part, size - start) for start in range(0, size, part)]
        if sum(stated) != size:
            raise ValueError(f"parts {stated} do not add up to {size}")
        return stated


@operator("ConcatFromSequence", since=11)
class ConcatFromSequence:
    """The elements one after the other along an axis, or along a new one."""

    attributes = {"axis": REQUIRED, "new_axis": 0}
    tensors_only = False

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[ValueType]:
        """Elements must agree but for the axis."""
        kind = sequence_of(ctx, 0)
        element = refreshed(kind.element)
        if not isinstance(element, TensorType):
            ctx.fail(f"its elements are {element}, expected tensors")
        if kind.length == 0:
            ctx.fail("the sequence is empty")
        if element.shape is None:
            return [element]
        length = ctx.fresh_dim("length") if kind.length is None else kind.length
        shape, is_new = element.shape, bool(ctx.attributes["new_axis"])
        axis = ctx.normal_axis(ctx.attributes["axis"], len(shape) + is_new)
        if is_new:
            return [element.with_shape((*shape[:axis], length, *shape[axis:]))]
        assert isinstance(kind.element, TensorType) and kind.element.shape is not None
        is_fixed = kind.element.shape[axis] == shape[axis]  # else it varies, and was made anew
        total = shape[axis] * length if is_fixed else ctx.fresh_dim("joined")
        return [element.with_shape((*shape[:axis], total, *shape[axis + 1 :]))]

    @staticmethod
    def compute(ctx: ComputeContext, values: List) -> Sequence[Array]:
        """A copy, checked against the limit first."""
        if not values:
            raise ValueError("the sequence is empty")
        axis, is_new = int(ctx.attributes["axis"]), bool(ctx.attributes["new_axis"])
        axis = normalize_axis(axis, values[0].ndim + is_new)
        check_size(ctx, (sum(v.size for v in values),), values[0].dtype)
        xp = np if isinstance(values[0], np.ndarray) else ctx.xp
        return [(xp.stack if is_new else xp.concatenate)(values, axis=axis)]


@operator("SequenceMap", since=17)
class SequenceMap:
    """A body applied to every element; tensors among the further inputs are the same each time."""

    attributes = {"body": REQUIRED}
    tensors_only = False

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[ValueType]:
        """As long as the first input, of what the body gives for any element."""
        body, first = body_of(ctx, "body"), sequence_of(ctx, 0)
        kinds = [ctx.value_type(i) for i in range(len(ctx.types))]
        given = [refreshed(k.element) if isinstance(k, SequenceType) else k for k in kinds]
        if len(body.outputs) < ctx.n_outputs:
            ctx.fail(f"its body has {len(body.outputs)} outputs for {ctx.n_outputs}")
        one = infer_body(ctx, body, given).types
        if ctx.hurried:
            return [SequenceType(all_varying(kind), first.length) for kind in one]
        # What the body computes anew each time differs between two looks at it.
        other = infer_body(ctx, body, given).types
        pairs = zip(one, other, strict=True)
        return [SequenceType(joined(ctx, a, b), first.length) for a, b in pairs]

    @staticmethod
    def compute(ctx: ComputeContext, values: List, *others: Any) -> Sequence[List]:
        """Element after element."""
        assert ctx.bodies is not None and ctx.check_cancel is not None and ctx.charge is not None
        for other in others:
            if isinstance(other, list) and len(other) != len(values):
                raise ValueError(f"sequences of {len(values)} and {len(other)} elements")
        if len(values) > ctx.limits.loop_iterations:
            raise too_many(ctx, len(values))
        results: list[List] = [[] for _ in ctx.attributes["body"].outputs]
        for i, value in enumerate(values):
            ctx.check_cancel()
            further = [other[i] if isinstance(other, list) else other for other in others]
            for result, part in zip(results, ctx.bodies["body"]([value, *further]), strict=True):
                ctx.charge(value_bytes(part) + CELL_BYTES)
                result.append(part)
        return results


def _joined_sequence(ctx: InferContext, a: SequenceType, b: SequenceType) -> SequenceType:
    try:
        found = join_types(a, b)
    except ValueError as error:
        ctx.fail(f"elements of different types: {error}")
    assert isinstance(found, SequenceType)
    return found


def _check_count(ctx: ComputeContext, count: int) -> None:
    """Refuse more elements than a run may hold: each is an object of its own."""
    need, limit = count * CELL_BYTES, ctx.limits.effective_run_bytes
    if need > limit:
        where = f"node {ctx.node.label!r} ({ctx.node.op})"
        raise ResourceLimit(where, f"{need} bytes", f"run_bytes={limit}")
