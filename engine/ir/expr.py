"""Typed scalar expressions: what an elementwise operator computes for one element.

An expression is an immutable graph of `Expr` nodes. Operator definitions build it by calling
ordinary Python operators and the functions of this module on their arguments; a renderer then
writes it down for a device. Nothing here computes, and nothing knows numpy: the same expression
becomes array calls, LLVM code or CUDA code.

Meaning:
  - Both sides of an operator have one type; a Python number takes the type of the other side.
  - Integers wrap. `/` on integers truncates toward zero, `remainder` takes the divisor's sign,
    `fmod` the dividend's.
  - `minimum` and `maximum` give NaN when either side is NaN. Comparisons with NaN are false, but
    `not_equal`.
  - `round_even` takes halves to the even neighbour.
  - `cast` between integers wraps; from float to integer it truncates toward zero, unspecified
    outside of the integer's range; to bool it asks "is not zero"; to a narrower float it rounds to
    nearest even, and overflow is infinity (where the type has one) unless `saturate`, which gives
    the largest finite value.
  - Types narrower than float32 have no arithmetic: a definition sees float32, and the result
    rounds at the end.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from engine.dtypes import DType

Number = int | float | bool


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_FLOAT_FUNCTIONS: Final = _words("""
    exp expm1 log log1p sqrt erf sin cos tan asin acos atan sinh cosh tanh asinh acosh atanh
    floor ceil round trunc
""")
UNARY: Final = _FLOAT_FUNCTIONS | {"neg", "abs", "sign", "bitnot", "not"}
BINARY: Final = _words("""
    add sub mul div fmod remainder pow min max and or xor bitand bitor bitxor shl shr
