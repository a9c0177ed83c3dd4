"""Precision "auto": the fastest way to compute a model that agrees with float32 on samples.

float32 says what is right. Every other precision that the device offers runs the same samples;
those whose every value lies within a bound of float32's are timed in turn with it, and the fastest
is kept. A few samples can show that a precision is wrong for a model, not that it is right for
every input: they should be typical, and whoever asks for "auto" says how far outputs may move.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

import numpy as np

from engine.compiler import EXACT, STORED_INT8
from engine.errors import DeviceUnavailable, EngineError
from engine.ir.graph import Array, Graph
from engine.session import Candidate, Model, PrecisionChoice

CANDIDATES: Final = (("bf16", "bf16"), ("int8", STORED_INT8))  # as told, and as loaded
FASTER: Final = 0.95  # of float32's time at most: less gain is not worth the difference
TRIAL_S: Final = 0.5  # of timing per candidate, about
ROUNDS: Final = (3, 25)  # at least, at most

Feeds = Mapping[str, Array]


@dataclass(frozen=True)
class Bound:
    """How far each value may be from float32's: atol + rtol * its magnitude."""

    rtol: float = 1e-3
    atol: float = 1e-4

    def difference(self, got: Mapping[str, Array], want: Mapping[str, Array]) -> str:
        """Say where values differ by more; "" where none do."""
        for name, expected in want.items():
            value = got[name]
            if not isinstance(value, np.ndarray) or not isinstance(expected, np.ndarray):
                if repr(value) != repr(expected):
                    return f"output {name!r} differs"
                continue
            if value.shape != expected.shape or value.dtype != expected.dtype:
                return (
                    f"output {name!r} is {value.dtype}{list(value.shape)} instead of "
                    f"{expected.dtype}{list(expected.shape)}"
                )
            wrong = self._outside(value, expected)
            if wrong.any():
                return f"{int(wrong.sum())} of {wrong.size} values of output {name!r} are too far"
        return ""

    def _outside(self, got: Array, want: Array) -> np.ndarray:
        if want.dtype.kind in "OUSTb":
            return np.asarray(got != want)
        wide = np.complex128 if want.dtype.kind == "c" else np.float64
        both = got.astype(wide), want.astype(wide)
        near = np.isclose(*both, rtol=self.rtol, atol=self.atol, equal_nan=True)
        return np.asarray(~near)


DEFAULT_BOUND: Final = Bound()


def choose(load: Callable[[str], Model], samples: Sequence[Feeds], bound: Bound) -> Model:
    """Return the model in the fastest precision that agrees with float32; the others are closed.

    Args:
        load: Loads the model in a precision.
        samples: Typical inputs; without any, it is float32.
        bound: How far outputs may be from float32's.

    Raises:
        EngineError: float32 itself cannot be loaded, or cannot run the samples.
    """
    exact = load(EXACT)
    if not samples:
        exact.choice = PrecisionChoice(EXACT, (), "there are no samples to compare by")
        return exact
    models, found = {EXACT: exact}, []
    try:
        want = [exact.run(feeds, exact.kept) for feeds in samples]
        for name, how in CANDIDATES:
            model, reason = _candidate(load, how, samples, want, bound)
            if model is not None:
                models[name] = model
            else:
                found.append(Candidate(name, None, reason))
        seconds = _timed(models, samples)
    except BaseException:
        _close(models.values())
        raise
    fastest = min(seconds, key=lambda name: seconds[name])
    is_worth_it = seconds[fastest] <= FASTER * seconds[EXACT]
    chosen = fastest if is_worth_it else EXACT
    found += [Candidate(name, value, "") for name, value in seconds.items()]
    reason = "the fastest that agrees with fp32" if is_worth_it else "nothing that agrees is faster"
    _close(model for name, model in models.items() if name != chosen)
    models[chosen].precision = chosen
    models[chosen].choice = PrecisionChoice(chosen, tuple(found), reason)
    return models[chosen]


def _candidate(
    load: Callable[[str], Model],
    precision: str,
    samples: Sequence[Feeds],
    want: Sequence[Mapping[str, Array]],
    bound: Bound,
) -> tuple[Model | None, str]:
    """Return the model in a precision, or why it will not do. No error of it is the caller's."""
    try:
        model = load(precision)
    except DeviceUnavailable:
        return None, "the device does not offer it"
    except EngineError as error:
        return None, f"it cannot be loaded: {error}"
    reason = ""
    if precision == STORED_INT8 and not computes_in_bytes(model.graph):
        reason = "no product has weights that are stored as bytes"
    try:
        for feeds, expected in zip(samples, want, strict=True):
            reason = reason or bound.difference(model.run(feeds, model.kept), expected)
    except EngineError as error:
        reason = f"it cannot run the samples: {error}"
    if reason:
        model.close()
        return None, reason
    return model, ""


def computes_in_bytes(graph: Graph) -> bool:
    """Whether some product quantizes rows while it runs, in bodies too."""
    return any(
        node.op == "QuantizeRows" or any(computes_in_bytes(body) for _, body in node.bodies)
        for node in graph.nodes
    )


def _timed(models: Mapping[str, Model], samples: Sequence[Feeds]) -> dict[str, float]:
    """Return the median seconds that all samples take, the models in turn."""
    if len(models) == 1:
        return dict.fromkeys(models, 0.0)
    seconds: dict[str, list[float]] = {name: [] for name in models}
    end = time.perf_counter() + TRIAL_S * len(models)
    least, most = ROUNDS
    for done in range(most):
        if done >= least and time.perf_counter() > end:
            break
        for name, model in models.items():
            begin = time.perf_counter()
            for feeds in samples:
                model.run(feeds)
            seconds[name].append(time.perf_counter() - begin)
    return {name: median(values) for name, values in seconds.items()}


def _close(models: Iterable[Model]) -> None:
    for model in models:
        model.close()
