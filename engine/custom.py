"""What an operator of your own is written with: `make_operator`, `make_elementwise`, and the words
that their rules speak.

Everything here is public. `docs/adding-an-op.md` says what each method of an operator must keep to.

    from engine.custom import FLOATS, make_elementwise

    half = make_elementwise(lambda x: x / 2, "Half", since=1, types=FLOATS, domain="my.domain")
    model = engine.load("model.onnx", ops=(half,))
"""

from engine.dtypes import BOOLS, FLOATS, INTEGERS, NUMBERS, STRINGS, DType
from engine.ir import expr
from engine.ir.expr import Expr
from engine.ir.types import Dim, Shape, SymDim, TensorType, broadcast_shapes
from engine.ops.contexts import ComputeContext, InferContext
from engine.ops.define import make_elementwise
from engine.ops.registry import REQUIRED, Operator, make_operator
from engine.ops.row_rules import follow
from engine.ops.rows import RowContext, RowState

__all__ = [
    "BOOLS",
    "FLOATS",
    "INTEGERS",
    "NUMBERS",
    "REQUIRED",
    "STRINGS",
    "ComputeContext",
    "DType",
    "Dim",
    "Expr",
    "InferContext",
    "Operator",
    "RowContext",
    "RowState",
    "Shape",
    "SymDim",
    "TensorType",
    "broadcast_shapes",
    "expr",
    "follow",
    "make_elementwise",
    "make_operator",
]
