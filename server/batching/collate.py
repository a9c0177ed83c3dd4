"""Several requests' tensors into one batch, and the batch's results back to their owners.

Also what two requests must have in common to share a run (`batch_key`). Knows arrays only.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
Tensors = dict[str, Array]


class OutputNotSeparable(Exception):
    """An output does not have one row per row of the batch, so it cannot be shared out."""


def batch_key(
    inputs: Mapping[str, Array], batched: frozenset[str], fetches: tuple[str, ...] | None
) -> Hashable:
    """Return a value that is equal for requests that may share a run.

    Batched inputs must agree in type and in all axes but the first, all others in every value.
    """
    parts: list[Hashable] = [fetches]
    for name, array in inputs.items():
        if name in batched:
            parts.append((name, array.dtype.char, array.shape[1:]))
        else:
            parts.append((name, array.dtype.char, array.shape, _contents(array)))
    # The order in which a client names its inputs means nothing.
    return tuple(parts) if len(parts) == 2 else (fetches, frozenset(parts[1:]))


def collate(
    members: Sequence[Mapping[str, Array]], batched: frozenset[str]
) -> Tensors | Mapping[str, Array]:
    """Join the members' inputs along axis 0; a single member is passed on as it is."""
    first = members[0]
    if len(members) == 1:
        # A tensor that lies in the body it came with may begin at any byte; computing with it as it
        # lies is slower than copying it.
        for array in first.values():
            if not array.flags.aligned:
                return {name: np.array(array) for name, array in first.items()}
        return first
    return {
        name: np.concatenate([member[name] for member in members]) if name in batched else array
        for name, array in first.items()
    }


def split(
    outputs: Mapping[str, Array], rows: Sequence[int], batched: frozenset[str]
) -> list[Tensors]:
    """Share a run's outputs out: one dict of views per member, in their order.

    Raises:
        OutputNotSeparable: an output outside the batch, or with another number of rows.
    """
    if len(rows) == 1:
        return [dict(outputs)]
    total = sum(rows)
    for name, output in outputs.items():
        if name not in batched or output.ndim == 0 or output.shape[0] != total:
            raise OutputNotSeparable(
                f"output {name!r} has shape {output.shape}, expected {total} rows along axis 0"
            )
    shares: list[Tensors] = []
    start = 0
    for count in rows:
        stop = start + count
        shares.append({name: output[start:stop] for name, output in outputs.items()})
        start = stop
    return shares


def cut(
    inputs: Mapping[str, Array], batched: frozenset[str], rows: int, step: int
) -> list[tuple[Mapping[str, Array], int]]:
    """Cut an oversized request into pieces (inputs, rows) of `step` rows, the last of the rest."""
    return [
        (
            {
                name: array[start : start + step] if name in batched else array
                for name, array in inputs.items()
            },
            min(step, rows - start),
        )
        for start in range(0, rows, step)
    ]


def join(parts: Sequence[Mapping[str, Array]]) -> Tensors:
    """Put the results of an oversized request's parts together again."""
    if len(parts) == 1:
        return dict(parts[0])
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _contents(array: Array) -> Hashable:
    # Object arrays (strings) hold pointers: their bytes say nothing about their values.
    return tuple(array.ravel().tolist()) if array.dtype.hasobject else array.tobytes()
