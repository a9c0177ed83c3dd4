"""The environment of the processes that measure."""

from __future__ import annotations

import os


def clean_environment() -> dict[str, str]:
    """Return this process's environment, but numpy's library chooses its kernels by itself."""
    environment = dict(os.environ)
    environment.pop("OPENBLAS_CORETYPE", None)
    return environment
