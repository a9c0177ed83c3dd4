"""Result files: one JSON per benchmark, and a Markdown table to read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

RESULTS = Path(__file__).parents[1] / "results"


@dataclass(frozen=True)
class Target:
    """A figure that was promised, and what was measured."""

    what: str
    bound: str  # as text, e.g. "<= 2.0"
    measured: float
    reached: bool


def at_most(what: str, measured: float, bound: float) -> Target:
    return Target(what, f"<= {bound:g}", round(measured, 4), measured <= bound)


def at_least(what: str, measured: float, bound: float) -> Target:
    return Target(what, f">= {bound:g}", round(measured, 4), measured >= bound)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def targets_table(targets: Sequence[Target]) -> str:
    rows = [[t.what, t.bound, f"{t.measured:g}", "yes" if t.reached else "**no**"] for t in targets]
    return markdown_table(["figure", "target", "measured", "reached"], rows)


def write_result(
    name: str, facts: dict[str, object], targets: Sequence[Target], details: object, text: str
) -> Path:
    """Write `results/<name>.json` and `.md`; return the JSON's path."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.json"
    document = {"machine": facts, "targets": [asdict(t) for t in targets], "details": details}
    path.write_text(json.dumps(document, indent=1) + "\n")
    path.with_suffix(".md").write_text(text)
    return path
