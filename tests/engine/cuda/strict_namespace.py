"""An array namespace over numpy that is as strict as CuPy: what runs here does not mix the two.

Portable definitions must run on a GPU, where an array cannot turn into a numpy array by accident.
On a machine without one, these arrays refuse what CuPy's refuse: implicit conversion to numpy,
numpy arrays as operands, functions that CuPy lacks, and element types that it cannot hold.
"""

from __future__ import annotations

import operator
from types import ModuleType
from typing import Any

import numpy as np

from engine.ops.portable import ATOMIC
from engine.transfers import holds

# Of CuPy 14.2: names that numpy has and CuPy does not.
ABSENT = {
    *("asmatrix", "block", "bmat", "busday_count", "char", "clongdouble", "complex256"),
    *("datetime64", "dtypes", "einsum_path", "errstate", "flexible", "float128", "frompyfunc"),
    *("geomspace", "insert", "isnat", "longdouble", "ma", "matrix", "matvec", "memmap"),
    *("nanpercentile", "nanquantile", "ndenumerate", "nditer", "nested_iters", "object_", "rec"),
    *("recarray", "spacing", "str_", "strings", "unstack", "vecdot", "vecmat", "void"),
}
TAKES_HOST = frozenset({"asarray", "array", "ascontiguousarray", "dtype"})


class Strict:
    """An array "on the device"."""

    __slots__ = ("_host",)
    __array_priority__ = 1000
    __hash__ = None  # type: ignore[assignment]  # like every array

    def __init__(self, host: Any) -> None:
        host = np.asarray(host)
        if not holds(STRICT, host.dtype):
            raise TypeError(f"Unsupported dtype {host.dtype}")
        self._host = host

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        raise TypeError("Implicit conversion to a NumPy array is not allowed")

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        return wrapped(getattr(ufunc, method)(*opened(inputs), **opened(options)))

    def __array_function__(self, function: Any, _types: Any, args: Any, options: Any) -> Any:
        if function.__name__ in ABSENT:
            return NotImplemented
        return wrapped(function(*opened(args), **opened(options)))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # no way around the conversion through an interface
            raise AttributeError(name)
        found = getattr(self._host, name)
        if name in ("tolist", "item"):
            return found
        if name in ("shape", "dtype", "ndim", "size", "nbytes", "itemsize", "strides", "flags"):
            return found
        if callable(found):
            return lambda *args, **options: wrapped(found(*opened(args), **opened(options)))
        return wrapped(found)

    def __getitem__(self, key: Any) -> Any:
        return Strict(self._host[opened_key(key)])

    def __setitem__(self, key: Any, value: Any) -> None:
        self._host[opened_key(key)] = opened(value)

    def __len__(self) -> int:
        return len(self._host)

    def __iter__(self) -> Any:
        return (Strict(each) for each in self._host)

    def __bool__(self) -> bool:
        return bool(self._host)

    def __int__(self) -> int:
        return int(self._host)

    def __float__(self) -> float:
        return float(self._host)

    def __complex__(self) -> complex:
        return complex(self._host)

    def __index__(self) -> int:
        return operator.index(self._host)


def _binary(name: str) -> Any:
    def method(self: Strict, other: Any) -> Any:
        return wrapped(getattr(self._host, name)(opened(other)))

    return method


def _unary(name: str) -> Any:
    return lambda self: wrapped(getattr(self._host, name)())


ARITHMETIC = (
    "add",
    "sub",
    "mul",
    "truediv",
    "floordiv",
    "mod",
    "pow",
    "matmul",
    "and",
    "or",
    "xor",
)
for _name in (*ARITHMETIC, "lshift", "rshift"):
    for _prefix in ("", "r", "i"):
        setattr(Strict, f"__{_prefix}{_name}__", _binary(f"__{_prefix}{_name}__"))
for _name in ["lt", "le", "eq", "ne", "gt", "ge", "divmod"]:
    setattr(Strict, f"__{_name}__", _binary(f"__{_name}__"))
for _name in ["neg", "pos", "invert", "abs"]:
    setattr(Strict, f"__{_name}__", _unary(f"__{_name}__"))


def opened(value: Any) -> Any:
    """Return the numpy value of operands; a numpy array among them is what CuPy refuses."""
    if isinstance(value, Strict):
        return value._host
    if isinstance(value, np.ndarray) and value.ndim:
        raise TypeError("Unsupported type <class 'numpy.ndarray'>")
    if isinstance(value, (list, tuple)) and type(value) in (list, tuple):
        return type(value)(map(opened, value))
    if isinstance(value, dict):
        return {key: opened(each) for key, each in value.items()}
    return value


def opened_key(key: Any) -> Any:
    """Return an index; CuPy takes numpy arrays there."""
    if isinstance(key, tuple):
        return tuple(map(opened_key, key))
    return key._host if isinstance(key, Strict) else key


def wrapped(value: Any) -> Any:
    """Return a result as it lies on the device."""
    if isinstance(value, (np.ndarray, np.generic)):
        return Strict(value)
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        return type(value)(map(wrapped, value))
    if hasattr(value, "_fields"):
        return type(value)(*map(wrapped, value))
    return value


class Function:
    """A ufunc with what CuPy's have: no `reduce` worth the name, and `at` for some."""

    def __init__(self, ufunc: Any) -> None:
        self._ufunc = ufunc
        if ufunc in (np.add, np.maximum, np.minimum):
            self.at = self._at

    def __call__(self, *args: Any, **options: Any) -> Any:
        return wrapped(self._ufunc(*opened(args), **opened(options)))

    def _at(self, target: Strict, index: Any, updates: Any) -> None:
        if target.dtype.name not in ATOMIC:
            raise TypeError(f"atomicAdd does not take {target.dtype}")
        self._ufunc.at(target._host, opened_key(index), opened(updates))


class Namespace:
    """`xp`: numpy's functions, for arrays of this module only."""

    def __init__(self, module: ModuleType = np) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        found = self._find(name)
        setattr(self, name, found)  # `xp.add is xp.add` holds for every library
        return found

    def _find(self, name: str) -> Any:
        if name in ABSENT:
            raise AttributeError(f"module 'cupy' has no attribute {name!r}")
        found = getattr(self._module, name)
        if isinstance(found, ModuleType):
            return Namespace(found)
        if isinstance(found, np.ufunc):
            return Function(found)
        if name == "ndarray":
            return Strict
        if isinstance(found, type) or not callable(found):
            return found
        if name in TAKES_HOST:
            return lambda value, *args, **options: wrapped(
                found(value._host if isinstance(value, Strict) else value, *args, **options)
            )
        if name in ("iinfo", "finfo", "result_type", "promote_types", "can_cast", "ndim", "shape"):
            return lambda *args, **options: found(*opened(args), **options)
        return lambda *args, **options: wrapped(found(*opened(args), **opened(options)))

    @staticmethod
    def asnumpy(value: Any) -> np.ndarray:
        """Copy to the host, as `cupy.asnumpy` does."""
        return np.array(value._host if isinstance(value, Strict) else value)


STRICT = Namespace()
