"""Run the ONNX backend suite on three engines and write what passed.

    python -m benchmarks.conformance                          # everything; minutes
    python -m benchmarks.conformance --engine millrace --suite node --match 'test_cast.*'
    python -m benchmarks.conformance --merge                  # keep other engines' last results

A case runs in a worker process under a time limit of its own; a crash or a hang is a failure.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.common.results import RESULTS
from benchmarks.common.workers import run_all
from benchmarks.conformance.cases import SUITES, case_names, read_case
from benchmarks.conformance.compare import compare_all
from benchmarks.conformance.engines import ENGINES
from benchmarks.conformance.report import (
    Results,
    SuiteResult,
    read_results,
    totals_table,
    unexplained,
    write_report,
)

LIMIT_S = 60.0
LONGEST_TEXT = 200  # of what went wrong
LIGHT_FACTOR = 10.0  # whole networks, which onnx.reference computes in Python


@dataclass(frozen=True)
class Task:
    """One case on one engine."""

    engine: str
    suite: str
    name: str


def run_case(task: Task) -> str:
    """Return "" when the case passes, else what went wrong, on one line."""
    try:
        content = read_case(task.suite, task.name)
        run = ENGINES[task.engine](content)
        for inputs, expected in content.data_sets:
            compare_all(run(inputs), expected, content.rtol, content.atol)
    except Exception as error:
        text = " ".join(str(error).split())
        return f"{type(error).__name__}: {text}"[:LONGEST_TEXT]
    return ""


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    results: Results = read_results(options.output) if options.merge else {}
    for engine in options.engine:
        for suite in options.suite:
            results.setdefault(engine, {})[suite] = SuiteResult()
    console = Console(highlight=False, soft_wrap=True)
    for task, problem in _watched(list(_tasks(options)), options, console):
        results[task.engine][task.suite].add(task.name, problem)
        if options.verbose and problem:
            console.print(f"{task.engine} {task.name}: {problem}", markup=False)
    console.print(totals_table(results), markup=False)
    for name, problem in unexplained(results).items():
        console.print(f"unexplained: {name}: {problem}", markup=False)
    if not options.match:
        write_report(results, options.output)
    return 0


def _watched(tasks: list[Task], options: argparse.Namespace, console: Console) -> Iterable[Any]:
    """Yield tasks with their problems while a bar shows how far it is."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    # No thread of its own refreshes the bar: the workers are forked from this process.
    progress = Progress(*columns, TimeElapsedColumn(), console=console, auto_refresh=False)
    with progress:
        bars = {
            engine: progress.add_task(engine, total=sum(t.engine == engine for t in tasks))
            for engine in options.engine
        }
        limit = partial(_limit_s, options.limit)
        for task, outcome in run_all(tasks, run_case, jobs=options.jobs, limit_s=limit):
            progress.update(bars[task.engine], advance=1)
            progress.refresh()
            yield task, outcome.lost or outcome.value or ""


def _limit_s(seconds: float, task: Task) -> float:
    return seconds * (LIGHT_FACTOR if task.suite == "light" else 1.0)


def _tasks(options: argparse.Namespace) -> Iterable[Task]:
    for engine in options.engine:
        for suite in options.suite:
            for name in case_names(suite):
                if re.search(options.match, name):
                    yield Task(engine, suite, name)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.conformance", description=__doc__)
    parser.add_argument("--engine", action="append", choices=list(ENGINES))
    parser.add_argument("--suite", action="append", choices=list(SUITES))
    parser.add_argument("--match", default="", help="only cases whose name this is found in")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--limit", type=float, default=LIMIT_S, help="seconds per case")
    parser.add_argument("--merge", action="store_true", help="keep results of what is not run")
    parser.add_argument("--verbose", action="store_true", help="tell failures as they come")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the report")
    options = parser.parse_args(arguments)
    options.engine = options.engine or list(ENGINES)
    options.suite = options.suite or list(SUITES)
    return options


if __name__ == "__main__":
    raise SystemExit(main())
