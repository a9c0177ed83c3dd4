"""Retrieval on CIFAR-10 before, during and after its model is swapped.

    MILLRACE_TEST_DATA=... python -m benchmarks.similarity.swap            # 50,000 pictures
    MILLRACE_TEST_DATA=... python -m benchmarks.similarity.swap --quick    # 2,000

A collection of the training pictures is bound to `photos`. Test pictures are searched for all the
time while a second version is published: the same net, whose embedding is scaled unevenly and
turned by a random orthogonal matrix, so that it has the same length and nothing else in common
with the first. Afterwards every score of every answer is compared with the cosine that the vectors
of the version have which the answer names: a mixture of the two is nowhere near it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import onnx
from onnx import helper, numpy_helper

from benchmarks.common.closed_loop import Answer, ClosedLoop, http_request
from benchmarks.common.machine import machine_facts
from benchmarks.common.percentiles import percentile
from benchmarks.common.results import (
    Target,
    at_least,
    at_most,
    markdown_table,
    targets_table,
    write_result,
)
from benchmarks.common.server_process import ServerProcess
from benchmarks.similarity.cifar import (
    Pictures,
    call,
    fill_collection,
    make_collection,
    read_cifar,
)
from benchmarks.similarity.swap_picture import draw_latencies
from benchmarks.similarity.swap_truth import (
    MODEL,
    NAME,
    K,
    Reply,
    Truth,
    another_basis,
    embedded,
    mixed,
    precision,
    read_truth,
    recall,
    stale,
)

ROOT = Path(__file__).parents[2]
CONCURRENCY, PAUSE_S = 2, 0.02  # searches at a time; between an answer and the next search
STEADY_S = 10.0
LIMIT_S = 1500.0


# The second version


def second_version(source: Path, target: Path) -> None:
    """Write the version with another embedding; its classes stay what they are."""
    model = onnx.load(source / "model.onnx")
    for node in model.graph.node:
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                if name == "embedding":
                    names[place] = "embedding_before"
    scale, turn = another_basis()
    model.graph.initializer.extend(
        [numpy_helper.from_array(scale, "scale"), numpy_helper.from_array(turn, "turn")]
    )
    model.graph.node.extend(
        [
            helper.make_node("Mul", ["embedding_before", "scale"], ["embedding_scaled"]),
            helper.make_node("MatMul", ["embedding_scaled", "turn"], ["embedding"]),
        ]
    )
    target.mkdir(parents=True)
    onnx.save(model, target / "model.onnx")
    shutil.copy(source / "labels.txt", target)


# The load


@dataclass
class Searches(ClosedLoop):
    """Searches for one test picture after the other; the request's id says which."""

    requests: list[bytes] = field(default_factory=list)
    sent: int = 0

    def go_on(self, send: Callable[[], None]) -> None:
        asyncio.get_running_loop().call_later(PAUSE_S, send)

    def next_request(self) -> bytes:
        self.sent += 1
        return self.requests[(self.sent - 1) % len(self.requests)]

    def answered(self, version: str) -> set[int]:
        """Return the queries that a version has answered."""
        parsed = (Reply.read(answer) for answer in self.answers if answer.status == 200)
        return {reply.query for reply in parsed if reply.version == version}


def search_requests(pictures: Pictures) -> list[bytes]:
    """Return one request per picture."""
    path = f"/similar?collection={NAME}&k={K}&return="
    found = []
    for place, data in enumerate(pictures.files):
        request = http_request("127.0.0.1", path, data, "image/jpeg")
        mark = f"\r\nX-Request-Id: q-{place}\r\n".encode()
        found.append(request.replace(b"\r\n", mark, 1))
    return found


@dataclass
class Run:
    """Everything that was seen."""

    answers: list[Answer]
    fill_s: float | None  # None: the collection was there already
    published_s: float  # monotonic: the second version's files were there
    switched_s: float  # it was reported as the one that serves
    rollback_s: float
    progress: list[tuple[float, str]]  # seconds since it was published, what the status said
    collection: dict[str, object]


def fill(server: ServerProcess, train: Pictures) -> float | None:
    """Put the pictures in, unless they are there; return the seconds that it took."""
    began = time.monotonic()
    if NAME in call(f"{server.url}/collections")["collections"]:
        there = call(f"{server.url}/collections/{NAME}")
        if there["count"] != len(train.files) or there["index"]["missing"]:
            raise SystemExit(f"the collection that was given is another one: {there}")
        return None
    make_collection(server.url, NAME, MODEL)
    fill_collection(server.url, NAME, train)
    return time.monotonic() - began


async def run(server: ServerProcess, folder: Path, train: Pictures, test: Pictures) -> Run:
    """Fill, search, publish, search, go back."""
    fill_s = await asyncio.to_thread(fill, server, train)
    load = Searches(
        "127.0.0.1",
        server.port,
        b"",
        CONCURRENCY,
        lambda body: body,
        requests=search_requests(test),
    )
    await load.start()
    await _all_answered(load, "1", len(test.files))
    second_version(ROOT / "model_repo" / MODEL / "1", folder / "next" / "2")
    (folder / "next" / "2").rename(folder / "models" / MODEL / "2")
    published = time.monotonic()
    progress = await _switched(server, published)
    switched = time.monotonic()
    await _all_answered(load, "2", len(test.files))
    answers = await load.stop()
    collection = await asyncio.to_thread(call, f"{server.url}/collections/{NAME}")
    back = time.monotonic()
    await asyncio.to_thread(call, f"{server.url}/models/{MODEL}/rollback", b"{}")
    rollback_s = time.monotonic() - back
    return Run(answers, fill_s, published, switched, rollback_s, progress, collection)


