"""Counts of outcomes over all inputs, kept from run to run."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.common.machine import machine_facts
from benchmarks.common.results import markdown_table
from benchmarks.fuzz.attempt import FAULT, Attempt

NAME = "fuzz"
EXAMPLES = 5  # numbers of inputs that are kept per fault


@dataclass
class Tally:
    """How many inputs ended how, and which showed a fault."""

    outcomes: Counter[str] = field(default_factory=Counter)
    faults: dict[str, list[int]] = field(default_factory=dict)
    peak_bytes: int = 0
    seconds: float = 0.0

    def add(self, number: int, result: Attempt) -> None:
        """Count one input."""
        self.outcomes[result.outcome] += 1
        self.peak_bytes = max(self.peak_bytes, result.peak_bytes)
        if result.outcome.startswith(FAULT):
            examples = self.faults.setdefault(result.outcome, [])
            if len(examples) < EXAMPLES:
                examples.append(number)

    def text(self) -> str:
        """Return the tally as Markdown."""
        total = self.outcomes.total()
        faults = sum(count for o, count in self.outcomes.items() if o.startswith(FAULT))
        head = (
            f"# Mutated model files\n\n{total:,} inputs, {faults} faults (any other exception than "
            f"the engine's own, a crash, a hang); most memory of a process "
            f"{self.peak_bytes / 1e6:.0f} MB. Made by `python -m benchmarks.fuzz`.\n"
        )
        rows = [[o, f"{count:,}", f"{count / total:.1%}"] for o, count in self._ordered()]
        parts = [head, markdown_table(["outcome", "inputs", "share"], rows)]
        if self.faults:
            listed = [[fault, ", ".join(map(str, n))] for fault, n in sorted(self.faults.items())]
            parts.append(markdown_table(["fault", "inputs, for example"], listed))
        return "\n".join(parts)

    def _ordered(self) -> list[tuple[str, int]]:
        return sorted(self.outcomes.items(), key=lambda item: -item[1])


def read_tally(folder: Path) -> Tally:
    """Return the tally of earlier runs."""
    path = folder / f"{NAME}.json"
    if not path.exists():
        return Tally()
    stored = json.loads(path.read_text())
    return Tally(
        Counter(stored["outcomes"]), stored["faults"], stored["peak_bytes"], stored["seconds"]
    )


def write_tally(tally: Tally, folder: Path) -> None:
    """Write `fuzz.json` and `fuzz.md`."""
    folder.mkdir(parents=True, exist_ok=True)
    document = {
        "machine": machine_facts("onnx", "protobuf"),
        "outcomes": dict(sorted(tally.outcomes.items())),
        "faults": tally.faults,
        "peak_bytes": tally.peak_bytes,
        "seconds": round(tally.seconds, 1),
    }
    (folder / f"{NAME}.json").write_text(json.dumps(document, indent=1) + "\n")
    (folder / f"{NAME}.md").write_text(tally.text())
