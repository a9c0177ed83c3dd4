"""Renders expressions (`engine.ir.expr`) into LLVM code over registers of any width.

Elementwise kernels, epilogues of contractions and reductions all call `emit_expr`. A number of a
narrow float type is held as float32 (`Builder.load` gives it so). Some shapes of expression have
sequences of their own that are as accurate and cheaper (`engine.cpu.expression_patterns`). What is
rounded to whole numbers next has the reference's bits before (`engine.cpu.vmath.exact`).
"""

from __future__ import annotations

from collections.abc import Sequence

import llvmlite.ir as ir

from engine.cpu.builder import MEMORY, REGISTER, Builder, Value, lanes_of, vector
from engine.cpu.expression_casts import emit_cast
from engine.cpu.expression_operations import OPERATIONS
from engine.cpu.expression_patterns import (
    Write,
    find_coarse_pattern,
    find_exact_pattern,
    find_pattern,
)
from engine.cpu.target import Target
from engine.cpu.vmath.exact import EXACT
from engine.dtypes import DType
from engine.ir.expr import Expr


def unsupported(expr: Expr, target: Target) -> str:
    """Return why an expression has no native code on this target, or "" when it has."""
    for node in expr.walk():
        if node.dtype not in MEMORY:
            return f"{node.dtype} has no native code"
        if node.dtype is DType.FLOAT16 and target.isa == "sse2":
            return "float16 needs instructions that this processor lacks"
    return ""


def emit_expr(
    f: Builder,
    expr: Expr,
    args: Sequence[Value],
    *,
    lanes: int | None = None,
    stored: bool = False,
    coarse: bool = False,
) -> Value:
    """Write the code of an expression; return the register that holds the result.

    Args:
        f: The function under construction.
        expr: What to compute; `unsupported` must have nothing against it.
        args: A register per argument, all of one width; a lone number is spread over the lanes.
        lanes: The width; None takes that of the widest argument.
        stored: Whether the result is stored as `expr.dtype` next, which rounds: a rounding to a
            narrow float at the very end is left to that.
        coarse: Whether the result is rounded to bfloat16 next, so that it may be off by 1e-4 of
            itself before.
    """
    width = lanes or max((lanes_of(a) for a in args), default=1)
    wide = [f.splat(a, width) if lanes_of(a) != width else a for a in args]
    root = expr
    if stored and expr.op == "cast" and expr.dtype.is_narrow_float and not expr.payload:
        source = expr.args[0].dtype
        root = expr.args[0] if source is DType.FLOAT32 else expr
    done: dict[int, Value] = {}
    for node, operands, write in _steps(root, coarse):
        values = [done[id(each)] for each in operands]
        if node.op == "arg":
            done[id(node)] = wide[int(node.payload or 0)]
        elif node.op == "const":
            done[id(node)] = constant(f, node, width)
        else:
            done[id(node)] = write(f, node, values)
    return done[id(root)]


def constant(f: Builder, node: Expr, lanes: int) -> Value:
    """Return a number of an expression in every lane."""
    kind = vector(REGISTER[node.dtype], lanes)
    number = node.payload
    assert number is not None
    value: float | int = float(number) if node.dtype.is_float else int(number)
    return ir.Constant(kind, value if lanes == 1 else [value] * lanes)


def _steps(root: Expr, coarse: bool) -> list[tuple[Expr, tuple[Expr, ...], Write]]:
    """Return what to compute in order: each with its operands and how to write it down."""
    found: list[tuple[Expr, tuple[Expr, ...], Write]] = []
    seen: set[int] = set()
    exact = rounded_parts(root)
    stack: list[tuple[Expr, tuple[Expr, ...], Write] | Expr] = [root]
    while stack:
        top = stack.pop()
        if isinstance(top, tuple):
            found.append(top)
        elif id(top) not in seen:
            seen.add(id(top))
            operands, write = _way(top, coarse and top is root, id(top) in exact)
            stack.append((top, operands, write))
            stack.extend(reversed(operands))
    return found


def _way(node: Expr, is_coarse: bool, is_exact: bool) -> tuple[tuple[Expr, ...], Write]:
    """Return what a node computes from and how it is written down."""
    if is_exact:
        return find_exact_pattern(node) or (node.args, _exact)
    pattern = find_coarse_pattern(node) if is_coarse else None
    return pattern or find_pattern(node) or (node.args, _plain)


def rounded_parts(root: Expr) -> frozenset[int]:
    """Return the ids of the nodes from which something is computed that is rounded then."""
    found: set[int] = set()
    waiting = [each for node in root.walk() if node.op == "round" for each in node.args]
    while waiting:
        node = waiting.pop()
        if id(node) not in found:
            found.add(id(node))
            waiting.extend(node.args)
    return frozenset(found)


def _exact(f: Builder, node: Expr, values: Sequence[Value]) -> Value:
    if node.op in EXACT and node.dtype is DType.FLOAT32:
        return EXACT[node.op](f, values[0])
    return _plain(f, node, values)


def _plain(f: Builder, node: Expr, values: Sequence[Value]) -> Value:
    if node.op == "cast":
        return emit_cast(f, values[0], node.args[0].dtype, node.dtype)
    return OPERATIONS[node.op](f, node.args[0].dtype, *values)
