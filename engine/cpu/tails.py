"""Kernels that others append to a bound program, by the names under which they know them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from engine.cpu.kernel import Kernel
from engine.cpu.kernels.append_cache import AppendCache
from engine.cpu.kernels.beam_update import BeamUpdate
from engine.cpu.kernels.top_candidates import TopCandidates

TAILS: Final[dict[str, Kernel]] = {
    "top_candidates": TopCandidates(),
    "beam_update": BeamUpdate(),
}


def tail_kernels(kernels: Iterable[Kernel]) -> list[Kernel]:
    """Return what will be asked for behind these: the search, where they append to caches."""
    return list(TAILS.values()) if any(isinstance(k, AppendCache) for k in kernels) else []
