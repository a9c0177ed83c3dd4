"""The operator table: versions, attributes, own operators; rules that follow from definitions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from engine.dtypes import DType
from engine.errors import InvalidModel, UnsupportedOp
from engine.ir.expr import Expr
from engine.ir.graph import Node
from engine.ir.types import TensorType, symbol
from engine.ops import REGISTRY
from engine.ops.contexts import ComputeContext, InferContext
from engine.ops.define import make_elementwise
from engine.ops.registry import REQUIRED, Registry, make_operator
from engine.ops.rows import SHARED, SIZES, RowContext, RowKind, RowState, rows_on

N, L = symbol("N"), symbol("L")


class Twice:
    """An operator as its author writes it."""

    attributes = {"factor": 2.0, "mode": REQUIRED}  # noqa: RUF012 - the way the documentation shows

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        return (ctx.type(0),)

    @staticmethod
    def compute(ctx: ComputeContext, x: Any) -> Sequence[Any]:
        return (x * ctx.attributes["factor"],)


def infer_ctx(
    op: str,
    *types: TensorType | None,
    attributes: dict[str, Any] | None = None,
    version: int = 21,
    symbolic: Sequence[Any] | None = None,
    constants: Sequence[Any] | None = None,
) -> InferContext:
    names = tuple(f"x{i}" if t is not None else "" for i, t in enumerate(types))
    node = Node(op, names, ("y",), attributes or {}, version=version, name="n")
    known = symbolic or [None] * len(types)
    fixed = constants or [None] * len(types)
    return InferContext(node, types, REGISTRY.find(node).complete(node), fixed, known, version)


def infer(op: str, *types: TensorType | None, **more: Any) -> TensorType:
    ctx = infer_ctx(op, *types, **more)
    (result,) = REGISTRY.find(ctx.node).infer(ctx)
    return result


def real(*shape: Any) -> TensorType:
    return TensorType(DType.FLOAT32, shape)


def test_lookup_takes_the_newest_that_is_old_enough() -> None:
    table = Registry([make_operator(Twice, "Twice", (2, 5)), make_operator(Twice, "Twice", 9)])
    assert table.lookup("", "Twice", 8).since == (2, 5)
    assert table.lookup("ai.onnx", "Twice", 30).since == (9,)
    with pytest.raises(UnsupportedOp, match="introduced at opset 2, the model declares 1"):
        table.lookup("", "Twice", 1, node="n")
    with pytest.raises(UnsupportedOp, match=r"node 'n': operator my\.Thrice .* no such operator"):
        table.lookup("my", "Thrice", 1, node="n")
    with pytest.raises(ValueError, match="is there already"):
        table.add(make_operator(Twice, "Twice", 9))


def test_operators_can_leave_onnx() -> None:
    table = Registry([make_operator(Twice, "Twice", 1, until=10)])
    assert table.lookup("", "Twice", 9).until == 10
    with pytest.raises(UnsupportedOp, match="removed from ONNX at opset 10"):
        table.lookup("", "Twice", 10)


def test_users_extend_a_copy() -> None:
    mine = make_operator(Twice, "Relu", 1)
    table = REGISTRY.extended([mine, make_operator(Twice, "Twice", 1, domain="my")])
    assert table.lookup("", "Relu", 21) is mine
    assert table.lookup("my", "Twice", 1).domain == "my"
    assert REGISTRY.lookup("", "Relu", 21) is not mine
    assert len(list(table.operators())) == len(list(REGISTRY.operators())) + 1


def test_attributes_have_defaults_and_are_checked() -> None:
    op = make_operator(Twice, "Twice", 1)
    done = op.complete(Node("Twice", ("x",), ("y",), {"mode": "a"}))
    assert dict(done) == {"factor": 2.0, "mode": "a"}
    with pytest.raises(InvalidModel, match="'mode' is missing"):
        op.complete(Node("Twice", ("x",), ("y",)))
    with pytest.raises(InvalidModel, match="unknown attribute 'colour'; known are factor, mode"):
        op.complete(Node("Twice", ("x",), ("y",), {"colour": 1}))
    assert repr(REQUIRED) == "REQUIRED"


def test_a_class_must_say_what_it_computes() -> None:
    class Nothing:
        infer = Twice.infer

    with pytest.raises(TypeError, match="needs a static method 'compute'"):
        make_operator(Nothing, "Nothing", 1)


def test_every_operator_states_rules_and_known_versions() -> None:
    for op in REGISTRY.operators():
        assert op.since == tuple(sorted(op.since)), op.name
        assert callable(op.infer), op.name


@pytest.mark.parametrize(
    ("types", "message"),
    [
        ((real(2), TensorType(DType.INT8, (2,))), r"input 1 \(b\) is int8, expected float32"),
        ((TensorType(DType.STRING, (2,)),) * 2, r"input 0 \(a\) is string, expected one of"),
        ((real(2), real(3)), "dims 2 and 3 do not broadcast"),
        ((real(2), None), "input 1 is required"),
        ((real(2),), "input 1 is required"),
        ((real(2),) * 3, "expected at most 2 inputs, got 3"),
    ],
)
def test_elementwise_inputs_are_checked(types: Any, message: str) -> None:
    with pytest.raises(InvalidModel, match=rf"node 'n' \(Add\): {message}"):
        infer("Add", *types)


def test_elementwise_types_and_shapes() -> None:
    assert infer("Add", real(N, 1, 3), real(L, 1)) == real(N, L, 3)
    assert infer("Less", real(N), real(N)) == TensorType(DType.BOOL, (N,))
    assert infer("Add", TensorType(DType.FLOAT32), real(2)).shape is None
    where = infer("Where", TensorType(DType.BOOL, (N, 1)), real(4), real())
    assert where == real(N, 4)
    assert infer("Cast", real(N), attributes={"to": 7}) == TensorType(DType.INT64, (N,))
    assert infer("Sum", real(2, 1), real(3), real()) == real(2, 3)
    ctx = infer_ctx("HardSwish", real(N, 3))
    assert str(REGISTRY.find(ctx.node).flops(ctx)) == "15*N"  # type: ignore[misc]


def test_legacy_broadcasting_is_typed() -> None:
    attributes = {"broadcast": 1, "axis": 1}
    assert infer("Add", real(2, 3, 4), real(3), attributes=attributes, version=6) == real(2, 3, 4)
    with pytest.raises(InvalidModel, match="do not broadcast"):
        infer("Add", real(2, 3, 4), real(3), version=13)


def test_reduction_types_and_shapes() -> None:
    axes = TensorType(DType.INT64, (1,))
    known = [None, np.array([-1], dtype=object)]
    assert infer("ReduceSum", real(N, 3), axes, symbolic=known) == real(N, 1)
    drop = {"keepdims": 0}
    assert infer("ReduceSum", real(N, 3), axes, symbolic=known, attributes=drop) == real(N)
    assert infer("ReduceSum", real(N, 3), attributes=drop) == real()
    assert infer("ReduceMean", real(N, 3), attributes={"axes": (0,)}, version=13) == real(1, 3)
    unknown = infer("ReduceSum", real(N, 3), axes)
    assert unknown.rank == 2
    assert infer("ReduceSum", real(N, 3), axes, attributes=drop).shape is None
    assert infer("ReduceSum", TensorType(DType.FLOAT32)).shape is None
    with pytest.raises(InvalidModel, match="axis 5 is outside"):
        infer("ReduceMean", real(N, 3), attributes={"axes": (5,)}, version=13)
    with pytest.raises(InvalidModel, match="input is bool, expected one of"):
        infer("ReduceSum", TensorType(DType.BOOL, (2,)))
    assert infer("ArgMax", real(N, 3), attributes={"axis": 1}).shape == (N, 1)
    assert infer("ArgMax", TensorType(DType.FLOAT32)).shape is None


def values(op: str, *types: TensorType, symbolic: Sequence[Any], **more: Any) -> Any:
    ctx = infer_ctx(op, *types, symbolic=symbolic, **more)
    rule = REGISTRY.find(ctx.node).values
    assert rule is not None
    (known,) = rule(ctx)
    return None if known is None else known.tolist()


def test_shape_arithmetic_is_known_by_value() -> None:
    pair = TensorType(DType.INT64, (2,))
    dims = np.array([N, 4], dtype=object)
    assert values("Mul", pair, pair, symbolic=[dims, dims]) == [N * N, 16]
    assert values("Mul", pair, pair, symbolic=[dims, None]) is None
    assert values("ReduceProd", pair, symbolic=[dims], attributes={"keepdims": 0}) == 4 * N
    assert values("ReduceSum", pair, symbolic=[dims]) == [N + 4]
    assert values("ReduceMax", pair, symbolic=[dims]) is None
    assert values("ReduceSum", pair, symbolic=[None]) is None
    assert values("Cast", pair, symbolic=[dims], attributes={"to": 6}) == [N, 4]
    assert values("Cast", pair, symbolic=[dims], attributes={"to": 1}) is None
    assert values("CastLike", pair, pair, symbolic=[dims, None]) == [N, 4]


def rows(
    op: str,
    states: Sequence[RowState | None],
    types: Sequence[TensorType | None],
    attributes: dict[str, Any] | None = None,
    version: int = 21,
    constants: Sequence[Any] = (),
) -> RowState:
    names = tuple(f"x{i}" if t is not None else "" for i, t in enumerate(types))
    node = Node(op, names, ("y",), attributes or {}, version=version, name="n")
    operator = REGISTRY.find(node)
    full = operator.complete(node)
    fixed = list(constants) or [None] * len(types)
    outputs = operator.infer(InferContext(node, types, full, fixed, [None] * len(types), version))
    ctx = RowContext(node, states, types, outputs, full, fixed, (), version, N)
    (state,) = operator.rows(ctx)
    return state


ROWS = rows_on(0)


@pytest.mark.parametrize(
    ("states", "types", "result"),
    [
        ([ROWS, SHARED], [real(N, 4), real(4)], ROWS),
        ([SHARED, ROWS], [real(4), real(N, 4)], ROWS),
        ([ROWS, SHARED], [real(N, 4), real(1, 4)], ROWS),
        ([ROWS, ROWS], [real(N, 4), real(N, 1)], ROWS),
        ([ROWS, ROWS], [real(N), real(4, N)], "different axes"),
        ([rows_on(0), rows_on(1)], [real(N, 4), real(3, N, 4)], rows_on(1)),
        ([ROWS, SHARED], [real(N, 4), real(7, 4)], "size of its own"),
        ([ROWS, SHARED], [real(N, 4), real(2, 1, 4)], rows_on(1)),
        ([ROWS, SIZES], [real(N, 4), real()], "number of items"),
        ([SIZES, SHARED], [real(), real()], SIZES),
        ([ROWS, SHARED], [real(N, 4), TensorType(DType.FLOAT32)], "rank is unknown"),
        ([rows_on(0, 2), rows_on(0, 3)], [real(2 * N), real(2 * N)], "entries per item"),
    ],
)
def test_rows_through_elementwise_operators(states: Any, types: Any, result: Any) -> None:
    state = rows("Add", states, types)
    if isinstance(result, str):
        assert state.kind is RowKind.MIXED
        assert result in state.reason
        assert "node 'n' (Add)" in state.reason
    else:
        assert state == result


def test_rows_under_legacy_broadcasting() -> None:
    along = {"broadcast": 1, "axis": 1}
    assert rows("Add", [ROWS, SHARED], [real(N, 3, 4), real(3)], along, 6) == ROWS
    first = {"broadcast": 1, "axis": 0}
    mixed = rows("Add", [ROWS, SHARED], [real(N, 3, 4), real(5)], first, 6)
    assert mixed.kind is RowKind.MIXED


def test_rows_through_reductions_and_casts() -> None:
    x = [real(N, 3, 4)]
    assert rows("ReduceSum", [ROWS], x).kind is RowKind.MIXED
    keep = {"axes": (1, 2)}
    assert rows("ReduceMean", [ROWS], x, keep, 13) == ROWS
    last = {"axes": (0,), "keepdims": 0}
    assert rows("ReduceMean", [rows_on(2)], [real(3, 4, N)], last, 13) == rows_on(1)
    axes = TensorType(DType.INT64, (1,))
    assert rows("ReduceSum", [ROWS, SHARED], [*x, axes]).kind is RowKind.MIXED
    fixed = [None, np.array([1])]
    assert rows("ReduceSum", [ROWS, SHARED], [*x, axes], constants=fixed) == ROWS
    assert rows("ArgMax", [ROWS], x, {"axis": -1, "keepdims": 0}) == ROWS
    assert rows("ArgMax", [ROWS], x, {"axis": 0}).kind is RowKind.MIXED
    assert rows("ArgMax", [ROWS], [TensorType(DType.FLOAT32)]).kind is RowKind.MIXED
    assert rows("Cast", [ROWS], x, {"to": 7}) == ROWS
    assert rows("CastLike", [ROWS, SHARED], [*x, real()]) == ROWS


def test_an_operator_without_a_rule_mixes() -> None:
    op = make_operator(Twice, "Twice", 1)
    node = Node("Twice", ("x",), ("y", "z"), name="n")
    ctx = RowContext(node, [ROWS], [real(N)], [real(N)], {})
    first, second = op.rows(ctx)
    assert first == second
    assert "node 'n' (Twice): no rule" in first.reason
    assert ctx.only(0)
    assert not ctx.only(1)
    assert ctx.rank(3) is None


def test_an_own_elementwise_operator() -> None:
    def double(x: Expr, *, by: float) -> Expr:
        return x * by

    op = make_elementwise(double, "Double", 1, types={DType.FLOAT32}, domain="my")
    node = Node("Double", ("x",), ("y",), {"by": 2.0}, domain="my")
    ctx = ComputeContext(np, node, op.complete(node), 1)
    assert op.compute(ctx, np.float32([3]))[0].tolist() == [6.0]
    with pytest.raises(InvalidModel, match="'by' is missing"):
        op.complete(Node("Double", ("x",), ("y",), domain="my"))


def test_infer_context_speaks_for_the_node() -> None:
    ctx = infer_ctx("Add", real(2), real(2))
    assert ctx.normal_axis(-1, 3) == 2
    assert ctx.fresh_dim("d") != ctx.fresh_dim("d")
    assert (ctx.has(1), ctx.has(2), ctx.constant(9), ctx.value(9)) == (True, False, None, None)
    assert (ctx.dtype(), ctx.shape(), ctx.n_outputs) == (DType.FLOAT32, (2,), 1)
    with pytest.raises(InvalidModel, match=r"node 'n' \(Add\): axis 3 is outside of the 3 axes"):
        ctx.normal_axis(3, 3)
    with pytest.raises(UnsupportedOp, match="not on Sundays"):
        ctx.unsupported("not on Sundays")
