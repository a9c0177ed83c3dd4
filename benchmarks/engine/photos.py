"""Figure 2, the model that ships: how often a smaller precision names another class on `photos`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.engine import ort_side, our_side
from benchmarks.engine.agreement import cosine_similarity
from benchmarks.engine.rows import Key
from benchmarks.engine.settings import Settings
from recipes.common.data import load_cifar10

NAME = "photos"
MODELS = Path(__file__).parents[2] / "model_repo" / NAME
DATA_VARIABLE = "MILLRACE_TEST_DATA"
MEAN = np.array([0.4914, 0.4822, 0.4465], np.float32)
DEVIATION = np.array([0.2470, 0.2435, 0.2616], np.float32)


def newest_model() -> Path:
    """Return the file of the highest version."""
    return max(MODELS.glob("*/model.onnx"), key=lambda path: int(path.parent.name))


def pictures() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the official test split as the model wants it (n, 3, 32, 32), and the classes.

    Raises:
        RuntimeError: No data folder is named.
    """
    folder = os.environ.get(DATA_VARIABLE)
    if not folder:
        raise RuntimeError(f"CIFAR-10's test pictures are needed: set {DATA_VARIABLE}")
    test = load_cifar10(Path(folder) / "images").test
    pixels = (test.images.astype(np.float32) / 255 - MEAN) / DEVIATION
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)), test.labels.astype(np.int64)


def measure(key: Key, settings: Settings) -> dict[str, Any]:
    """Return the share of pictures that both sides give the same class, and both sides' hits."""
    images, classes = pictures()
    path = newest_model()
    theirs = ort_side.opened(path, key.threads)
    ours = our_side.opened(path, key.threads, key.precision, settings.device)
    batches = np.array_split(images, -(-len(images) // key.batch))
    with ours:
        got = np.concatenate([ours.run({"image": batch})["logits"] for batch in batches])
    expected = np.concatenate([theirs({"image": batch})["logits"] for batch in batches])
    best, reference = got.argmax(1), expected.argmax(1)
    return {
        "top1": float(np.mean(best == reference)),
        "cosine": cosine_similarity(got, expected),
        "pictures": len(images),
        "accuracy": float(np.mean(best == classes)),
        "ort_accuracy": float(np.mean(reference == classes)),
    }


def bounds(key: Key) -> dict[str, tuple[str, float]]:
    """Return what the row promises."""
    return {"top1": (">=", 0.995), "cosine": (">=", 0.999)}
