"""Contractions with an epilogue: a convolution or a product, then an expression of its result.

`millrace.Conv` is ONNX's `Conv` of the same opset version with two attributes more: `operands`, how
many of the inputs are the contraction's own, and `epilogue`, an expression (`engine.ir.expr_text`)
whose `x0` is the contraction's result and whose `x1`, `x2`, ... are the other inputs. Those
broadcast into the result; the shape stays the contraction's. Narrow floats stay float32 from the
contraction to the end of the expression, which rounds once; products of integers are int32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Final

from engine.dtypes import DType
from engine.errors import InvalidModel
from engine.ir.expr import LEAVES, Expr, argument, cast, constant
from engine.ir.expr_text import arguments_of, read_expr, substitute
from engine.ir.graph import Array
from engine.ir.render import Rendered, compile_numpy
from engine.ir.types import Dim, TensorType, broadcast_shapes, element_count
from engine.ops import conv, conv_transpose, integer_products, linalg
from engine.ops.common import widen
from engine.ops.contexts import ComputeContext, InferContext
from engine.ops.fused import FUSED_DOMAIN, FUSED_TYPES, text_of_attribute
from engine.ops.fused_rows import staged
from engine.ops.registry import REGISTRY, REQUIRED, Kernel, Operator
from engine.ops.rows import RowContext, RowState, broadcasting

CONTRACTIONS: Final = ("Conv", "ConvInteger", "ConvTranspose", "Gemm", "MatMul", "MatMulInteger")
BASES = (
    conv,
    conv_transpose,
    integer_products,
    linalg,
)  # the families that define them: imported before this one
OWN: Final = ("epilogue", "operands")


def _register(name: str) -> None:
    """Register `millrace.<name>`."""
    first = REGISTRY.lookup("", name, 13)
    REGISTRY.add(
        Operator(
            name=name,
            domain=FUSED_DOMAIN,
            since=(1,),
            attributes={**first.attributes, "epilogue": REQUIRED, "operands": REQUIRED},
            infer=_infer,
            compute=_compute,
            rows=_rows,
            flops=_flops,
            bind=_bind,
        )
    )


def base_of(name: str, version: int) -> Operator:
    """Return the contraction that a fused node begins with."""
    return REGISTRY.lookup("", name, version)


def _own_attributes(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in attributes.items() if key not in OWN}


def _operands(attributes: Mapping[str, Any], given: int) -> int:
    count = int(attributes["operands"])
    if not 1 <= count <= given:
        raise InvalidModel(f"operands is {count}, there are {given} inputs")
    return count


def _infer(ctx: InferContext) -> Sequence[TensorType]:
    """The contraction's shape, the expression's type."""
    dtypes = [None if t is None else t.dtype for t in ctx.types]
    expr = _expression(ctx.node.op, ctx.attributes, dtypes)
    own = {d for d in dtypes[: _operands(ctx.attributes, len(dtypes))] if d is not None}
    if len(own) > 1 and not ctx.node.op.endswith("Integer"):
        ctx.fail(f"its operands are {sorted(map(str, own))}, expected one type")
    kind = _base_type(ctx)
    extras = ctx.types[_operands(ctx.attributes, len(ctx.types)) :]
    shapes = [None if t is None else t.shape for t in extras]
    if kind.shape is not None and all(s is not None for s in shapes):
        reached = broadcast_shapes(kind.shape, *shapes)
        assert reached is not None
        if len(reached) != len(kind.shape) or any(
            isinstance(a, int) and isinstance(b, int) and a != b
            for a, b in zip(reached, kind.shape, strict=True)
        ):
            ctx.fail(f"its epilogue gives {list(reached)}, the contraction {list(kind.shape)}")
    return [kind.with_dtype(expr.dtype)]


def _base_type(ctx: InferContext) -> TensorType:
    count = _operands(ctx.attributes, len(ctx.types))
    base = replace(
        ctx,
        types=ctx.types[:count],
        constants=ctx.constants[:count],
        symbolic=ctx.symbolic[:count],
        attributes=_own_attributes(ctx.attributes),
    )
    kind = base_of(ctx.node.op, ctx.version).infer(base)[0]
    assert isinstance(kind, TensorType)
    return kind


def _expression(
    name: str,
    attributes: Mapping[str, Any],
    dtypes: Sequence[DType | None],
    fixed: Mapping[int, Any] = MappingProxyType({}),
) -> Expr:
    """Return the epilogue over the wide result (argument 0) and the other inputs.

    Inputs numbered in `fixed` are single numbers and become part of the expression.
    """
    expr = read_expr(text_of_attribute(attributes["epilogue"]))
    count = _operands(attributes, len(dtypes))
    extras = dtypes[count:]
    first = dtypes[0]
    if first is None or first not in FUSED_TYPES or any(d not in FUSED_TYPES for d in extras):
        raise InvalidModel(f"an epilogue takes numbers, got {list(dtypes)}")
    if arguments_of(expr) > 1 + len(extras):
        raise InvalidModel(
            f"the epilogue takes {arguments_of(expr)} values, there are {1 + len(extras)}"
        )
    wide = DType.INT32 if name.endswith("Integer") else first.compute
    values = [argument(0, wide)]
    for i, dtype in enumerate(extras):
        assert dtype is not None
        if count + i in fixed:
            values.append(constant(fixed[count + i], dtype.compute))
        else:
            values.append(cast(argument(i + 1, dtype), dtype.compute))
    return substitute(expr, values)


def _compute(ctx: ComputeContext, *inputs: Array | None) -> Sequence[Array]:
    """The contraction on wide operands, then the expression."""
    count = _operands(ctx.attributes, len(inputs))
    dtypes = [None if x is None else DType.from_numpy(x.dtype) for x in inputs]
    expr = _expression(ctx.node.op, ctx.attributes, dtypes)
    base = base_of(ctx.node.op, ctx.version)
    wide = [None if x is None else widen(ctx.xp, x) for x in inputs[:count]]
    y = base.compute(_base_context(ctx, count), *wide)[0]
    function = compile_numpy(expr, ctx.xp, arity=1 + len(inputs) - count, owned=frozenset((0,)))
    return [_of_shape(function(y, *inputs[count:]), y.shape)]


def _bind(ctx: ComputeContext) -> Kernel | None:
    """Bind the contraction; let the expression work in place on its result."""
    # Of what a body captures, only a run tells the types.
    if any(t is None and name for t, name in zip(ctx.types, ctx.node.inputs, strict=False)):
        return None
    if not ctx.types:
        return None
    count = _operands(ctx.attributes, len(ctx.types))
    dtypes = [None if t is None else t.dtype for t in ctx.types]
    lone = {
        i: value.reshape(()).tolist()
        for i in range(count, len(dtypes))
        if (value := ctx.constant(i)) is not None and value.size == 1
    }
    extras = len(dtypes) - count
    apply = compile_numpy(
        _expression(ctx.node.op, ctx.attributes, dtypes, lone),
        ctx.xp,
        arity=1 + extras,
        scalars=frozenset(range(1, 1 + extras)),  # they broadcast into the result
        owned=frozenset((0,)),
    )
    if any(d is not None and d.is_narrow_float for d in dtypes[:count]):
        return _wide_kernel(ctx, count, apply)
    kernel = base_of(ctx.node.op, ctx.version).kernel(_base_context(ctx, count))
    if not extras:  # nothing can widen the result, and a small net feels every step of Python
        return lambda *operands: (apply(kernel(*operands)[0]),)

    def run(*inputs: Array | None) -> Sequence[Array]:
        (y,) = kernel(*inputs[:count])
        return (_of_shape(apply(y, *inputs[count:]), y.shape),)

    return run


def _wide_kernel(ctx: ComputeContext, count: int, apply: Rendered) -> Kernel:
    """Narrow operands: fixed ones are widened once."""
    base, base_ctx, xp = base_of(ctx.node.op, ctx.version), _base_context(ctx, count), ctx.xp
    known = [ctx.constant(i) for i in range(count)]
    wide = [None if value is None else widen(xp, value) for value in known]

    def run(*inputs: Array | None) -> Sequence[Array]:
        operands = [
            wide[i] if wide[i] is not None else None if x is None else widen(xp, x)
            for i, x in enumerate(inputs[:count])
        ]
        y = base.compute(base_ctx, *operands)[0]
        return (_of_shape(apply(y, *inputs[count:]), y.shape),)

    return run


def _base_context(ctx: ComputeContext, count: int) -> ComputeContext:
    return replace(
        ctx,
        attributes=_own_attributes(ctx.attributes),
        types=ctx.types[:count],
        constants=ctx.constants[:count],
    )


def _of_shape(y: Array, shape: tuple[int, ...]) -> Array:
    if y.shape != shape:
        raise ValueError(f"the epilogue widened the result from {shape} to {y.shape}")
    return y


def _rows(ctx: RowContext) -> Sequence[RowState]:
    """The contraction's rule, then that of elementwise operators."""
    count = _operands(ctx.attributes, len(ctx.rows))
    kind = ctx.outputs[0]  # the contraction's own shape, too
    base = replace(ctx, attributes=_own_attributes(ctx.attributes))
    rule: Callable[[RowContext], Sequence[RowState]] = base_of(ctx.node.op, ctx.version).rows
    parts = slice(count)
    first = staged(base, rule, ctx.rows[parts], ctx.types[parts], kind)
    state = staged(ctx, broadcasting, [first, *ctx.rows[count:]], [kind, *ctx.types[count:]], kind)
    return ctx.all_outputs(state)


def _flops(ctx: InferContext) -> Dim:
    """The contraction's, and one per step of the expression and element."""
    count = _operands(ctx.attributes, len(ctx.types))
    base = replace(
        ctx,
        types=ctx.types[:count],
        constants=ctx.constants[:count],
        symbolic=ctx.symbolic[:count],
        attributes=_own_attributes(ctx.attributes),
    )
    rule = base_of(ctx.node.op, ctx.version).flops
    own: Dim = 0 if rule is None else rule(base)
    shape = _base_type(ctx).shape
    expr = read_expr(text_of_attribute(ctx.attributes["epilogue"]))
    steps = sum(n.op not in LEAVES and n.op != "cast" for n in expr.walk())
    return own + (0 if shape is None else element_count(shape) * steps)


for _name in CONTRACTIONS:
    _register(_name)
