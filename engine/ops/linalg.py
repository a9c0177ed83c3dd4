"""Matrix products and determinants: MatMul, Gemm, Einsum, Det."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engine.ir.types import Dim, Shape, TensorType, broadcast_dims, broadcast_shapes, element_count
from engine.ops.common import Array, narrow, widen
from engine.ops.contexts import ComputeContext, InferContext
from engine.ops.registry import REQUIRED, Kernel, operator
from engine.ops.row_rules import follow, side_inputs_problem
from engine.ops.rows import SIZES, RowContext, RowState, rows_on


def matmul_shape(ctx: InferContext, a: Shape | None, b: Shape | None) -> Shape | None:
    """The shape of `a @ b` by numpy's rules; None when a rank is unknown."""
    if a is None or b is None:
        return None
    if not a or not b:
        ctx.fail(f"needs rank 1 or more on both sides, got {list(a)} and {list(b)}")
    inner_a, inner_b = a[-1], b[-2] if len(b) > 1 else b[0]
    if isinstance(inner_a, int) and isinstance(inner_b, int) and inner_a != inner_b:
        ctx.fail(f"inner dims differ: {list(a)} @ {list(b)}")
    lead = broadcast_shapes(a[:-2], b[:-2]) or ()
    return (*lead, *(a[-2:-1] if len(a) > 1 else ()), *(b[-1:] if len(b) > 1 else ()))


def matmul_rows(ctx: RowContext, a: int = 0, b: int = 1) -> Sequence[RowState]:
    """Items may lie on rows of `a`, on columns of `b`, or on a batch axis of one or of both."""
    problem = side_inputs_problem(ctx, (a, b))
    rank_a, rank_b, rank = ctx.rank(a), ctx.rank(b), ctx.outputs[0].rank
    if problem or rank_a is None or rank_b is None or rank is None:
        return ctx.mixed(problem or "a rank is unknown")
    found = {
        _matmul_axis(ctx, i, other, i == b): (state.block, state.outer)
        for i, other in ((a, b), (b, a))
        if (state := ctx.rows[i]) is not None and state.is_rows
    }
    if not found:
        return ctx.all_outputs(SIZES)
    if len(found) > 1 or None in found:
        return ctx.mixed(
            "it sums over the axis of the items, or its operands carry them differently"
        )
    ((axis, (block, outer)),) = found.items()
    states = [ctx.rows[i] for i in (a, b)]
    placed = {(s.block, s.outer) for s in states if s is not None and s.is_rows}
    if placed != {(block, outer)} or axis is None:
        return ctx.mixed("its operands carry different numbers of entries per item")
    if any(s == SIZES for s in states):
        return ctx.mixed("values are computed from the number of items")
    return ctx.all_outputs(rows_on(axis, block, outer))


def _matmul_axis(ctx: RowContext, i: int, other: int, right: bool) -> int | None:
    """The output axis that carries the items of operand `i`, or None when they are summed over."""
    state, kind, peer = ctx.rows[i], ctx.types[i], ctx.types[other]
    rank, out_rank, peer_rank = ctx.rank(i), ctx.outputs[0].rank, ctx.rank(other)
    assert state is not None and kind is not None and peer is not None
    assert rank is not None and out_rank is not None and peer_rank is not None
    assert peer.shape is not None
    contracted = max(rank - 2, 0) if right else rank - 1
    if state.axis == contracted:
        return None
    if state.axis >= rank - 2:  # a row of the left operand or a column of the right one
        return out_rank - 1 if right or peer_rank == 1 else out_rank - 2
    place = rank - state.axis  # a batch axis, counted from the right
    peer_state = ctx.rows[other]
    aligned = peer.shape[-place] if place <= peer_rank else 1
    if aligned != 1 and (peer_state is None or not peer_state.is_rows):
        return None
    dropped = 1 if peer_rank == 1 else 0
    return out_rank + dropped - place