async def _all_answered(load: Searches, version: str, count: int) -> None:
    """Wait until a version has answered every query, and for the least time of steady state."""
    ends = time.monotonic() + STEADY_S
    limit = time.monotonic() + LIMIT_S
    while time.monotonic() < ends or len(load.answered(version)) < count:
        if time.monotonic() > limit:
            raise SystemExit(f"version {version} did not answer all queries in {LIMIT_S:g} s")
        await asyncio.sleep(2.0)


async def _switched(server: ServerProcess, published: float) -> list[tuple[float, str]]:
    progress: list[tuple[float, str]] = []
    while time.monotonic() < published + LIMIT_S:
        status = await asyncio.to_thread(call, f"{server.url}/models/{MODEL}")
        if status["default"] == "2":
            return progress
        second = [each for each in status["versions"] if each["version"] == "2"]
        told = (second[0]["progress"] or second[0]["reason"] or "") if second else ""
        if not progress or progress[-1][1] != told:
            progress.append((round(time.monotonic() - published, 1), told))
        await asyncio.sleep(0.5)
    raise SystemExit(f"the second version did not serve within {LIMIT_S:g} s; see the log")


def phases(result: Run) -> dict[str, list[Answer]]:
    """Split answers into those before, during and after the second version's coming."""
    ends = result.switched_s
    return {
        "before": [a for a in result.answers if a.received_s < result.published_s],
        "during": [
            a for a in result.answers if a.received_s >= result.published_s > 0 and a.sent_s <= ends
        ],
        "after": [a for a in result.answers if a.sent_s > ends],
    }


def main() -> int:
    """Run, print, write the result files; exit 1 when a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="2,000 pictures; writes nothing")
    parser.add_argument("--queries", type=int, default=1000, help="test pictures searched for")
    parser.add_argument("--collections", type=Path, help="folder that has the collection already")
    arguments = parser.parse_args()
    train, test = read_cifar("train"), read_cifar("test").first(arguments.queries)
    if arguments.quick:
        train, test = train.first(2000), test.first(200)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models = folder / "models" / MODEL
        models.mkdir(parents=True)
        shutil.copy(ROOT / "model_repo" / MODEL / "model.toml", models)
        shutil.copytree(ROOT / "model_repo" / MODEL / "1", models / "1")
        store = folder / "collections"
        if arguments.collections:
            shutil.copytree(arguments.collections, store)
        log = folder / "server.log"
        with ServerProcess(folder / "models", log, MILLRACE_COLLECTIONS=str(store)) as server:
            queries = embedded(server, test)
            result = asyncio.run(run(server, folder, train, test))
        truth = read_truth(store, train, queries)
    return report(result, truth, train, test, save=not arguments.quick)


def report(result: Run, truth: Truth, train: Pictures, test: Pictures, *, save: bool) -> int:
    """Judge and print; returns the exit code."""
    good = [each for each in result.answers if each.status == 200]
    replies = [Reply.read(each) for each in good]
    targets: list[Target] = [
        at_most("failed searches", len(result.answers) - len(good), 0),
        at_most("answers that mix two versions", mixed(replies, truth), 0),
        at_most("answers of the old version after the switch", stale(good, result.switched_s), 0),
        at_least("precision@10 before", precision(replies, "1", test), 0.88),
        at_least("precision@10 after", precision(replies, "2", test), 0.88),
        at_least("recall@10 before", recall(replies, "1", truth), 0.95),
        at_least("recall@10 after", recall(replies, "2", truth), 0.95),
    ]
    moved_s = result.switched_s - result.published_s
    rows = []
    for phase, answers in phases(result).items():
        latencies = [1e3 * each.latency_s for each in answers]
        figures = [round(percentile(latencies, share), 1) for share in (0.5, 0.95, 0.99)]
        rows.append([phase, len(answers), *figures])
    summary = {
        "pictures": len(train.files),
        "queries": len(test.files),
        "concurrency": CONCURRENCY,
        "searches": len(result.answers),
        "fill_s": None if result.fill_s is None else round(result.fill_s, 1),
        "reindex_s": round(moved_s, 1),
        "reindex_pictures_per_s": round(len(train.files) / moved_s, 1),
        "rollback_s": round(result.rollback_s, 2),
        "index": result.collection["index"],
        "latency_ms": {
            row[0]: dict(zip(("count", "p50", "p95", "p99"), row[1:], strict=True)) for row in rows
        },
        "progress": result.progress[:: max(1, len(result.progress) // 20)],
    }
    facts = machine_facts("uvicorn", "faiss-cpu")
    text = "# Retrieval through a swap of the model\n\n" + targets_table(targets)
    text += "\n" + markdown_table(["searches", "count", "p50 ms", "p95 ms", "p99 ms"], rows)
    text += f"\n{len(train.files):,} pictures were embedded again in {moved_s:.0f} s beside the "
    text += f"searches; going back took {result.rollback_s:.1f} s.\n\n```json\n"
    text += json.dumps({"machine": facts, **summary}, indent=1) + "\n```\n"
    print(text)
    if save:
        picture = "![latency of the searches](similarity-swap.svg)\n\n```json"
        text = text.replace("```json", picture, 1)
        path = write_result("similarity-swap", facts, targets, summary, text)
        marks = [(result.published_s, "published"), (result.switched_s, "switched")]
        path.with_suffix(".svg").write_text(draw_latencies(result.answers, marks))
    return 0 if all(target.reached for target in targets) else 1


if __name__ == "__main__":
    sys.exit(main())
