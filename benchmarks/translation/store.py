"""The committed results of figure 1: rows by key, merged as they are measured."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.common.results import RESULTS, Target, at_least, at_most, markdown_table
from benchmarks.common.results import targets_table as table_of_targets
from benchmarks.translation.quality import Quality

PATH = RESULTS / "translation.json"
OURS, THEIRS = "millrace", "ctranslate2"
FASTER, SAME, LOSS, PYTHON_US = 1.2, 0.99, 0.5, 30.0
ABOUT = """# Translation: Millrace's engine beside CTranslate2 and ONNX Runtime

Output tokens per second with the same weights and tokens, engines in turn on two cores, each with
its better number of threads (behind the figure); medians. "forced": 64 tokens out of 32, which no
sentence may end before; "captions": test_2016_flickr, sentences of similar length together, each
ending when its search does. ONNX Runtime runs the exported files in a plain loop.
`make bench-translation` makes this page.

"""


@dataclass(frozen=True, order=True)
class Key:
    """Which row."""

    mode: str
    precision: str
    beams: int
    batch: int

    def __str__(self) -> str:
        return f"{self.mode} {self.precision}, beams {self.beams}, batch {self.batch}"


@dataclass(frozen=True)
class Row:
    """One row's figures by engine.

    Attributes:
        speeds: Output tokens per second.
        threads: How many threads were the better.
        ratios: Ours over theirs.
        waited: Share of the time in which threads waited for a core: what others disturbed.
    """

    key: Key
    speeds: Mapping[str, float]
    threads: Mapping[str, int]
    ratios: Mapping[str, float]
    waited: float
    measured: str = field(default_factory=lambda: f"{datetime.now(UTC):%Y-%m-%d %H:%M}")


class Store:
    """Rows and qualities; every addition is written at once."""

    def __init__(self, facts: Mapping[str, object]) -> None:
        self.facts = facts
        self.rows: dict[Key, Row] = {}
        self.quality: dict[tuple[str, int], Quality] = {}
        self.python: dict[tuple[int, int], float] = {}  # microseconds by beams and batch

    @classmethod
    def read(cls, facts: Mapping[str, object], path: Path = PATH) -> Store:
        """Return what was measured so far."""
        store = cls(facts)
        if path.exists():
            data = json.loads(path.read_text())["details"]
            for row in data["rows"]:
                key = Key(**row.pop("key"))
                store.rows[key] = Row(key, **row)
            for each in data["quality"]:
                at = each.pop("precision"), each.pop("beams")
                store.quality[at] = Quality(**each)
            for each in data.get("python", ()):
                store.python[each["beams"], each["batch"]] = each["us"]
        return store

    def add(self, row: Row) -> None:
        """Take in a row."""
        print(f"{row.key}: {dict(row.speeds)} {dict(row.ratios)} waited {row.waited}", flush=True)
        self.rows[row.key] = row
        self.write()

    def add_quality(self, precision: str, beams: int, quality: Quality) -> None:
        """Take in what translations were worth."""
        print(f"captions {precision}, beams {beams}: {quality}", flush=True)
        self.quality[precision, beams] = quality
        self.write()

    def add_python(self, beams: int, batch: int, microseconds: float) -> None:
        """Take in what Python takes per step."""
        print(f"Python per step, beams {beams}, batch {batch}: {microseconds} us", flush=True)
        self.python[beams, batch] = microseconds
        self.write()

    def targets(self) -> list[Target]:
        """Return what was promised beside what was measured."""
        found = [
            at_least(f"{key}: over CTranslate2", row.ratios[f"over {THEIRS}"], FASTER)
            for key, row in sorted(self.rows.items())
        ]
        if self.python:
            most = max(self.python.values())
            found.append(at_most("Python per step for all rows, us", most, PYTHON_US))
        for (precision, beams), quality in sorted(self.quality.items()):
            what = f"captions {precision}, beams {beams}"
            if precision == "fp32":
                found.append(at_least(f"{what}: same as CTranslate2's", quality.same, SAME))
                continue
            full = self.quality.get(("fp32", beams))
            for name in (OURS, THEIRS) if full else ():
                loss = abs(full.bleu[name] - quality.bleu[name]) if full else 0.0
                found.append(at_most(f"{what}: BLEU from fp32, {name}", round(loss, 2), LOSS))
        return found

    def write(self, path: Path = PATH) -> None:
        """Write JSON and Markdown."""
        rows: list[dict[str, Any]] = [asdict(row) for _, row in sorted(self.rows.items())]
        quality = [
            {"precision": precision, "beams": beams, **asdict(each)}
            for (precision, beams), each in sorted(self.quality.items())
        ]
        document = {
            "machine": self.facts,
            "targets": [asdict(target) for target in self.targets()],
            "details": {
                "rows": rows,
                "quality": quality,
                "python": [
                    {"beams": beams, "batch": batch, "us": us}
                    for (beams, batch), us in sorted(self.python.items())
                ],
            },
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document, indent=1) + "\n")
        path.with_suffix(".md").write_text(self.text())

    def text(self) -> str:
        """Return the page."""
        text = ABOUT + table_of_targets(self.targets())
        header = ["mode", "precision", "beams", "batch", "Millrace", "CTranslate2", "ONNX Runtime"]
        lines = []
        for key, row in sorted(self.rows.items()):
            cells = [
                f"{row.speeds[name]:.0f} ({row.threads[name]})" if name in row.speeds else ""
                for name in (OURS, THEIRS, "onnxruntime")
            ]
            ratio = f"{row.ratios[f'over {THEIRS}']:.2f}"
            lines.append([key.mode, key.precision, key.beams, key.batch, *cells, ratio])
        text += "\n## Tokens per second\n\n"
        text += markdown_table([*header, "Millrace / CTranslate2"], lines)
        if self.python:
            header = ["beams", "batch", "us"]
            times = [[*at, us] for at, us in sorted(self.python.items())]
            text += "\n## Python per step\n\nAll of a step but the native call, for all rows.\n\n"
            text += markdown_table(header, times)
        if self.quality:
            header = ["precision", "beams", "BLEU Millrace", "BLEU CTranslate2", "same tokens"]
            cells_of = [
                [precision, beams, each.bleu[OURS], each.bleu[THEIRS], f"{each.same:.1%}"]
                for (precision, beams), each in sorted(self.quality.items())
            ]
            text += "\n## Quality on test_2016_flickr\n\n" + markdown_table(header, cells_of)
        return text