""")
TESTS: Final = _words("lt le eq ne isnan isinf")  # these give bool, the others their first type
LEAVES: Final = _words("arg const")
PRIMITIVES: Final = UNARY | BINARY | TESTS | LEAVES | {"select", "cast"}

_FLOAT_ONLY: Final = _FLOAT_FUNCTIONS | {"isnan", "isinf"}
_BOOL_ONLY: Final = _words("and or xor not")
_INTEGER_ONLY: Final = _words("bitand bitor bitxor bitnot shl shr")


class Expr:
    """One node of an expression: a primitive, its arguments, its type.

    Attributes:
        op: A name from `PRIMITIVES`.
        args: The arguments.
        dtype: The type of the result.
        payload: The index of an "arg", the number of a "const", whether a "cast" saturates; else
            None.
    """

    __slots__ = ("args", "dtype", "op", "payload")

    def __init__(
        self, op: str, args: tuple[Expr, ...], dtype: DType, payload: Number | None = None
    ) -> None:
        self.op, self.args, self.dtype, self.payload = op, args, dtype, payload

    def __add__(self, other: Expr | Number) -> Expr:
        return _binary("add", self, other)

    def __radd__(self, other: Number) -> Expr:
        return _binary("add", other, self)

    def __sub__(self, other: Expr | Number) -> Expr:
        return _binary("sub", self, other)

    def __rsub__(self, other: Number) -> Expr:
        return _binary("sub", other, self)

    def __mul__(self, other: Expr | Number) -> Expr:
        return _binary("mul", self, other)

    def __rmul__(self, other: Number) -> Expr:
        return _binary("mul", other, self)

    def __truediv__(self, other: Expr | Number) -> Expr:
        return _binary("div", self, other)

    def __rtruediv__(self, other: Number) -> Expr:
        return _binary("div", other, self)

    def __neg__(self) -> Expr:
        return _unary("neg", self)

    def __lt__(self, other: Expr | Number) -> Expr:
        return _binary("lt", self, other)

    def __le__(self, other: Expr | Number) -> Expr:
        return _binary("le", self, other)

    def __gt__(self, other: Expr | Number) -> Expr:
        return _binary("lt", _as_expr(other, self), self)

    def __ge__(self, other: Expr | Number) -> Expr:
        return _binary("le", _as_expr(other, self), self)

    def __bool__(self) -> bool:
        raise TypeError("an expression has no truth value while it is built; use select()")

    def walk(self) -> Iterator[Expr]:
        """Yield every distinct node once, arguments before what uses them."""
        seen: set[int] = set()
        stack: list[tuple[Expr, bool]] = [(self, False)]
        while stack:
            node, ready = stack.pop()
            if ready:
                yield node
            elif id(node) not in seen:
                seen.add(id(node))
                stack.append((node, True))
                stack.extend((each, False) for each in reversed(node.args))

    def __str__(self) -> str:
        return text_of(self)


def argument(index: int, dtype: DType) -> Expr:
    """Return the element of input number `index`."""
    return Expr("arg", (), dtype, index)


def constant(value: Number, dtype: DType) -> Expr:
    """Return a number of this type; one that the type cannot hold is a `ValueError`."""
    if dtype.is_float:
        return Expr("const", (), dtype, float(value))
    if dtype is DType.BOOL:
        return Expr("const", (), dtype, bool(value))
    low = -(1 << (dtype.bits - 1)) if dtype.is_signed else 0
    if int(value) != value or not low <= value < low + (1 << dtype.bits):
        raise ValueError(f"{value!r} is not a value of {dtype}")
    return Expr("const", (), dtype, int(value))


# ---------------------------------------------------------------------- functions, by family


def exp(x: Expr) -> Expr:
    """e to the power of x."""
    return _unary("exp", x)


def expm1(x: Expr) -> Expr:
    """exp(x) - 1, exact near zero."""
    return _unary("expm1", x)


def log(x: Expr) -> Expr:
    """Natural logarithm."""
    return _unary("log", x)


def log1p(x: Expr) -> Expr:
    """log(1 + x), exact near zero."""
    return _unary("log1p", x)


def sqrt(x: Expr) -> Expr:
    """Square root."""
    return _unary("sqrt", x)


def erf(x: Expr) -> Expr:
    """The error function."""
    return _unary("erf", x)


def sin(x: Expr) -> Expr:
    """Sine."""
    return _unary("sin", x)


def cos(x: Expr) -> Expr:
    """Cosine."""
    return _unary("cos", x)


def tan(x: Expr) -> Expr:
    """Tangent."""
    return _unary("tan", x)


def asin(x: Expr) -> Expr:
    """Inverse sine."""
    return _unary("asin", x)


def acos(x: Expr) -> Expr:
    """Inverse cosine."""
    return _unary("acos", x)


def atan(x: Expr) -> Expr:
    """Inverse tangent."""
    return _unary("atan", x)


def sinh(x: Expr) -> Expr:
    """Hyperbolic sine."""
    return _unary("sinh", x)


def cosh(x: Expr) -> Expr:
    """Hyperbolic cosine."""
    return _unary("cosh", x)


def tanh(x: Expr) -> Expr:
    """Hyperbolic tangent."""
    return _unary("tanh", x)


def asinh(x: Expr) -> Expr:
    """Inverse hyperbolic sine."""
    return _unary("asinh", x)


def acosh(x: Expr) -> Expr:
    """Inverse hyperbolic cosine."""
    return _unary("acosh", x)


def atanh(x: Expr) -> Expr:
    """Inverse hyperbolic tangent."""
    return _unary("atanh", x)


def sigmoid(x: Expr) -> Expr:
    """1 / (1 + exp(-x)); exp overflows to infinity for very negative x, which gives the right 0."""
    return 1 / (1 + exp(-x))


def floor(x: Expr) -> Expr:
    """Largest whole number not above x; integers are themselves."""
    return _unary("floor", x) if x.dtype.is_float else x


def ceil(x: Expr) -> Expr:
    """Smallest whole number not below x; integers are themselves."""
    return _unary("ceil", x) if x.dtype.is_float else x


def round_even(x: Expr) -> Expr:
    """Nearest whole number, halves to the even one."""
    return _unary("round", x) if x.dtype.is_float else x


def truncate(x: Expr) -> Expr:
    """The whole number next to x toward zero."""
    return _unary("trunc", x) if x.dtype.is_float else x


def absolute(x: Expr) -> Expr:
    """Magnitude; the most negative integer wraps to itself."""
    return _unary("abs", x) if x.dtype.is_signed else x


def sign(x: Expr) -> Expr:
    """-1, 0 or 1, and NaN for NaN."""
    return _unary("sign", x)


def power(x: Expr, y: Expr | Number) -> Expr:
    """x to the power of y; integers wrap and need an exponent that is not negative."""
    return _binary("pow", x, y)


def minimum(x: Expr, y: Expr | Number) -> Expr:
    """The smaller one; NaN if either is NaN."""
    return _binary("min", x, y)


def maximum(x: Expr, y: Expr | Number) -> Expr:
    """The larger one; NaN if either is NaN."""
    return _binary("max", x, y)


def clip(x: Expr, low: Expr | Number | None, high: Expr | Number | None) -> Expr:
    """x within [low, high]; `high` wins where low > high. None leaves a side open."""
    if low is not None:
        x = maximum(x, low)
    return x if high is None else minimum(x, high)


def fmod(x: Expr, y: Expr | Number) -> Expr:
    """Remainder with the sign of x."""
    return _binary("fmod", x, y)


def remainder(x: Expr, y: Expr | Number) -> Expr:
    """Remainder with the sign of y."""
    return _binary("remainder", x, y)


def equal(x: Expr, y: Expr | Number) -> Expr:
    """Whether both are equal."""
    return _binary("eq", x, y)


def not_equal(x: Expr, y: Expr | Number) -> Expr:
    """Whether both differ; true with NaN."""
    return _binary("ne", x, y)


def is_nan(x: Expr) -> Expr:
    """Whether x is NaN."""
    return _unary("isnan", x)


def is_inf(x: Expr) -> Expr:
    """Whether x is an infinity of either sign."""
    return _unary("isinf", x)


def logical_and(x: Expr, y: Expr) -> Expr:
    """Whether both hold."""
    return _binary("and", x, y)


def logical_or(x: Expr, y: Expr) -> Expr:
    """Whether at least one holds."""
    return _binary("or", x, y)


def logical_xor(x: Expr, y: Expr) -> Expr:
    """Whether exactly one holds."""
    return _binary("xor", x, y)


def logical_not(x: Expr) -> Expr:
    """Whether x does not hold."""
    return _unary("not", x)


def bit_and(x: Expr, y: Expr) -> Expr:
    """Bitwise and."""
    return _binary("bitand", x, y)


def bit_or(x: Expr, y: Expr) -> Expr:
    """Bitwise or."""
    return _binary("bitor", x, y)


def bit_xor(x: Expr, y: Expr) -> Expr:
    """Bitwise exclusive or."""
    return _binary("bitxor", x, y)


def bit_not(x: Expr) -> Expr:
    """Every bit flipped."""
    return _unary("bitnot", x)


def shift_left(x: Expr, bits: Expr) -> Expr:
    """x with its bits moved up; zero when `bits` is the width or more, or negative."""
    return _binary("shl", x, bits)


def shift_right(x: Expr, bits: Expr) -> Expr:
    """x with its bits moved down, copies of the sign above them; the sign alone (0 or -1) when
    `bits` is the width or more, or negative.
    """
    return _binary("shr", x, bits)


def select(condition: Expr, x: Expr | Number, y: Expr | Number) -> Expr:
    """x where the condition holds, else y; both are computed."""
    left, right = _same_type("select", x, y)
    if condition.dtype is not DType.BOOL:
        raise TypeError(f"select: expected a bool condition, got {condition.dtype}")
    return Expr("select", (condition, left, right), left.dtype)


def cast(x: Expr, dtype: DType, *, saturate: bool = False) -> Expr:
    """x in another type; see the module's docstring for what happens to what does not fit."""
    return x if x.dtype is dtype else Expr("cast", (x,), dtype, saturate)


