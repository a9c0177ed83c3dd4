"""Feeds against a model's inputs. Pure; knows no protocol and no engine.

Every complaint is an `InvalidInput` with the field, what was expected and what came.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np

from server.errors import InvalidInput

Shape = tuple[int | str, ...]


class TensorSpecLike(Protocol):
    """What is asked of a model's input: its name, numpy type name and shape."""

    @property
    def name(self) -> str:
        """Return the tensor's name."""

    @property
    def dtype(self) -> str:
        """Return the numpy name of its element type."""

    @property
    def shape(self) -> Shape:
        """Return its dims: a number, or the name of one that varies."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """What the server knows of an input or output whose rank is known."""

    name: str
    dtype: str
    shape: Shape


def check_feeds(specs: Sequence[TensorSpecLike], feeds: Mapping[str, np.ndarray[Any, Any]]) -> None:
    """Raise `InvalidInput` unless the feeds are exactly the inputs, in type and shape."""
    if len(feeds) != len(specs) or any(spec.name not in feeds for spec in specs):
        _complain_about_names(specs, feeds)
    symbols: dict[str, int] = {}
    for spec in specs:
        array = feeds[spec.name]
        if type_name(array.dtype) != spec.dtype and not _both_text(array.dtype, spec.dtype):
            raise InvalidInput(
                f"input {spec.name!r}: expected {spec.dtype}, got {array.dtype.name}",
                field=spec.name,
                expected=spec.dtype,
                got=array.dtype.name,
            )
        _check_shape(spec, array.shape, symbols)


@lru_cache(256)
def type_name(dtype: np.dtype[Any]) -> str:
    """Return numpy's name of an element type, which numpy works out anew every time."""
    return dtype.name


def _both_text(dtype: np.dtype[Any], name: str) -> bool:
    return dtype.kind in "OSU" and name.startswith(("object", "str", "bytes"))


def _check_shape(spec: TensorSpecLike, shape: tuple[int, ...], symbols: dict[str, int]) -> None:
    ok = len(shape) == len(spec.shape)
    if ok:
        for want, got in zip(spec.shape, shape, strict=True):
            if isinstance(want, int):
                ok = want == got
            elif want.isidentifier():  # `N` binds; `2*L+1` is left to the engine
                ok = symbols.setdefault(want, got) == got
            if not ok:
                break
    if not ok:
        raise InvalidInput(
            f"input {spec.name!r}: expected shape {list(spec.shape)}, got {list(shape)}"
            + (f" (where {symbols})" if symbols else ""),
            field=spec.name,
            expected=list(spec.shape),
            got=list(shape),
        )


def _complain_about_names(
    specs: Sequence[TensorSpecLike], feeds: Mapping[str, np.ndarray[Any, Any]]
) -> None:
    expected = [spec.name for spec in specs]
    missing = [name for name in expected if name not in feeds]
    unknown = [name[:200] for name in feeds if name not in expected]
    what = "; ".join(
        f"{word} {', '.join(map(repr, names))}"
        for word, names in (("missing", missing), ("unknown", unknown))
        if names
    )
    raise InvalidInput(
        f"the model's inputs are {', '.join(map(repr, expected))}: {what}",
        field="inputs",
        expected=expected,
        got=[name[:200] for name in feeds],
    )
