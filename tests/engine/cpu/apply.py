"""A kernel that applies one expression to whole arrays: what tests of expressions run."""

from __future__ import annotations

from dataclasses import dataclass

import llvmlite.ir as ir
import numpy as np

from engine.cpu.expressions import emit_expr
from engine.cpu.kernel import Kernel, KernelBuilder
from engine.cpu.target import Target
from engine.dtypes import DType
from engine.ir.expr import Expr
from engine.ir.expr_text import arguments_of, read_expr, write_expr
from tests.engine.cpu.harness import run_kernel


@dataclass(frozen=True)
class Apply(Kernel):
    """Output 0: the expression of operands 1, 2, ... A task is one vector of `lanes`."""

    expression: str
    lanes: int
    coarse: bool = False

    def emit(self, module: ir.Module, name: str, target: Target) -> None:
        f = KernelBuilder(module, name, target)
        expr = read_expr(self.expression)
        kinds = {int(n.payload or 0): n.dtype for n in expr.walk() if n.op == "arg"}
        with f.loop(f.low, f.high) as task:
            first = f.mul(task.i, self.lanes)
            args = [
                f.load(
                    f.at(f.operand(i + 1), first, kinds.get(i, DType.FLOAT32)), kinds[i], self.lanes
                )
                if i in kinds
                else f.floats(0.0, self.lanes)
                for i in range(arguments_of(expr))
            ]
            value = emit_expr(f, expr, args, lanes=self.lanes, stored=True, coarse=self.coarse)
            f.store(value, f.at(f.operand(0), first, expr.dtype), expr.dtype)
        f.ret()


def apply_native(
    expr: Expr,
    *args: np.ndarray,
    lanes: int = 16,
    target: Target | None = None,
    coarse: bool = False,
) -> np.ndarray:
    """Compute an expression of flat arrays of one length, by native code."""
    size = args[0].size
    padded = [np.concatenate([a, np.repeat(a[-1:], -size % lanes)]) for a in args]
    out = np.zeros(padded[0].size, expr.dtype.numpy)
    kernel = Apply(write_expr(expr), lanes, coarse)
    (result,) = run_kernel(kernel, [out, *padded], tasks=padded[0].size // lanes, target=target)
    return result[:size]
