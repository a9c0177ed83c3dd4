"""A translation model whose translations are known: the same text in capitals.

Its files are those of a Marian export with a vocabulary of single characters; instead of graphs it
has a decoder that writes them out one by one.
"""

from __future__ import annotations

import json
import threading
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import sentencepiece

import engine
from engine import Hypothesis, Search, SlotSizes, StepResult

END = 0
STAND_IN = b"stands for a graph"
SCORE = -0.25
PATIENCE_S = 300.0  # of a decoder that is held, with the test that holds it
LETTERS = "abcdefghijklmnopqrstuvwxyzäöüéABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÜÉ0123456789.,;:!?'\"()-/"


@cache
def pieces(letters: str = LETTERS) -> tuple[bytes, dict[str, int]]:
    """Return a sentencepiece model of single characters, and the number of each piece."""
    with TemporaryDirectory() as folder:
        text = Path(folder) / "letters.txt"
        text.write_text("\n".join(" ".join(letters) for _ in range(4)), encoding="utf-8")
        sentencepiece.SentencePieceTrainer.train(
            input=str(text),
            model_prefix=f"{folder}/letters",
            model_type="char",
            vocab_size=len(letters) + 4,
            hard_vocab_limit=False,
            character_coverage=1.0,
            minloglevel=2,
        )
        model = (Path(folder) / "letters.model").read_bytes()
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    found = [processor.id_to_piece(k) for k in range(processor.get_piece_size())]
    letters = [piece for piece in found if not piece.startswith("<")]
    names = ["</s>", "<unk>", *letters, "<pad>"]
    return model, {name: number for number, name in enumerate(names)}


def write_shouting(
    root: Path, name: str = "shout", version: str = "1", *, model_toml: str = "", **files: object
) -> Path:
    """Write a version; `files` are further JSON files by their stems."""
    folder = root / name / version
    folder.mkdir(parents=True, exist_ok=True)
    for graph in ("encoder_model", "decoder_model", "decoder_with_past_model"):
        (folder / f"{graph}.onnx").write_bytes(STAND_IN)
    write_text_files(folder, LETTERS, **files)
    if model_toml:
        (root / name / "model.toml").write_text(model_toml, encoding="utf-8")
    return folder


def write_text_files(folder: Path, letters: str, **files: object) -> None:
    """Write everything of a version but its graphs."""
    model, numbers = pieces(letters)
    for side in ("source", "target"):
        (folder / f"{side}.spm").write_bytes(model)
    (folder / "vocab.json").write_text(json.dumps(numbers), encoding="utf-8")
    contents = {
        "config": {
            "is_encoder_decoder": True,
            "model_type": "marian",
            "architectures": ["MarianMTModel"],
            "decoder_start_token_id": numbers["<pad>"],
            "eos_token_id": END,
        },
        "tokenizer_config": {"source_lang": "de", "target_lang": "en"},
        **files,
    }
    for stem, content in contents.items():
        (folder / f"{stem}.json").write_text(json.dumps(content), encoding="utf-8")


