"""The conformance report: how many cases each engine passes, and why ours leaves any out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.common.machine import machine_facts
from benchmarks.common.results import RESULTS, Target, at_least, markdown_table, targets_table
from benchmarks.conformance.reasons import reason_for

OURS = "millrace"
TARGET = 2020
NAME = "conformance"


@dataclass
class SuiteResult:
    """One engine on one suite: how many cases there are, and what is wrong where one failed."""

    total: int = 0
    failures: dict[str, str] = field(default_factory=dict)

    @property
    def passed(self) -> int:
        return self.total - len(self.failures)

    def add(self, case: str, problem: str) -> None:
        self.total += 1
        if problem:
            self.failures[case] = problem


# engine -> suite -> result
Results = dict[str, dict[str, SuiteResult]]


def read_results(folder: Path = RESULTS) -> Results:
    """Return the results of an earlier run, or nothing."""
    path = folder / f"{NAME}.json"
    if not path.exists():
        return {}
    stored = json.loads(path.read_text())["results"]
    return {
        engine: {suite: SuiteResult(**result) for suite, result in suites.items()}
        for engine, suites in stored.items()
    }


def write_report(results: Results, folder: Path = RESULTS) -> None:
    """Write `conformance.json` and `conformance.md`."""
    folder.mkdir(parents=True, exist_ok=True)
    document = {
        "machine": machine_facts("onnx", "onnxruntime", "ml_dtypes"),
        "targets": [asdict(target) for target in _targets(results)],
        "results": {
            engine: {suite: asdict(result) for suite, result in suites.items()}
            for engine, suites in results.items()
        },
    }
    (folder / f"{NAME}.json").write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")
    (folder / f"{NAME}.md").write_text(report_text(results))


def report_text(results: Results) -> str:
    """Return the whole report as Markdown."""
    parts = ["# Conformance: the ONNX backend suite\n", "`make conformance` makes this page.\n"]
    parts.append(totals_table(results))
    if targets := _targets(results):
        parts.append(targets_table(targets))
    if failures := _failures(results.get(OURS, {})):
        rows = [[f"`{name}`", _cell(reason_for(name) or text)] for name, text in failures.items()]
        parts += ["## What ours leaves out\n", markdown_table(["case", "reason"], rows)]
    return "\n".join(parts)


def totals_table(results: Results) -> str:
    """Return passed/total per suite and engine as a Markdown table."""
    suites = list(dict.fromkeys(suite for each in results.values() for suite in each))
    rows = [[suite, *(_count(each.get(suite)) for each in results.values())] for suite in suites]
    rows.append(["**all**", *(_count(_sum(each)) for each in results.values())])
    return markdown_table(["suite", *results], rows)


def unexplained(results: Results) -> dict[str, str]:
    """Return failures of ours that no reason covers."""
    failures = _failures(results.get(OURS, {}))
    return {name: text for name, text in failures.items() if reason_for(name) is None}


def _targets(results: Results) -> list[Target]:
    ours = results.get(OURS, {})
    return [at_least(f"cases that {OURS} passes", _sum(ours).passed, TARGET)] if ours else []


def _failures(suites: Mapping[str, SuiteResult]) -> dict[str, str]:
    return dict(sorted((n, t) for result in suites.values() for n, t in result.failures.items()))


def _sum(suites: Mapping[str, SuiteResult]) -> SuiteResult:
    whole = SuiteResult()
    for result in suites.values():
        whole.total += result.total
        whole.failures.update(result.failures)
    return whole


def _count(result: SuiteResult | None) -> str:
    if result is None or not result.total:
        return ""
    return f"{result.passed}/{result.total} ({result.passed / result.total:.1%})"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
