"""From the trained net to its version folder; all figures are those of the exported file."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from recipes.common import export, package
from recipes.common.data import DataMalformed, DataNotFound, Dataset, Pictures
from recipes.objects.data import SIZE
from recipes.objects.documents import LICENSE, card
from recipes.objects.model import ObjectNet
from recipes.objects.quantize import round_weights, store_int8
from recipes.objects.train import normalized, pixels, top_accuracy

NAME, VERSION, OUTPUTS = "objects", "1", ("logits", "embedding")
GOLDEN_BATCHES = (1, 4, 11)               # rows of each golden sample
ROWS_AT_ONCE = 500


@dataclass(frozen=True)
class Figures:
    """What was found about the exported file, on the whole validation split."""

    top1: float
    top5: float
    largest_difference: float             # of any output from torch's
    model_bytes: int


def publish(
    net: ObjectNet, data: Dataset, pictures: Path, out: Path, facts: dict[str, str]
) -> Figures:
    """Export, measure, and put the version folder in place at once.

    `pictures` is a folder of PNG files that become golden samples: Tiny ImageNet's own may not be
    passed on. `facts` are further rows of the card's table. Raises DataNotFound without pictures.
    """
    round_weights(net)
    home = out / NAME
    incoming, final = home / f".incoming-{VERSION}", home / VERSION
    shutil.rmtree(incoming, ignore_errors=True)
    incoming.mkdir(parents=True)
    path = incoming / "model.onnx"
    export.export_onnx(net, torch.zeros(2, 3, SIZE, SIZE), path, OUTPUTS)
    proto = onnx.load(path)
    store_int8(proto)
    onnx.checker.check_model(proto, full_check=True)
    onnx.save(proto, path)
    _write_golden(incoming, net, golden_pictures(pictures))
    figures = measure(path, net, data)
    package.write_labels(incoming, data.classes)
    (incoming / "CARD.md").write_text(card(_rows(figures) | facts, VERSION))
    (incoming / "LICENSE").write_text(LICENSE)
    package.write_manifest(incoming, NAME, VERSION)
    shutil.rmtree(final, ignore_errors=True)
    incoming.rename(final)
    return figures


def measure(path: Path, net: ObjectNet, data: Dataset) -> Figures:
    """Run the file and the net over the validation split."""
    images, labels = pixels(data.test.images), torch.from_numpy(data.test.labels)
    logits, largest = [], 0.0
    for start in range(0, len(images), ROWS_AT_ONCE):
        part = normalized(images[start : start + ROWS_AT_ONCE]).contiguous()
        found, expected = export.run_onnx(path, part.numpy()), outputs_of(net, part)
        differences = [export.check_agreement(found[name], expected[name]) for name in OUTPUTS]
        largest = max(largest, *differences)
        logits.append(torch.from_numpy(found["logits"]))
    joined = torch.cat(logits)
    top1, top5 = (round(top_accuracy(joined, labels, count), 4) for count in (1, 5))
    return Figures(top1, top5, largest, path.stat().st_size)


@torch.no_grad()
def outputs_of(net: ObjectNet, images: Tensor) -> dict[str, NDArray[np.float32]]:
    """Return torch's outputs by name."""
    return {
        name: value.numpy() for name, value in zip(OUTPUTS, net.eval()(images), strict=True)
    }


def golden_pictures(folder: Path) -> Pictures:
    """Return the first pictures of a folder, square PNG files, brought to 64 x 64."""
    paths = sorted(folder.glob("*.png"))[: sum(GOLDEN_BATCHES)]
    if len(paths) < sum(GOLDEN_BATCHES):
        raise DataNotFound(f"{folder} holds {len(paths)} PNG files, {sum(GOLDEN_BATCHES)} needed")
    images = []
    for path in paths:
        with Image.open(path) as image:
            if image.width != image.height:
                raise DataMalformed(f"{path} is {image.width} x {image.height}, not square")
            resized = image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR)
        images.append(np.asarray(resized))
    return np.stack(images)


def _write_golden(folder: Path, net: ObjectNet, images: Pictures) -> None:
    start = 0
    for index, size in enumerate(GOLDEN_BATCHES):
        tensors = normalized(pixels(images[start : start + size])).contiguous()
        inputs = {"image": tensors.numpy()}
        package.write_sample(folder, index, inputs, outputs_of(net, tensors))
        start += size


def _rows(figures: Figures) -> dict[str, str]:
    return {
        "top-1 on the official validation split (10,000 pictures)": f"{figures.top1:.2%}",
        "top-5 on the same": f"{figures.top5:.2%}",
        "largest difference between the ONNX file and torch": f"{figures.largest_difference:.1e}",
        "size of model.onnx": f"{figures.model_bytes:,} bytes",
    }
