"""Kernels that others append to a bound program, by the names under which they know them."""

from __future__ import annotations

from typing import Final

from engine.cpu.kernel import Kernel
from engine.cpu.kernels.beam_update import BeamUpdate
from engine.cpu.kernels.top_candidates import TopCandidates

TAILS: Final[dict[str, Kernel]] = {
    "top_candidates": TopCandidates(),
    "beam_update": BeamUpdate(),
}
