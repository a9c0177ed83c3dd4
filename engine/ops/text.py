"""Operators over strings: StringNormalizer, StringSplit, StringConcat, RegexFullMatch.

Strings live on the host only, so these compute on numpy arrays of object on every device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from engine.dtypes import DType
from engine.errors import ResourceLimit
from engine.ir.types import Dim, TensorType, broadcast_shapes
from engine.ops.common import Array, check_size
from engine.ops.contexts import ComputeContext, InferContext
from engine.ops.cores.regex import Regex, TooMuchWork
from engine.ops.registry import operator
from engine.ops.row_rules import follow
from engine.ops.rows import RowContext, RowState, broadcasting, mixed

CASES: dict[str, Callable[[str], str]] = {"LOWER": str.lower, "UPPER": str.upper, "NONE": str}
STRING_BYTES = 64  # about what a small string takes beside its place in the array


def check_strings(ctx: InferContext, *inputs: int) -> None:
    """Refuse inputs that hold anything but strings."""
    for i in inputs:
        if ctx.dtype(i) is not DType.STRING:
            ctx.fail(f"input {i} must hold strings, it is {ctx.type(i)}")


def string_array(values: Sequence[object], shape: tuple[int, ...]) -> np.ndarray:
    """Return strings as an array of a shape; numpy must not look inside of them."""
    found = np.empty(len(values), object)
    found[:] = values
    return found.reshape(shape)


@operator("StringNormalizer", since=10)
class StringNormalizer:
    """Drops stop words and changes the case of the others.

    `locale` changes nothing: case follows Unicode, the same on every machine.
    """

    attributes = {
        "case_change_action": "NONE",
        "is_case_sensitive": 0,
        "locale": "",
        "stopwords": (),
    }
    host = True

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """[C] or [1, C], with C as only running tells where there are stop words."""
        check_strings(ctx, 0)
        if ctx.attributes["case_change_action"] not in CASES:
            action = ctx.attributes["case_change_action"]
            ctx.fail(f"case_change_action is {action!r}; expected one of {', '.join(CASES)}")
        shape = ctx.shape(0)
        if shape is None:
            return [ctx.type(0)]
        is_row = len(shape) == 1 or (
            len(shape) == 2 and (shape[0] == 1 or not _is_number(shape[0]))
        )
        if not is_row:
            ctx.fail(f"expected strings [C] or [1, C], got {ctx.type(0)}")
        # An empty input becomes one empty string, so its size is open even without stop words.
        fixed = not ctx.attributes["stopwords"] and _is_number(shape[-1]) and shape[-1] != 0
        kept: Dim = shape[-1] if fixed else ctx.fresh_dim("words")
        return [ctx.type(0).with_shape((1, kept) if len(shape) == 2 else (kept,))]

    @staticmethod
    def compute(ctx: ComputeContext, x: Array) -> Sequence[Array]:
        """When nothing is left, an empty string is."""
        if x.ndim not in (1, 2) or (x.ndim == 2 and x.shape[0] != 1):
            raise ValueError(f"expected strings [C] or [1, C], got shape {list(x.shape)}")
        change = CASES[ctx.attributes["case_change_action"]]
        key = str if ctx.attributes["is_case_sensitive"] else str.lower
        stopwords = {key(word) for word in ctx.attributes["stopwords"]}
        kept = [change(word) for word in x.reshape(-1).tolist() if key(word) not in stopwords]
        kept = kept or [""]
        return [string_array(kept, (1, len(kept)) if x.ndim == 2 else (len(kept),))]


def _is_number(dim: Dim) -> bool:
    return isinstance(dim, int)


@operator("StringSplit", since=20)
class StringSplit:
    """Parts of each string on a new last axis, filled up with empty strings; and how many."""

    attributes = {"delimiter": "", "maxsplit": None}
    host = True

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """The largest number of parts only running tells."""
        check_strings(ctx, 0)
        if ctx.attributes["maxsplit"] is not None and ctx.attributes["maxsplit"] < 0:
            ctx.fail(f"maxsplit is {ctx.attributes['maxsplit']}; it must not be negative")
        x = ctx.type(0)
        parts = None if x.shape is None else (*x.shape, ctx.fresh_dim("parts"))
        return [x.with_shape(parts), x.with_dtype(DType.INT64)][: ctx.n_outputs]

    @staticmethod
    def compute(ctx: ComputeContext, x: Array) -> Sequence[Array]:
        """Without a delimiter, runs of white space part, and lead or end nothing."""
        delimiter, most = ctx.attributes["delimiter"] or None, ctx.attributes["maxsplit"]
        limit = -1 if most is None else most
        words = x.reshape(-1).tolist()
        # What `limit` leaves together must not end in white space either.
        words = [word.strip() for word in words] if delimiter is None else words
        split = [word.split(delimiter, limit) for word in words]
        counts = np.array([len(parts) for parts in split], np.int64).reshape(x.shape)
        width = int(counts.max(initial=0))
        check_size(ctx, (*x.shape, width), object)
        padded = [part for parts in split for part in (*parts, *[""] * (width - len(parts)))]
        return [string_array(padded, (*x.shape, width)), counts][: ctx.n_outputs]

    @staticmethod
    def rows(ctx: RowContext) -> Sequence[RowState]:
        """Counts are each item's own; how wide the parts are depends on all of them."""
        counts = follow(ctx, lambda axis: axis)[0]
        label = ctx.node.label
        parts = mixed(f"node {label!r} (StringSplit): the longest string decides about all parts")
        return [parts, counts][: len(ctx.node.outputs)]


@operator("StringConcat", since=20)
class StringConcat:
    """Strings of two tensors joined, after broadcasting."""

    rows = staticmethod(broadcasting)
    host = True

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """As broadcasting gives."""
        check_strings(ctx, 0, 1)
        return [TensorType(DType.STRING, broadcast_shapes(ctx.shape(0), ctx.shape(1)))]

    @staticmethod
    def compute(ctx: ComputeContext, x: Array, y: Array) -> Sequence[Array]:
        """The text itself counts for the limit too: doubling it again and again is quick."""
        a, b = np.broadcast_arrays(x, y)
        length = sum(map(len, a.reshape(-1).tolist())) + sum(map(len, b.reshape(-1).tolist()))
        check_size(ctx, (a.size * (STRING_BYTES + 8) + length,), np.uint8)
        return [np.asarray(a + b, object).reshape(a.shape)]


@operator("RegexFullMatch", since=20)
class RegexFullMatch:
    """Whether each whole string matches a pattern in RE2's syntax, in time linear in its length."""

    attributes = {"pattern": ""}
    host = True

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """bool in the same shape; a pattern that RE2 would refuse is the model's fault."""
        check_strings(ctx, 0)
        try:
            Regex(ctx.attributes["pattern"])
        except ValueError as error:
            ctx.fail(str(error))
        return [ctx.type(0).with_dtype(DType.BOOL)]

    @staticmethod
    def compute(ctx: ComputeContext, x: Array) -> Sequence[Array]:
        """The automaton is this call's own: what it remembers grows as it is used."""
        regex = Regex(ctx.attributes["pattern"])
        try:
            found = [regex.matches(text) for text in x.reshape(-1).tolist()]
        except TooMuchWork as error:
            where = f"node {ctx.node.label!r} (RegexFullMatch)"
            raise ResourceLimit(where, error, "a bounded time for one text") from None
        return [np.array(found, bool).reshape(x.shape)]

    @staticmethod
    def rows(ctx: RowContext) -> Sequence[RowState]:
        """Every string is matched by itself."""
        return follow(ctx, lambda axis: axis)