def matmul_flops(ctx: InferContext, a: int = 0, b: int = 1) -> Dim:
    """Two per multiply-add."""
    left, right = ctx.shape(a), ctx.shape(b)
    out = matmul_shape(ctx, left, right)
    return 0 if out is None or not left else 2 * element_count(out) * left[-1]


def for_blas(xp: Any, x: Array) -> Array:
    """Return matrices that BLAS takes: with neighbouring elements along rows or columns."""
    if x.ndim < 2 or (x.itemsize in x.strides[-2:] and min(x.strides[-2:]) > 0):
        return x
    return xp.ascontiguousarray(x)


@operator("MatMul", since=(1, 9, 13))
class MatMul:
    """Matrix product with numpy's rules for batch axes and vectors."""

    rows = staticmethod(matmul_rows)
    flops = staticmethod(matmul_flops)

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """Broadcast the batch axes, contract the inner ones."""
        return [TensorType(ctx.dtype(0), matmul_shape(ctx, ctx.shape(0), ctx.shape(1)))]

    @staticmethod
    def compute(ctx: ComputeContext, a: Array, b: Array) -> Sequence[Array]:
        """Narrow floats multiply in float32 and round once."""
        xp = ctx.xp
        product = xp.matmul(for_blas(xp, widen(xp, a)), for_blas(xp, widen(xp, b)))
        return [narrow(xp.asarray(product), a.dtype)]


@operator("Gemm", since=(1, 6, 7, 9, 11, 13))
class Gemm:
    """`alpha * A' @ B' + beta * C` for matrices, either one transposed first."""

    # `broadcast` belongs to version 1: C broadcasts only if it says so. It changes no value.
    attributes = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0, "broadcast": 0}

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """Rows of A', columns of B'."""
        return [TensorType(ctx.dtype(0), Gemm.shape(ctx))]

    @staticmethod
    def shape(ctx: InferContext) -> Shape:
        """The shape of the result; unknown operands leave fresh dims."""
        a, b = ctx.shape(0), ctx.shape(1)
        for name, shape in (("A", a), ("B", b)):
            if shape is not None and len(shape) != 2:
                ctx.fail(f"{name} must be a matrix, got shape {list(shape)}")
        a = a and (a[::-1] if ctx.attributes["transA"] else a)
        b = b and (b[::-1] if ctx.attributes["transB"] else b)
        if a and b and isinstance(a[1], int) and isinstance(b[0], int) and a[1] != b[0]:
            ctx.fail(f"inner dims differ: {list(a)} @ {list(b)}")
        return (a[0] if a else ctx.fresh_dim("rows"), b[1] if b else ctx.fresh_dim("columns"))

    @staticmethod
    def compute(ctx: ComputeContext, a: Array, b: Array, c: Array | None = None) -> Sequence[Array]:
        """Narrow floats compute in float32 and round once."""
        xp, attributes = ctx.xp, ctx.attributes
        left = widen(xp, a).T if attributes["transA"] else widen(xp, a)
        right = widen(xp, b).T if attributes["transB"] else widen(xp, b)
        y = xp.matmul(left, right)
        if attributes["alpha"] != 1.0:
            y = narrow(y * attributes["alpha"], y.dtype)
        if c is not None and attributes["beta"] != 0.0:
            term = widen(xp, c)
            if attributes["beta"] != 1.0:
                term = narrow(term * attributes["beta"], y.dtype)
            y += term
        return [narrow(y, a.dtype)]

    @staticmethod
    def bind(ctx: ComputeContext) -> Kernel | None:
        """The dense layer of every classifier: with fixed weights a call decides nothing."""
        attributes, xp = ctx.attributes, ctx.xp
        weight, bias = ctx.constant(1), ctx.constant(2)
        is_plain = attributes["alpha"] == attributes["beta"] == 1.0 and not attributes["transA"]
        if not is_plain or weight is None or bias is None or weight.dtype.itemsize < 4:
            return None
        right = weight.T if attributes["transB"] else weight

        def dense(a: Array, *_: Array) -> Sequence[Array]:
            y = xp.matmul(a, right)
            y += bias
            return (y,)

        return dense

    @staticmethod
    def rows(ctx: RowContext) -> Sequence[RowState]:
        """Rows of A' are independent if C has none of its own, or the same items' on axis 0."""
        c = ctx.types[2] if len(ctx.types) > 2 else None
        rows_axis = 1 if ctx.attributes["transA"] else 0
        if c is not None and (c.shape is None or (len(c.shape) == 2 and c.shape[0] != 1)):
            a, own = ctx.rows[0], ctx.rows[2]
            aligned = a is not None and a.is_rows and (a.axis, a.outer) == (rows_axis, 1)
            if a is None or not aligned or own != rows_on(0, a.block):
                return ctx.mixed("C has rows of its own")
            problem = side_inputs_problem(ctx, (0, 2))
            return ctx.mixed(problem) if problem else [own]
        return follow(ctx, lambda axis: 0 if axis == rows_axis else None)

    @staticmethod
    def flops(ctx: InferContext) -> Dim:
        """Two per multiply-add."""
        a = ctx.shape(0)
        inner = 1 if a is None else a[0] if ctx.attributes["transA"] else a[1]
        return 2 * element_count(Gemm.shape(ctx)) * inner


