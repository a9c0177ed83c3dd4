"""The model files: exported once under a Python that has torch, and their int8 twins."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from benchmarks.engine.environment import clean_environment
from benchmarks.engine.networks.table import NETWORKS

TORCH_PYTHON = "MILLRACE_TORCH_PYTHON"


def ensure_files(folder: Path, networks: Iterable[str], int8: Iterable[str]) -> None:
    """Make what is missing.

    Args:
        folder: Where the files lie.
        networks: Names of those wanted in fp32.
        int8: Names of those wanted in int8 as well.

    Raises:
        RuntimeError: A file is missing and no Python with torch was named, or the export failed.
    """
    networks = [name for name in networks if name in NETWORKS]  # others are at hand
    twins = [name for name in int8 if NETWORKS[name].integers]
    wanted = dict.fromkeys((*networks, *twins))
    missing = [name for name in wanted if not (folder / f"{name}.onnx").exists()]
    if missing:
        _export(folder, missing)
    for name in twins:
        target = folder / f"{name}_int8.onnx"
        if not target.exists():
            print(f"making {target.name}", flush=True)
            _module("benchmarks.engine.networks.quantize", sys.executable, folder, [name])


def _export(folder: Path, names: list[str]) -> None:
    python = os.environ.get(TORCH_PYTHON)
    if not python:
        raise RuntimeError(
            f"no files for {', '.join(names)}: name a Python with torch in {TORCH_PYTHON}; "
            "`make bench-engine` makes one"
        )
    print(f"exporting {', '.join(names)}", flush=True)
    _module("benchmarks.engine.networks.export", python, folder, names)


def _module(module: str, python: str, folder: Path, names: list[str]) -> None:
    command = [python, "-m", module, str(folder.absolute()), *names]
    done = subprocess.run(
        command, env=clean_environment(), cwd=Path(__file__).parents[2], check=False
    )
    if done.returncode:
        raise RuntimeError(f"{module} failed with status {done.returncode}")
