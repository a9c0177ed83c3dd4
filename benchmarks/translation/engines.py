"""Figure 1 of translation: tokens per second of engines that have the same weights.

    python -m benchmarks.translation.engines --model VERSION_FOLDER --checkpoint HUGGING_FACE_FOLDER

Mode "forced": 64 tokens for every sentence of 32, greedy and with 4 beams, batches of 1, 8 and 32.
Mode "captions": the official test split under equal stopping rules, with BLEU (needs `--data`).
Engines run in turn, each with one thread and with two; the better of the two counts. Needs the
`bench` extra; `MILLRACE_TORCH_PYTHON` names an interpreter with torch, transformers and
ctranslate2, which converts the checkpoint. Rows are merged into the committed results.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median

import numpy as np
import sentencepiece

from benchmarks.common.machine import machine_facts
from benchmarks.engine.priority import realtime
from benchmarks.engine.timing import PAUSE_S, Contender, Times, alternate, fastest
from benchmarks.translation.convert import convert, vocabulary_of
from benchmarks.translation.ctranslate_side import CTranslate2
from benchmarks.translation.ort_side import OnnxRuntime, prepare
from benchmarks.translation.our_side import Millrace
from benchmarks.translation.python_share import python_us
from benchmarks.translation.quality import Quality, compared
from benchmarks.translation.store import Key, Row, Store
from benchmarks.translation.texts import captions
from benchmarks.translation.work import Engine, Tokens, Work

OURS, THEIRS, ORT = "millrace", "ctranslate2", "onnxruntime"
BATCHES, BEAMS, THREADS = (1, 8, 32), (1, 4), (1, 2)
PRECISIONS = ("fp32", "int8")
SOURCE, TARGET, LONGEST = 32, 64, 128
SHIPPED, CHECKPOINT = Path("model_repo/translate-de-en"), Path("build/translate-de-en/hf")
FORCED, CAPTIONS = "forced", "captions"
SENTENCES = {1: 24, 8: 96, 32: 192}  # of a timed run over captions


@dataclass(frozen=True)
class Files:
    """Where the weights are, in every engine's form.

    Attributes:
        model: A version's folder, as Optimum exports it.
        checkpoint: The same weights for Hugging Face.
        work: Folder for what is converted.
    """

    model: Path
    checkpoint: Path
    work: Path

    def tokens(self) -> list[str]:
        """Return the vocabulary by number."""
        return vocabulary_of(self.checkpoint)

    def engine(self, name: str, precision: str, threads: int) -> Engine:
        """Load an engine."""
        tokens = self.tokens()
        start = len(tokens) - 1
        if name == OURS:
            return Millrace(self.model, precision, threads, max(BATCHES) * max(BEAMS), start)
        if name == THEIRS:
            kind = None if precision == "fp32" else precision
            folder = convert(self.checkpoint, self.work / f"ctranslate2-{precision}", kind)
            return CTranslate2(folder, precision, threads, tokens)
        return OnnxRuntime(prepare(self.model, self.work / "onnxruntime"), threads, start)


def forced(batch: int, beams: int, vocabulary: int) -> Work:
    """Return one batch of random sentences."""
    random = np.random.default_rng(batch)
    ids = random.integers(2, vocabulary - 1, (batch, SOURCE))
    ids[:, -1] = 0
    return Work(tuple(map(tuple, ids.tolist())), batch, beams, TARGET, forced=True)


def measure(engines: dict[str, Engine], work: Work, rounds: int) -> tuple[Times, dict[str, str]]:
    """Run the engines in turn over the same work; return seconds by label, and groups by label."""
    contenders = [
        Contender(label, partial(engine.translate, work), label.split()[0])
        for label, engine in engines.items()
    ]
    return alternate(contenders, rounds, PAUSE_S), {c.label: c.group for c in contenders}


@contextmanager
def loaded(files: Files, names: list[str], precision: str) -> Iterator[dict[str, Engine]]:
    """Load engines with every number of threads."""
    found = {f"{n} {t}": files.engine(n, precision, t) for n, t in product(names, THREADS)}
    yield found
    found.clear()


def row_of(key: Key, times: Times, groups: dict[str, str], tokens: int) -> Row:
    """Return tokens per second of each engine with its better number of threads."""
    speeds, threads = {}, {}
    for group in dict.fromkeys(groups.values()):
        label = fastest(times, groups, group)
        speeds[group] = round(tokens / median(times.seconds[label]), 1)
        threads[group] = int(label.split()[1])
    ratios = {
        f"over {name}": round(speeds[OURS] / speed, 3)
        for name, speed in speeds.items()
        if name != OURS
    }
    return Row(key, speeds, threads, ratios, round(times.waited, 4))


def run(files: Files, arguments: argparse.Namespace, store: Store) -> None:
    """Measure the rows that were asked for."""
    vocabulary = len(files.tokens())
    for precision in arguments.precision:
        # ONNX Runtime has no loop of its own and no int8 of these files: it stands beside fp32.
        names = [OURS, THEIRS, *([ORT] if precision == "fp32" else [])]
        with loaded(files, names, precision) as engines:
            if FORCED in arguments.mode:
                for beams, batch in product(arguments.beams, arguments.batch):
                    key = Key(FORCED, precision, beams, batch)
                    work = forced(batch, beams, vocabulary)
                    times, groups = measure(engines, work, arguments.rounds)
                    store.add(row_of(key, times, groups, batch * TARGET))
                    ours = engines[f"{OURS} 1"]
                    assert isinstance(ours, Millrace)
                    store.add_python(beams, batch, python_us(ours, work))
            if CAPTIONS in arguments.mode:
                run_captions(files, arguments, store, precision, engines)


def run_captions(
    files: Files,
    arguments: argparse.Namespace,
    store: Store,
    precision: str,
    engines: dict[str, Engine],
) -> None:
    """Measure on the test split: speed on a part of it, quality on all."""
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(files.model / "source.spm"))
    sentences = [(*pieces.encode(line), 0) for line in captions(arguments.data) if line.strip()]
    _check_numbers(pieces, files.tokens())
    for beams in arguments.beams:
        for batch in arguments.batch:
            some = sorted(sentences[: SENTENCES[batch]], key=len)
            work = Work(tuple(some), batch, beams, LONGEST, forced=False)
            tokens = sum(len(t) + 1 for t in engines[f"{THEIRS} 1"].translate(work))
            times, groups = measure(engines, work, arguments.rounds)
            store.add(row_of(Key(CAPTIONS, precision, beams, batch), times, groups, tokens))
        whole = Work(tuple(sorted(sentences, key=len)), 32, beams, LONGEST, forced=False)
        order = sorted(range(len(sentences)), key=lambda k: len(sentences[k]))
        found: dict[str, list[Tokens]] = {}
        for name in (OURS, THEIRS):
            result = engines[f"{name} 1"].translate(whole)
            found[name] = [tokens for _, tokens in sorted(zip(order, result, strict=True))]
        quality: Quality = compared(found, pieces, captions(arguments.data, language="en"))
        store.add_quality(precision, beams, quality)


def _check_numbers(pieces: sentencepiece.SentencePieceProcessor, tokens: list[str]) -> None:
    """The exported vocabulary numbers pieces as the model of pieces does."""
    for number in (0, 1, 2, 100, len(tokens) - 2):
        if pieces.id_to_piece(number) != tokens[number]:
            raise SystemExit(
                f"piece {number} is {pieces.id_to_piece(number)!r} in source.spm and "
                f"{tokens[number]!r} in vocab.json"
            )


def newest(model: Path) -> Path | None:
    """Return the folder of a model's highest version."""
    versions = [p for p in model.glob("*") if p.name.isdigit()] if model.is_dir() else []
    return max(versions, key=lambda p: int(p.name), default=None)


