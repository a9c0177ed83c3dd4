"""Symbolic dimensions: whole numbers that are known only when a model runs, with exact arithmetic.

A `SymDim` is a polynomial with integer coefficients over atoms, always in one normal form, so two
equal expressions compare equal by structure: `(2*L + 4) // 2 == L + 2`. Atoms are symbols (`N`) and
what polynomials cannot say: floor division, min and max. Ceil division and mod are written with
floor division. Division assumes that symbols used as divisors are positive, as dims that divide
others are.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import gcd, prod
from typing import Union

Dim = Union[int, "SymDim"]

# A polynomial beyond these is no dim of a real model; it would only burn time. Squaring a dim again
# and again needs few nodes and gives powers that no machine could write down.
MAX_TERMS = 512
MAX_DEGREE = 64
MAX_SIZE = 4096  # names and calls, those within calls included, as often as they stand there
MAX_COEFFICIENT = 1 << 4096  # 64 dims of 64 bits may be multiplied to count elements


@dataclass(frozen=True)
class Symbol:
    """An atom with a name, bound to a number when the model runs."""

    name: str

    @property
    def size(self) -> int:
        """How much there is to write down."""
        return 1

    def evaluate(self, bindings: Mapping[str, int]) -> int:
        """Return the number bound to the name."""
        return bindings[self.name]

    def symbols(self) -> frozenset[str]:
        """Return the names that the value depends on."""
        return frozenset((self.name,))

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Call:
    """An atom that applies floor division, min, max or broadcasting to dims."""

    function: str  # "//", "min", "max" or "broadcast"
    arguments: tuple[Dim, ...]

    @cached_property
    def size(self) -> int:
        """How much there is to write down."""
        return 1 + sum(a.size for a in self.arguments if isinstance(a, SymDim))

    def evaluate(self, bindings: Mapping[str, int]) -> int:
        """Return the number that the call comes to."""
        return _FUNCTIONS[self.function](*(evaluate(a, bindings) for a in self.arguments))

    def symbols(self) -> frozenset[str]:
        """Return the names that the value depends on."""
        return frozenset().union(*(symbols_of(a) for a in self.arguments))

    def substitute(self, values: Mapping[str, Dim]) -> Dim:
        """Return the dim with symbols replaced."""
        replaced = [substitute(a, values) for a in self.arguments]
        return _BUILDERS[self.function](*replaced)

    def __str__(self) -> str:
        if self.function == "//":
            return f"{_grouped(self.arguments[0])}//{_grouped(self.arguments[1])}"
        return f"{self.function}({', '.join(map(str, self.arguments))})"


Atom = Symbol | Call
Monomial = tuple[Atom, ...]  # a product of atoms, sorted by their text; () is the constant term


@dataclass(frozen=True, eq=False)
class SymDim:
    """A dimension that depends on symbols.

    Build it with `symbol`, `parse_dim` and arithmetic, not directly.
    """

    terms: tuple[tuple[Monomial, int], ...]  # sorted, no coefficient zero, never a lone constant

    def __post_init__(self) -> None:
        if self.size > MAX_SIZE:
            raise OverflowError(f"a dimension holds more than {MAX_SIZE} names and divisions")

    @cached_property
    def size(self) -> int:
        """How much there is to write down."""
        return sum(atom.size for atoms, _ in self.terms for atom in atoms)

    def evaluate(self, bindings: Mapping[str, int]) -> int:
        """Return the number for these values of the symbols; KeyError names a missing one."""
        return sum(c * prod(a.evaluate(bindings) for a in atoms) for atoms, c in self.terms)

    @cached_property
    def symbols(self) -> frozenset[str]:
        """The names that the value depends on."""
        return frozenset().union(*(a.symbols() for atoms, _ in self.terms for a in atoms))

    @property
    def is_symbol(self) -> bool:
        """Whether this is one bare symbol."""
        (atoms, coefficient), *rest = self.terms
        return not rest and coefficient == 1 and len(atoms) == 1 and isinstance(atoms[0], Symbol)

    @cached_property
    def _hash(self) -> int:
        return hash(self.terms)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return isinstance(other, SymDim) and self.terms == other.terms

    def __add__(self, other: Dim) -> Dim:
        return _from_terms(itertools.chain(self.terms, _terms(other)))

    __radd__ = __add__

    def __neg__(self) -> Dim:
        return self * -1

    def __sub__(self, other: Dim) -> Dim:
        return self + (-other)

    def __rsub__(self, other: Dim) -> Dim:
        return -self + other

    def __mul__(self, other: Dim) -> Dim:
        return _from_terms(
            (tuple(sorted(a + b, key=str)), c * d) for a, c in self.terms for b, d in _terms(other)
        )

    __rmul__ = __mul__

    def __floordiv__(self, other: Dim) -> Dim:
        return floordiv(self, other)

    def __rfloordiv__(self, other: int) -> Dim:
        return floordiv(other, self)

    def __mod__(self, other: Dim) -> Dim:
        return mod(self, other)

    def __rmod__(self, other: int) -> Dim:
        return mod(other, self)

    @cached_property
    def _text(self) -> str:
        pieces: list[str] = []
        for atoms, coefficient in sorted(self.terms, key=lambda t: (not t[0], -len(t[0]))):
            factors = [_factor(a) for a in atoms]
            if abs(coefficient) != 1 or not factors:
                factors.insert(0, str(abs(coefficient)))
            sign = "-" if coefficient < 0 else "+" if pieces else ""
            pieces.append(sign + "*".join(factors))
        if len(self.terms) == 1 and len(factors) == 1 and coefficient == 1:
            return str(atoms[0])
        return "".join(pieces)

    def __str__(self) -> str:
        return self._text

    __repr__ = __str__


def symbol(name: str) -> SymDim:
    """Return the dim called `name`."""
    return SymDim((((Symbol(name),), 1),))


_counter = itertools.count()


def fresh_symbol(hint: str = "d") -> SymDim:
    """Return a symbol that no other call in this process returns, named after `hint`."""
    return symbol(f"{hint}_{next(_counter)}")


def is_static(dim: Dim) -> bool:
    """Whether the dim is a number already."""
    return not isinstance(dim, SymDim)


def evaluate(dim: Dim, bindings: Mapping[str, int]) -> int:
    """Return the dim as a number, for these values of the symbols."""
    return dim.evaluate(bindings) if isinstance(dim, SymDim) else dim


def symbols_of(dim: Dim) -> frozenset[str]:
    """Return the names that the dim depends on."""
    return dim.symbols if isinstance(dim, SymDim) else frozenset()


def substitute(dim: Dim, values: Mapping[str, Dim]) -> Dim:
    """Return the dim with the named symbols replaced, in normal form again."""
    if not isinstance(dim, SymDim) or dim.symbols.isdisjoint(values):
        return dim
    total: Dim = 0
    for atoms, coefficient in dim.terms:
        product: Dim = coefficient
        for atom in atoms:
            product = product * _substitute_atom(atom, values)
        total = total + product
    return total


def floordiv(a: Dim, b: Dim) -> Dim:
    """Return `a // b`, rounded down.

    What divides exactly leaves the division: `(4*L+3)//4 == L`.
    """
    if isinstance(a, int) and isinstance(b, int):
        return a // b
    if b == 1 or a == 0:
        return a
    whole, rest = _split_multiples(a, b)
    return whole + _floor_atom(rest, b)


def ceildiv(a: Dim, b: Dim) -> Dim:
    """Return `a / b` rounded up, for a positive `b`."""
    return floordiv(a + b - 1, b)


def mod(a: Dim, b: Dim) -> Dim:
    """Return `a - b * (a // b)`: the remainder with the sign of `b`."""
    if isinstance(a, int) and isinstance(b, int):
        return a % b
    return a - b * floordiv(a, b)


def dim_min(*dims: Dim) -> Dim:
    """Return the smallest of the dims; dims that differ by a number are compared now."""
    return _extremum("min", min, dims)


def dim_max(*dims: Dim) -> Dim:
    """Return the largest of the dims; dims that differ by a number are compared now."""
    return _extremum("max", max, dims)


def _is_capped(dim: Dim, other: Dim) -> bool:
    """Tell whether `dim` is min(other, numbers from 1): beside `other` it is the same or 1.

    That is what a slice of a table to a length gives. Where it is less than `other` and not 1, the
    two do not broadcast at all.
    """
    parts = list(_flattened("min", (dim,)))
    if dim == other or other not in parts:
        return False
    return all(part == other or (isinstance(part, int) and part >= 1) for part in parts)


def dim_broadcast(*dims: Dim) -> Dim:
    """Return what aligned dims, all the same or 1, broadcast to: the largest, or 0 beside 1.

    A number other than 1 wins: the others must be that number, or 1.
    """
    candidates = [d for d in dict.fromkeys(_flattened("broadcast", dims)) if d != 1]
    candidates = [d for d in candidates if not any(_is_capped(d, other) for other in candidates)]
    numbers = [d for d in candidates if isinstance(d, int)]
    if numbers or len(candidates) < 2:
        return numbers[0] if numbers else candidates[0] if candidates else 1
    candidates.sort(key=str)
    return SymDim((((Call("broadcast", tuple(candidates)),), 1),))


# ---------------------------------------------------------------------- the normal form


def _terms(dim: Dim) -> tuple[tuple[Monomial, int], ...]:
    if isinstance(dim, SymDim):
        return dim.terms
    return (((), int(dim)),) if dim else ()


def _from_terms(terms: Iterable[tuple[Monomial, int]]) -> Dim:
    collected: dict[Monomial, int] = {}
    for atoms, coefficient in terms:
        if len(atoms) > MAX_DEGREE or abs(coefficient) > MAX_COEFFICIENT:
            raise OverflowError(f"a dimension has powers above {MAX_DEGREE} or huge factors")
        collected[atoms] = collected.get(atoms, 0) + coefficient
        if len(collected) > MAX_TERMS:
            raise OverflowError(f"a dimension expression has more than {MAX_TERMS} terms")
    kept = [(atoms, c) for atoms, c in collected.items() if c]
    if not kept:
        return 0
    if len(kept) == 1 and not kept[0][0]:
        return kept[0][1]
    kept.sort(key=lambda term: (len(term[0]), [str(a) for a in term[0]]))
    return SymDim(tuple(kept))


def _divide_term(
    atoms: Monomial, coefficient: int, by: tuple[Monomial, int]
) -> tuple[Monomial, int] | None:
    """Return the term over `by` when it divides exactly."""
    divisor_atoms, divisor = by
    if coefficient % divisor:
        return None
    left = list(atoms)
    for atom in divisor_atoms:
        if atom not in left:
            return None
        left.remove(atom)
    return tuple(left), coefficient // divisor


def _split_multiples(a: Dim, b: Dim) -> tuple[Dim, Dim]:
    """Return (whole, rest) with `a == whole * b + rest`; what divides exactly is whole."""
    if a == b:
        return 1, 0
    divisor = _terms(b)
    if len(divisor) != 1:
        quotient = _exact_quotient(a, b)
        return (0, a) if quotient is None else (quotient, 0)
    whole: list[tuple[Monomial, int]] = []
    rest: list[tuple[Monomial, int]] = []
    for atoms, coefficient in _terms(a):
        quotient_term = _divide_term(atoms, coefficient, divisor[0])
        if quotient_term is not None:
            whole.append(quotient_term)
            continue
        only = divisor[0][1] if not divisor[0][0] else 0
        if only and coefficient // only:  # 7*L // 4 == L + 3*L//4
            whole.append((atoms, coefficient // only))
            coefficient %= only
        rest.append((atoms, coefficient))
    return _from_terms(whole), _from_terms(rest)


def _exact_quotient(a: Dim, b: Dim) -> Dim | None:
    """Return q with `a == q * b` for a `b` of several terms, or None. Long division."""
    lead = max(_terms(b), key=_leading)
    left, quotient = a, _from_terms(())
    for _ in range(len(_terms(a))):
        if left == 0:
            break
        step = _divide_term(*max(_terms(left), key=_leading), lead)
        if step is None:
            return None
        quotient = quotient + _from_terms((step,))
        left = left - _from_terms((step,)) * b
    return quotient if left == 0 else None


def _leading(term: tuple[Monomial, int]) -> tuple[int, list[str]]:
    return len(term[0]), [str(a) for a in term[0]]


def _floor_atom(a: Dim, b: Dim) -> Dim:
    if isinstance(a, int) and (isinstance(b, int) or a == 0):
        return a // b if isinstance(b, int) else 0
    # A common factor of all coefficients leaves both sides; a constant only rounds down with it.
    if isinstance(b, int) and b > 0 and isinstance(a, SymDim):
        shared = gcd(b, *(c for atoms, c in a.terms if atoms))
        if shared > 1:
            return floordiv(_from_terms((t, c // shared) for t, c in a.terms), b // shared)
        nested = _nested_division(a, b)
        if nested is not None:
            return nested
    return SymDim((((Call("//", (a, b)),), 1),))


def _nested_division(a: SymDim, b: int) -> Dim | None:
    """(x//c + d) // b == (x + d*c) // (b*c) for positive numbers b and c."""
    variable = [(atoms, c) for atoms, c in a.terms if atoms]
    constant = sum(c for atoms, c in a.terms if not atoms)
    if len(variable) != 1 or variable[0][1] != 1 or len(variable[0][0]) != 1:
        return None
    inner = variable[0][0][0]
    if not isinstance(inner, Call) or inner.function != "//":
        return None
    numerator, divisor = inner.arguments
    if not isinstance(divisor, int) or divisor <= 0:
        return None
    return floordiv(numerator + constant * divisor, b * divisor)


def _extremum(name: str, choose: Callable[..., int], dims: tuple[Dim, ...]) -> Dim:
    candidates: list[Dim] = []
    for dim in _flattened(name, dims):
        for i, known in enumerate(candidates):
            difference = dim - known
            if isinstance(difference, int):  # comparable: keep one of the two
                candidates[i] = known + choose(0, difference)
                break
        else:
            candidates.append(dim)
    # max(a, min(a, b)) is a, and min(a, max(a, b)) too.
    other = "min" if name == "max" else "max"
    parts = [list(_flattened(other, (dim,))) for dim in candidates]
    candidates = [
        d for d, inner in zip(candidates, parts, strict=True) if not _absorbed(d, inner, candidates)
    ]
    if len(candidates) == 1:
        return candidates[0]
    candidates.sort(key=str)
    return SymDim((((Call(name, tuple(candidates)),), 1),))


def _absorbed(dim: Dim, inner: list[Dim], candidates: list[Dim]) -> bool:
    return any(part == c and part != dim for part in inner for c in candidates)


def _flattened(name: str, dims: tuple[Dim, ...]) -> Iterator[Dim]:
    for dim in dims:
        if isinstance(dim, SymDim) and len(dim.terms) == 1:
            ((atoms, coefficient),) = dim.terms
            if coefficient == 1 and len(atoms) == 1:
                atom = atoms[0]
                if isinstance(atom, Call) and atom.function == name:
                    yield from atom.arguments
                    continue
        yield dim


def _substitute_atom(atom: Atom, values: Mapping[str, Dim]) -> Dim:
    if isinstance(atom, Call):
        return atom.substitute(values)
    return values.get(atom.name, symbol(atom.name))


# ---------------------------------------------------------------------- text


def _factor(atom: Atom) -> str:
    """Write an atom so that it can stand in a product."""
    is_division = isinstance(atom, Call) and atom.function == "//"
    return f"({atom})" if is_division else str(atom)


def _grouped(dim: Dim) -> str:
    text = str(dim)
    return text if text.replace("_", "").isalnum() else f"({text})"


def _broadcast(*sizes: int) -> int:
    return 0 if 0 in sizes else max(sizes)


_FUNCTIONS: dict[str, Callable[..., int]] = {
    "//": lambda a, b: a // b,
    "min": min,
    "max": max,
    "broadcast": _broadcast,
}
_BUILDERS: dict[str, Callable[..., Dim]] = {
    "//": floordiv,
    "min": dim_min,
    "max": dim_max,
    "broadcast": dim_broadcast,
}
