"""Writes the networks as ONNX: `python -m benchmarks.engine.networks.export FOLDER [NAME ...]`.

Runs under a Python with torch; files that are there already stay.
"""

from __future__ import annotations

import importlib
import sys
import time
import warnings
from pathlib import Path

import torch

from benchmarks.engine.networks.building import Exportable
from benchmarks.engine.networks.table import NETWORKS

OPSET = 17


def export(network: Exportable, path: Path) -> None:
    """Write one network with the exporter that most files in the world come from."""
    part = path.with_suffix(".part")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecation and tracing remarks
        torch.onnx.export(
            network.module,
            network.example,
            str(part),
            input_names=list(network.inputs),
            output_names=list(network.outputs),
            dynamic_axes={name: dict(axes) for name, axes in network.axes.items()},
            opset_version=OPSET,
            dynamo=False,
        )
    part.rename(path)


def main(folder: Path, names: list[str]) -> None:
    """Export what is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names or NETWORKS:
        path = folder / f"{name}.onnx"
        if path.exists():
            continue
        start = time.monotonic()
        module = importlib.import_module(f"benchmarks.engine.networks.{NETWORKS[name].module}")
        export(getattr(module, name)(), path)
        print(f"{name}: {path.stat().st_size / 1e6:.1f} MB, {time.monotonic() - start:.1f} s")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
