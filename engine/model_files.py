"""What a model consists of on disk, for who copies one."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any, Final

from engine.limits import Limits

# Named, and imported when it is asked for: a serving process never loads the ONNX parser.
READER: Final = "engine.frontend.external_locations"


def external_data_files(
    source: str | os.PathLike[str], limits: Limits | None = None
) -> tuple[str, ...]:
    """Return the files that the tensors of a model lie in: paths within its folder, sorted.

    Nothing but the model file itself is read, so the files may be missing.

    Args:
        source: Path of a model file.
        limits: Bounds on the file's bytes and the graph's nesting.

    Raises:
        InvalidModel: it is no ONNX file, or a location leaves the folder.
        ResourceLimit: it is longer than `limits.model_bytes`.
    """
    reader: Any = importlib.import_module(READER)
    found: tuple[str, ...] = reader.external_locations(Path(source), limits or Limits())
    return found