@operator("Einsum", since=(12, 28))
class Einsum:
    """Sum of products named by subscripts."""

    attributes = {"equation": REQUIRED}

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """Look every output subscript up in the operands."""
        shapes = [ctx.shape(i) for i in range(len(ctx.types))]
        if any(s is None for s in shapes):
            return [TensorType(ctx.dtype(0), None)]
        terms, output = einsum_terms(ctx.attributes["equation"])
        dims: dict[str, Dim] = {}
        ellipsis: Shape = ()
        if len(terms) != len(shapes):
            ctx.fail(f"the equation names {len(terms)} operands, there are {len(shapes)}")
        for term, shape in zip(terms, shapes, strict=True):
            assert shape is not None
            names, covered = _spread(ctx, term, shape)
            ellipsis = broadcast_shapes(ellipsis, covered) or ()
            for name, dim in names:
                known = dims.get(name, 1)
                sizes = {known, dim} - {1}
                if len(sizes) > 1 and all(isinstance(size, int) for size in sizes):
                    ctx.fail(f"subscript {name!r} stands for {known} and for {dim} entries")
                dims[name] = broadcast_dims(known, dim)
        result: list[Dim] = []
        for name in output:
            if output.count(name) > 1:
                ctx.fail(f"subscript {name!r} of the output is there twice")
            if name != "." and name not in dims:
                ctx.fail(f"subscript {name!r} of the output is in no operand")
            result.extend(ellipsis if name == "." else (dims[name],))
        return [TensorType(ctx.dtype(0), tuple(result))]

    @staticmethod
    def compute(ctx: ComputeContext, *operands: Array) -> Sequence[Array]:
        """Contract pairwise; narrow floats compute in float32 and round once."""
        xp = ctx.xp
        terms, output = einsum_terms(ctx.attributes["equation"])
        equation = ",".join(terms) + "->" + output
        wide = [widen(xp, x) for x in operands]
        # Without a bound of ours no part may be larger than the result: everything is then summed
        # at once, which takes as long as all subscripts multiplied.
        room = ctx.limits.effective_run_bytes // wide[0].itemsize
        pairwise = ("greedy", room) if len(wide) > 1 else False
        y = xp.einsum(equation.replace(".", "..."), *wide, optimize=pairwise)
        return [narrow(xp.asarray(y), operands[0].dtype)]

    @staticmethod
    def flops(ctx: InferContext) -> Dim:
        """Two for every combination of subscripts, as one sum; in pairs it may take fewer."""
        terms, _ = einsum_terms(ctx.attributes["equation"])
        sizes: dict[str, Dim] = {}
        ellipsis: Shape = ()
        for i, term in enumerate(terms):
            shape = ctx.shape(i)
            if shape is None:
                return 0
            names, covered = _spread(ctx, term, shape)
            ellipsis = broadcast_shapes(ellipsis, covered) or ()
            sizes.update((name, dim) for name, dim in names if sizes.get(name, 1) == 1)
        return 2 * element_count((*sizes.values(), *ellipsis))

    @staticmethod
    def rows(ctx: RowContext) -> Sequence[RowState]:
        """The items' subscript must be in the output, once in each operand with items."""
        terms, output = einsum_terms(ctx.attributes["equation"])
        if "." in "".join((*terms, output)):
            return ctx.mixed("the equation has an ellipsis")
        names = {
            (terms[i][s.axis], s.block)
            for i, s in enumerate(ctx.rows)
            if s is not None and s.is_rows and i < len(terms)
        }
        if not names:
            return ctx.all_outputs(SIZES)
        ((name, block), *more) = names
        free = [
            i
            for i, s in enumerate(ctx.rows)
            if s is not None and not s.is_rows and (name in terms[i] or s == SIZES)
        ]
        if more or free or output.count(name) != 1 or any(t.count(name) > 1 for t in terms):
            return ctx.mixed(
                "it sums over the axis of the items, or its operands carry them differently"
            )
        return ctx.all_outputs(rows_on(output.index(name), block))


