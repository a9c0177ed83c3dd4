"""The device called "cuda": the GPU that CuPy sees first."""

from __future__ import annotations

import importlib
from typing import Any

from engine.cuda.plan import CudaPlan
from engine.device import CompileOptions, Plan
from engine.errors import DeviceUnavailable
from engine.ir.graph import Graph
from engine.ops.registry import registry_of


class CudaDevice:
    """Runs graphs on a GPU, from their portable definitions."""

    name = "cuda"

    def compile(self, graph: Graph, options: CompileOptions) -> Plan:
        """Return a plan for the GPU; `DeviceUnavailable` names what is missing on this machine."""
        cupy = usable_cupy()
        if options.precision not in ("fp32", "auto"):
            raise DeviceUnavailable(
                f"device {self.name!r} has no kernels for precision {options.precision!r} yet; "
                "expected 'fp32' or 'auto'"
            )
        registry = registry_of(options.operators)
        return CudaPlan(graph, xp=cupy, registry=registry, limits=options.limits)


def usable_cupy() -> Any:
    """Return the module cupy if it can reach a GPU, or raise `DeviceUnavailable`."""
    try:
        cupy = importlib.import_module("cupy")
    except ImportError as error:
        raise _missing(f"the package cupy (extra `cuda`): {error}") from error
    if not cupy.cuda.is_available():
        raise _missing(f"a GPU: CuPy {cupy.__version__} finds no driver or no device")
    return cupy


def _missing(what: str) -> DeviceUnavailable:
    return DeviceUnavailable(f"device 'cuda' is missing {what}; use 'cpu'")
