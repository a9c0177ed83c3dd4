"""Renders expressions to array code: one Python function of whole arrays per expression.

The function is written as source, compiled once and remembered by the expression's meaning; a call
costs what its array operations cost. It works over any array namespace `xp` with numpy's functions
(numpy, cupy), which is passed in: this module imports none.

Temporaries are reused in place where that is safe: a temporary of the result's type that nothing
reads any more, when every array that went into the result also went into it, so that both have one
shape.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from engine.dtypes import DType
from engine.ir import array_functions
from engine.ir.expr import Expr, key_of

Array = Any
Rendered = Callable[..., Array]

# Primitives that are one array function; those in the second table are written out here.
FUNCTIONS = {
    "neg": "negative",
    "abs": "absolute",
    "log1p": "log1p",
    "round": "rint",
    "asin": "arcsin",
    "acos": "arccos",
    "atan": "arctan",
    "asinh": "arcsinh",
    "acosh": "arccosh",
    "atanh": "arctanh",
    "bitnot": "bitwise_not",
    "not": "logical_not",
    "add": "add",
    "sub": "subtract",
    "mul": "multiply",
    "div": "true_divide",
    "pow": "power",
    "min": "minimum",
    "max": "maximum",
    "and": "logical_and",
    "or": "logical_or",
    "xor": "logical_xor",
    "bitand": "bitwise_and",
    "bitor": "bitwise_or",
    "bitxor": "bitwise_xor",
    "shl": "left_shift",
    "shr": "right_shift",
    "lt": "less",
    "le": "less_equal",
    "eq": "equal",
    "ne": "not_equal",
}
OWN_FUNCTIONS = frozenset(("erf", "integer_divide"))
# Computed in float64 where the library is numpy: what the reference gives, others are held to.
WIDE_FUNCTIONS = frozenset(("exp", "expm1", "log", "log1p", "tanh"))


def render_numpy(expr: Expr, xp: Any, args: Sequence[Array]) -> Array:
    """Compute an expression over arrays now. For repeated use, keep `compile_numpy(expr, xp)`."""
    return compile_numpy(expr, xp)(*args)


def compile_numpy(
    expr: Expr,
    xp: Any,
    *,
    arity: int | None = None,
    scalars: frozenset[int] = frozenset(),
    owned: frozenset[int] = frozenset(),
) -> Rendered:
    """Return a function of arrays that computes `expr` for every element.

    It takes `arity` arrays (default: as many as the expression names). `scalars` are indices of
    arguments that are known to have rank 0, or to broadcast into the others: they do not take part
    in shapes. Arguments that are `owned` may be written to: nobody reads them after the call.
    """
    if arity is None:
        used = [int(node.payload or 0) + 1 for node in expr.walk() if node.op == "arg"]
        arity = max(used, default=0)
    return _compiled(_Keyed(expr, arity, scalars, owned, xp))


class _Keyed:
    """An expression as a key of the cache: equal when the compiled code would be."""

    __slots__ = ("arity", "expr", "key", "owned", "scalars", "xp")

    def __init__(
        self, expr: Expr, arity: int, scalars: frozenset[int], owned: frozenset[int], xp: Any
    ) -> None:
        self.expr, self.arity, self.scalars, self.xp = expr, arity, scalars, xp
        self.owned = owned
        self.key = (key_of(expr), arity, scalars, owned, id(xp))

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Keyed) and self.key == other.key


@lru_cache(maxsize=4096)
def _compiled(keyed: _Keyed) -> Rendered:
    source, names = _Writer(keyed).write(keyed.arity)
    exec(compile(source, "<expression>", "exec"), names)  # source comes from the closed table above
    function: Rendered = names["expression"]
    return function


class _Writer:
    """Writes one expression down as the source of a function."""

    def __init__(self, keyed: _Keyed) -> None:
        self.expr = keyed.expr
        self.scalars = keyed.scalars
        self.owned = frozenset(f"x{i}" for i in keyed.owned)
        self.xp: Any = keyed.xp
        xp = self.xp
        self.nodes = list(self.expr.walk())
        self.uses: dict[int, int] = {}
        for node in self.nodes:
            for each in node.args:
                self.uses[id(each)] = self.uses.get(id(each), 0) + 1
        self.arrays = self._arrays_of()
        self.names: dict[str, Any] = {"asarray": xp.asarray, "ndarray": xp.ndarray}

    def write(self, arity: int) -> tuple[str, dict[str, Any]]:
        """Return the source, and the names that it refers to."""
        parameters = [f"x{i}" for i in range(arity)]
        lines = [f"def expression({', '.join(parameters)}):"]
        plain, _ = self._body(reuse=False)
        reusing, reuses = self._body(reuse=True)
        # Array functions give scalars for rank 0, which cannot be written into: no reuse there.
        shaped = [f"x{i}.ndim" for i in sorted(self.arrays[id(self.expr)])]
        if reuses and shaped:
            lines.append(f"    if {' and '.join(shaped)}:")
            lines += ["        " + line for line in reusing]
        lines += ["    " + line for line in plain]
        return "\n".join(lines) + "\n", self.names

    def _arrays_of(self) -> dict[int, frozenset[int]]:
        """Return which arguments decide about the shape of each node."""
        found: dict[int, frozenset[int]] = {}
        for node in self.nodes:
            if node.op == "arg":
                own = frozenset((int(node.payload or 0),)) - self.scalars
            else:
                own = frozenset().union(*(found[id(a)] for a in node.args))
            found[id(node)] = own
        return found

    def _body(self, reuse: bool) -> tuple[list[str], bool]:
        lines: list[str] = []
        where: dict[int, str] = {}
        left = dict(self.uses)
        reused = False
        for node in self.nodes:
            for each in node.args:
                left[id(each)] -= 1
            if node.op == "arg":
                where[id(node)] = f"x{node.payload}"
                continue
            if node.op == "const":
                where[id(node)] = self._constant(node)
                continue
            target = self._reusable(node, left, where) if reuse else None
            reused = reused or target is not None
            out = "" if target is None else f", out={target}"
            name = target or f"t{len(lines)}"
            lines.append(f"{name} = {self._call(node, [where[id(a)] for a in node.args], out)}")
            where[id(node)] = name
        result = where[id(self.expr)]
        if not reuse:  # rank 0 came out as a scalar of the array library
            lines.append(f"return {result} if type({result}) is ndarray else asarray({result})")
        else:
            lines.append(f"return {result}")
        return lines, reused

    def _reusable(self, node: Expr, left: dict[int, int], where: dict[int, str]) -> str | None:
        """Return the name of a temporary that may take this node's result, or None."""
        if node.op in ("select", "cast") or self._is_own(node):
            return None
        for each in node.args:
            place = where[id(each)]
            is_dead = left[id(each)] == 0 and (place.startswith("t") or place in self.owned)
            # With no array that decides, the shape is not known: a scalar, or one of several sizes.
            shape = self.arrays[id(node)]
            same_shape = bool(shape) and self.arrays[id(each)] == shape
            # What a cast or a select gives may be an argument itself; nothing else aliases one.
            is_own = each.op not in ("cast", "select")
            if is_dead and is_own and same_shape and each.dtype is node.dtype:
                return where[id(each)]
        return None

    def _function(self, node: Expr) -> str:
        if node.op == "div" and not node.dtype.is_float:
            return "integer_divide"
        return FUNCTIONS.get(node.op, node.op)

    def _is_own(self, node: Expr) -> bool:
        """Whether a function of this package computes the node."""
        return self._function(node) in OWN_FUNCTIONS or self._is_wide(node)

    def _is_wide(self, node: Expr) -> bool:
        is_reference = self.xp.__name__ == "numpy"
        return is_reference and node.op in WIDE_FUNCTIONS and node.dtype is DType.FLOAT32

    def _call(self, node: Expr, inner: list[str], out: str) -> str:
        if node.op == "cast":
            return self._cast(node, inner[0])
        if node.op == "select":
            self.names["where"] = self.xp.where
            return f"where({', '.join(inner)})"
        name = self._function(node)
        if name in OWN_FUNCTIONS:
            self.names["xp"] = self.xp
            self.names[name] = getattr(array_functions, name)
            return f"{name}(xp, {', '.join(inner)})"
        self.names[name] = getattr(self.xp, name)
        if self._is_wide(node):
            self.names["xp"] = self.xp
            self.names["rounded_once"] = array_functions.rounded_once
            return f"rounded_once(xp, {name}, {inner[0]})"
        return f"{name}({', '.join(inner)}{out})"

    def _cast(self, node: Expr, inner: str) -> str:
        source = node.args[0].dtype
        if node.dtype is DType.BOOL:
            self.names["not_equal"] = self.xp.not_equal
            return f"not_equal({inner}, 0)"
        kind = self._dtype(node.dtype)
        if node.payload and node.dtype.is_narrow_float:
            self.names["xp"] = self.xp
            self.names["saturating_cast"] = array_functions.saturating_cast
            return f"saturating_cast(xp, {inner}, {kind})"
        # Types that the array library does not know itself convert through float32 only.
        foreign = node.dtype.is_narrow_float and not source.is_float
        first = f".astype({self._dtype(DType.FLOAT32)})" if foreign else ""
        return f"{inner}{first}.astype({kind})"

    def _constant(self, node: Expr) -> str:
        name = f"k{len(self.names)}"
        self.names[name] = self.xp.asarray(node.payload, dtype=node.dtype.numpy)
        return name

    def _dtype(self, dtype: DType) -> str:
        name = f"dtype_{dtype.value}"
        self.names[name] = dtype.numpy
        return name