def einsum_terms(equation: str | bytes) -> tuple[list[str], str]:
    """Split an equation into operand terms and output, the ellipsis written as one dot."""
    text = equation.decode() if isinstance(equation, bytes) else equation
    text = text.replace(" ", "").replace("...", ".")
    left, arrow, right = text.partition("->")
    terms = left.split(",")
    if arrow:
        return terms, right
    letters = "".join(terms).replace(".", "")
    once = sorted(c for c in set(letters) if letters.count(c) == 1)
    return terms, ("." if "." in left else "") + "".join(once)


def _spread(ctx: InferContext, term: str, shape: Shape) -> tuple[list[tuple[str, Dim]], Shape]:
    """Match a term's subscripts with dims; what the ellipsis covers comes back apart."""
    before, dot, after = term.partition(".")
    covered = len(shape) - len(before) - len(after)
    if covered < 0 or (covered and not dot):
        ctx.fail(f"subscripts {term!r} do not fit the shape {list(shape)}")
    head, middle = shape[: len(before)], shape[len(before) : len(before) + covered]
    tail = shape[len(before) + covered :]
    return [*zip(before, head, strict=True), *zip(after, tail, strict=True)], middle


@operator("Det", since=(11, 22))
class Det:
    """The determinant of every matrix."""

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """The axes in front of the matrices'."""
        x = ctx.type(0)
        if x.shape is None:
            return [x]
        sides = [d for d in x.shape[-2:] if isinstance(d, int)]
        if len(x.shape) < 2 or len(set(sides)) > 1:
            ctx.fail(f"expected square matrices, got shape {list(x.shape)}")
        return [x.with_shape(x.shape[:-2])]

    @staticmethod
    def compute(ctx: ComputeContext, x: Array) -> Sequence[Array]:
        """Narrow floats compute in float32 and round once."""
        return [narrow(ctx.xp.asarray(ctx.xp.linalg.det(widen(ctx.xp, x))), x.dtype)]

    @staticmethod
    def rows(ctx: RowContext) -> Sequence[RowState]:
        """Items lie on an axis in front of the matrices'."""
        rank = ctx.rank(0) or 0
        return follow(ctx, lambda axis: axis if axis < rank - 2 else None)

    @staticmethod
    def flops(ctx: InferContext) -> Dim:
        """About as many as a decomposition into triangles takes."""
        x = ctx.shape(0)
        return 0 if x is None else element_count(x) * x[-1]
