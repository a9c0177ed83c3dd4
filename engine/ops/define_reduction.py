"""`@reduction`: an operator that combines all elements along some axes, stated once as expressions.

    @reduction("ReduceL2", since=(1, 11, 13, 18), types=NUMBERS, combine="add", finish=root)
    def reduce_l2(x: Expr) -> Expr:
        return x * x

The function maps one element; `combine` ("add", "mul", "max" or "min") brings the mapped elements
together; `finish` turns the total, and the number of elements that went into it, into the result.
With `centred=True` the largest element along the axes is found first, and both functions get it
too: sums of exponentials need that. Accumulation happens in the mapped expression's type; the
result has the input's.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from types import MappingProxyType
from typing import Any

import numpy as np

from engine.dtypes import DType
from engine.ir.expr import LEAVES, Expr, argument, cast, is_inf, select
from engine.ir.graph import Array
from engine.ir.render import Rendered, compile_numpy
from engine.ir.types import Dim, Shape, TensorType, element_count
from engine.ops.contexts import ComputeContext, InferContext
from engine.ops.portable import reducer
from engine.ops.registry import REGISTRY, Kernel, Operator
from engine.ops.row_rules import follow
from engine.ops.rows import RowContext, RowState

MapFunction = Callable[..., Expr]
Finish = Callable[..., Expr]
Axes = tuple[int, ...]


@dataclass(frozen=True)
class Stages:
    """A reduction traced for one element type. Arguments: 0 is the element or the total, then as
    named.

    Attributes:
        map: From the element (and the peak, argument 1) to what is combined.
        finish: From the total, the count (argument 1) and the peak (argument 2) to the result; None
            is "as it is".
        peak: From the largest element to the number that both stages get; None when not centred.
    """

    map: Expr
    finish: Expr
    peak: Expr | None


@dataclass(frozen=True, eq=False)
class Reduction:
    """The definition of a reduction operator, and every rule that follows from it."""

    name: str
    function: MapFunction
    combine: str
    finish: Finish | None
    centred: bool
    types: frozenset[DType]

    def trace(self, dtype: DType) -> Stages:
        """Return the expressions of each stage for inputs of this element type."""
        x = cast(argument(0, dtype), dtype.compute)
        peak = finite_or_zero(x) if self.centred else None
        extra = () if peak is None else (argument(1, peak.dtype),)
        mapped = self.function(x, *extra)
        total = argument(0, mapped.dtype)
        if self.finish is None:
            return Stages(mapped, cast(total, dtype), peak)
        late = () if peak is None else (argument(2, peak.dtype),)
        finished = self.finish(total, argument(1, mapped.dtype), *late)
        return Stages(mapped, cast(finished, dtype), peak)

    # -------------------------------------------------------------------- the operator's rules

    def infer(self, ctx: InferContext) -> Sequence[TensorType]:
        """Reduced axes leave, or become 1."""
        kind = ctx.type(0)
        if kind.dtype not in self.types:
            listed = ", ".join(sorted(d.value for d in self.types))
            ctx.fail(f"input is {kind.dtype}, expected one of {listed}")
        if kind.shape is None:
            return (kind,)
        stated = self._stated_axes(ctx)
        if stated is None:
            return (kind.with_shape(self._unknown_shape(ctx, kind.shape)),)
        axes = self.normal_axes(stated, len(kind.shape), ctx.attributes)
        for axis in stated:
            ctx.normal_axis(axis, len(kind.shape))
        return (kind.with_shape(reduced_shape(kind.shape, axes, bool(ctx.attributes["keepdims"]))),)

    def compute(self, ctx: ComputeContext, x: Array, axes: Array | None = None) -> Sequence[Array]:
        """Compute over arrays, with axes from the input or the attribute."""
        reduce_all = self._compiled(ctx, DType.from_numpy(x.dtype))
        return reduce_all(x, axes)

    def bind(self, ctx: ComputeContext) -> Kernel | None:
        """Compile the stages once where the element type is known."""
        if not ctx.types or ctx.types[0] is None:
            return None
        return self._compiled(ctx, ctx.types[0].dtype)

    def rows(self, ctx: RowContext) -> Sequence[RowState]:
        """Items stay apart unless their axis is reduced."""
        rank = ctx.rank(0)
        stated = self._fixed_axes(ctx.attributes, ctx.constants, len(ctx.node.inputs))
        if rank is None or stated is None:
            return ctx.mixed("its axes or its rank are unknown")
        axes = self.normal_axes(stated, rank, ctx.attributes)
        keep = bool(ctx.attributes["keepdims"])
        return follow(
            ctx,
            lambda axis: (
                None if axis in axes else axis - (0 if keep else sum(a < axis for a in axes))
            ),
        )

    def values(self, ctx: InferContext) -> Sequence[np.ndarray | None]:
        """Return sums and products of shape values by value."""
        known = ctx.symbolic[0] if ctx.symbolic else None
        stated = self._stated_axes(ctx)
        plain = self.finish is None and self.combine in ("add", "mul")
        is_map = plain and self.trace(ctx.dtype(0)).map.op in LEAVES
        if known is None or stated is None or not is_map:
            return (None,)
        axes = self.normal_axes(stated, known.ndim, ctx.attributes)
        ufunc: Any = np.add if self.combine == "add" else np.multiply
        total = ufunc.reduce(known, axis=axes, keepdims=bool(ctx.attributes["keepdims"]))
        return (np.asarray(total, dtype=object),)

    def flops(self, ctx: InferContext) -> Dim:
        """Count mapping and combining, per element of the input."""
        shape = ctx.shape(0)
        steps = sum(
            n.op not in LEAVES and n.op != "cast" for n in self.trace(ctx.dtype(0)).map.walk()
        )
        return 0 if shape is None else element_count(shape) * (steps + 1)

    # -------------------------------------------------------------------- parts

    def normal_axes(self, stated: Axes, rank: int, attributes: Mapping[str, Any]) -> Axes:
        """Return the axes to reduce, counted from the front; none stated may mean all."""
        if not stated:
            return () if attributes.get("noop_with_empty_axes") else tuple(range(rank))
        return tuple(sorted({axis % rank for axis in stated})) if rank else ()

    def _fixed_axes(
        self, attributes: Mapping[str, Any], constants: Sequence[Array | None], n_inputs: int
    ) -> Axes | None:
        """Return the stated axes, () for none, or None when only running tells."""
        if attributes.get("axes") is not None:
            return tuple(map(int, attributes["axes"]))
        if n_inputs < 2:
            return ()
        value = constants[1] if len(constants) > 1 else None
        return None if value is None else tuple(map(int, value.reshape(-1).tolist()))

    def _stated_axes(self, ctx: InferContext) -> Axes | None:
        if not ctx.has(1):
            return self._fixed_axes(ctx.attributes, (), 1)
        known = ctx.value(1)
        if known is None or not all(isinstance(axis, int) for axis in known):
            return None
        return tuple(axis for axis in known if isinstance(axis, int))

    def _unknown_shape(self, ctx: InferContext, shape: Shape) -> Shape | None:
        if not ctx.attributes["keepdims"]:
            return None
        return tuple(ctx.fresh_dim("reduced") for _ in shape)

    def _compiled(self, ctx: ComputeContext, dtype: DType) -> Kernel:
        stages = self.trace(dtype)
        xp = ctx.xp
        mapping = compile_numpy(stages.map, xp, arity=2) if stages.map.op != "arg" else None
        finish = compile_numpy(stages.finish, xp, arity=3) if stages.finish.op != "arg" else None
        peak_of = compile_numpy(stages.peak, xp, arity=1) if stages.peak is not None else None
        combine = self._combiner(xp, stages.map.dtype)
        largest = self._combiner(xp, dtype, "max") if peak_of else None
        keep = bool(ctx.attributes["keepdims"])
        fixed = self._fixed_axes(ctx.attributes, ctx.constants, len(ctx.node.inputs))

        def kernel(x: Array, axes_input: Array | None = None) -> Sequence[Array]:
            stated = fixed
            if stated is None:
                stated = tuple(axes_input.reshape(-1).tolist()) if axes_input is not None else ()
            axes = self.normal_axes(stated, x.ndim, ctx.attributes)
            peak = None if largest is None or peak_of is None else peak_of(largest(x, axes, True))
            mapped = x if mapping is None else mapping(x, peak)
            total = combine(mapped, axes, keep)
            if finish is None:
                return (total,)
            count = xp.asarray(prod(x.shape[a] for a in axes), dtype=total.dtype)
            if peak is not None and not keep:
                peak = peak.reshape(total.shape)
            return (finish(total, count, peak),)

        return kernel

    def _combiner(self, xp: Any, dtype: DType, combine: str = "") -> Rendered:
        """Return a function of (array, axes, keepdims) that combines along axes within the type."""
        how = combine or self.combine
        return reducer(xp, how, dtype.numpy, _identity(how, dtype))


def reduction(
    name: str,
    since: int | Sequence[int],
    *,
    types: Collection[DType],
    combine: str,
    finish: Finish | None = None,
    centred: bool = False,
    domain: str = "",
) -> Callable[[MapFunction], MapFunction]:
    """Register a reduction operator (see the module's docstring).

    Args:
        name: ONNX's name.
        since: Opset versions at which it changed, oldest first.
        types: Element types of the input.
        combine: "add", "mul", "max" or "min".
        finish: From (total, count) to the result, and the peak as a third when centred.
        centred: Whether both functions also get the largest element along the axes.
        domain: "" is ONNX's own.
    """

    def register(function: MapFunction) -> MapFunction:
        definition = Reduction(
            name=name,
            function=function,
            combine=combine,
            finish=finish,
            centred=centred,
            types=frozenset(types),
        )
        attributes = {"axes": None, "keepdims": 1, "noop_with_empty_axes": 0}
        REGISTRY.add(
            Operator(
                name=name,
                domain=domain,
                since=(since,) if isinstance(since, int) else tuple(since),
                attributes=MappingProxyType(attributes),
                infer=definition.infer,
                compute=definition.compute,
                rows=definition.rows,
                flops=definition.flops,
                values=definition.values,
                bind=definition.bind,
                definition=definition,
            )
        )
        return function

    return register


def finite_or_zero(x: Expr) -> Expr:
    """The number to subtract before exp: infinity minus infinity would be NaN."""
    wide = x if x.dtype.is_float else cast(x, DType.FLOAT64)
    return select(is_inf(wide), 0, wide)


def reduced_shape(shape: Shape, axes: Axes, keep: bool) -> Shape:
    """Return the shape after reducing the axes."""
    if keep:
        return tuple(1 if i in axes else dim for i, dim in enumerate(shape))
    return tuple(dim for i, dim in enumerate(shape) if i not in axes)


def _identity(how: str, dtype: DType) -> Any:
    """Return what combining no element at all gives."""
    if how in ("add", "mul"):
        return int(how == "mul")
    if dtype is DType.BOOL:
        return how == "min"
    if dtype.is_float:
        return -np.inf if how == "max" else np.inf
    bounds = np.iinfo(dtype.numpy)
    return bounds.min if how == "max" else bounds.max
