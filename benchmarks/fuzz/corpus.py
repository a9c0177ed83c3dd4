"""What is mutated: real networks, the backend suite's models, and structures made for it."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.conformance.cases import case_names, read_case
from benchmarks.fuzz.structures import structures

ROOT = Path(__file__).parents[2]
LARGEST_CASE_BYTES = 64 << 10
LARGEST_FIXTURE_BYTES = 256 << 10
# How often a seed comes from each group; large files take long, and say little more.
WEIGHTS = {"suite": 60, "structures": 25, "networks": 12, "model_repo": 3}


@dataclass(frozen=True)
class Seed:
    """A file to mutate, and inputs that fit it as long as it is whole."""

    name: str
    model: bytes
    feeds: Mapping[str, Any] = field(default_factory=dict)


class Corpus:
    """All seeds, read when they are first wanted."""

    def __init__(self, groups: Mapping[str, Sequence[str]] | None = None) -> None:
        found = groups or {
            "suite": [f"{suite}/{name}" for suite in ("node", "simple") for name in names(suite)],
            "structures": sorted(_structures()),
            "networks": _paths(LARGEST_FIXTURE_BYTES, "tests/networks/fixtures/*.onnx"),
            "model_repo": _paths(1 << 40, "model_repo/*/*/model.onnx"),
        }
        self.groups = {group: seeds for group, seeds in found.items() if seeds}

    def pick(self, rng: random.Random) -> Seed:
        """Return a seed."""
        groups = sorted(self.groups)
        group = rng.choices(groups, [WEIGHTS[each] for each in groups])[0]
        while True:
            seed = read_seed(group, rng.choice(self.groups[group]))
            if group != "suite" or len(seed.model) <= LARGEST_CASE_BYTES:
                return seed


def names(suite: str) -> list[str]:
    """Return the names of a suite's cases."""
    return case_names(suite)


@cache
def read_seed(group: str, name: str) -> Seed:
    """Return one seed of a group."""
    if group == "structures":
        return Seed(name, _structures()[name])
    if group == "suite":
        suite, _, case = name.partition("/")
        content = read_case(suite, case)
        feeds = zip(content.inputs, content.data_sets[0][0], strict=False)
        return Seed(name, content.model, dict(feeds))
    return Seed(name, (ROOT / name).read_bytes())


@cache
def _structures() -> dict[str, bytes]:
    return structures()


def _paths(largest: int, pattern: str) -> list[str]:
    paths = sorted(ROOT.glob(pattern))
    return [str(path.relative_to(ROOT)) for path in paths if path.stat().st_size <= largest]
