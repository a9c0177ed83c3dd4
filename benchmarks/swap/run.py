"""Swap a model's version again and again under full load, and look at every answer.

    python -m benchmarks.swap.run                      # 200 swaps at concurrency 32
    python -m benchmarks.swap.run --swaps 20 --concurrency 8

Each version is the same net with other weights, and favours the class `version % 10`: an answer
whose class and version disagree came from a mixture, and one that names an older version although
it was asked for after the switch was reported is stale. Latencies in steady state (before the
first and after the last swap) stand beside those of requests that overlapped a swap.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import sys
import tempfile
import time
import urllib.request
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.progress import Progress

from benchmarks.common.closed_loop import Answer, ClosedLoop, http_request
from benchmarks.common.machine import machine_facts
from benchmarks.common.models import dense_net
from benchmarks.common.percentiles import percentile
from benchmarks.common.results import Target, at_most, targets_table, write_result
from benchmarks.common.server_process import Resources, ServerProcess, read_resources

MODEL = "swapped"
SIZES = (784, 512, 512, 10)
EARLY_SWAPS = 20  # the state that the end is compared with
STEADY_S = 10.0
GAP_S = 0.25  # between two swaps
SWAP_LIMIT_S = 60.0
_VERSION = re.compile(rb'"version": ?"(\d+)"')
_INDEX = re.compile(rb'"index": ?(\d+)')


@dataclass(frozen=True)
class Swap:
    """One swap: version, when its upload began, when the server said that it serves."""

    version: int
    began_s: float
    ended_s: float


def note_version_and_class(body: bytes) -> bytes:
    """Return `version class` of a classification answer."""
    version, index = _VERSION.search(body), _INDEX.search(body)
    return b"%b %b" % (version[1], index[1]) if version and index else body[:200]


def _send(method: str, url: str, body: bytes | None = None) -> dict[str, object]:
    headers = {"Content-Type": "application/octet-stream"}
    request = urllib.request.Request(url, data=body, method=method, headers=headers)
    with urllib.request.urlopen(request, timeout=SWAP_LIMIT_S) as answer:
        parsed: dict[str, object] = json.loads(answer.read() or b"{}")
        return parsed


def serving_version(server: ServerProcess) -> str:
    """Return the version that requests without a version get now."""
    status = _send("GET", f"{server.url}/models/{MODEL}")
    return str(status["default"])


def publish_and_wait(server: ServerProcess, version: int) -> Swap:
    """Upload `version`, return when the server reports that it is the one that serves."""
    model = dense_net(SIZES, seed=version, favour=version % 10)
    began = time.monotonic()
    _send("PUT", f"{server.url}/models/{MODEL}/versions/{version}", model)
    while serving_version(server) != str(version):
        if time.monotonic() - began > SWAP_LIMIT_S:
            raise RuntimeError(f"version {version} did not serve within {SWAP_LIMIT_S:g} s")
        time.sleep(0.01)
    return Swap(version, began, time.monotonic())


def settled_resources(server: ServerProcess) -> Resources:
    """Return the server's resources once draining and child processes are over."""
    previous = read_resources(server.pid)
    for _ in range(50):
        time.sleep(0.2)
        current = read_resources(server.pid)
        same = (current.threads, current.descriptors) == (previous.threads, previous.descriptors)
        if same and current.children == 0:
            return current
        previous = current
    return previous


