"""Latency over the time of a swap, as an SVG picture."""

from __future__ import annotations

import math
from collections.abc import Sequence

from benchmarks.common.closed_loop import Answer
from benchmarks.common.percentiles import percentile

WIDTH, HEIGHT = 900, 300
LEFT, RIGHT, TOP, BOTTOM = 60, 20, 30, 40
BUCKETS = 120
_SERIES = ((0.5, "#1f77b4", "p50"), (0.95, "#d62728", "p95"))


def draw_latencies(answers: Sequence[Answer], marks: Sequence[tuple[float, str]]) -> str:
    """Return the picture: p50 and p95 per slice of time, on a logarithmic axis.

    Args:
        answers: at least one.
        marks: moments on the answers' clock, with a word each.
    """
    begin = min(each.sent_s for each in answers)
    span = max(max(each.sent_s for each in answers) - begin, 1e-9)
    slices: list[list[float]] = [[] for _ in range(BUCKETS)]
    for each in answers:
        place = int((each.sent_s - begin) / span * BUCKETS)
        slices[min(BUCKETS - 1, place)].append(1e3 * each.latency_s)
    top = math.ceil(math.log10(max(max(each, default=1.0) for each in slices) + 1e-9))
    axis = _Axis(begin, span, max(1, top))
    parts = [_head(), *axis.lines()]
    for number, (share, colour, word) in enumerate(_SERIES):
        middles = [begin + (place + 0.5) / BUCKETS * span for place in range(BUCKETS)]
        points = [
            f"{axis.x(at):.1f},{axis.y(percentile(each, share)):.1f}"
            for at, each in zip(middles, slices, strict=True)
            if each
        ]
        line = f'<polyline fill="none" stroke="{colour}" points="{" ".join(points)}"/>'
        parts += [line, _text(LEFT + 10 + 50 * number, 20, word, colour)]
    for at, word in marks:
        x = axis.x(at)
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" {_GREY}/>')
        parts.append(_text(x + 3, TOP + 10, word))
    return "\n".join([*parts, "</svg>"]) + "\n"


_GREY = 'stroke="#888" stroke-dasharray="4 3"'


class _Axis:
    """From seconds and milliseconds to places in the picture."""

    def __init__(self, begin: float, span: float, decades: int) -> None:
        self._begin, self._span, self._decades = begin, span, decades

    def x(self, at: float) -> float:
        return LEFT + (at - self._begin) / self._span * (WIDTH - LEFT - RIGHT)

    def y(self, ms: float) -> float:
        share = min(max(math.log10(max(ms, 1.0)) / self._decades, 0.0), 1.0)
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    def lines(self) -> list[str]:
        found = []
        for decade in range(self._decades + 1):
            y = self.y(10.0**decade)
            found.append(
                f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}" stroke="#ddd"/>'
            )
            found.append(_text(8, y + 4, f"{10**decade} ms"))
        found.append(_text(LEFT, HEIGHT - 12, "0 s"))
        found.append(_text(WIDTH - RIGHT - 40, HEIGHT - 12, f"{self._span:.0f} s"))
        return found


def _head() -> str:
    box = f'width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}"'
    style = 'font-family="sans-serif" font-size="12"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {box} {style}>\n'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>'
    )


def _text(x: float, y: float, text: str, colour: str = "#333") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}">{text}</text>'
