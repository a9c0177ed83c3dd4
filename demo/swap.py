"""The second half of the demo: a new version of `digits` while callers ask without a pause."""

from __future__ import annotations

import asyncio
import json
import re
import time
import urllib.request
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.common.closed_loop import Answer, ClosedLoop, http_request
from benchmarks.common.percentiles import percentile
from benchmarks.common.server_process import ServerProcess

LIMIT_S = 60.0
_VERSION = re.compile(rb'"version":"([^"]*)"')
_LABEL = re.compile(rb'"label":"([^"]*)"')


async def show_swap(
    console: Console,
    server: ServerProcess,
    hidden: Path,
    model: Path,
    *,
    requests: int,
    concurrency: int,
) -> list[str]:
    """Move the version `hidden` into `model` under load, print the counts; return problems."""
    picture = min(model.glob("*/samples/*_*.png"))
    load = ClosedLoop(
        "127.0.0.1",
        server.port,
        http_request("localhost", "/predict?model=digits", picture.read_bytes(), "image/png"),
        concurrency,
        note=_version_and_label,
    )
    console.print(
        f"\n[bold]{concurrency} callers ask about {picture.name} without a pause; "
        f"meanwhile version {hidden.name} is moved into the folder[/bold]"
    )
    await load.start()
    await _until(load, requests // 3)
    began = time.monotonic()
    hidden.rename(model / hidden.name)
    switched = await _until_served(server, hidden.name)
    if switched is not None:
        await _until(load, len(load.answers) + requests // 3)
    answers = await load.stop()
    if switched is None:
        return [f"version {hidden.name} was not served within {LIMIT_S:g} s"]
    _print_table(console, answers, began, switched)
    return problems_of(answers, picture.name.split("_")[0], hidden.name, switched)


def problems_of(answers: list[Answer], label: str, new: str, switched_s: float) -> list[str]:
    """Return what should not have happened."""
    failed = Counter(answer.status for answer in answers if answer.status != 200)
    versions = {_parts(answer)[0] for answer in answers if answer.status == 200}
    late = sum(a.status == 200 and a.sent_s > switched_s and _parts(a)[0] != new for a in answers)
    wrong = sum(answer.status == 200 and _parts(answer)[1] != label for answer in answers)
    checks = {
        f"{failed.total()} requests failed: {dict(failed)}": bool(failed),
        f"{late} requests after the switch were answered by the old version": late > 0,
        f"{wrong} answers were wrong": wrong > 0,
        f"only version {versions} was seen": len(versions) < 2,
    }
    return [problem for problem, holds in checks.items() if holds]


def _print_table(console: Console, answers: list[Answer], began: float, switched: float) -> None:
    table = Table(title=f"the switch took {switched - began:.2f} s", title_style="dim")
    for column in ("", "answers", "of version", "failed", "p50", "p99"):
        table.add_column(column, justify="left" if not column else "right")
    phases = {
        "before": [a for a in answers if a.received_s < began],
        "during": [a for a in answers if a.received_s >= began and a.sent_s <= switched],
        "after": [a for a in answers if a.sent_s > switched],
    }
    for name, part in phases.items():
        latencies = [answer.latency_s * 1e3 for answer in part] or [0.0]
        versions = Counter(_parts(answer)[0] for answer in part if answer.status == 200)
        table.add_row(
            name,
            str(len(part)),
            ", ".join(f"{version}: {count}" for version, count in sorted(versions.items())),
            str(sum(answer.status != 200 for answer in part)),
            f"{percentile(latencies, 0.50):.1f} ms",
            f"{percentile(latencies, 0.99):.1f} ms",
        )
    console.print(table)


def _version_and_label(body: bytes) -> bytes:
    version, label = _VERSION.search(body), _LABEL.search(body)
    return b"%b %b" % (version[1], label[1]) if version and label else b"? " + body[:200]


def _parts(answer: Answer) -> tuple[str, str]:
    version, _, label = answer.note.decode(errors="replace").partition(" ")
    return version, label


async def _until(load: ClosedLoop, count: int) -> None:
    limit = time.monotonic() + LIMIT_S
    while len(load.answers) < count and time.monotonic() < limit:
        await asyncio.sleep(0.01)


async def _until_served(server: ServerProcess, version: str) -> float | None:
    """Return when the server reported that it serves the version; None if it never did."""
    limit = time.monotonic() + LIMIT_S
    while time.monotonic() < limit:
        if await asyncio.to_thread(_served, server.url) == version:
            return time.monotonic()
        await asyncio.sleep(0.02)
    return None


def _served(url: str) -> str | None:
    with urllib.request.urlopen(f"{url}/models/digits", timeout=10) as answer:
        default = json.load(answer).get("default")
    return None if default is None else str(default)
