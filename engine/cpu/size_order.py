"""What a child is told that compiles a model for given sizes, and where it answers.

Both sides share a folder: the order lies there as JSON, and the child leaves the compiled graph
there, or what went wrong.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from engine.limits import Limits

ORDER: Final = "order"
ANSWER: Final = "answer"
REPORT: Final = "report"


@dataclass(frozen=True)
class SizeOrder:
    """One compilation.

    Attributes:
        descriptor: The model's compiled file, open in the child.
        whole: The blob there that describes the graph with its fixed values.
        sizes: Numbers for symbols.
        known: Digests of packed weights that the parent has.
        precision: How contractions may compute.
        limits: Bounds on the plan.
        fingerprint: Of the parent's compiler: what another one makes is of no use to it.
        memory_bytes: What the child may use.
    """

    descriptor: int
    whole: int
    sizes: Mapping[str, int]
    known: tuple[str, ...]
    precision: str
    limits: Limits
    fingerprint: str
    memory_bytes: int

    @property
    def what(self) -> str:
        """The work, for messages."""
        return "sizes " + ", ".join(f"{name}={size}" for name, size in self.sizes.items())

    def write(self, folder: Path) -> None:
        """Leave it for the child."""
        (folder / ORDER).write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> SizeOrder:
        """Return what `write` left."""
        fields = json.loads((folder / ORDER).read_text(encoding="utf-8"))
        fields["known"], fields["limits"] = tuple(fields["known"]), Limits(**fields["limits"])
        return cls(**fields)
