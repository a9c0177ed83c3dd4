"""Squares of numbers turned in registers: rows become columns."""

from __future__ import annotations

from collections.abc import Sequence

import llvmlite.ir as ir

from engine.cpu.builder import I32, Builder, Value


def shuffled(f: Builder, x: Value, y: Value, picks: Sequence[int]) -> Value:
    """Return the lanes of two vectors that `picks` names; y's count on from x's."""
    mask = ir.Constant(ir.VectorType(I32, len(picks)), list(picks))
    return f.b.shuffle_vector(x, y, mask)


def transposed(f: Builder, rows: Sequence[Value]) -> list[Value]:
    """Return the columns of a square of as many vectors as they have lanes (4, 8 or 16).

    First 4 x 4 blocks inside the 128-bit quarters of the registers, whose shuffles are one cheap
    instruction on every processor, then the quarters change places.
    """
    lanes = len(rows)
    quarters = lanes // 4
    columns: list[list[Value]] = []  # per group of four rows: column 4 q + j in quarter q of [j]
    for g in range(quarters):
        a, b, c, d = rows[4 * g : 4 * g + 4]
        low_ab, high_ab = _zipped(f, a, b, quarters)
        low_cd, high_cd = _zipped(f, c, d, quarters)
        columns.append(
            [
                _halves(f, low_ab, low_cd, quarters, 0),
                _halves(f, low_ab, low_cd, quarters, 2),
                _halves(f, high_ab, high_cd, quarters, 0),
                _halves(f, high_ab, high_cd, quarters, 2),
            ]
        )
    gathered = [_gather_quarters(f, [group[j] for group in columns]) for j in range(4)]
    return [gathered[k % 4][k // 4] for k in range(lanes)]


def _zipped(f: Builder, x: Value, y: Value, quarters: int) -> tuple[Value, Value]:
    """Return x0 y0 x1 y1 and x2 y2 x3 y3 of every quarter."""
    lanes = 4 * quarters
    found = []
    for first in (0, 2):
        picks = []
        for q in range(quarters):
            for lane in (4 * q + first, 4 * q + first + 1):
                picks += [lane, lanes + lane]
        found.append(shuffled(f, x, y, picks))
    return found[0], found[1]


def _halves(f: Builder, x: Value, y: Value, quarters: int, first: int) -> Value:
    """Return a half of every quarter of x, and the same of y."""
    lanes = 4 * quarters
    picks = []
    for q in range(quarters):
        at = 4 * q + first
        picks += [at, at + 1, lanes + at, lanes + at + 1]
    return shuffled(f, x, y, picks)


def _gather_quarters(f: Builder, groups: list[Value]) -> list[Value]:
    """Return, for each quarter q, the q-th quarters of all groups side by side."""
    match groups:
        case [only]:
            return [only]
        case [x, y]:
            return [_quarters(f, x, y, 8, (0, 2)), _quarters(f, x, y, 8, (1, 3))]
        case [x, y, z, w]:
            even, odd = (0, 2, 4, 6), (1, 3, 5, 7)
            found = []
            for part in (even, odd):  # quarters 0 and 2, then 1 and 3
                left, right = _quarters(f, x, y, 16, part), _quarters(f, z, w, 16, part)
                found += [_quarters(f, left, right, 16, even), _quarters(f, left, right, 16, odd)]
            return [found[0], found[2], found[1], found[3]]
    raise ValueError(f"expected vectors of 4, 8 or 16 lanes, got {4 * len(groups)}")


def _quarters(f: Builder, x: Value, y: Value, lanes: int, wanted: Sequence[int]) -> Value:
    """Return some quarters of two vectors; y's count on from x's."""
    return shuffled(f, x, y, [4 * q + k for q in wanted for k in range(4)])
