"""The search as kernels of the device, run after each step within the same native call.

Kernels are known by name and take arrays of the search's state; a device without them says no, and
numpy does the same.
"""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from engine.generation.state import SearchState

Arrays = tuple[NDArray[Any], ...]


def candidate_arrays(state: SearchState) -> Arrays:
    """Return the operands of `top_candidates`."""
    return (
        state.token,
        state.value,
        state.peak,
        state.log_sum,
        state.logits,
        state.owner,
        state.numbers,
        state.penalty,
        state.edits,
        state.vocabulary,
    )


def update_arrays(state: SearchState) -> Arrays:
    """Return the operands of `beam_update`."""
    return (
        state.numbers,
        state.score,
        state.token_at,
        state.value_at,
        state.slots.history,
        state.moved,
        state.pool_score,
        state.pool_length,
        state.pool_token,
        state.pool_value,
        state.pool_history,
        state.slots.tokens,
        state.slots.position,
        state.token,
        state.value,
        state.slots.slot,
        state.owner,
        state.norm,
        state.positions,
    )


def append_search(state: SearchState) -> bool:
    """Append the search to every step; return whether the device can."""
    if state.logits is not state.slots.logits:
        return False
    return state.slots.append_tail(
        [
            ("top_candidates", candidate_arrays(state)),
            ("beam_update", update_arrays(state)),
        ]
    )
