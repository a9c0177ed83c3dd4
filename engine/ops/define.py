"""`@elementwise`: an operator stated once, as the expression of one element.

    @elementwise("HardSwish", since=14, types=FLOATS)
    def hard_swish(x: Expr) -> Expr:
        return x * clip(x / 6 + 0.5, 0.0, 1.0)

Positional parameters are inputs (a default of None makes one optional, `*xs` any number);
keyword-only ones are attributes with their defaults. All inputs share one element type out of
`types`, but those named in `inputs`, which have their own. The result has the inputs' type, or bool
where the expression is a test, or what `result` says. From this follow the type rule, shapes
(broadcasting), values over any array namespace, how rows travel, and integer values known by
symbol; devices render the same expression for themselves.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from engine.dtypes import DType
from engine.errors import InvalidModel
from engine.ir.expr import LEAVES, Expr, argument, cast, constant
from engine.ir.graph import Array
from engine.ir.render import Rendered, compile_numpy
from engine.ir.types import Dim, Shape, TensorType, broadcast_shapes, element_count
from engine.ops.contexts import ComputeContext, InferContext
from engine.ops.registry import REGISTRY, REQUIRED, Kernel, Operator
from engine.ops.rows import RowContext, RowState, broadcasting
from engine.ops.symbolic import evaluate_symbolic

ExprFunction = Callable[..., Expr]
ResultType = Callable[[Mapping[str, Any], Sequence[DType]], DType]

# Attributes of opset 1 to 6 that say how the second input lies over the first, or nothing at all.
LEGACY = MappingProxyType({"broadcast": 0, "axis": None})
NUMPY_BROADCASTING = 7  # first opset whose binary operators broadcast like numpy


@dataclass(frozen=True, eq=False)
class Elementwise:
    """The definition of an elementwise operator, and every rule that follows from it.

    Attributes:
        name: The operator's name, for messages.
        function: Builds the expression from one `Expr` per input.
        parameters: Names of the inputs.
        required: How many of them must be present.
        variadic: Whether the last parameter stands for any number of inputs.
        options: Names of the attributes that the function takes.
        types: Element types that the inputs may share.
        own_types: Element types of inputs that do not share in.
        result: Says the result's type where it is neither the inputs' nor bool.
        legacy_axis: Axis of the first input on which a lone axis of the second lies before opset 7;
            None where operators state it as an attribute.
    """

    name: str
    function: ExprFunction
    parameters: tuple[str, ...]
    required: int
    variadic: bool
    options: tuple[str, ...]
    types: frozenset[DType]
    own_types: Mapping[str, frozenset[DType]]
    result: ResultType | None
    legacy_axis: int | None

    def trace(
        self,
        dtypes: Sequence[DType | None],
        attributes: Mapping[str, Any],
        constants: Mapping[int, Any] = MappingProxyType({}),
    ) -> Expr:
        """Return the expression for inputs of these types; None stands for an absent input.

        Inputs listed in `constants` are single numbers and become part of the expression.
        """
        args: list[Expr | None] = []
        for i, dtype in enumerate(dtypes):
            if dtype is None:
                args.append(None)
            elif i in constants:
                args.append(constant(constants[i], dtype.compute))
            else:
                args.append(cast(argument(i, dtype), dtype.compute))
        body = self.function(*args, **{name: attributes[name] for name in self.options})
        return cast(
            body, self.result_type(dtypes, attributes, body), saturate=_saturates(attributes)
        )

    def result_type(
        self, dtypes: Sequence[DType | None], attributes: Mapping[str, Any], body: Expr
    ) -> DType:
        """Return the element type that the operator gives."""
        present = [d for d in dtypes if d is not None]
        if self.result is not None:
            return self.result(attributes, present)
        shared = self.shared_type(dtypes)
        return shared if body.dtype is shared.compute else body.dtype

    def shared_type(self, dtypes: Sequence[DType | None]) -> DType:
        """Return the type that the inputs share."""
        for i, dtype in enumerate(dtypes):
            if dtype is not None and self.parameter(i) not in self.own_types:
                return dtype
        raise InvalidModel(f"{self.name}: needs at least one input")

    def parameter(self, i: int) -> str:
        """Return the name of the parameter that takes input `i`."""
        return self.parameters[min(i, len(self.parameters) - 1)]

    # -------------------------------------------------------------------- the operator's rules

    def infer(self, ctx: InferContext) -> Sequence[TensorType]:
        """Check the inputs and return the result's type."""
        self._check_inputs(ctx)
        dtypes = [None if t is None else t.dtype for t in ctx.types]
        result = self.trace(dtypes, ctx.attributes).dtype
        shapes = [t.shape for t in ctx.types if t is not None]
        shapes = [self.aligned(shapes[0], s, ctx.attributes, ctx.version) for s in shapes]
        try:
            return (TensorType(result, broadcast_shapes(*shapes)),)
        except InvalidModel as error:
            ctx.fail(str(error))

    def compute(self, ctx: ComputeContext, *inputs: Array | None) -> Sequence[Array]:
        """Compute over arrays; types are the arrays' own."""
        dtypes = tuple(None if x is None else DType.from_numpy(x.dtype) for x in inputs)
        function = compile_numpy(self.trace(dtypes, ctx.attributes), ctx.xp, arity=len(inputs))
        return (function(*self._aligned_arrays(ctx, inputs)),)

    def bind(self, ctx: ComputeContext) -> Kernel | None:
        """Return a kernel for one node whose types are known: a call decides nothing."""
        if not ctx.types or self._is_legacy(ctx.attributes, ctx.version):
            return None
        dtypes = [None if t is None else t.dtype for t in ctx.types]
        if any(d is None and name for d, name in zip(dtypes, ctx.node.inputs, strict=True)):
            return None
        expr = self.trace(dtypes, ctx.attributes, _lone_constants(ctx))
        scalars = _beside_shape(ctx)
        return as_kernel(
            compile_numpy(expr, ctx.xp, arity=len(dtypes), scalars=scalars), len(dtypes)
        )

    def rows(self, ctx: RowContext) -> Sequence[RowState]:
        """Items stay where they are, if all inputs agree."""
        if not self._is_legacy(ctx.attributes, ctx.version):
            return broadcasting(ctx)
        first = ctx.types[0]
        aligned = [
            t
            if t is None or first is None
            else t.with_shape(self.aligned(first.shape, t.shape, ctx.attributes, ctx.version))
            for t in ctx.types
        ]
        return broadcasting(replace(ctx, types=aligned))

    def values(self, ctx: InferContext) -> Sequence[np.ndarray | None]:
        """Return the result by value where it is a small integer tensor made of known ones."""
        if self._is_legacy(ctx.attributes, ctx.version) or any(t is None for t in ctx.types):
            return (None,)
        dtypes = [None if t is None else t.dtype for t in ctx.types]
        return (evaluate_symbolic(self.trace(dtypes, ctx.attributes), ctx.symbolic),)

    def flops(self, ctx: InferContext) -> Dim:
        """Count each primitive as one operation per element of the result."""
        shape = self.infer(ctx)[0].shape
        dtypes = [None if t is None else t.dtype for t in ctx.types]
        steps = sum(
            n.op not in LEAVES and n.op != "cast" for n in self.trace(dtypes, ctx.attributes).walk()
        )
        return 0 if shape is None else element_count(shape) * steps

    # -------------------------------------------------------------------- parts

    def _check_inputs(self, ctx: InferContext) -> None:
        given = len(ctx.types)
        if given > len(self.parameters) and not self.variadic:
            ctx.fail(f"expected at most {len(self.parameters)} inputs, got {given}")
        for i in range(self.required):
            ctx.type(i)
        shared: DType | None = None
        for i, kind in enumerate(ctx.types):
            if kind is None:
                continue
            name = self.parameter(i)
            allowed = self.own_types.get(name, self.types)
            if kind.dtype not in allowed:
                listed = ", ".join(sorted(d.value for d in allowed))
                ctx.fail(f"input {i} ({name}) is {kind.dtype}, expected one of {listed}")
            if name in self.own_types:
                continue
            if shared is not None and kind.dtype is not shared:
                ctx.fail(f"input {i} ({name}) is {kind.dtype}, expected {shared} as before it")
            shared = kind.dtype

    def _is_legacy(self, attributes: Mapping[str, Any], version: int) -> bool:
        return version < NUMPY_BROADCASTING and (
            self.legacy_axis is not None or bool(attributes.get("broadcast"))
        )

    def aligned(
        self, first: Shape | None, shape: Shape | None, attributes: Mapping[str, Any], version: int
    ) -> Shape | None:
        """Return the shape of a later input with ones appended, where old opsets state an axis."""
        if first is None or shape is None or not self._is_legacy(attributes, version):
            return shape
        axis = attributes.get("axis") if self.legacy_axis is None else self.legacy_axis
        if axis is None or len(shape) >= len(first) or (self.legacy_axis and len(shape) != 1):
            return shape
        missing = len(first) - axis % len(first) - len(shape)
        return (*shape, *(1,) * max(missing, 0))

    def _aligned_arrays(
        self, ctx: ComputeContext, inputs: Sequence[Array | None]
    ) -> Sequence[Array | None]:
        if not self._is_legacy(ctx.attributes, ctx.version) or inputs[0] is None:
            return inputs
        first = inputs[0].shape
        return [
            x if x is None else x.reshape(self.aligned(first, x.shape, ctx.attributes, ctx.version))
            for x in inputs
        ]


