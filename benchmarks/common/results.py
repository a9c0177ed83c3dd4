"""Result files: one JSON per benchmark, and a Markdown table to read."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
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


def origin(facts: Mapping[str, object], module: str | None = None) -> str:
    """Return the last line of a page: which command made it, from which commit, on what.

    `module` is what was run as `python -m module`; by default the one that runs now.
    """
    if module is None:
        spec = sys.modules["__main__"].__spec__
        module = spec.name.removesuffix(".__main__") if spec else "?"
    machine = f"{facts['cores']} cores ({facts['cpu']})"
    return f"Made by `python -m {module}` at commit {facts['commit']}, on {machine}.\n"


def write_result(
    name: str, facts: Mapping[str, object], targets: Sequence[Target], details: object, text: str
) -> Path:
    """Write `results/<name>.json` and `.md`, which ends in its origin; return the JSON's path."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.json"
    document = {"machine": facts, "targets": [asdict(t) for t in targets], "details": details}
    path.write_text(json.dumps(document, indent=1) + "\n")
    path.with_suffix(".md").write_text(f"{text.rstrip()}\n\n{origin(facts)}")
    return path
