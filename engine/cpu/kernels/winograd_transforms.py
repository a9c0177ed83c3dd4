"""The transforms of Winograd's convolutions: of weights, of pixels, and of sums back to results.

F(2 x 2, 3 x 3) and F(4 x 4, 3 x 3) as in Lavin and Gray, "Fast Algorithms for Convolutional Neural
Networks" (2016).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from engine.cpu.builder import Builder, Value

# How weights are transformed: G g G^T.
WEIGHTS = {
    2: ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1)),
    4: (
        (1 / 4, 0, 0),
        (-1 / 6, -1 / 6, -1 / 6),
        (-1 / 6, 1 / 6, -1 / 6),
        (1 / 24, 1 / 12, 1 / 6),
        (1 / 24, -1 / 12, 1 / 6),
        (0, 0, 1),
    ),
}

Transform = Callable[[Builder, Sequence[Value]], list[Value]]


def both_ways(f: Builder, grid: list[list[Value]], transform: Transform) -> list[list[Value]]:
    """Transform all columns of a square, then all rows."""
    columns = [transform(f, [row[j] for row in grid]) for j in range(len(grid))]
    return [transform(f, [column[i] for column in columns]) for i in range(len(columns[0]))]


def _times(f: Builder, x: Value, factor: float, y: Value) -> Value:
    """Return x * factor + y."""
    return f.fma(x, f.floats(factor), y)


def _pixels_2(f: Builder, d: Sequence[Value]) -> list[Value]:
    b = f.b
    return [b.fsub(d[0], d[2]), b.fadd(d[1], d[2]), b.fsub(d[2], d[1]), b.fsub(d[1], d[3])]


def _pixels_4(f: Builder, d: Sequence[Value]) -> list[Value]:
    b = f.b
    even, odd = _times(f, d[2], -4.0, d[4]), _times(f, d[1], -4.0, d[3])
    near, far = b.fsub(d[4], d[2]), b.fsub(d[3], d[1])
    return [
        _times(f, d[0], 4.0, _times(f, d[2], -5.0, d[4])),
        b.fadd(even, odd),
        b.fsub(even, odd),
        _times(f, far, 2.0, near),
        _times(f, far, -2.0, near),
        _times(f, d[1], 4.0, _times(f, d[3], -5.0, d[5])),
    ]


def _results_2(f: Builder, m: Sequence[Value]) -> list[Value]:
    b = f.b
    return [b.fadd(m[0], b.fadd(m[1], m[2])), b.fsub(b.fsub(m[1], m[2]), m[3])]


def _results_4(f: Builder, m: Sequence[Value]) -> list[Value]:
    b = f.b
    sum_1, sum_2 = b.fadd(m[1], m[2]), b.fadd(m[3], m[4])
    difference_1, difference_2 = b.fsub(m[1], m[2]), b.fsub(m[3], m[4])
    return [
        b.fadd(m[0], b.fadd(sum_1, sum_2)),
        _times(f, difference_2, 2.0, difference_1),
        _times(f, sum_2, 4.0, sum_1),
        b.fadd(_times(f, difference_2, 8.0, difference_1), m[5]),
    ]


PIXELS: dict[int, Transform] = {2: _pixels_2, 4: _pixels_4}
RESULTS: dict[int, Transform] = {2: _results_2, 4: _results_4}
