"""FlexAttention: attention whose scores and weights a model changes by graphs of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from engine.dtypes import FLOATS, DType
from engine.errors import InvalidModel
from engine.ir.graph import Graph
from engine.ir.types import Dim, Shape, TensorType, element_count
from engine.ops.bodies import body_of, infer_body
from engine.ops.common import Array, check_size, int_value, narrow, widen
from engine.ops.contexts import ComputeContext, InferContext
from engine.ops.registry import operator
from engine.ops.softmax import softmax

MODIFIERS = ("score_mod", "prob_mod")


@operator("FlexAttention", since=1, domain="ai.onnx.preview")
class FlexAttention:
    """`prob_mod(softmax(score_mod(Q K' * scale))) V` per head; groups of heads share K and V.

    Both graphs are optional. What they do to a batch is not looked into, so items never stay apart.
    """

    attributes = {"prob_mod": None, "scale": None, "score_mod": None, "softmax_precision": None}

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """(B, heads, queries, value size)."""
        shapes = [ctx.shape(i) for i in range(3)]
        for i, shape in enumerate(shapes):
            if shape is not None and len(shape) != 4:
                ctx.fail(f"input {i} must have rank 4, got shape {list(shape)}")
        _check_heads(ctx, shapes)
        q, k, v = shapes
        batch, heads, queries = (ctx.fresh_dim() for _ in range(3)) if q is None else q[:3]
        keys = ctx.fresh_dim() if k is None else k[2]
        scores = TensorType(score_type(ctx, ctx.dtype(0)), (batch, heads, queries, keys))
        for name in MODIFIERS:
            if ctx.attributes[name] is not None:
                _check_modifier(ctx, name, body_of(ctx, name), scores)
        size = ctx.fresh_dim() if v is None else v[3]
        return [ctx.type(0).with_shape((batch, heads, queries, size))]

    @staticmethod
    def compute(ctx: ComputeContext, q: Array, k: Array, v: Array) -> Sequence[Array]:
        """Products in at least float32, scores in the type that `softmax_precision` names."""
        xp, attributes = ctx.xp, ctx.attributes
        if q.shape[0] != k.shape[0] or k.shape[:3] != v.shape[:3] or q.shape[3] != k.shape[3]:
            raise ValueError(f"{q.shape}, {k.shape} and {v.shape} do not fit together")
        if not k.shape[1] or q.shape[1] % k.shape[1]:
            raise ValueError(f"{q.shape[1]} heads of queries do not share {k.shape[1]}")
        check_size(ctx, (*q.shape[:3], k.shape[2]), xp.float32)
        group = q.shape[1] // k.shape[1]
        keys, values = (xp.repeat(widen(xp, each), group, axis=1) for each in (k, v))
        scale = attributes["scale"]
        scale = 1 / math.sqrt(max(q.shape[3], 1)) if scale is None else float(scale)
        left = widen(xp, q)
        scores = xp.matmul(left * left.dtype.type(scale), keys.swapaxes(-1, -2))
        kind = score_type(ctx, DType.from_numpy(q.dtype)).numpy
        scores = _modified(ctx, "score_mod", narrow(scores, kind))
        weights = widen(xp, scores)
        weights = softmax(xp, weights, -1) if weights.size else weights
        weights = _modified(ctx, "prob_mod", narrow(weights, kind))
        return [narrow(xp.matmul(widen(xp, weights), values), q.dtype)]

    @staticmethod
    def flops(ctx: InferContext) -> Dim:
        """Two per multiply-add of both products."""
        q, k, v = (ctx.shape(i) for i in range(3))
        if q is None or k is None or v is None:
            return 0
        return 2 * element_count(q[:3]) * k[2] * (q[3] + v[3])


def score_type(ctx: InferContext | ComputeContext, dtype: DType) -> DType:
    """The type of the scores: as stated, or at least float32."""
    stated = ctx.attributes["softmax_precision"]
    if stated is None:
        return dtype.compute
    found = DType.from_onnx(stated)
    if found not in FLOATS:
        why = f"softmax_precision must be a type of floating-point numbers, got {found}"
        if isinstance(ctx, InferContext):
            ctx.fail(why)
        raise InvalidModel(why)
    return found


def _check_heads(ctx: InferContext, shapes: Sequence[Shape | None]) -> None:
    q, k, v = shapes
    pairs = [(q, 0, k, 0), (q, 3, k, 3), (k, 0, v, 0), (k, 1, v, 1), (k, 2, v, 2)]
    for one, i, other, j in pairs:
        if one is None or other is None or int_value(one[i] - other[j]) in (0, None):
            continue
        ctx.fail(f"{list(one)} does not fit {list(other)}")
    heads, shared = (int_value(s[1]) if s else None for s in (q, k))
    if heads is not None and shared is not None and (not shared or heads % shared):
        ctx.fail(f"{heads} heads of queries do not share {shared} of keys evenly")


def _check_modifier(ctx: InferContext, name: str, body: Graph, scores: TensorType) -> None:
    """A graph that changes scores must take them and give them back as they were."""
    if len(body.inputs) != 1 or len(body.outputs) != 1:
        ctx.fail(f"{name} must have one input and one output")
    (given,) = infer_body(ctx, body, [scores]).types
    if not isinstance(given, TensorType) or given.dtype is not scores.dtype:
        ctx.fail(f"{name} must give {scores.dtype}, it gives {given}")
    shape = given.shape
    if shape is None or scores.shape is None:
        return
    pairs = zip(shape, scores.shape, strict=False)
    wrong = any(int_value(a - b) not in (0, None) for a, b in pairs)
    if len(shape) != len(scores.shape) or wrong:
        ctx.fail(f"{name} changes the shape {list(scores.shape)} to {list(shape)}")


def _modified(ctx: ComputeContext, name: str, scores: Array) -> Array:
    """Run one of the graphs, if the node has it."""
    if ctx.attributes[name] is None or ctx.bodies is None:
        return scores
    given: Any = ctx.bodies[name]([scores])[0]
    if given.shape != scores.shape or given.dtype != scores.dtype:
        raise ValueError(f"{name} made {given.shape} of {scores.shape}")
    return given
