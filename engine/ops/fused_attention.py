"""`millrace.Attention`: product, any expression of the scores, softmax, product.

What exporters write as a dozen nodes, with exactly their meaning: unlike ONNX's `Attention`, a
query that may look nowhere gives NaN, unless `safe` says that NaN weights count as zero. The scores
go through an expression (`engine.ir.expr_text`) whose `x0` is the product of queries and keys and
whose `x1`, `x2`, ... are the inputs behind the values: scale, mask, bias, soft cap, whatever the
model has. Permutations stand for the transpositions around, so heads never move in memory.
Everything between the inputs and the result stays float32 for narrow floats.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from engine.dtypes import DType
from engine.errors import InvalidModel
from engine.ir.expr import LEAVES, Expr, argument, cast, constant
from engine.ir.expr_text import arguments_of, read_expr, substitute
from engine.ir.graph import Array
from engine.ir.render import Rendered, compile_numpy
from engine.ir.types import Dim, Shape, TensorType, element_count
from engine.ops.common import check_size, narrow, widen
from engine.ops.contexts import ComputeContext, InferContext
from engine.ops.fused import FUSED_DOMAIN, FUSED_TYPES, FUSED_VERSION, text_of_attribute
from engine.ops.fused_rows import staged
from engine.ops.linalg import for_blas, matmul_rows, matmul_shape
from engine.ops.registry import REQUIRED, Kernel, operator
from engine.ops.row_rules import follow
from engine.ops.rows import RowContext, RowState, broadcasting
from engine.ops.softmax import softmax

OPERANDS = ("q", "k", "v")


@operator("Attention", since=FUSED_VERSION, domain=FUSED_DOMAIN)
class FusedAttention:
    """`softmax(scores(Q K')) V`, each transposed on the way as `perm_q`, ..., `perm_y` say.

    After `perm_q` and so on, queries are (..., S, D), keys (..., L, D), values (..., L, E), and the
    result, before `perm_y`, is (..., S, E). An empty permutation leaves things as they are.
    """

    attributes = {
        "perm_k": (),
        "perm_q": (),
        "perm_v": (),
        "perm_y": (),
        "safe": 0,
        "scores": REQUIRED,
    }

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """The leading axes broadcast; S from the queries, E from the values."""
        scores_expression(ctx.attributes, [None if t is None else t.dtype for t in ctx.types])
        q, k, v = (_permuted(ctx, ctx.shape(i), OPERANDS[i]) for i in range(3))
        product = matmul_shape(ctx, q, None if k is None else _swapped(k))
        y = matmul_shape(ctx, product, v)
        return [TensorType(ctx.dtype(0), _permuted(ctx, y, "y"))]

    @staticmethod
    def compute(ctx: ComputeContext, *inputs: Array) -> Sequence[Array]:
        """The scores of all queries are in memory at once, within the limit of a run."""
        dtypes = [DType.from_numpy(x.dtype) for x in inputs]
        expr = scores_expression(ctx.attributes, dtypes)
        apply = _rendered(ctx, expr, len(inputs) - 3)
        return _attend(ctx, apply, inputs)

    @staticmethod
    def bind(ctx: ComputeContext) -> Kernel | None:
        """Compile the expression once, fixed single numbers written into it."""
        if not ctx.types or any(t is None for t in ctx.types):
            return None
        lone = {
            i: value.reshape(()).tolist()
            for i in range(3, len(ctx.types))
            if (value := ctx.constant(i)) is not None and value.size == 1
        }
        dtypes = [t.dtype for t in ctx.types if t is not None]
        expr = scores_expression(ctx.attributes, dtypes, lone)
        apply = _rendered(ctx, expr, len(dtypes) - 3)
        return lambda *inputs: _attend(ctx, apply, inputs)

    @staticmethod
    def rows(ctx: RowContext) -> Sequence[RowState]:
        """The rules of the parts in their order."""
        shapes = [None if t is None else t.shape for t in ctx.types[:3]]
        if any(s is None or len(s) < 2 for s in shapes):
            return ctx.mixed("a rank is unknown")
        perms = [_perm(ctx.attributes, n, len(s or ())) for n, s in zip("qkv", shapes, strict=True)]
        perms[1] = (*perms[1][:-2], perms[1][-1], perms[1][-2])
        kinds = [_moved(t, p) for t, p in zip(ctx.types[:3], perms, strict=True)]
        states = [_follow(ctx, i, perms[i], kinds[i]) for i in range(3)]
        q, k, v = kinds
        assert q.shape is not None and k.shape is not None and v.shape is not None
        infer = _shape_context(ctx)
        product = q.with_shape(matmul_shape(infer, q.shape, k.shape))
        state = staged(ctx, matmul_rows, states[:2], [q, k], product)
        extras = [state, *ctx.rows[3:]]
        state = staged(ctx, broadcasting, extras, [product, *ctx.types[3:]], product)
        last = (product.rank or 0) - 1
        state = staged(
            ctx,
            lambda c: follow(c, lambda a: None if a == last else a),
            [state],
            [product],
            product,
        )
        y = q.with_shape(matmul_shape(infer, product.shape, v.shape))
        state = staged(ctx, matmul_rows, [state, states[2]], [product, v], y)
        perm = _perm(ctx.attributes, "y", y.rank or 0)
        return ctx.all_outputs(
            staged(ctx, lambda c: follow(c, perm.index), [state], [y], _moved(y, perm))
        )

    @staticmethod
    def flops(ctx: InferContext) -> Dim:
        """Two products; the expression and the softmax on every score."""
        q, k, v = (_permuted(ctx, ctx.shape(i), OPERANDS[i]) for i in range(3))
        product = matmul_shape(ctx, q, None if k is None else _swapped(k))
        if product is None or not q or not v:
            return 0
        expr = read_expr(text_of_attribute(ctx.attributes["scores"]))
        steps = sum(n.op not in LEAVES and n.op != "cast" for n in expr.walk())
        return element_count(product) * (2 * q[-1] + 2 * v[-1] + 4 + steps)


def scores_expression(
    attributes: Mapping[str, Any],
    dtypes: Sequence[DType | None],
    fixed: Mapping[int, Any] = MappingProxyType({}),
) -> Expr:
    """Return the expression over the product (argument 0) and the inputs behind the values.

    Inputs numbered in `fixed` are single numbers and become part of it.
    """
    if len(dtypes) < 3 or any(d is None or d not in FUSED_TYPES for d in dtypes):
        raise InvalidModel(f"needs queries, keys, values and then numbers, got {list(dtypes)}")
    known = [d for d in dtypes if d is not None]
    if not known[0].is_float or {d.compute for d in known[:3]} != {known[0].compute}:
        raise InvalidModel(f"queries, keys and values are {known[:3]}, expected one kind of float")
    expr = read_expr(text_of_attribute(attributes["scores"]))
    if arguments_of(expr) > len(known) - 2 or expr.dtype is not known[0].compute:
        raise InvalidModel(
            f"the scores take {arguments_of(expr)} values and give {expr.dtype}; expected at most "
            f"{len(known) - 2} and {known[0].compute}"
        )
    values = [argument(0, known[0].compute)]
    for i, dtype in enumerate(known[3:], start=3):
        lone = i in fixed
        values.append(
            constant(fixed[i], dtype.compute)
            if lone
            else cast(argument(i - 2, dtype), dtype.compute)
        )
    return substitute(expr, values)


def _rendered(ctx: ComputeContext, expr: Expr, extras: int) -> Rendered:
    return compile_numpy(
        expr,
        ctx.xp,
        arity=1 + extras,
        scalars=frozenset(range(1, 1 + extras)),  # they broadcast into the scores
        owned=frozenset((0,)),
    )


def _attend(ctx: ComputeContext, apply: Rendered, inputs: Sequence[Array]) -> Sequence[Array]:
    xp = ctx.xp
    q, k, v = (
        widen(xp, _transposed(x, ctx.attributes[f"perm_{name}"]))
        for x, name in zip(inputs[:3], OPERANDS, strict=True)
    )
    check_size(ctx, (*q.shape[:-1], k.shape[-2]), q.dtype)
    scores = xp.matmul(for_blas(xp, q), for_blas(xp, k).swapaxes(-1, -2))  # (..., S, L)
    shape = scores.shape
    scores = apply(scores, *inputs[3:])
    if scores.shape != shape:
        raise ValueError(f"the scores widened from {shape} to {scores.shape}")
    weights = softmax(xp, scores, -1) if scores.size else scores
    if ctx.attributes["safe"]:
        weights = xp.where(xp.isnan(weights), weights.dtype.type(0), weights)
    y = xp.matmul(weights, for_blas(xp, v))  # (..., S, E)
    return [narrow(_transposed(y, ctx.attributes["perm_y"]), inputs[0].dtype)]


def _transposed(x: Array, perm: Sequence[int]) -> Array:
    return x.transpose(perm) if len(perm) else x


def _perm(attributes: Mapping[str, Any], name: str, rank: int) -> tuple[int, ...]:
    perm = tuple(attributes[f"perm_{name}"]) or tuple(range(rank))
    if sorted(perm) != list(range(rank)):
        raise InvalidModel(f"perm_{name} {list(perm)} is no permutation of {rank} axes")
    return perm


def _permuted(ctx: InferContext, shape: Shape | None, name: str) -> Shape | None:
    if shape is None:
        return None
    if len(shape) < 2:
        ctx.fail(f"{name} must have rank 2 or more, got {list(shape)}")
    return tuple(shape[axis] for axis in _perm(ctx.attributes, name, len(shape)))


def _swapped(shape: Shape) -> Shape:
    return (*shape[:-2], shape[-1], shape[-2])


def _moved(kind: TensorType | None, perm: Sequence[int]) -> TensorType:
    assert kind is not None and kind.shape is not None
    return kind.with_shape(kind.shape[axis] for axis in perm)


def _follow(ctx: RowContext, i: int, perm: tuple[int, ...], moved: TensorType) -> RowState:
    return staged(ctx, lambda c: follow(c, perm.index), [ctx.rows[i]], [ctx.types[i]], moved)


def _shape_context(ctx: RowContext) -> InferContext:
    """Shape rules ask for an inference context; only its `fail` is of use here."""
    return InferContext(ctx.node, ctx.types, ctx.attributes, ctx.constants, (), ctx.version)


__all__ = ["FusedAttention", "scores_expression"]
