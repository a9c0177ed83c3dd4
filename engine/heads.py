"""`engine.append_classifier`: a model whose features go on into a linear classifier of your own."""

from __future__ import annotations

import importlib
import os
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike

from engine.errors import InvalidInput
from engine.isolate import ChildBudget, run_child
from engine.limits import Limits

# Named, and imported when a classifier is appended: a serving process never loads the ONNX parser.
APPENDER: Final = "engine.frontend.classifier_head"
ACTIVATIONS: Final = ("softmax", "sigmoid", "normalized_sigmoid", "none")
MAX_WEIGHTS: Final = 1 << 28  # 1 GiB of them
ORDER_KEY: Final = "head"

Source = str | os.PathLike[str] | bytes


@dataclass(frozen=True)
class _Head:
    """What a child is told of a classifier, beside its arrays."""

    output: str
    activation: str
    normalize: bool
    labels: tuple[str, ...]
    name: str


def append_classifier(
    source: Source,
    *,
    output: str,
    weight: ArrayLike,
    bias: ArrayLike,
    labels: Sequence[str] | None = None,
    activation: str = "softmax",
    normalize: bool = False,
    mean: ArrayLike | None = None,
    std: ArrayLike | None = None,
    name: str | None = None,
    limits: Limits | None = None,
    isolate: bool = False,
) -> bytes:
    """Put a linear classifier on a named value of a model.

    The new model computes `activation(((x - mean) / std) @ weight + bias)` of each row `x` of the
    value, scaled to length 1 first with `normalize`. Its first output is (N, classes) float32, its
    second the value itself. What only the model's old outputs needed is left out, and weights in
    other files are taken in.

    Args:
        source: Path of a model file, or its bytes (then without external data).
        output: The value with the features: computed by the main graph, (N, d) or of a shape that
            flattens to it, of any float type.
        weight: (d, classes).
        bias: (classes,).
        labels: Names of the classes, noted in the file's metadata.
        activation: "softmax"; "sigmoid", each class by itself; "normalized_sigmoid", these scaled
            to a sum of 1 (what calibrated classifiers give); or "none".
        normalize: Scale features to length 1 first; a row of zeros stays one.
        mean: (d,) or one number, taken off the features; folded into the weights.
        std: (d,) or one number, that the features are divided by then; folded likewise.
        name: What the answer is called; by default `probabilities`, or `logits` without an
            activation, with a number where the model has such a value already.
        limits: Bounds on reading the model.
        isolate: Do it in a child process with limits of its own, as loading does.

    Returns:
        The bytes of an ONNX file.

    Raises:
        InvalidInput: No such value (the message lists some); weights, bias and labels that do not
            fit it or one another, or are not finite; or `name` is taken.
        InvalidModel: The file is malformed, or older than opset 7.
        ResourceLimit: The new file would pass 2 GiB, or reading the old one a limit.
    """
    if activation not in ACTIVATIONS:
        raise InvalidInput(f"activation {activation!r}; expected one of {', '.join(ACTIVATIONS)}")
    _check_name("output", output)
    _check_name("name", name or "")
    folded, offset = _folded(weight, bias, mean, std)
    head = _Head(output, activation, normalize, _checked_labels(labels, len(offset)), name or "")
    limits = limits or Limits()
    if isolate:
        return _in_child(source, head, folded, offset, limits)
    return _append(source, head, folded, offset, limits)


def append_in_place(source: Path, target: Path, order: dict[str, Any]) -> None:
    """Do what a parent process asked for: the child's side of `isolate`."""
    facts = order[ORDER_KEY]
    with np.load(facts["arrays"], allow_pickle=False) as arrays:
        weight, bias = arrays["weight"], arrays["bias"]
    head = _Head(**{**facts["head"], "labels": tuple(facts["head"]["labels"])})
    target.write_bytes(_append(source, head, weight, bias, Limits(**facts["limits"])))


