"""Measures rows of the figures: `python -m benchmarks.engine --figure 1 --network resnet50`.

Without options all rows of all figures are measured. Each row is merged into the committed results
as soon as it is there.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Collection
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.common.machine import machine_facts
from benchmarks.common.results import RESULTS
from benchmarks.engine.files import ensure_files
from benchmarks.engine.networks.table import NETWORKS
from benchmarks.engine.rows import Key, Row, compared_anew
from benchmarks.engine.runner import Runner
from benchmarks.engine.selection import PHOTOS, Selection, oldest_first, selected
from benchmarks.engine.settings import MODELS, Settings
from benchmarks.engine.store import Store


def numbers(text: str) -> tuple[int, ...]:
    """Read numbers with commas between."""
    return tuple(int(part) for part in text.split(","))


def names(known: Collection[str]) -> Callable[[str], tuple[str, ...]]:
    """Return a reader of names with commas between."""

    def read(text: str) -> tuple[str, ...]:
        parts = tuple(text.split(","))
        unknown = [part for part in parts if part not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is not one of {', '.join(known)}")
        return parts

    return read


def read_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Return the options; wrong ones end the program with a line that says what is known."""
    parser = argparse.ArgumentParser("benchmarks.engine", description=__doc__)
    parser.add_argument("--figure", type=numbers, default=(), help="1 to 6, e.g. 1,6")
    parser.add_argument("--network", type=names((*NETWORKS, PHOTOS)), default=())
    parser.add_argument("--threads", type=numbers, default=())
    parser.add_argument("--batch", type=numbers, default=())
    parser.add_argument("--length", type=numbers, default=())
    parser.add_argument("--precision", type=names(("fp32", "bf16", "int8")), default=())
    parser.add_argument(
        "--pairs", type=int, default=15, help="rounds of every row; 0 compares outputs, times stay"
    )
    parser.add_argument("--realtime", action="store_true", help="go before all other processes")
    parser.add_argument("--device", default="cpu", help="another one to try the benchmark itself")
    parser.add_argument("--models", type=Path, default=MODELS, help="folder of the ONNX files")
    parser.add_argument("--into", type=Path, default=RESULTS / "engine.json", help="results file")
    parser.add_argument("--missing", action="store_true", help="only rows without values so far")
    parser.add_argument(
        "--for",
        dest="seconds",
        type=float,
        default=math.inf,
        metavar="SECONDS",
        help="begin no row later; rows that were not measured for longest come first",
    )
    return parser.parse_args(arguments)


def describe(row: Row) -> str:
    """Return a row as a line for the terminal."""
    if row.failed:
        return f"{row.key}: none: {row.failed}"
    shown = {k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.values.items()}
    text = " ".join(f"{name}={value}" for name, value in shown.items())
    return f"{row.key}: {'reached' if row.reached else 'SHORT'} {text}"


def main(arguments: list[str] | None = None) -> int:
    """Measure what was asked for; 0 when every row reached its figure."""
    options = read_arguments(arguments)
    keys = selected(
        Selection(
            options.figure,
            options.network,
            options.threads,
            options.batch,
            options.length,
            options.precision,
        )
    )
    if not keys:
        print("no row fits these options", file=sys.stderr)
        return 2
    facts = machine_facts("onnxruntime", "llvmlite", "onnx")
    store = Store(options.into, facts)
    if options.missing:
        there = {row.key for row in store.rows if not row.failed}
        keys = [key for key in keys if key not in there]
    if options.seconds < math.inf:
        keys = oldest_first(keys, {row.key: row.when for row in store.rows})
    int8 = [key.network for key in keys if key.precision == "int8"]
    ensure_files(options.models, [key.network for key in keys], int8)
    settings = Settings(options.pairs, options.device, str(options.models), options.realtime)
    rows = measure_all(keys, settings, store, str(facts["commit"]), options.seconds)
    short = [row for row in rows if not row.reached]
    print(f"{len(rows) - len(short)} of {len(rows)} rows reached their figures")
    return 1 if short else 0


def measure_all(
    keys: list[Key], settings: Settings, store: Store, commit: str, seconds: float = math.inf
) -> list[Row]:
    """Measure rows until the time is over; keep and print each at once."""
    rows: list[Row] = []
    end_s = time.monotonic() + seconds
    with Runner(settings) as runner:
        for number, key in enumerate(keys, 1):
            if time.monotonic() > end_s:
                break
            when = datetime.now(UTC).isoformat(timespec="seconds")
            row = replace(runner.measure(key), commit=commit, when=when)
            if not settings.pairs:
                row = compared_anew(next((r for r in store.rows if r.key == key), None), row)
            store.add([row])
            rows.append(row)
            print(f"[{number}/{len(keys)}] {describe(row)}", flush=True)
    return rows


if __name__ == "__main__":
    sys.exit(main())
