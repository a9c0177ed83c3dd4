"""One output of a model as one vector for each row."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from math import prod

from server.errors import InternalFault, LoadFailed
from server.tensors import TensorSpecLike

from .base import Array


def pick_output(
    wanted: str | None, outputs: Sequence[TensorSpecLike], kept: Collection[str], section: str
) -> str:
    """Return the name of the value that a task reads.

    Raises:
        LoadFailed: the model has no such value, or none at all.
    """
    if wanted is None:
        if not outputs:
            raise LoadFailed("the model has no outputs")
        return outputs[0].name
    names = [spec.name for spec in outputs]
    if wanted in names or wanted in kept:
        return wanted
    known = sorted({*names, *kept})
    shown = ", ".join(known[:50]) + (", ..." if len(known) > 50 else "")
    raise LoadFailed(
        f"[{section}] output {wanted!r} is no value that is kept of this model; there are: {shown}"
    )


def vector_size(name: str, outputs: Sequence[TensorSpecLike], section: str) -> int | None:
    """Return how long each row's vector is, None where the model does not say.

    Raises:
        LoadFailed: the value is known to be something else than one vector a row.
    """
    spec = next((spec for spec in outputs if spec.name == name), None)
    if spec is None or len(spec.shape) < 2:
        return None
    if any(isinstance(dim, int) and dim != 1 for dim in spec.shape[2:]):
        raise LoadFailed(
            f"[{section}] output {name!r} has shape {list(spec.shape)}, not one vector a row; "
            "expected (N, size) or (N, size, 1, 1): name a pooled value"
        )
    size = spec.shape[1]
    return size if isinstance(size, int) else None


def as_vectors(value: Array, name: str) -> Array:
    """Return a value as (rows, size); (N, C, 1, 1) and (N,) are flattened."""
    if value.ndim == 2:
        return value
    if value.ndim == 0 or prod(value.shape[2:]) != 1:
        raise InternalFault(
            f"the model's output {name!r} came with shape {list(value.shape)}, not one vector a row"
        )
    return value.reshape(value.shape[0], -1)
