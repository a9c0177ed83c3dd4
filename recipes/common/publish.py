"""From a trained net to a complete version folder, whose figures come from the ONNX file itself."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from recipes.common import export, halves, package
from recipes.common.data import Split

GOLDEN_BATCHES = (1, 4, 11)               # rows of each golden sample; sixteen together


@dataclass(frozen=True)
class Candidate:
    """A trained net and all that describes it."""

    model: str
    version: str
    net: nn.Module
    outputs: tuple[str, ...]
    classes: Sequence[str]
    half: bool = False                    # store weights as float16


@dataclass(frozen=True)
class Published:
    """What was found about the exported file."""

    accuracy: float
    largest_difference: float             # of any output from torch's, over the whole test split
    model_bytes: int
    pictures: dict[str, int]              # demo picture -> row of the test split


def publish(
    candidate: Candidate,
    test: Split,
    tensors: Tensor,
    out: Path,
    documents: Callable[[Published], dict[str, str]],
) -> Published:
    """Export, verify on the whole test split, and put the version folder in place at once.

    `documents` turns the findings into text files of the folder, such as the model card.
    """
    if candidate.half:
        halves.halve_weights(candidate.net)
    home = out / candidate.model
    incoming, final = home / f".incoming-{candidate.version}", home / candidate.version
    shutil.rmtree(incoming, ignore_errors=True)
    published = _fill(incoming, candidate, test, tensors)
    for name, text in documents(published).items():
        (incoming / name).write_text(text)
    package.write_manifest(incoming, candidate.model, candidate.version)
    shutil.rmtree(final, ignore_errors=True)
    incoming.rename(final)
    return published


def _fill(folder: Path, candidate: Candidate, test: Split, tensors: Tensor) -> Published:
    (folder / "samples").mkdir(parents=True)
    path = folder / "model.onnx"
    export.export_onnx(candidate.net, tensors[:2], path, candidate.outputs, half=candidate.half)
    expected = _torch_outputs(candidate, tensors)
    found = export.run_onnx(path, tensors.numpy())
    differences = [
        export.check_agreement(found[name], expected[name]) for name in candidate.outputs
    ]
    package.write_labels(folder, candidate.classes)
    pictures = package.write_pictures(folder, test.images, test.labels, candidate.classes)
    _write_golden(folder, list(pictures.values()), tensors, expected)
    right = found["logits"].argmax(1) == test.labels
    return Published(
        round(float(right.mean()), 4), max(differences), path.stat().st_size, pictures
    )


@torch.no_grad()
def _torch_outputs(candidate: Candidate, tensors: Tensor) -> dict[str, NDArray[np.float32]]:
    candidate.net.eval()
    parts = [candidate.net(part) for part in tensors.split(500)]
    columns = zip(*parts, strict=True)
    joined = [torch.cat(column).numpy() for column in columns]
    return dict(zip(candidate.outputs, joined, strict=True))


def _write_golden(
    folder: Path,
    rows: list[int],
    tensors: Tensor,
    expected: dict[str, NDArray[np.float32]],
) -> None:
    start = 0
    for index, size in enumerate(GOLDEN_BATCHES):
        chosen = rows[start : start + size]
        outputs = {name: values[chosen] for name, values in expected.items()}
        package.write_sample(folder, index, {"image": tensors[chosen].numpy()}, outputs)
        start += size
