"""Writes what was learned as a version's folder, complete but for the manifest."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from server.execution import append_classifier
from server.learning import kept
from server.learning.examples import Example, Lesson
from server.learning.fitting import Classifier
from server.learning.kept import Base
from server.learning.report import card, summary
from server.model_config import ModelConfig
from server.preprocessing import picture_format
from server.preprocessing.matrix_picture import draw_matrix
from server.repository import layout
from server.repository.config import LABELS_FILE
from server.repository.golden import INPUT_PREFIX, OUTPUT_PREFIX

ANSWER: Final = "probabilities"
REPORT_FILE, PICTURE_FILE, CARD_FILE = "report.json", "confusion.png", "CARD.md"
GOLDEN_ROWS: Final = 4
SHOWN_PICTURES: Final = 10
MAX_SHOWN_BYTES: Final = 1 << 20
USUAL_TOP: Final = 5
# Precisions other than fp32 round products in the head as well, and differently in a batch.
ROUGH_GOLDEN: Final = {"rtol": 0.05, "atol": 0.05}

Arrays = Mapping[str, np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Golden:
    """What the base gives for a few pictures, row by row."""

    inputs: Arrays
    features: NDArray[np.float32]  # as the graph gives them


@dataclass(frozen=True)
class Learned:
    """All that a version is made of."""

    name: str
    base: Base
    base_file: Path
    base_config: ModelConfig
    precision: str  # that the base runs in
    lesson: Lesson
    features: NDArray[np.float32]
    classifier: Classifier
    report: Mapping[str, Any]
    golden: Golden | None  # of some of the examples that have pictures


def write_version(folder: Path, learned: Learned, *, pictures: bool, isolate: bool) -> None:
    """Write model, labels, configuration, samples, report and lesson into an empty folder.

    Raises:
        InvalidInput: the base model cannot carry the classifier.
    """
    classifier, lesson = learned.classifier, learned.lesson
    model = append_classifier(
        learned.base_file,
        output=learned.base.output,
        weight=classifier.weight,
        bias=classifier.bias,
        mean=classifier.scaling.mean,
        std=classifier.scaling.spread,
        labels=lesson.labels,
        activation=classifier.activation,
        name=ANSWER,
        isolate=isolate,
    )
    (folder / layout.MODEL_FILE).write_bytes(model)
    _write(folder / LABELS_FILE, "\n".join(lesson.labels) + "\n")
    _write(folder / layout.CONFIG_FILE, configuration(learned))
    _write_samples(folder / layout.SAMPLES_FOLDER, learned)
    examples = lesson.examples
    are_kept = kept.write(
        folder, learned.base, classifier.method, examples, learned.features, pictures=pictures
    )
    report = {**learned.report, "pictures_kept": are_kept}
    _write(folder / REPORT_FILE, json.dumps(report, indent=1) + "\n")
    matrix = np.array(report["confusion"])
    title = f"{learned.name}: {report['accuracy']:.1%} of {report['pictures']} pictures"
    (folder / PICTURE_FILE).write_bytes(draw_matrix(matrix, lesson.labels, title))
    _write(folder / CARD_FILE, card(learned.name, report))


def configuration(learned: Learned) -> str:
    """Return the version's `model.toml`: pictures are prepared as for the base."""
    base = learned.base_config
    golden = base.golden.model_dump() if learned.precision == "fp32" else ROUGH_GOLDEN
    normalize = base.embedding.normalize if base.embedding is not None else True
    sections: dict[str, Mapping[str, Any]] = {
        "preprocess": base.preprocess.model_dump() if base.preprocess is not None else {},
        "classification": {
            "output": ANSWER,
            "activation": "none",  # the graph gives probabilities
            "top_k": min(USUAL_TOP, len(learned.lesson.labels)),
        },
        "embedding": {"output": learned.base.output, "normalize": normalize},
        "batching": base.batching.model_dump(),
        "golden": golden,
    }
    top = {
        "task": "classification",
        "class_labels": LABELS_FILE,
        "description": summary(learned.report),
        "device": base.device,
        "precision": learned.precision,
    }
    parts = [_table(top), *(f"[{name}]\n{_table(keys)}" for name, keys in sections.items() if keys)]
    return "\n".join(parts)


def _table(keys: Mapping[str, Any]) -> str:
    # JSON's strings, numbers, lists and booleans mean the same in TOML.
    told = {key: value for key, value in keys.items() if value is not None}
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in told.items())


def golden_pictures(lesson: Lesson) -> list[bytes]:
    """Return the pictures that become golden samples: the first of each of a few classes."""
    first: dict[str, bytes] = {}
    for example in lesson.examples:
        if example.data is not None:
            first.setdefault(example.label, example.data)
    return list(first.values())[:GOLDEN_ROWS]


def _write_samples(folder: Path, learned: Learned) -> None:
    folder.mkdir()
    if learned.golden is not None:
        features = learned.golden.features
        expected = {
            ANSWER: learned.classifier.probabilities(features).astype(np.float32),
            learned.base.output: features,
        }
        for name, part in (("0", slice(1)), ("1", slice(None))):
            arrays = {INPUT_PREFIX + key: a[part] for key, a in learned.golden.inputs.items()}
            arrays |= {OUTPUT_PREFIX + key: a[part] for key, a in expected.items()}
            np.savez(folder / f"{name}.npz", **arrays)  # type: ignore[arg-type]  # no name is a flag's
    for place in _shown(learned.lesson.examples):
        example = learned.lesson.examples[place]
        label = re.sub(r"[^A-Za-z0-9_-]+", "_", example.label)[:40] or "class"
        kind = picture_format(example.data or b"") or "bin"
        (folder / f"{label}_{place}.{kind.lower()}").write_bytes(example.data or b"")


def _shown(examples: Sequence[Example]) -> list[int]:
    """Return one example of each of the first classes, whose files are not too large."""
    first: dict[str, int] = {}
    for place, example in enumerate(examples):
        if example.data is not None and len(example.data) <= MAX_SHOWN_BYTES:
            first.setdefault(example.label, place)
    return list(first.values())[:SHOWN_PICTURES]


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
