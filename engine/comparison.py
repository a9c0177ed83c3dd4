"""Runs a model two ways and finds the first node whose values differ.

A side gives the values of named results of one run. Two sides are compared name by name in the
order in which the first one computes them, so names that passes removed on one side are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from engine.artifact import Artifact
from engine.device import PORTABLE, RunControl
from engine.dtypes import DType
from engine.ir.graph import Array, Node, Value
from engine.session import Model

RTOL, ATOL = 1e-4, 1e-5
# A unit in the last place of the narrow types, times a few: no more can be asked of them.
COARSE = {"float16": 4e-3, "bfloat16": 3e-2}


@dataclass(frozen=True)
class Tolerance:
    """How far apart two numbers may be: atol + rtol * the largest magnitude in the tensor."""

    rtol: float = RTOL
    atol: float = ATOL


@dataclass(frozen=True)
class Side:
    """One way of running, and every value that it told.

    Attributes:
        label: What to call it.
        values: Results by name, in the order in which they were computed.
        nodes: Which node computed a name, where that is known.
    """

    label: str
    values: Mapping[str, Any]
    nodes: Mapping[str, Node] = field(default_factory=dict)


@dataclass(frozen=True)
class Difference:
    """A value that differs.

    Attributes:
        value: Its name.
        node: Name of the node that computes it.
        op: That node's operator.
        reason: How it differs, in one line.
        largest: The largest difference of two numbers; NaN where shapes or types differ.
        inputs: How far apart the node's inputs were.
    """

    value: str
    node: str
    op: str
    reason: str
    largest: float
    inputs: Mapping[str, float]


@dataclass(frozen=True)
class Comparison:
    """What comparing two sides found."""

    compared: int
    differences: tuple[Difference, ...]

    @property
    def first(self) -> Difference | None:
        """The first value that differs, in the order of computation."""
        return self.differences[0] if self.differences else None


class _Recorder:
    """Keeps what every node of the main graph gives."""

    def __init__(self, names: frozenset[str]) -> None:
        self._names = names
        self.values: dict[str, Any] = {}
        self.nodes: dict[str, Node] = {}

    def __call__(
        self,
        node: Node,
        seconds: float,
        inputs: Sequence[Array | None],
        outputs: Sequence[Array],
        kernel: str = PORTABLE,
    ) -> None:
        """Take notice of one executed node; nodes of bodies run many times and are left out."""
        self.nodes.update((name, node) for name in node.outputs if name in self._names)
        if kernel != PORTABLE:  # the contents come with the outputs of the run
            return
        for name, value in zip(node.outputs, outputs, strict=False):
            if name in self._names:
                # A device may use the memory again.
                self.values[name] = np.array(value) if hasattr(value, "dtype") else value


def with_every_value(artifact: Artifact) -> Artifact:
    """Return the artifact with every value of its main graph as an output, nothing else changed."""
    graph = artifact.graph
    names = tuple(dict.fromkeys([*graph.output_names, *graph.producers]))
    outputs = tuple(Value(name, graph.types[name]) for name in names)
    return replace(artifact, graph=graph.replace(outputs=outputs), outputs=names)


def run_side(label: str, model: Model, feeds: Mapping[str, np.ndarray]) -> Side:
    """Run a model once and keep every value that its graph computes."""
    recorder = _Recorder(frozenset(model.graph.producers))
    results = model.run(feeds, control=RunControl(recorder))
    found = {**recorder.values, **results}
    ordered = [name for name in model.graph.producers if name in found]
    return Side(
        label, {**{name: found[name] for name in ordered}, **found, **feeds}, recorder.nodes
    )


def compare_sides(left: Side, right: Side, tolerance: Tolerance = Tolerance()) -> Comparison:
    """Compare what both sides know, in the order of the left one."""
    shared = [name for name in left.values if name in right.values]
    apart: dict[str, float] = {}
    found = []
    for name in shared:
        reason, apart[name] = _difference(left.values[name], right.values[name], tolerance)
        if reason:
            node = left.nodes.get(name) or right.nodes.get(name)
            found.append(_describe(name, node, reason, apart))
    return Comparison(len(shared), tuple(found))


def _describe(name: str, node: Node | None, reason: str, apart: Mapping[str, float]) -> Difference:
    inputs = {} if node is None else {n: apart[n] for n in node.inputs if n in apart}
    label, op = ("?", "?") if node is None else (node.label, node.op)
    return Difference(name, label, op, reason, apart[name], inputs)


def _difference(left: Any, right: Any, tolerance: Tolerance) -> tuple[str, float]:
    """Return in which way two values differ ("" when they agree), and by how much."""
    if not (hasattr(left, "dtype") and hasattr(right, "dtype")):
        return _difference_of_objects(left, right, tolerance)
    if left.shape != right.shape:
        return f"shape {list(left.shape)} against {list(right.shape)}", float("nan")
    if left.dtype.kind in "OUST" or right.dtype.kind in "OUST":
        same = np.array_equal(left.astype(str), right.astype(str))
        return "" if same else "texts differ", 0.0
    if left.dtype != right.dtype:
        return f"type {left.dtype} against {right.dtype}", float("nan")
    return _difference_of_numbers(left, right, tolerance)


def _difference_of_objects(left: Any, right: Any, tolerance: Tolerance) -> tuple[str, float]:
    """Compare sequences item by item, and whatever else there is for equality."""
    if isinstance(left, list) and isinstance(right, list) and len(left) == len(right):
        found = [_difference(a, b, tolerance) for a, b in zip(left, right, strict=True)]
        reasons = [f"item {i}: {reason}" for i, (reason, _) in enumerate(found) if reason]
        return (reasons or [""])[0], max((apart for _, apart in found), default=0.0)
    same = type(left) is type(right) and repr(left) == repr(right)
    return "" if same else f"{type(left).__name__} against {type(right).__name__}", 0.0


def _difference_of_numbers(
    left: np.ndarray, right: np.ndarray, tolerance: Tolerance
) -> tuple[str, float]:
    if not left.size:
        return "", 0.0
    is_complex = DType.from_numpy(left.dtype) in (DType.COMPLEX64, DType.COMPLEX128)
    wide = np.complex128 if is_complex else np.float64
    a, b = left.astype(wide), right.astype(wide)
    with np.errstate(all="ignore"):
        apart = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, np.abs(a - b))
        magnitude = np.abs(b[np.isfinite(b)]).max(initial=0.0)
    apart = np.where(np.isnan(apart), np.inf, apart)  # a number against NaN
    largest = float(apart.max())
    exact = left.dtype.kind in "biu"
    rtol = max(tolerance.rtol, COARSE.get(left.dtype.name, 0.0))
    allowed = 0.0 if exact else tolerance.atol + rtol * float(magnitude)
    if largest <= allowed:
        return "", largest
    place = np.unravel_index(int(apart.argmax()), apart.shape)
    count = int((apart > allowed).sum())
    return (
        f"{count:,} of {apart.size:,} elements; the largest at {[int(i) for i in place]}: "
        f"{left[place]} against {right[place]}",
        largest,
    )
