"""ONNX Runtime, as the figures load it. Never imports our engine: its memory is measured alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnxruntime  # type: ignore[import-untyped]
from numpy.typing import NDArray

Array = NDArray[np.generic]
Run = Callable[[Mapping[str, Array]], dict[str, Array]]


def opened(path: Path, threads: int, *, spinning: bool = True) -> Run:
    """Return a function over a session with all graph optimisations."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(feeds: Mapping[str, Array]) -> dict[str, Array]:
        return dict(zip(names, session.run(None, feeds), strict=True))

    return run


def spinnings(threads: int) -> tuple[bool, ...]:
    """Return the settings worth trying: with one thread there are no workers that could spin."""
    return (True,) if threads == 1 else (True, False)
