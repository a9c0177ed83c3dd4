"""What a run of the benchmark was asked for, as the worker needs it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

MODELS = Path(__file__).parents[2] / "build" / "bench-engine"


@dataclass(frozen=True)
class Settings:
    """What is the same for all rows of a run.

    Attributes:
        pairs: Rounds in which every side is timed once; 0 only compares outputs.
        device: Of our side; "cpu" but for trials of the benchmark itself.
        models: Folder of the ONNX files.
        realtime: Whether timing goes before all other processes of the machine.
    """

    pairs: int = 15
    device: str = "cpu"
    models: str = str(MODELS)
    realtime: bool = False

    def path(self, network: str, precision: str = "fp32") -> Path:
        """Return a network's file: int8 has one of its own."""
        return Path(self.models) / f"{network}{'_int8' if precision == 'int8' else ''}.onnx"