def elementwise(
    name: str,
    since: int | Sequence[int],
    *,
    types: Collection[DType],
    inputs: Mapping[str, Collection[DType]] | None = None,
    attributes: Mapping[str, Any] | None = None,
    result: ResultType | None = None,
    until: int | None = None,
    domain: str = "",
    legacy_axis: int | None = None,
) -> Callable[[ExprFunction], ExprFunction]:
    """Register an elementwise operator (see the module's docstring).

    Args:
        name: ONNX's name.
        since: Opset versions at which it changed, oldest first.
        types: Element types that the inputs may share.
        inputs: Element types of inputs that do not share in, by parameter name.
        attributes: Attributes that are allowed but do not enter the expression, with defaults.
        result: The result's element type, where it is neither the inputs' nor bool.
        until: First opset version without the operator.
        domain: "" is ONNX's own.
        legacy_axis: Where a lone axis of the second input lies before opset 7 (PRelu's slopes).
    """

    def register(function: ExprFunction) -> ExprFunction:
        REGISTRY.add(
            make_elementwise(
                function,
                name,
                since,
                types=types,
                inputs=inputs,
                attributes=attributes,
                result=result,
                until=until,
                domain=domain,
                legacy_axis=legacy_axis,
            )
        )
        return function

    return register


def make_elementwise(
    function: ExprFunction,
    name: str,
    since: int | Sequence[int],
    *,
    types: Collection[DType],
    inputs: Mapping[str, Collection[DType]] | None = None,
    attributes: Mapping[str, Any] | None = None,
    result: ResultType | None = None,
    until: int | None = None,
    domain: str = "",
    legacy_axis: int | None = None,
) -> Operator:
    """Return the operator without registering it; takes what `elementwise` takes."""
    versions = (since,) if isinstance(since, int) else tuple(since)
    parameters = inspect.signature(function).parameters.values()
    places = [p for p in parameters if p.kind is not p.KEYWORD_ONLY]
    options = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    definition = Elementwise(
        name=name,
        function=function,
        parameters=tuple(p.name for p in places),
        required=sum(p.default is p.empty for p in places),
        variadic=any(p.kind is p.VAR_POSITIONAL for p in places),
        options=tuple(options),
        types=frozenset(types),
        own_types={key: frozenset(value) for key, value in (inputs or {}).items()},
        result=result,
        legacy_axis=legacy_axis,
    )
    known = {k: REQUIRED if v is inspect.Parameter.empty else v for k, v in options.items()}
    return Operator(
        name=name,
        domain=domain,
        since=versions,
        until=until,
        attributes=MappingProxyType(
            {**known, **(attributes or {}), **_old_attributes(versions, places)}
        ),
        infer=definition.infer,
        compute=definition.compute,
        rows=definition.rows,
        flops=definition.flops,
        values=definition.values,
        bind=definition.bind,
        definition=definition,
    )


