"""Expressions as text and back: how a fused node carries what it computes.

One step a node, in order, later steps naming earlier ones by number::

    x0:float32; 0.5:float32; mul #0 #1; float16 #2

is the product of input 0 and a half, rounded to float16 (`float16!` would saturate). The text is
canonical: equal text, equal meaning, so it is also what compiled code can be remembered by. Reading
trusts nothing: an artifact or a model file may hold any text.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from engine.dtypes import DType
from engine.errors import InvalidModel
from engine.ir import expr as e
from engine.ir.expr import Expr

MAX_STEPS = 2048  # a chain beyond this was not written by a pass of ours
SEPARATOR = "; "


def write_expr(expr: Expr) -> str:
    """Return the text of an expression."""
    numbers: dict[int, int] = {}
    steps: list[str] = []
    for node in expr.walk():
        steps.append(_step(node, [numbers[id(a)] for a in node.args]))
        numbers[id(node)] = len(numbers)
    return SEPARATOR.join(steps)


def _step(node: Expr, args: Sequence[int]) -> str:
    if node.op == "arg":
        return f"x{node.payload}:{node.dtype}"
    if node.op == "const":
        return f"{node.payload!r}:{node.dtype}"
    word = f"{node.dtype}{'!' if node.payload else ''}" if node.op == "cast" else node.op
    return " ".join((word, *(f"#{i}" for i in args)))


@lru_cache(maxsize=1024)
def read_expr(text: str) -> Expr:
    """Return the expression that `write_expr` wrote; anything else is an `InvalidModel`."""
    steps = text.split(SEPARATOR)
    if len(steps) > MAX_STEPS:
        raise InvalidModel(f"an expression has {len(steps)} steps, at most {MAX_STEPS} are read")
    done: list[Expr] = []
    for step in steps:
        try:
            done.append(_leaf(step) if ":" in step else _applied(step, done))
        except (ValueError, TypeError, IndexError, KeyError, OverflowError) as error:
            raise InvalidModel(f"step {step[:80]!r} of an expression: {error}") from error
    return done[-1]


def _leaf(step: str) -> Expr:
    word, _, kind = step.partition(":")
    dtype = DType(kind)
    if word.startswith("x"):
        return e.argument(int(word[1:]), dtype)
    if dtype is DType.BOOL:
        return e.constant({"True": True, "False": False}[word], dtype)
    return e.constant(float(word) if dtype.is_float else int(word), dtype)


def _applied(step: str, done: Sequence[Expr]) -> Expr:
    word, *references = step.split(" ")
    args = tuple(done[_number(each)] for each in references)
    if word == "select":
        condition, x, y = args
        return e.select(condition, x, y)
    if word in e.PRIMITIVES:
        return e.primitive(word, args)
    (source,) = args
    return e.cast(source, DType(word.rstrip("!")), saturate=word.endswith("!"))


def _number(reference: str) -> int:
    if not reference.startswith("#") or not reference[1:].isdecimal():
        raise ValueError(f"{reference!r} is no reference to a step")
    return int(reference[1:])


def substitute(expr: Expr, values: Sequence[Expr]) -> Expr:
    """Return the expression with input `i` replaced by `values[i]`, which has its type."""
    done: dict[int, Expr] = {}
    for node in expr.walk():
        if node.op == "arg":
            done[id(node)] = _value(node, values)
        elif not node.args:
            done[id(node)] = node
        else:
            args = tuple(done[id(a)] for a in node.args)
            same = all(new is old for new, old in zip(args, node.args, strict=True))
            done[id(node)] = node if same else Expr(node.op, args, node.dtype, node.payload)
    return done[id(expr)]


def _value(node: Expr, values: Sequence[Expr]) -> Expr:
    index = int(node.payload or 0)
    if index >= len(values):
        raise InvalidModel(f"an expression reads input {index}, there are {len(values)}")
    if values[index].dtype is not node.dtype:
        raise InvalidModel(
            f"an expression takes input {index} as {node.dtype}, got {values[index].dtype}"
        )
    return values[index]


def merge_equal(expr: Expr) -> Expr:
    """Return the expression with equal parts made one, so that they are computed once."""
    parts: dict[tuple[object, ...], Expr] = {}
    done: dict[int, Expr] = {}
    for node in expr.walk():
        args = tuple(done[id(a)] for a in node.args)
        # repr tells -0.0 from 0.0 and True from 1, and makes NaN equal to itself.
        key = (node.op, tuple(map(id, args)), node.dtype, repr(node.payload))
        if key not in parts:
            parts[key] = Expr(node.op, args, node.dtype, node.payload)
        done[id(node)] = parts[key]
    return done[id(expr)]


def arguments_of(expr: Expr) -> int:
    """Return how many inputs the expression takes: one more than the highest that it reads."""
    return max((int(n.payload or 0) + 1 for n in expr.walk() if n.op == "arg"), default=0)


__all__ = ["MAX_STEPS", "arguments_of", "merge_equal", "read_expr", "substitute", "write_expr"]
