"""The device called "cuda". It has no plan yet; asking for it says what is missing."""

from __future__ import annotations

import importlib.util

from engine.device import CompileOptions, Plan
from engine.errors import DeviceUnavailable
from engine.ir.graph import Graph


class CudaDevice:
    """Refuses, for now, and says why."""

    name = "cuda"

    def compile(self, graph: Graph, options: CompileOptions) -> Plan:
        """Raise `DeviceUnavailable` naming what is missing on this machine."""
        missing = [] if importlib.util.find_spec("cupy") else ["the package cupy (extra `cuda`)"]
        missing.append("code generation for GPUs, which this version does not have")
        raise DeviceUnavailable(f"device 'cuda' is missing {' and '.join(missing)}; use 'cpu'")
