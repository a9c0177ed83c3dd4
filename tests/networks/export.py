"""Writes the networks and what ONNX Runtime answers: `python -m tests.networks.export FOLDER`.

Names after the folder choose networks; without any, all are written. Needs the extra `networks`
(see requirements/networks.txt). Weights and inputs come from fixed seeds.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch

from tests.networks.cases import Case, as_stored, write_cases
from tests.networks.exporters import FAMILIES
from tests.networks.exporters.common import EXPORTS, Export, Feeds

MODEL_BYTES = 200_000  # of one file
FIRST_EXTERNAL_BYTES = 1024  # smaller weights stay in the model


def record(source: Path | bytes, feeds: Feeds, plain: bool) -> Case:
    """Return what ONNX Runtime answers."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    if plain:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    answers = as_stored(dict(zip(names, session.run(names, feeds), strict=True)))
    for name, answer in answers.items():
        if isinstance(answer, np.ndarray) and answer.dtype.kind == "f":
            assert np.isfinite(answer).all(), f"{name} is not finite"
    return Case({name: _stored_text(array) for name, array in feeds.items()}, answers)


def _stored_text(array: np.ndarray) -> np.ndarray:
    return array.astype(str) if array.dtype == object else array


def write(folder: Path, name: str, export: Export) -> int:
    """Write a network with its cases; return the bytes of its files."""
    path = folder / f"{name}.onnx"
    files = [path, path.with_suffix(".npz")]
    if export.external:
        files.append(path.with_suffix(".data"))
        files[-1].unlink(missing_ok=True)  # onnx appends
        onnx.save_model(
            export.model,
            path,
            save_as_external_data=True,
            location=files[-1].name,
            size_threshold=FIRST_EXTERNAL_BYTES,
        )
    else:
        path.write_bytes(export.model.SerializeToString(deterministic=True))
    source = path if export.asked is None else export.asked.SerializeToString()
    write_cases(files[1], [record(source, feeds, export.plain) for feeds in export.feeds])
    sizes = [file.stat().st_size for file in files]
    assert max(sizes) <= MODEL_BYTES, f"{name}: {sizes} bytes, expected at most {MODEL_BYTES}"
    return sum(sizes)


def main() -> None:
    """Write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", metavar="name")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    torch.backends.mha.set_fastpath_enabled(False)  # no exporter knows its operator
    logging.disable(logging.WARNING)  # what is not installed, what is deprecated
    assert FAMILIES  # importing them fills EXPORTS
    failed: list[str] = []
    total = 0
    for name in arguments.names or EXPORTS:
        begin = time.monotonic()
        try:
            torch.manual_seed(0)
            size = write(arguments.folder, name, EXPORTS[name]())
        except Exception as error:
            failed.append(name)
            print(f"{name}: failed: {type(error).__name__}: {str(error)[:800]}", flush=True)
            continue
        total += size
        print(f"{name}: {size:,} bytes, {time.monotonic() - begin:.1f} s", flush=True)
    print(f"{total:,} bytes in all")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
