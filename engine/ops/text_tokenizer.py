"""Splits texts into tokens: com.microsoft's Tokenizer, which scikit-learn's converter writes in
front of vectorizers.

Strings live on the host only, so this computes on numpy arrays on every device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from engine.dtypes import DType
from engine.errors import ResourceLimit
from engine.ir.types import TensorType
from engine.ops.common import Array, check_size
from engine.ops.contexts import ComputeContext, InferContext
from engine.ops.cores.regex import Regex, TooMuchWork
from engine.ops.registry import REQUIRED, operator
from engine.ops.text import check_strings, string_array

START, END = "\x02", "\x03"  # what marks the ends of a text
Tokens = Callable[[str], list[str]]


def _outside(regex: Regex, text: str) -> Iterator[str]:
    """Yield what lies between the matches."""
    start = 0
    for begin, end in regex.find_all(text):
        yield text[start:begin]
        start = end
    yield text[start:]


def _tokens(ctx: ComputeContext | InferContext) -> Tokens:
    """Return what makes a text's tokens; `ValueError` when a pattern is wrong."""
    separators, expression = ctx.attributes["separators"], ctx.attributes["tokenexp"]
    if tuple(separators) == ("",):
        return list
    if not separators:
        tokens = Regex(expression)
        return lambda text: [text[begin:end] for begin, end in tokens.find_all(text)]
    between = [Regex(separator) for separator in separators]

    def split(text: str) -> list[str]:
        parts = [text]
        for regex in between:
            parts = [part for whole in parts for part in _outside(regex, whole)]
        return parts

    return split


@operator("Tokenizer", since=1, domain="com.microsoft")
class Tokenizer:
    """Tokens of each text on a new last axis: what a pattern matches, or what lies between
    separators, or single characters.

    Matches are the leftmost and of those the longest, as in RE2.
    """

    attributes = {
        "mark": REQUIRED,
        "mincharnum": REQUIRED,
        "pad_value": REQUIRED,
        "separators": (),
        "tokenexp": "",
    }
    host = True

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """[C, tokens] or [N, C, tokens]; how many only running tells."""
        check_strings(ctx, 0)
        shape = ctx.shape(0)
        if shape is not None and len(shape) not in (1, 2):
            ctx.fail(f"expected [C] or [N, C], got {ctx.type(0)}")
        if not ctx.attributes["separators"] and not ctx.attributes["tokenexp"]:
            ctx.fail("expected separators or tokenexp")
        if ctx.attributes["mincharnum"] < 1:
            ctx.fail(f"mincharnum is {ctx.attributes['mincharnum']}; expected 1 at least")
        try:
            _tokens(ctx)
        except ValueError as error:
            ctx.fail(str(error))
        dims = None if shape is None else (*shape, ctx.fresh_dim("tokens"))
        return [TensorType(DType.STRING, dims)]

    @staticmethod
    def compute(ctx: ComputeContext, x: Array) -> Sequence[Array]:
        """Short tokens are dropped; texts with fewer tokens than others are filled up."""
        attributes, tokens = ctx.attributes, _tokens(ctx)
        shortest = max(int(attributes["mincharnum"]), 1)
        try:
            found = [
                [token for token in tokens(text) if len(token) >= shortest]
                for text in x.reshape(-1).tolist()
            ]
        except TooMuchWork as error:
            where = f"node {ctx.node.label!r} (Tokenizer)"
            raise ResourceLimit(where, error, "a bounded time for one text") from None
        # Without a single token there is nothing to mark either.
        if attributes["mark"] and any(found):
            found = [[START, *each, END] for each in found]
        width = max(map(len, found), default=0)
        check_size(ctx, (*x.shape, width), object)
        pad = attributes["pad_value"]
        padded = [token for each in found for token in (*each, *[pad] * (width - len(each)))]
        return [np.asarray(string_array(padded, (*x.shape, width)))]