def read_arguments(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--model", type=Path, default=newest(SHIPPED), help="a version's folder")
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT, help="the same weights")
    data = os.environ.get("MILLRACE_TEST_DATA")
    parser.add_argument("--data", type=Path, default=data, help="folder that holds multi30k/")
    parser.add_argument("--mode", nargs="+", choices=(FORCED, CAPTIONS), default=[FORCED])
    parser.add_argument(
        "--precision", nargs="+", choices=("fp32", "int8"), default=["fp32", "int8"]
    )
    parser.add_argument("--beams", type=int, nargs="+", choices=BEAMS, default=BEAMS)
    parser.add_argument("--batch", type=int, nargs="+", choices=BATCHES, default=BATCHES)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--realtime", action="store_true", help="go before all other processes")
    parser.add_argument("--work", type=Path, default=Path("build/bench-translation"))
    arguments = parser.parse_args(given)
    for folder, kind in ((arguments.model, "--model"), (arguments.checkpoint, "--checkpoint")):
        if folder is None or not folder.is_dir():
            parser.error(f"{kind} {folder}: no such folder; recipes.translate_de_en makes both")
    if CAPTIONS in arguments.mode and arguments.data is None:
        parser.error("--mode captions needs --data, or MILLRACE_TEST_DATA")
    return arguments


def main(given: list[str] | None = None) -> int:
    arguments = read_arguments(given)
    files = Files(arguments.model, arguments.checkpoint, arguments.work)
    store = Store.read(machine_facts("ctranslate2", "onnxruntime", "sentencepiece"))
    with realtime(arguments.realtime):
        run(files, arguments, store)
    print(json.dumps([target.what for target in store.targets() if not target.reached], indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