def _old_attributes(versions: Sequence[int], places: Sequence[object]) -> Mapping[str, Any]:
    """Attributes that any operator of the first opsets may carry."""
    if versions[0] >= NUMPY_BROADCASTING:
        return {}
    return {"consumed_inputs": (), **(LEGACY if len(places) > 1 else {})}


def _saturates(attributes: Mapping[str, Any]) -> bool:
    return bool(attributes.get("saturate", 0))


def _beside_shape(ctx: ComputeContext) -> frozenset[int]:
    """Return inputs that decide nothing about the result's shape: all but one that has it."""
    shapes = {i: t.shape for i, t in enumerate(ctx.types) if t is not None}
    result = ctx.outputs[0].shape if ctx.outputs else None
    whole = [i for i, shape in shapes.items() if shape is not None and shape == result]
    if whole:
        return frozenset(shapes) - {whole[0]}
    scalars = frozenset(i for i, shape in shapes.items() if shape == ())
    return frozenset() if len(scalars) == len(shapes) else scalars


def _lone_constants(ctx: ComputeContext) -> dict[int, Any]:
    """Return fixed single numbers among the inputs that decide nothing about the result's shape."""
    ranks = {i: t.rank for i, t in enumerate(ctx.types) if t is not None}
    fixed = {i: ctx.constant(i) for i in ranks}
    open_ranks = [ranks[i] for i, value in fixed.items() if value is None]
    highest = max((r for r in open_ranks if r is not None), default=-1)
    return {
        i: value.reshape(()).tolist()
        for i, value in fixed.items()
        if value is not None and value.size == 1 and value.ndim <= highest and value.dtype != object
    }


def as_kernel(function: Rendered, arity: int) -> Kernel:
    """Return a kernel with one result out of a function of `arity` arrays."""
    # One and two inputs are written out: a call through `*inputs` costs as much as a small
    # operation.
    if arity == 1:
        return lambda x: (function(x),)
    if arity == 2:
        return lambda x, y: (function(x, y),)
    return lambda *inputs: (function(*inputs),)