def _append(
    source: Source, head: _Head, weight: np.ndarray, bias: np.ndarray, limits: Limits
) -> bytes:
    appender = importlib.import_module(APPENDER)
    written = appender.Head(weight, bias, head.activation, head.normalize, head.labels, head.name)
    made: bytes = appender.append_head(source, head.output, written, limits)
    return made


def _in_child(
    source: Source, head: _Head, weight: np.ndarray, bias: np.ndarray, limits: Limits
) -> bytes:
    with tempfile.TemporaryDirectory(prefix="millrace-") as folder:
        arrays, made = Path(folder) / "head.npz", Path(folder) / "made.onnx"
        np.savez(arrays, weight=weight, bias=bias)
        if isinstance(source, (bytes, bytearray, memoryview)):
            path = Path(folder) / "model.onnx"
            path.write_bytes(source)
        else:
            path = Path(source).absolute()
        facts = {"head": asdict(head), "arrays": str(arrays), "limits": asdict(limits)}
        run_child(path, made, {ORDER_KEY: facts}, ChildBudget.of_machine(limits.load_s))
        return made.read_bytes()


def _folded(
    weight: ArrayLike, bias: ArrayLike, mean: ArrayLike | None, std: ArrayLike | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return weights and bias, float32, that do the scaling of the features as well."""
    exact, offset = _numbers(weight, "weight"), _numbers(bias, "bias")
    if exact.ndim != 2 or not exact.size or exact.size > MAX_WEIGHTS:
        raise InvalidInput(f"weight has shape {exact.shape}; expected (features, classes)")
    if offset.shape != exact.shape[1:]:
        raise InvalidInput(
            f"bias has shape {offset.shape}, weight {exact.shape}; expected {exact.shape[1:]}"
        )
    with np.errstate(over="ignore", invalid="ignore"):  # what is infinite then is told below
        if std is not None:
            divisor = _per_feature(std, "std", len(exact))
            if (divisor == 0).any():
                raise InvalidInput("std holds a 0; expected numbers to divide by")
            exact = exact / divisor[:, None]
        if mean is not None:
            offset = offset - _per_feature(mean, "mean", len(exact)) @ exact
        folded = exact.astype(np.float32), offset.astype(np.float32)
    if not all(np.isfinite(array).all() for array in folded):
        raise InvalidInput("the weights, with mean and std folded in, are too large for float32")
    return folded


def _per_feature(numbers: ArrayLike, name: str, width: int) -> np.ndarray:
    array = _numbers(numbers, name)
    if array.shape not in ((), (1,), (width,)):
        raise InvalidInput(f"{name} has shape {array.shape}; expected ({width},) or one number")
    return np.broadcast_to(array, (width,))


def _numbers(given: ArrayLike, name: str) -> np.ndarray:
    try:
        if np.iscomplexobj(given):
            raise TypeError("they are complex")
        array = np.asarray(given, np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"{name} does not hold numbers: {error}") from error
    if not np.isfinite(array).all():
        raise InvalidInput(f"{name} holds NaN or infinity; expected finite numbers")
    return array


def _check_name(what: str, name: object) -> None:
    try:
        if not isinstance(name, str):
            raise TypeError("it is no text")
        name.encode()
    except (TypeError, UnicodeEncodeError) as error:
        raise InvalidInput(f"{what} {name!r} cannot be a value's name: {error}") from error


def _checked_labels(labels: Sequence[str] | None, classes: int) -> tuple[str, ...]:
    if labels is None:
        return ()
    if isinstance(labels, str) or not isinstance(labels, Iterable):
        raise InvalidInput(f"labels are {type(labels).__name__}; expected a list of names")
    names = tuple(labels)
    if len(names) != classes or not all(isinstance(name, str) for name in names):
        raise InvalidInput(f"{len(names)} labels for {classes} classes; expected a name for each")
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidInput(f"label {twice!r} comes twice; expected different names")
    return names
