"""Optionals: a value or nothing. At run time nothing is None, and a value is just itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from engine.dtypes import DType
from engine.ir.graph import Array
from engine.ir.types import TensorType
from engine.ir.value_types import VALUE_TYPES, OptionalType, ValueType
from engine.ops.contexts import ComputeContext, InferContext
from engine.ops.registry import operator


@operator("Optional", since=(15, 28))
class Optional:
    """The input as an optional, or one without a value whose type an attribute states."""

    attributes = {"type": None}
    tensors_only = False

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[ValueType]:
        """An optional of the input's type, or of the stated one."""
        stated = ctx.attributes["type"]
        if ctx.has(0):
            return [OptionalType(ctx.value_type(0))]
        if not isinstance(stated, VALUE_TYPES):
            ctx.fail("it needs an input, or the type of what it could hold")
        return [OptionalType(stated)]

    @staticmethod
    def compute(ctx: ComputeContext, value: Any = None) -> Sequence[Any]:
        """The value itself."""
        return [value]


@operator("OptionalHasElement", since=(15, 18, 28))
class OptionalHasElement:
    """Whether there is a value; anything but an optional is one."""

    tensors_only = False

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[ValueType]:
        """A truth value."""
        return [TensorType(DType.BOOL, ())]

    @staticmethod
    def values(ctx: InferContext) -> Sequence[np.ndarray | None]:
        """Known by the type, unless that is an optional."""
        if ctx.has(0) and isinstance(ctx.value_type(0), OptionalType):
            return [None]
        return [np.array(ctx.has(0), dtype=object)]

    @staticmethod
    def compute(ctx: ComputeContext, value: Any = None) -> Sequence[Array]:
        """A scalar."""
        return [ctx.xp.asarray(value is not None)]


@operator("OptionalGetElement", since=(15, 18, 28))
class OptionalGetElement:
    """The value of an optional; anything else is itself."""

    tensors_only = False

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[ValueType]:
        """What the optional may hold."""
        kind = ctx.value_type(0)
        return [kind.element if isinstance(kind, OptionalType) else kind]

    @staticmethod
    def compute(ctx: ComputeContext, value: Any) -> Sequence[Any]:
        """The value itself."""
        if value is None:
            raise ValueError("the optional holds no value")
        return [value]
