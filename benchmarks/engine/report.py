"""The page of the figures."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common.results import Target, at_least, markdown_table, targets_table
from benchmarks.engine.intervals import geometric_mean
from benchmarks.engine.networks.table import NETWORKS
from benchmarks.engine.rows import Row, holds

NOTES = Path(__file__).with_name("notes.toml")

TITLES = {
    1: "Figure 1: fp32",
    2: "Figure 2: bf16, against ONNX Runtime's fp32",
    3: "Figure 3: int8",
    4: "Figure 4: share of the measured FMA peak",
    5: "Figure 5: loading and memory",
    6: "Figure 6: one call of a tiny network",
}
# Geometric means over a figure's rows: figure, value, title, bound.
MEANS = (
    (1, "ratio", "fp32: time of ONNX Runtime over ours, geometric mean", 1.3),
    (2, "ratio", "bf16: time of ONNX Runtime in fp32 over ours, geometric mean", 2.3),
    (3, "ratio", "int8: time of ONNX Runtime over ours, geometric mean", 1.1),
    (3, "ratio_fp32", "int8: time of ONNX Runtime in fp32 over ours, geometric mean", 2.5),
)
# Columns of a figure: header, value, format.
_SPEED = (
    ("ORT ms", "ort_ms", ".3f"),
    ("ours ms", "ours_ms", ".3f"),
    ("ratio", "ratio", ".2f"),
    ("from", "low", ".2f"),
    ("to", "high", ".2f"),
)
_LAST = (("best ORT", "ort", ""), ("waited", "waited", ".1%"))
COLUMNS: Mapping[int, Sequence[tuple[str, str, str]]] = {
    1: (*_SPEED, ("error", "error", ".1e"), *_LAST),
    2: (*_SPEED, ("cosine", "cosine", ".5f"), ("top-1 alike", "top1", ".2%"), *_LAST),
    3: (
        *_SPEED,
        ("over ORT fp32", "ratio_fp32", ".2f"),
        ("within a step", "within_step", ".2%"),
        ("ORT's", "ort_within_step", ".2%"),
        ("per segment: equal", "segments_equal", ".4%"),
        ("within a step", "segments_within", ".4%"),
        *_LAST,
    ),
    4: (
        ("GFLOP/s", "gflops", ".0f"),
        ("peak", "peak_gflops", ".0f"),
        ("share", "share", ".1%"),
        ("other CPU", "other_cpu", ".0%"),
    ),
    5: (
        ("cold s", "cold_s", ".2f"),
        ("cached s", "load_s", ".3f"),
        ("ORT s", "ort_load_s", ".3f"),
        ("peak MB", "peak_mb", ".0f"),
        ("ORT", "ort_peak_mb", ".0f"),
        ("steady MB", "steady_mb", ".0f"),
        ("ORT", "ort_steady_mb", ".0f"),
    ),
    6: (*_SPEED, ("error", "error", ".1e"), *_LAST),
}

INTRODUCTION = """\
Networks with fixed random weights, exported from torch; batch and text length are symbolic in the \
files. Both sides run in one process and take turns; ratio: median of the pairs' ratios, beside \
it the interval that holds the true median with 95%. ONNX Runtime: graph level ALL, the same \
threads, the better of spinning on and off. Error: largest difference of an output over its \
largest value. Waited: how long threads had to wait for a core, over the time measured; of the \
rounds, the calmest count. Other CPU: share of the machine that other processes used meanwhile.

`make bench-engine` makes this page; a row's commit and time are in the JSON file.
"""


def figure_targets(rows: Sequence[Row]) -> list[Target]:
    """Return what the figures promise as a whole; figures without rows are left out."""
    found = []
    for figure, value, title, bound in MEANS:
        mine = [row for row in rows if row.key.figure == figure]
        numbers = [row.values[value] for row in mine if value in row.values]
        if numbers:
            found.append(at_least(title, geometric_mean(numbers), bound))
    for figure, title in TITLES.items():
        mine = [row for row in rows if row.key.figure == figure]
        if mine:
            share = sum(row.reached for row in mine) / len(mine)
            found.append(at_least(f"{title}: share of {len(mine)} rows that reach all", share, 1.0))
    return found


def report(rows: Sequence[Row], targets: Sequence[Target], machine: Mapping[str, Any]) -> str:
    """Return the page."""
    text = f"# The CPU compiler beside ONNX Runtime\n\n{INTRODUCTION}\n"
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    text += f"{machine['cpu']}, {machine['cores']} cores; {packages}; commit {machine['commit']}.\n"
    first = sum(bool(row.values.get("realtime")) for row in rows)
    if first:
        text += f"{first} rows were timed at real-time priority, before all other processes.\n"
    text += "\n" + targets_table(targets)
    notes = tomllib.loads(NOTES.read_text()) if NOTES.exists() else {}
    for figure, title in TITLES.items():
        mine = sorted((row for row in rows if row.key.figure == figure), key=_place)
        if mine:
            text += f"\n## {title}\n\n" + _table(figure, mine)
            text += _notes(notes.get(f"figure-{figure}", {}))
    return text


def _place(row: Row) -> tuple[int, ...]:
    """Return where a row stands on the page: networks in the order of their table."""
    key = row.key
    networks = [*NETWORKS]
    place = networks.index(key.network) if key.network in networks else len(networks)
    return place, -key.length, key.threads, key.batch


def _table(figure: int, rows: Sequence[Row]) -> str:
    columns = COLUMNS[figure]
    header = ["network", "length", "threads", "batch", *(c[0] for c in columns), "result"]
    return markdown_table(header, [_cells(row, columns) for row in rows])


def _cells(row: Row, columns: Sequence[tuple[str, str, str]]) -> list[object]:
    key = row.key
    title = NETWORKS[key.network].title if key.network in NETWORKS else f"`{key.network}`"
    start = [title, key.length or "", key.threads, key.batch]
    if row.failed:
        why = row.failed.replace("|", "/").replace("\n", " ")[:160]
        return [*start, *([""] * len(columns)), f"**none**: {why}"]
    cells = [_cell(row.values.get(name), form) for _, name, form in columns]
    return [*start, *cells, "reached" if row.reached else f"**short**: {_missed(row)}"]


def _cell(value: object, form: str) -> str:
    return "" if value is None else format(value, form)


def _missed(row: Row) -> str:
    return ", ".join(
        f"{name} {relation} {limit:g}"
        for name, (relation, limit) in row.bounds.items()
        if name not in row.values or not holds(row.values[name], relation, limit)
    )


def _notes(notes: Mapping[str, str]) -> str:
    if not notes:
        return ""
    return "\n" + "".join(f"- {name}: {note}\n" for name, note in notes.items())
