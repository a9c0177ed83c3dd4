"""The command line, `millrace`: what it can do is listed in `server.commands`.

A thin client. Nothing heavy is imported before the thread caps below are set, because numpy's BLAS
reads them when it loads: the engine runs its own threads, and BLAS pools beside them would fight.
"""

from __future__ import annotations

import os

for _variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

from server.commands import app  # noqa: E402  # the caps above come first

__all__ = ["app", "main"]


def main() -> None:
    """Run the command line."""
    app()
