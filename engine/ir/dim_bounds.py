"""What can be told of a dim without knowing its symbols: symbols are sizes, so never negative."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

from engine.ir.dims import Atom, Call, Dim, Monomial, SymDim


def least(dim: Dim) -> int | None:
    """Return a number that the dim is never below, None when none is known."""
    if not isinstance(dim, SymDim):
        return dim
    return _sum([_term(atoms, c)[0] for atoms, c in dim.terms])


def most(dim: Dim) -> int | None:
    """Return a number that the dim is never above, None when none is known."""
    if not isinstance(dim, SymDim):
        return dim
    return _sum([_term(atoms, c)[1] for atoms, c in dim.terms])


def is_not_negative(dim: Dim) -> bool:
    """Whether the dim is provably 0 or more."""
    low = least(dim)
    return low is not None and low >= 0


def _sum(bounds: list[int | None]) -> int | None:
    known = [b for b in bounds if b is not None]
    return sum(known) if len(known) == len(bounds) else None


def _term(atoms: Monomial, coefficient: int) -> tuple[int | None, int | None]:
    """Bounds of a product; only products of what is not negative have any."""
    lows = [_atom(a, least, max, min) for a in atoms]
    if any(low is None or low < 0 for low in lows):
        return None, None
    highs = [_atom(a, most, min, max) for a in atoms]
    low: int | None = coefficient * prod(b for b in lows if b is not None)
    high = None if None in highs else coefficient * prod(b for b in highs if b is not None)
    return (low, high) if coefficient > 0 else (high, low)


def _atom(
    atom: Atom,
    bound: Callable[[Dim], int | None],
    one_suffices: Callable[..., int],
    all_needed: Callable[..., int],
) -> int | None:
    """The bound of an atom from those of its arguments.

    One argument suffices to bound a max from below and a min from above; the other way round it
    takes all of them. `one_suffices` is Python's function of that name: max below, min above.
    """
    if not isinstance(atom, Call):
        return 0 if bound is least else None
    if atom.function == "//":
        numerator, divisor = atom.arguments
        found = bound(numerator)
        if isinstance(divisor, int) and divisor > 0:
            return None if found is None else found // divisor
        return 0 if bound is least and found is not None and found >= 0 else None
    bounds = [bound(argument) for argument in atom.arguments]
    known = [b for b in bounds if b is not None]
    if atom.function == "broadcast":  # of sizes: 0 if one of them is, else the largest
        if bound is least:
            return max(known) if len(known) == len(bounds) and min(known) > 0 else 0
        return max(known) if len(known) == len(bounds) else None
    if atom.function == one_suffices.__name__:
        return one_suffices(known) if known else None
    return all_needed(known) if len(known) == len(bounds) else None
