"""Categories and numbers for each other, from ai.onnx.ml: LabelEncoder, CategoryMapper,
OneHotEncoder.

Strings live on the host only, so these compute on numpy arrays on every device.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from engine.dtypes import DType
from engine.ir.types import TensorType
from engine.ops.common import Array, check_size
from engine.ops.contexts import ComputeContext, InferContext
from engine.ops.ml_common import DOMAIN, elementwise_rows
from engine.ops.registry import Kernel, operator

KINDS = {"int64s": np.int64, "floats": np.float32, "strings": object}
DEFAULTS = {"int64s": "default_int64", "floats": "default_float", "strings": "default_string"}


class Lookup:
    """Finds where each element of an array stands among keys; the last of equal keys counts."""

    def __init__(self, keys: np.ndarray) -> None:
        """Sort numbers for bisection; strings go into a dict."""
        self._places: dict[Any, int] | None = None
        self._missing = len(keys)
        if keys.dtype == object:
            self._places = {key: i for i, key in enumerate(keys.tolist())}
            return
        # NaN equals nothing, yet a key of NaN stands for every NaN.
        is_nan = np.isnan(keys) if keys.dtype.kind == "f" else np.zeros(len(keys), bool)
        nans = np.flatnonzero(is_nan)
        self._nan = int(nans[-1]) if len(nans) else self._missing
        order = np.argsort(keys, kind="stable")
        order = order[: len(keys) - len(nans)]
        self._sorted, self._order = keys[order], order

    def find(self, x: np.ndarray) -> np.ndarray:
        """Return the place of each element's key, or the number of keys where there is none."""
        if self._places is not None:
            get, missing = self._places.get, self._missing
            found = [get(each, missing) for each in x.reshape(-1).tolist()]
            return np.array(found, np.int64).reshape(x.shape)
        if not len(self._sorted):
            places = np.full(x.shape, self._missing)
        else:
            at = np.searchsorted(self._sorted, x, side="right") - 1
            at = np.maximum(at, 0)
            places = np.where(self._sorted[at] == x, self._order[at], self._missing)
        return np.where(np.isnan(x), self._nan, places) if x.dtype.kind == "f" else places


def _mapping(keys: np.ndarray, values: np.ndarray, default: Any) -> Kernel:
    """Return what replaces keys by values, and everything else by `default`."""
    lookup = Lookup(keys)
    table = np.empty(len(values) + 1, values.dtype)
    table[:-1], table[-1] = values, default
    return lambda x: [table[lookup.find(x)]]


# ---------------------------------------------------------------------- LabelEncoder


def _stated(attributes: Mapping[str, Any], prefix: str) -> tuple[str, np.ndarray]:
    """Return the one list `keys_*` or `values_*` that the node has, and its kind."""
    found = [
        (kind, np.array(attributes[f"{prefix}_{kind}"], dtype))
        for kind, dtype in KINDS.items()
        if attributes[f"{prefix}_{kind}"]
    ]
    tensor = attributes[f"{prefix}_tensor"]
    if tensor is not None:
        found.append(("tensor", np.asarray(tensor).reshape(-1)))
    if len(found) != 1:
        raise ValueError(f"expected exactly one of the attributes {prefix}_*, got {len(found)}")
    return found[0]


def _encoder(attributes: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray, Any]:
    """Return keys, values and the default of a LabelEncoder of version 2 or later."""
    _, keys = _stated(attributes, "keys")
    kind, values = _stated(attributes, "values")
    if len(keys) != len(values):
        raise ValueError(f"{len(keys)} keys for {len(values)} values; expected equally many")
    if attributes["default_tensor"] is not None:
        default = np.asarray(attributes["default_tensor"]).reshape(-1)
        if default.dtype != values.dtype or default.size != 1:
            raise ValueError(f"default_tensor is {default.dtype}, the values are {values.dtype}")
        return keys, values, default[0]
    if kind == "tensor":
        kind = {"O": "strings", "f": "floats"}.get(values.dtype.kind, "int64s")
    return keys, values, attributes[DEFAULTS[kind]]


@operator("LabelEncoder", since=1, domain=DOMAIN, until=2)
class LabelEncoder1:
    """Strings to their places in a list, or places to strings."""

    attributes = {"classes_strings": (), "default_int64": -1, "default_string": "_Unused"}
    rows = staticmethod(elementwise_rows)
    host = True

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """Strings become int64, int64 strings."""
        return [ctx.type(0).with_dtype(_opposite(ctx))]

    @staticmethod
    def compute(ctx: ComputeContext, x: Array) -> Sequence[Array]:
        """What is not in the list becomes the default of its type."""
        names = np.array(ctx.attributes["classes_strings"], object)
        places = np.arange(len(names))
        if x.dtype == object:
            return _mapping(names, places, ctx.attributes["default_int64"])(x)
        return _mapping(places, names, ctx.attributes["default_string"])(x)


