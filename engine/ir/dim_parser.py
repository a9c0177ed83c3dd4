"""Reads dims from text: what `str(dim)` wrote, and whatever model files name their dims."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable

from engine.ir.dims import Dim, ceildiv, dim_broadcast, dim_max, dim_min, floordiv, mod, symbol

MAX_TEXT = 1000  # characters of a dim's text that are worth reading as an expression
# Whatever reading odd text as an expression may raise; ast.parse alone knows most of them.
UNREADABLE = (
    SyntaxError,
    ValueError,
    LookupError,
    TypeError,
    ArithmeticError,
    RecursionError,
    MemoryError,
    Warning,  # where warnings are errors
)
EXPRESSION = re.compile(r"[\w\s+\-*/%(),]*")  # quotes, escapes and the rest are never a dim's


def parse_dim(text: str) -> Dim:
    """Read what `str(dim)` wrote.

    Text that is no such expression is the name of a symbol, as in ONNX files.
    """
    if len(text) > MAX_TEXT or not EXPRESSION.fullmatch(text):
        return symbol(text)
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        return _parse(tree)
    except UNREADABLE:
        return symbol(text)


_OPERATORS: dict[type[ast.operator], Callable[[Dim, Dim], Dim]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.FloorDiv: floordiv,
    ast.Mod: mod,
}
_CALLS: dict[str, Callable[..., Dim]] = {
    "min": dim_min,
    "max": dim_max,
    "broadcast": dim_broadcast,
    "floor": lambda a: a,
    "ceildiv": ceildiv,
}


def _parse(tree: ast.expr) -> Dim:
    match tree:
        case ast.Constant(value=bool()):
            raise ValueError("a truth value is no dimension")
        case ast.Constant(value=int(number)):
            return number
        case ast.Name(id=name):
            return symbol(name)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_parse(operand)
        case ast.BinOp(left=left, op=operation, right=right):
            return _OPERATORS[type(operation)](_parse(left), _parse(right))
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if arguments:
            return _CALLS[name](*map(_parse, arguments))
    raise ValueError("not a dimension expression")