def series_of_other_versions(server: ServerProcess, version: int) -> int:
    """Count metric series of this model that carry another version than `version`."""
    with urllib.request.urlopen(f"{server.url}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    ours = [line for line in lines if f'model="{MODEL}"' in line and "version=" in line]
    return sum(f'version="{version}"' not in line for line in ours)


def wrong_answers(answers: list[Answer]) -> int:
    """Count answers whose class is not their version's."""
    count = 0
    for answer in answers:
        version, _, index = answer.note.partition(b" ")
        count += not index.isdigit() or int(version) % 10 != int(index)
    return count


def stale_answers(answers: list[Answer], swaps: list[Swap]) -> int:
    """Count answers from a version older than the one that served when they were asked for."""
    count, k = 0, 0
    for answer in sorted(answers, key=lambda a: a.sent_s):
        while k < len(swaps) and swaps[k].ended_s <= answer.sent_s:
            k += 1
        served = answer.note.partition(b" ")[0]
        count += k > 0 and served.isdigit() and int(served) < swaps[k - 1].version
    return count


def split_by_swap(answers: list[Answer], swaps: list[Swap]) -> tuple[list[float], list[float]]:
    """Return latencies of requests outside all swaps' span, and of those that overlapped one."""
    steady = [
        a.latency_s
        for a in answers
        if a.received_s < swaps[0].began_s or a.sent_s > swaps[-1].ended_s + 1.0
    ]
    during, k = [], 0
    for answer in sorted(answers, key=lambda a: a.sent_s):
        while k < len(swaps) and swaps[k].ended_s < answer.sent_s:
            k += 1
        if k < len(swaps) and answer.received_s >= swaps[k].began_s:
            during.append(answer.latency_s)
    return steady, during


@dataclass(frozen=True)
class Run:
    """What one run saw."""

    answers: list[Answer]
    swaps: list[Swap]
    early: Resources
    late: Resources
    foreign_series: int


async def _swap_repeatedly(server: ServerProcess, count: int) -> tuple[list[Swap], Resources]:
    swaps: list[Swap] = []
    early = await asyncio.to_thread(settled_resources, server)
    with Progress() as progress:
        for version in progress.track(range(2, count + 2), description="swaps"):
            swaps.append(await asyncio.to_thread(publish_and_wait, server, version))
            await asyncio.sleep(GAP_S)
            if len(swaps) == min(EARLY_SWAPS, count // 2):
                early = await asyncio.to_thread(settled_resources, server)
    return swaps, early


async def run(server: ServerProcess, swap_count: int, concurrency: int) -> Run:
    """Load the server, swap `swap_count` times, return everything seen."""
    values = [round(k % 7 / 7, 3) for k in range(SIZES[0])]
    body = json.dumps({"model": MODEL, "inputs": [{"tensors": {"input": values}}]}).encode()
    request = http_request("127.0.0.1", "/predict", body, "application/json")
    load = ClosedLoop("127.0.0.1", server.port, request, concurrency, note_version_and_class)
    await load.start()
    await asyncio.sleep(2.0)
    load.answers.clear()  # warm-up
    await asyncio.sleep(STEADY_S)
    swaps, early = await _swap_repeatedly(server, swap_count)
    await asyncio.sleep(STEADY_S)
    late = await asyncio.to_thread(settled_resources, server)
    answers = await load.stop()
    return Run(answers, swaps, early, late, series_of_other_versions(server, swaps[-1].version))


def judge(result: Run) -> list[Target]:
    """Hold the run against the promised figures."""
    steady, during = split_by_swap(result.answers, result.swaps)
    ratio = percentile(during, 0.99) / percentile(steady, 0.99)
    early, late = result.early, result.late
    failed = [a for a in result.answers if a.status != 200]
    return [
        at_most("failed requests", len(failed), 0),
        at_most("answers whose class is not their version's", wrong_answers(result.answers), 0),
        at_most("stale answers after a switch", stale_answers(result.answers, result.swaps), 0),
        at_most("p99 during swaps / p99 steady", ratio, 2.0),
        at_most("resident bytes, end / early", late.resident_bytes / early.resident_bytes, 1.05),
        at_most("descriptors, end - early", late.descriptors - early.descriptors, 0),
        at_most("threads, end - early", late.threads - early.threads, 0),
        at_most("child processes, end - early", late.children - early.children, 0),
        at_most("metric series of other versions", result.foreign_series, 0),
    ]


def details(result: Run) -> dict[str, object]:
    """Return the figures behind the targets."""
    steady, during = split_by_swap(result.answers, result.swaps)
    times = [swap.ended_s - swap.began_s for swap in result.swaps]
    span = result.answers[-1].received_s - result.answers[0].sent_s
    return {
        "swaps": len(result.swaps),
        "requests": len(result.answers),
        "requests_per_s": round(len(result.answers) / span, 1),
        "steady_ms": {f"p{p}": round(1e3 * percentile(steady, p / 100), 2) for p in (50, 95, 99)},
        "during_ms": {f"p{p}": round(1e3 * percentile(during, p / 100), 2) for p in (50, 95, 99)},
        "swap_s": {f"p{p}": round(percentile(times, p / 100), 3) for p in (50, 95, 99)},
        "early": asdict(result.early),
        "late": asdict(result.late),
    }


def main() -> int:
    """Run, print, write the result files; exit 1 when a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--swaps", type=int, default=200)
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--no-save", action="store_true", help="leave benchmarks/results alone")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        first = Path(folder, "repository", MODEL, "1")
        first.mkdir(parents=True)
        first.joinpath("model.onnx").write_bytes(dense_net(SIZES, seed=1, favour=1))
        toml = first.parent / "model.toml"
        toml.write_text('task = "classification"\n[classification]\nactivation = "none"\n')
        with ServerProcess(first.parents[1], Path(folder, "server.log")) as server:
            result = asyncio.run(run(server, arguments.swaps, arguments.concurrency))
    targets, facts = judge(result), machine_facts("uvicorn", "uvloop")
    summary = details(result)
    text = f"# Hot swap under load\n\n{targets_table(targets)}\n```json\n"
    text += json.dumps({"machine": facts, **summary}, indent=1) + "\n```\n"
    print(text)
    if not arguments.no_save:
        write_result("swap", facts, targets, summary, text)
    return 0 if all(target.reached for target in targets) else 1


if __name__ == "__main__":
    sys.exit(main())