def write_sample(folder: Path, name: str, **content: object) -> None:
    """Add a golden sample to a version."""
    (folder / "samples").mkdir(exist_ok=True)
    (folder / "samples" / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")


MODELS: dict[str, ShoutingModel] = {}  # those that were loaded last, by name
_load_graphs = engine.load_seq2seq


def load_seq2seq(folder: Path, **options: Any) -> Any:
    """Load what `write_shouting` wrote; other folders are loaded as ever."""
    encoder = folder / "encoder_model.onnx"
    if not encoder.exists() or encoder.read_bytes() != STAND_IN:
        return _load_graphs(folder, **options)
    MODELS[folder.parent.name] = ShoutingModel(folder)
    return MODELS[folder.parent.name]


@contextmanager
def shouting_models() -> Iterator[None]:
    """Let the server load models that shout."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "load_seq2seq", load_seq2seq)
        yield


class ShoutingModel:
    """Stands for what `engine.load_seq2seq` returns."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        _, self.numbers = pieces()
        self.vocabulary_size = len(self.numbers)
        self.cached = True
        self.notes = ("written for tests",)
        self.closed = False
        self.gate = threading.Event()  # closed: no step ends
        self.gate.set()
        self.decoders: list[ShoutingDecoder] = []

    def open(self, sizes: SlotSizes) -> ShoutingDecoder:
        self.decoders.append(ShoutingDecoder(self, sizes))
        return self.decoders[-1]

    def memory(self) -> engine.MemoryReport:
        return engine.MemoryReport(weights_bytes=1000, arena_bytes=20, code_bytes=3)

    def close(self) -> None:
        self.closed = True


class ShoutingDecoder:
    """Keeps the contract of `engine.Decoder`."""

    def __init__(self, model: ShoutingModel, sizes: SlotSizes) -> None:
        self.sizes = sizes
        self._model = model
        self._capitals = _capitals(model.numbers)
        self._sources: dict[int, list[int]] = {}
        self._searches: dict[int, tuple[list[int], Search]] = {}
        self._lengths: dict[int, int] = {}  # tokens so far, by handle
        self._names = 0

    @property
    def free_rows(self) -> int:
        return self.sizes.rows - sum(search.beams for _, search in self._searches.values())

    @property
    def free_sources(self) -> int:
        return self.sizes.sources - len(self._sources)

    def memory_bytes(self) -> int:
        return 4096

    def add_sources(self, sentences: Sequence[Sequence[int]]) -> list[int]:
        names = []
        for tokens in sentences:
            self._names += 1
            self._sources[self._names] = [self._capitals.get(t, t) for t in tokens]
            names.append(self._names)
        return names

    def start(self, source: int, search: Search) -> int:
        self._names += 1
        self._searches[self._names] = (self._sources[source], search)
        self._lengths[self._names] = 0
        return self._names

    def step(self) -> StepResult:
        if not self._model.gate.wait(PATIENCE_S):
            raise TimeoutError("the test never opened the gate")
        moving = [name for name in self._searches if not self._done(name)]
        for name in moving:
            self._lengths[name] += 1
        return StepResult(
            np.array(moving, np.int64),
            np.array([self.running_tokens(name)[-1] for name in moving], np.int64),
            np.array([self._done(name) for name in moving], np.bool_),
        )

    def hypotheses(self, handle: int) -> list[Hypothesis]:
        _, search = self._searches[handle]
        tokens = self.running_tokens(handle)
        bang = self._model.numbers["!"]
        found = []
        for place in range(search.n_best):
            ended = bool(tokens) and tokens[-1] == END
            written = (*tokens[:-1], *[bang] * place, END) if ended else tuple(tokens)
            logs = tuple([SCORE] * len(written)) if search.log_probabilities else None
            looks = self._looks(len(written)) if search.alignment else None
            found.append(Hypothesis(written, SCORE - place, ended, logs, looks))
        return found

    def _looks(self, count: int) -> tuple[tuple[float, ...], ...]:
        """Every character looks at the one that it shouts."""
        return tuple(tuple(float(k == at) for k in range(count)) for at in range(count))

    def running_tokens(self, handle: int) -> list[int]:
        return self._searches[handle][0][: self._lengths[handle]]

    def release(self, handle: int) -> None:
        del self._searches[handle], self._lengths[handle]

    def release_source(self, source: int) -> None:
        del self._sources[source]

    def _done(self, name: int) -> bool:
        tokens, search = self._searches[name]
        return self._lengths[name] >= min(len(tokens), search.max_new_tokens)


def _capitals(numbers: dict[str, int]) -> dict[int, int]:
    return {n: numbers[p.upper()] for p, n in numbers.items() if p.upper() in numbers and p != "ß"}


def shouted(text: str) -> str:
    """Return the translation of a text of known letters."""
    return unicodedata.normalize("NFC", text).upper()
