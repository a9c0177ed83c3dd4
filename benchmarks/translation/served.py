"""Millrace beside a hand-written wrapper of CTranslate2: one sentence a request, many clients.

Both servers translate the same sentences of 3 to 60 tokens with the same weights, both in float32
or both in int8, on the same cores, in turn; every client sends the next sentence when it has its
answer. Millrace's cache of sentences is off. Also: how long a stream takes to its first token, and
whether what is served scores as what is translated offline. Needs the `bench` extra, and

    python -m benchmarks.translation.served --data FOLDER

with the model that ships and its checkpoint, and MILLRACE_TORCH_PYTHON naming a Python that has
torch and transformers, for the conversion.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import signal
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from itertools import cycle
from pathlib import Path
from statistics import median

import orjson
import sentencepiece

from benchmarks.common.closed_loop import ClosedLoop, http_request
from benchmarks.common.machine import machine_facts
from benchmarks.common.percentiles import percentile
from benchmarks.common.results import write_result
from benchmarks.common.server_process import ServerProcess
from benchmarks.server.compare import Running, peer
from benchmarks.server.load import Body, tree_cpu_s
from benchmarks.translation.convert import convert
from benchmarks.translation.engines import CHECKPOINT, SHIPPED, newest
from benchmarks.translation.scores import Scores, card_scores, served_scores
from benchmarks.translation.served_report import CLIENTS, LONGEST, Figures, Run, report, targets
from benchmarks.translation.streams import stream_request, streams
from benchmarks.translation.texts import captions, mixed

PEER = Path(__file__).with_name("peers") / "ct2_wrapper.py"
NAME = "translate"
COMPUTE = {"fp32": "float32", "int8": "int8"}  # in CTranslate2's words
STREAMS = (1, 32)
SENTENCES = 4000
WARM_UP_S = 2.0
# As the shipped model's, but nothing is remembered, and nothing ends early that the others go on
# with.
MODEL_TOML = """task = "translation"
precision = "{precision}"
[translation]
source = "de"
target = "en"
rows = 128
cache_bytes = 0
repetition_guard = false
"""


@dataclass(frozen=True)
class Point:
    """One load's figures; times in ms."""

    requests_per_s: float
    characters_per_s: float  # of translations
    p50_ms: float
    p95_ms: float
    p99_ms: float
    errors: int
    cpu_ms: float


@dataclass(frozen=True)
class Use:
    """What the server's own counters say about a load."""

    slot_use: float
    padding: float  # share of what the encoder read
    tokens_per_s: float
    step_ms: float


class Sentences(ClosedLoop):
    """Callers that send one sentence after another, each its own."""

    requests: Iterator[bytes]

    def next_request(self) -> bytes:
        return next(self.requests)


def bodies(server: str, texts: Sequence[str], beams: int) -> list[bytes]:
    """Return the request for every text, as a server wants it."""
    found = []
    for text in texts:
        body: dict[str, object] = {"text": text}
        if server == "millrace":
            how = {"beams": beams, "max_new_tokens": LONGEST}
            body = {"model": NAME, "text": text, "parameters": how}
        found.append(
            http_request("localhost", "/translate", orjson.dumps(body), "application/json")
        )
    return found


async def run_load(running: Running, requests: list[bytes], seconds: float) -> Point:
    """Load a server for some seconds."""
    load = Sentences("127.0.0.1", running.port, b"", CLIENTS, note=bytes)
    load.requests = cycle(requests)
    cpu_s = tree_cpu_s(running.pid)
    await load.start()
    await asyncio.sleep(seconds)
    answers = await load.stop()
    cpu_s = tree_cpu_s(running.pid) - cpu_s
    good = [answer for answer in answers if answer.status == 200]
    if not good:
        raise RuntimeError(f"no answer succeeded: {answers[0].note[:500]!r}")
    elapsed_s = max(a.received_s for a in good) - min(a.sent_s for a in good)
    latencies = [answer.latency_s * 1e3 for answer in good]
    return Point(
        requests_per_s=len(good) / elapsed_s,
        characters_per_s=sum(len(text_of(answer.note)) for answer in good) / elapsed_s,
        p50_ms=percentile(latencies, 0.5),
        p95_ms=percentile(latencies, 0.95),
        p99_ms=percentile(latencies, 0.99),
        errors=len(answers) - len(good),
        cpu_ms=cpu_s / len(good) * 1e3,
    )


def text_of(answer: bytes) -> str:
    """Return the translation in either server's answer."""
    body = orjson.loads(answer)
    found = body["translations"][0] if "translations" in body else body
    return str(found["text"])