@operator("LabelEncoder", since=(2, 4), domain=DOMAIN)
class LabelEncoder2:
    """Maps keys to values, each list of one type; NaN is a key like any other."""

    attributes = {
        "default_float": -0.0,
        "default_int64": -1,
        "default_string": "_Unused",
        "default_tensor": None,
        "keys_floats": (),
        "keys_int64s": (),
        "keys_strings": (),
        "keys_tensor": None,
        "values_floats": (),
        "values_int64s": (),
        "values_strings": (),
        "values_tensor": None,
    }
    rows = staticmethod(elementwise_rows)
    host = True

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """The input's shape, the values' type."""
        keys, values, _ = _encoder(ctx.attributes)
        if DType.from_numpy(keys.dtype) is not ctx.dtype(0):
            ctx.fail(f"its keys are {keys.dtype}, its input is {ctx.dtype(0)}")
        return [ctx.type(0).with_dtype(DType.from_numpy(values.dtype))]

    @staticmethod
    def bind(ctx: ComputeContext) -> Kernel:
        """The table is built once."""
        return _mapping(*_encoder(ctx.attributes))

    @staticmethod
    def compute(ctx: ComputeContext, x: Array) -> Sequence[Array]:
        """Equal keys: the last one counts."""
        return _mapping(*_encoder(ctx.attributes))(x)


# ---------------------------------------------------------------------- CategoryMapper


def _opposite(ctx: InferContext) -> DType:
    if ctx.dtype(0) not in (DType.STRING, DType.INT64):
        ctx.fail(f"expected string or int64, got {ctx.dtype(0)}")
    return DType.INT64 if ctx.dtype(0) is DType.STRING else DType.STRING


@operator("CategoryMapper", since=1, domain=DOMAIN)
class CategoryMapper:
    """Strings to integers by two parallel lists, or integers to strings."""

    attributes = {
        "cats_int64s": (),
        "cats_strings": (),
        "default_int64": -1,
        "default_string": "_Unused",
    }
    rows = staticmethod(elementwise_rows)
    host = True

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """Strings become int64, int64 strings."""
        names, numbers = ctx.attributes["cats_strings"], ctx.attributes["cats_int64s"]
        if len(names) != len(numbers):
            ctx.fail(f"{len(names)} strings for {len(numbers)} integers; expected equally many")
        return [ctx.type(0).with_dtype(_opposite(ctx))]

    @staticmethod
    def compute(ctx: ComputeContext, x: Array) -> Sequence[Array]:
        """What is in neither list becomes the default of its type."""
        names = np.array(ctx.attributes["cats_strings"], object)
        numbers = np.array(ctx.attributes["cats_int64s"], np.int64)
        if x.dtype == object:
            return _mapping(names, numbers, ctx.attributes["default_int64"])(x)
        return _mapping(numbers, names, ctx.attributes["default_string"])(x)


# ---------------------------------------------------------------------- OneHotEncoder


@operator("OneHotEncoder", since=1, domain=DOMAIN)
class OneHotEncoder:
    """A one at the place of each element's category, on a new last axis."""

    attributes = {"cats_int64s": (), "cats_strings": (), "zeros": 1}
    rows = staticmethod(elementwise_rows)
    host = True

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """float32 with the categories as last axis."""
        numbers, names = ctx.attributes["cats_int64s"], ctx.attributes["cats_strings"]
        wanted, other = (names, numbers) if ctx.dtype(0) is DType.STRING else (numbers, names)
        if not wanted or other:
            ctx.fail(f"expected categories for {ctx.dtype(0)} and no others")
        shape = ctx.shape(0)
        return [TensorType(DType.FLOAT32, None if shape is None else (*shape, len(wanted)))]

    @staticmethod
    def compute(ctx: ComputeContext, x: Array) -> Sequence[Array]:
        """Floats are cut to integers; an unknown category gives zeros, or fails if so asked."""
        if x.dtype == object:
            keys = np.array(ctx.attributes["cats_strings"], object)
        else:
            keys, x = np.array(ctx.attributes["cats_int64s"], np.int64), x.astype(np.int64)
        check_size(ctx, (*x.shape, len(keys)), np.float32)
        places = Lookup(keys).find(x)
        if not ctx.attributes["zeros"] and (places == len(keys)).any():
            raise ValueError("an element is in no category, and zeros=0 forbids that")
        lit = np.arange(len(keys)) == places[..., None]
        return [lit.astype(np.float32)]