# ---------------------------------------------------------------------- building


def _unary(op: str, x: Expr) -> Expr:
    _check_type(op, x.dtype)
    return Expr(op, (x,), DType.BOOL if op in TESTS else x.dtype)


def _binary(op: str, x: Expr | Number, y: Expr | Number) -> Expr:
    left, right = _same_type(op, x, y)
    _check_type(op, left.dtype)
    return Expr(op, (left, right), DType.BOOL if op in TESTS else left.dtype)


def _same_type(op: str, x: Expr | Number, y: Expr | Number) -> tuple[Expr, Expr]:
    if isinstance(x, Expr):
        right = _as_expr(y, x)
        if x.dtype is not right.dtype:
            raise TypeError(f"{op}: both sides need one type, got {x.dtype} and {right.dtype}")
        return x, right
    if isinstance(y, Expr):
        return _as_expr(x, y), y
    raise TypeError(f"{op}: one side must be an expression, got {x!r} and {y!r}")


def _as_expr(value: Expr | Number, like: Expr) -> Expr:
    return value if isinstance(value, Expr) else constant(value, like.dtype)


def primitive(op: str, args: tuple[Expr, ...]) -> Expr:
    """Return a primitive of one or two arguments by its name, its types checked."""
    if op in UNARY or op in ("isnan", "isinf"):
        (x,) = args
        return _unary(op, x)
    if op not in BINARY | TESTS:
        raise ValueError(f"{op!r} is no primitive of one or two arguments")
    left, right = args
    return _binary(op, left, right)


def _check_type(op: str, dtype: DType) -> None:
    if dtype.compute is not dtype:
        raise TypeError(f"{op}: {dtype} has no arithmetic, cast to {dtype.compute} first")
    is_wrong = (
        (op in _FLOAT_ONLY and not dtype.is_float)
        or (op in _BOOL_ONLY and dtype is not DType.BOOL)
        or (op in _INTEGER_ONLY and not dtype.is_integer)
        or (dtype is DType.STRING and op not in ("eq", "ne"))
    )
    if is_wrong:
        raise TypeError(f"{op} is not defined on {dtype}")


def key_of(expr: Expr) -> tuple[Any, ...]:
    """Return a hashable form: equal keys, equal meaning. What compiled code is remembered by."""
    numbers: dict[int, int] = {}
    rows = []
    for node in expr.walk():
        # repr tells -0.0 from 0.0 and True from 1, and makes NaN equal to itself.
        rows.append(
            (node.op, tuple(numbers[id(a)] for a in node.args), node.dtype, repr(node.payload))
        )
        numbers[id(node)] = len(numbers)
    return tuple(rows)


def text_of(expr: Expr) -> str:
    """Return a readable, stable form: `add(x0, const(1.0))`. For golden tests and dumps."""
    done: dict[int, str] = {}
    for node in expr.walk():
        inner = [done[id(a)] for a in node.args]
        if node.op == "arg":
            text = f"x{node.payload}:{node.dtype}"
        elif node.op == "const":
            text = repr(node.payload)
        elif node.op == "cast":
            text = f"{node.dtype}{'!' if node.payload else ''}({inner[0]})"
        else:
            text = f"{node.op}({', '.join(inner)})"
        done[id(node)] = text
    return done[id(expr)]
