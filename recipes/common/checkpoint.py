"""Checkpoints: everything that a stopped training needs to go on as if it had not stopped."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from recipes.common.loop import Stopwatch


class CheckpointMismatch(Exception):
    """The checkpoint belongs to a training with other settings; remove it or use its settings."""


@dataclass
class Progress:
    """How far a training is: what the learning curve and the report are made of."""

    epoch: int = 0                        # epochs completed
    step: int = 0                         # steps completed, where a run is saved inside epochs
    epoch_start: int = 0                  # the step at which the present epoch began
    train_s: float = 0.0                  # seconds spent in training steps, over all runs
    cpu_s: float = 0.0                    # the same in CPU-seconds: other load does not lengthen it
    curve: list[dict[str, float]] = field(default_factory=list)

    def add(self, watch: Stopwatch) -> None:
        """Count the time of one more epoch."""
        self.train_s += watch.seconds()
        self.cpu_s += watch.cpu_seconds()


def save(path: Path, settings: dict[str, Any], progress: Progress, **parts: Any) -> None:
    """Write atomically: a training killed while it saves keeps the checkpoint before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    states = {name: part.state_dict() for name, part in parts.items()}
    incoming = path.with_suffix(".incoming")
    torch.save({"settings": settings, "progress": asdict(progress), "states": states}, incoming)
    incoming.replace(path)


def resume(path: Path, settings: dict[str, Any], **parts: Any) -> Progress:
    """Load a checkpoint into `parts` and return its progress; none there means a fresh start."""
    if not path.exists():
        return Progress()
    stored = torch.load(path, weights_only=True)
    if stored["settings"] != settings:
        raise CheckpointMismatch(f"{path} was written with {stored['settings']}, not {settings}")
    for name, part in parts.items():
        part.load_state_dict(stored["states"][name])
    return Progress(**stored["progress"])
