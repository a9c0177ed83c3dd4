"""Load and run mutated model files in worker processes, and count how that ends.

    python -m benchmarks.fuzz --count 50000 --jobs 2
    python -m benchmarks.fuzz --first 4711 --count 1 --trace   # one input again, in this process

Nothing but the engine's own errors may come out; a fault, a crash or a hang is named with the
number that makes the input again. Status 1 when there was any.
"""

from __future__ import annotations

import argparse
import os
import resource
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.common.results import RESULTS
from benchmarks.common.workers import run_all
from benchmarks.fuzz.attempt import FAULT, Attempt, attempt
from benchmarks.fuzz.corpus import Corpus
from benchmarks.fuzz.report import Tally, read_tally, write_tally

BATCH = 20  # inputs of one task
LIMIT_S = 120.0  # of one task
ADDRESS_BYTES = 8 << 30


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    corpus = Corpus()
    if options.trace:
        for number in range(options.first, options.first + options.count):
            print(number, attempt(corpus, number, options.device).outcome)
        return 0
    tally = read_tally(options.output) if options.add else Tally()
    console = Console(highlight=False, soft_wrap=True)
    start = time.monotonic()
    try:
        _run(options, corpus, tally, console)
    except KeyboardInterrupt:
        console.print("stopped; what was tried so far counts")
    tally.seconds += time.monotonic() - start
    write_tally(tally, options.output)
    console.print(tally.text(), markup=False)
    return 1 if tally.faults else 0


def _run(options: argparse.Namespace, corpus: Corpus, tally: Tally, console: Console) -> None:
    end = options.first + options.count
    starts = range(options.first, end, BATCH)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    # No thread of its own refreshes the bar: the workers are forked from this process.
    with Progress(*columns, TimeElapsedColumn(), console=console, auto_refresh=False) as progress:
        bar = progress.add_task("inputs", total=options.count)
        work = partial(_attempts, corpus, options.device, end)
        runs = run_all(
            starts, work, jobs=options.jobs, limit_s=lambda _: options.limit, start=_bind
        )
        for first, outcome in runs:
            numbers = range(first, min(first + BATCH, end))
            if outcome.value is None:
                for number in numbers:
                    tally.add(number, _alone(corpus, options, number))
            else:
                for number, result in zip(numbers, outcome.value, strict=True):
                    tally.add(number, result)
            progress.update(bar, advance=len(numbers))
            progress.refresh()


def _attempts(corpus: Corpus, device: str, end: int, first: int) -> list[Attempt]:
    return [attempt(corpus, number, device) for number in range(first, min(first + BATCH, end))]


def _alone(corpus: Corpus, options: argparse.Namespace, number: int) -> Attempt:
    """Try one input of a task that was lost in a process of its own."""
    work = partial(attempt, corpus, device=options.device)
    limit_s = options.limit / 2
    ((_, outcome),) = run_all([number], work, jobs=1, limit_s=lambda _: limit_s, start=_bind)
    return outcome.value or Attempt(f"{FAULT}{outcome.lost}", 0)


def _bind() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_BYTES, ADDRESS_BYTES))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz", description=__doc__)
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--device", choices=("cpu", "reference"), default="cpu")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--limit", type=float, default=LIMIT_S, help=f"seconds for {BATCH} inputs")
    parser.add_argument("--add", action="store_true", help="add to the last result")
    parser.add_argument("--trace", action="store_true", help="try in this process and print")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the result")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
