"""The engine's way to put a classifier on a model, with its faults in the server's words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import engine
from server.errors import InvalidInput


def append_classifier(
    model: Path,
    *,
    output: str,
    weight: NDArray[np.float64],
    bias: NDArray[np.float64],
    mean: NDArray[np.float64],
    std: float,
    labels: Sequence[str],
    activation: str,
    name: str,
    isolate: bool,
) -> bytes:
    """Return the ONNX file of a model with a classifier on the value `output`, of rows scaled to
    length 1; see `engine.append_classifier`. Blocking.

    Raises:
        InvalidInput: the model cannot carry it; the message says why.
    """
    options: dict[str, Any] = {"mean": mean, "std": std, "labels": labels, "name": name}
    try:
        return engine.append_classifier(
            model,
            output=output,
            weight=weight,
            bias=bias,
            activation=activation,
            normalize=True,
            isolate=isolate,
            **options,
        )
    except engine.EngineError as error:
        raise InvalidInput(f"no classifier can be put on this model: {error}") from error