def counters(port: int) -> dict[str, float]:
    """Return the server's counters of translation, without labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    found = {}
    for line in lines:
        if line.startswith("millrace_") and "_bucket" not in line:
            name, value = line.rsplit(" ", 1)
            found[name.partition("{")[0]] = float(value)
    return found


def use_between(before: dict[str, float], after: dict[str, float], seconds: float) -> Use:
    grown = {name: value - before.get(name, 0.0) for name, value in after.items()}
    steps = grown["millrace_decoding_step_duration_seconds_count"]
    read = grown["millrace_encoded_tokens_total"]
    padding = grown["millrace_encoded_padding_tokens_total"]
    return Use(
        slot_use=grown["millrace_decoding_row_steps_total"]
        / max(1.0, grown["millrace_decoding_slot_steps_total"]),
        padding=padding / max(1.0, read + padding),
        tokens_per_s=grown["millrace_decoded_tokens_total"] / seconds,
        step_ms=grown["millrace_decoding_step_duration_seconds_sum"] / max(1.0, steps) * 1e3,
    )


def make_repository(root: Path, version: Path, precision: str = "fp32") -> Path:
    """Put a version into a repository of its own, with its cache of sentences and its guard off."""
    folder = root / "models" / NAME
    shutil.copytree(version, folder / "1")
    (folder / "model.toml").write_text(MODEL_TOML.format(precision=precision))
    return root / "models"


def millrace(repository: Path, root: Path, work: Path) -> ServerProcess:
    """Return a server that keeps what it compiles: only the first start is slow."""
    compiled = str(work.resolve() / "compiled")
    return ServerProcess(repository, root / "millrace.log", MILLRACE_CACHE_DIR=compiled)


@contextmanager
def wrapper(arguments: argparse.Namespace, run: Run, threads: int, log: Path) -> Iterator[Running]:
    """Run the wrapper with a converted model."""
    hello = Body("/translate", orjson.dumps({"text": "Hallo."}), "application/json")
    settings = {
        "TOKENIZER": str(arguments.model),
        "THREADS": str(threads),
        "BEAMS": str(run.beams),
        "COMPUTE": COMPUTE[run.precision],
        "MAX_NEW_TOKENS": str(LONGEST),
    }
    with peer(str(PEER), arguments.ct2[run.precision], hello, log, **settings) as running:
        yield running


def compare(arguments: argparse.Namespace, texts: list[str], run: Run) -> Figures:
    """Load the servers in turn; return every server's median point, and Millrace's use."""
    points: dict[str, list[Point]] = {}
    uses: list[Use] = []
    with tempfile.TemporaryDirectory() as folder, ExitStack() as running:
        root = Path(folder)
        repository = make_repository(root, arguments.model, run.precision)
        ours = running.enter_context(millrace(repository, root, arguments.work))
        servers = {"millrace": Running(ours.port, ours.pid)}
        for threads in arguments.threads:
            name = f"wrapper, {threads} thread" + "s" * (threads > 1)
            log = root / f"wrapper{threads}.log"
            servers[name] = running.enter_context(wrapper(arguments, run, threads, log))
        requests = {name: bodies(name, texts, run.beams) for name in servers}
        for name, server in servers.items():
            asyncio.run(run_load(server, requests[name], WARM_UP_S))
        for _ in range(arguments.rounds):
            for name, server in servers.items():
                before = counters(server.port) if name == "millrace" else {}
                point = asyncio.run(run_load(server, requests[name], arguments.seconds))
                points.setdefault(name, []).append(point)
                if name == "millrace":
                    after = counters(server.port)
                    uses.append(use_between(before, after, arguments.seconds))
                print(f"{run} {name}: {point}", flush=True)
        waits = {}
        if run.beams == 1:
            waits = {c: first_tokens(ours.port, texts, c) for c in STREAMS}
    return Figures({name: medians(each) for name, each in points.items()}, medians(uses), waits)


def first_tokens(port: int, texts: list[str], concurrency: int) -> dict[str, float]:
    """Return how long readers wait for the first token, and for the whole."""
    count = 40 if concurrency == 1 else 8 * concurrency
    requests = [
        stream_request(NAME, text, {"beams": 1, "max_new_tokens": LONGEST})
        for text in texts[:count]
    ]
    found = asyncio.run(streams(port, requests, concurrency))
    firsts = [stream.first_s * 1e3 for stream in found]
    wholes = [stream.whole_s * 1e3 for stream in found]
    return {
        "first_p50_ms": percentile(firsts, 0.5),
        "first_p95_ms": percentile(firsts, 0.95),
        "whole_p50_ms": percentile(wholes, 0.5),
        "events": sum(stream.events for stream in found) / len(found),
    }


def medians(points: Sequence[Point] | Sequence[Use]) -> dict[str, float]:
    rows = [asdict(point) for point in points]
    return {name: median(row[name] for row in rows) for name in rows[0]}


def score(arguments: argparse.Namespace) -> tuple[Scores, Scores] | None:
    """Return the test set's scores as served and as the version's card has them."""
    offline = card_scores(arguments.model)
    if offline is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        repository = make_repository(Path(folder), arguments.model)
        with millrace(repository, Path(folder), arguments.work) as server:
            served = served_scores(server.port, NAME, arguments.data)
    return served, offline


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    data = os.environ.get("MILLRACE_TEST_DATA")
    parser.add_argument("--model", type=Path, default=newest(SHIPPED), help="a version's folder")
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT, help="the same weights")
    parser.add_argument("--work", type=Path, default=Path("build/bench-translation"))
    parser.add_argument("--data", type=Path, default=data, required=data is None)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="of the wrapper")
    parser.add_argument("--beams", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--precisions", nargs="+", choices=list(COMPUTE), default=list(COMPUTE))
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # or the servers would be left behind
    if arguments.model is None or not arguments.checkpoint.is_dir():
        parser.error("no --model or no --checkpoint; recipes.translate_de_en makes both")
    arguments.ct2 = {
        "fp32": convert(arguments.checkpoint, arguments.work / "ctranslate2-fp32"),
        "int8": convert(arguments.checkpoint, arguments.work / "ctranslate2-int8", "int8"),
    }
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(arguments.model / "source.spm"))
    texts = mixed(
        captions(arguments.data), SENTENCES, 3, 60, lambda text: len(pieces.encode(text)) + 1
    )
    runs = [
        Run(precision, beams) for precision in arguments.precisions for beams in arguments.beams
    ]
    found = {run: compare(arguments, texts, run) for run in runs}
    facts = machine_facts("fastapi", "uvicorn", "ctranslate2", "sentencepiece")
    checked = targets(found, score(arguments))
    text = report(found, checked)
    print(text)
    details = {str(run): asdict(figures) for run, figures in found.items()}
    write_result("translation-served", facts, checked, details, text)
    return 0 if all(target.reached for target in checked) else 1


if __name__ == "__main__":
    sys.exit(main())
