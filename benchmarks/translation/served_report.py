"""What the comparison of servers found, beside what was promised, and the page about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.common.results import Target, at_least, at_most, markdown_table, targets_table
from benchmarks.translation.scores import Scores

CLIENTS = 64
LONGEST = 128  # tokens of a translation, in every server
SPEEDUP = 3.0
OURS = "millrace"
ABOUT = f"""# Served translation: Millrace beside a wrapper of CTranslate2

{CLIENTS} clients, each sending one sentence of 3 to 60 tokens at a time, closed loop on the cores
that serve; same weights and, in each comparison, the same precision in both servers; at most
{LONGEST} tokens, sentence cache off.

"""


@dataclass(frozen=True)
class Run:
    """Which comparison."""

    precision: str
    beams: int

    def __str__(self) -> str:
        return f"{self.precision}, beams {self.beams}"


@dataclass(frozen=True)
class Figures:
    """What one comparison found: medians by server, Millrace's counters, its streams by readers."""

    points: Mapping[str, Mapping[str, float]]
    use: Mapping[str, float]
    streams: Mapping[int, Mapping[str, float]]

    @property
    def peers(self) -> list[Mapping[str, float]]:
        """The wrapper, with each number of threads."""
        return [point for name, point in self.points.items() if name != OURS]


def targets(found: Mapping[Run, Figures], scores: tuple[Scores, Scores] | None) -> list[Target]:
    """Return what was promised beside what was measured; scores are served and offline."""
    checked = []
    for run, figures in found.items():
        ours, what = figures.points[OURS], f"{run}, {CLIENTS} clients"
        fastest = max(peer["requests_per_s"] for peer in figures.peers)
        calmest = min(peer["p95_ms"] for peer in figures.peers)
        faster, later = ours["requests_per_s"] / fastest, ours["p95_ms"] / calmest
        checked.append(at_least(f"{what}: requests/s over the wrapper's better", faster, SPEEDUP))
        checked.append(at_most(f"{what}: p95 over the wrapper's better", later, 1))
        checked.append(at_most(f"{what}: failed requests", ours["errors"], 0))
    if scores is not None:
        served, offline = scores
        for name in ("bleu", "chrf"):
            here, there = getattr(served, name), getattr(offline, name)
            what = f"{name}, served {here:.2f}, offline {there:.2f}: difference"
            checked.append(at_most(what, abs(here - there), 0))
    return checked


def report(found: Mapping[Run, Figures], checked: list[Target]) -> str:
    """Return the page."""
    text = ABOUT + targets_table(checked)
    for run, figures in found.items():
        use = figures.use
        header = ["server", "req/s", "chars/s", "p50 ms", "p95 ms", "p99 ms", "errors", "CPU ms"]
        rows = [
            [name, *(f"{value:.1f}" for value in point.values())]
            for name, point in figures.points.items()
        ]
        text += f"\n## {run}\n\n" + markdown_table(header, rows)
        text += (
            f"\nMillrace: {use['slot_use']:.0%} of the slots in use, {use['padding']:.1%} of what "
            f"the encoder read was padding, {use['tokens_per_s']:.0f} tokens/s, "
            f"{use['step_ms']:.2f} ms a step.\n"
        )
        if figures.streams:
            header = ["readers", "first token p50 ms", "p95 ms", "whole p50 ms", "events"]
            waits = figures.streams.items()
            lines = [[c, *(f"{v:.1f}" for v in wait.values())] for c, wait in waits]
            text += "\n### Streams\n\n" + markdown_table(header, lines)
    return text
