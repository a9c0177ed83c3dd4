"""The committed results: rows are merged into them by key, one by one."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.engine.report import figure_targets, report
from benchmarks.engine.rows import Row, merged, row_from_dict


class Store:
    """A JSON file and its Markdown page; both are complete after every row."""

    def __init__(self, path: Path, machine: Mapping[str, Any]) -> None:
        self._path, self._machine = path, machine
        self.rows = self._read()

    def _read(self) -> list[Row]:
        """Return the rows of this machine; those of another are no company for ours."""
        if not self._path.exists():
            return []
        document = json.loads(self._path.read_text())
        same = all(document["machine"].get(k) == self._machine.get(k) for k in ("cpu", "cores"))
        return [row_from_dict(data) for data in document["details"]] if same else []

    def add(self, rows: Sequence[Row]) -> None:
        """Merge rows and write both files, each at once; others may have added theirs meanwhile."""
        self.rows = merged(self._read(), rows)
        targets = figure_targets(self.rows)
        document = {
            "machine": self._machine,
            "targets": [asdict(target) for target in targets],
            "details": [row.as_dict() for row in self.rows],
        }
        self._path.parent.mkdir(parents=True, exist_ok=True)
        _write(self._path, json.dumps(document, indent=1) + "\n")
        _write(self._path.with_suffix(".md"), report(self.rows, targets, self._machine))


def _write(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    os.replace(part, path)  # noqa: PTH105 - a stopped run leaves the old file or the new one
