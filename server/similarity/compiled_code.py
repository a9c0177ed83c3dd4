"""Where numba, which UMAP is written with, keeps the machine code that it has compiled.

By itself it does so beside the library's sources or in the user's home, and fails at the import
where it may write to neither, as in a container with a root file system that is read-only.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import stat
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

VARIABLE: Final = "NUMBA_CACHE_DIR"
FOLDER: Final = "numba"
LIBRARY: Final = "umap"

logger = logging.getLogger(__name__)


def is_loaded() -> bool:
    """Return whether a map by UMAP needs no more than to be drawn."""
    return hasattr(sys.modules.get(LIBRARY), "UMAP")


def is_installed() -> bool:
    """Return whether there is more of the library than a folder that it left."""
    spec = importlib.util.find_spec(LIBRARY)
    return spec is not None and spec.origin is not None


def keep_code(cache_dir: Path | None) -> None:
    """Have code kept below the server's cache folder, unless the environment says where.

    A folder that others may write to is not used: what is in it is run. Without one that can be
    used the code is kept as long as the process lives.
    """
    if is_loaded() or os.environ.get(VARIABLE) or not is_installed():
        return
    folder = _usable(cache_dir or _usual_folder())
    kept = folder is not None
    if folder is None:
        folder = Path(tempfile.mkdtemp(prefix="millrace-numba-"))
    os.environ[VARIABLE] = str(folder)
    often = "once" if kept else "at every start: there is no private cache folder to write to"
    logger.info("umap: its code is compiled, %s, and kept in %s", often, folder)


def _usual_folder() -> Path | None:
    cache = os.environ.get("XDG_CACHE_HOME")
    with suppress(RuntimeError):  # a user without a home
        return (Path(cache) if cache else Path.home() / ".cache") / "millrace"
    return None


def _usable(parent: Path | None) -> Path | None:
    if parent is None:
        return None
    folder = parent / FOLDER
    with suppress(OSError):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
        theirs = status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        if not theirs and os.access(folder, os.W_OK):
            return folder.absolute()
    return None
