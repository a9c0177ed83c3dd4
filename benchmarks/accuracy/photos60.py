"""Classify sixty photographs with real ImageNet nets, over HTTP, and beside ONNX Runtime.

    MILLRACE_TEST_DATA=/path/to/data python -m benchmarks.accuracy.photos60

Both sides get the tensors of the same preprocessing; a side's hits are the photographs whose
true class is its first answer, or among its first five. The photographs are probably part of
those nets' training set: the counts compare two runtimes and say nothing about the nets.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import urllib.request
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnxruntime
from rich.progress import track

from benchmarks.common.machine import machine_facts
from benchmarks.common.results import (
    Target,
    at_most,
    markdown_table,
    targets_table,
    write_result,
)
from benchmarks.common.server_process import ServerProcess
from server.model_config import PreprocessConfig
from server.preprocessing import build_transform

TOP = 5


@dataclass(frozen=True)
class Net:
    """A pretrained net and how its authors want pictures prepared."""

    name: str
    file: str
    preprocess: dict[str, object]


_SIZES: dict[str, object] = {"resize_short": 256, "crop": [224, 224]}
NETS = (
    Net(
        "squeezenet",
        "squeezenet_v1.1_fp16.onnx",
        {**_SIZES, "mode": "BGR", "scale": 1.0, "mean": [104.0, 117.0, 123.0], "std": [1.0]},
    ),
    Net(
        "mobilenet",
        "mobilenet_v2_1.0_224_keras_ptq.qdq.onnx",
        {**_SIZES, "mode": "RGB", "scale": 1.0, "mean": [127.5], "std": [127.5]},
    ),
)


def load_photographs(folder: Path) -> tuple[list[bytes], list[int]]:
    """Return the JPEG bytes and the class index of each photograph."""
    with np.load(folder / "images" / "photos60_jpg.npz") as archive:
        data, offsets, labels = archive["jpg"], archive["offsets"], archive["labels"]
    pictures = [data[a:b].tobytes() for a, b in pairwise(offsets)]
    return pictures, [int(label) for label in labels]


def toml_section(values: dict[str, object]) -> str:
    """Render numbers, strings and lists as TOML (JSON's forms of those are TOML's)."""
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())


def write_repository(folder: Path, data: Path) -> None:
    """Lay out a repository of both nets."""
    for net in NETS:
        version = folder / net.name / "1"
        version.mkdir(parents=True)
        shutil.copy(data / "pretrained" / net.file, version / "model.onnx")
        text = 'task = "classification"\n[classification]\nactivation = "none"\n[preprocess]\n'
        version.with_name("model.toml").write_text(text + toml_section(net.preprocess))


def ranked_by_server(server: ServerProcess, net: Net, picture: bytes) -> list[int]:
    """Return the server's first five classes for a JPEG."""
    url = f"{server.url}/classify?model={net.name}&top_k={TOP}"
    request = urllib.request.Request(url, picture, {"Content-Type": "image/jpeg"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        result = json.loads(answer.read())["results"][0]
    return [int(prediction["index"]) for prediction in result["predictions"]]


class OnnxRuntime:
    """ONNX Runtime behind the server's own preprocessing."""

    def __init__(self, net: Net, path: Path) -> None:
        self.session = onnxruntime.InferenceSession(path)
        entry = self.session.get_inputs()[0]
        self.input = entry.name
        dtype = "float16" if entry.type == "tensor(float16)" else "float32"
        config = PreprocessConfig.model_validate(net.preprocess)
        self.transform = build_transform(config, entry.name, dtype, tuple(entry.shape))

    def ranked(self, picture: bytes) -> list[int]:
        """Return the first five classes for a JPEG."""
        tensor = self.transform(self.transform.decode(picture))  # (1, 3, H, W)
        scores = self.session.run(None, {self.input: tensor})[0].reshape(-1)  # (classes,)
        return [int(k) for k in np.argsort(-scores.astype(np.float64), kind="stable")[:TOP]]


def hits(ranked: list[list[int]], labels: list[int]) -> tuple[int, int]:
    """Return top-1 and top-5 hits."""
    first = sum(r[0] == label for r, label in zip(ranked, labels, strict=True))
    return first, sum(label in r for r, label in zip(ranked, labels, strict=True))


def compare(server: ServerProcess, net: Net, data: Path) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return (server's hits, ONNX Runtime's hits)."""
    pictures, labels = load_photographs(data)
    peer = OnnxRuntime(net, data / "pretrained" / net.file)
    ours, theirs = [], []
    for picture in track(pictures, description=net.name):
        ours.append(ranked_by_server(server, net, picture))
        theirs.append(peer.ranked(picture))
    return hits(ours, labels), hits(theirs, labels)


def main() -> int:
    """Print both counts for both nets; exit 1 when they differ by more than one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=os.environ.get("MILLRACE_TEST_DATA"))
    parser.add_argument("--no-save", action="store_true", help="leave benchmarks/results alone")
    arguments = parser.parse_args()
    if arguments.data is None:
        parser.error("name the data folder: --data or MILLRACE_TEST_DATA")
    targets: list[Target] = []
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        write_repository(Path(folder, "repository"), arguments.data)
        with ServerProcess(Path(folder, "repository"), Path(folder, "server.log")) as server:
            for net in NETS:
                ours, theirs = compare(server, net, arguments.data)
                for k, what in enumerate(("top-1", f"top-{TOP}")):
                    rows.append([net.name, what, ours[k], theirs[k]])
                    difference = abs(ours[k] - theirs[k])
                    targets.append(at_most(f"{net.name} {what} difference", difference, 1))
    facts = machine_facts("onnxruntime", "pillow")
    table = markdown_table(["net", "hits of 60", "Millrace", "ONNX Runtime"], rows)
    text = f"# Sixty photographs\n\n{table}\n{targets_table(targets)}"
    print(text)
    if not arguments.no_save:
        write_result("photos60", facts, targets, rows, text)
    return 0 if all(target.reached for target in targets) else 1


if __name__ == "__main__":
    sys.exit(main())
