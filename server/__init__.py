"""The Millrace service: repository, hot swap, batching, tasks, protocols, metrics.

Layers, top to bottom (a lower one never imports a higher one):
routes > handlers > tasks | batching | repository > execution > errors, schemas, settings, metrics.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("millrace")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0+unknown"

__all__ = ["__version__"]
