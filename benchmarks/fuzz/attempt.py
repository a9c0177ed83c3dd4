"""Loads and runs one mutated file, and says how that ended."""

from __future__ import annotations

import random
import resource
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

import engine
from benchmarks.fuzz.corpus import Corpus
from benchmarks.fuzz.mutate import mutated
from engine.errors import GraphInvalid
from engine.ir.dim_parser import parse_dim
from engine.ir.types import evaluate, symbols_of

LIMITS = engine.Limits(
    model_bytes=64 << 20,
    nodes=2000,
    load_s=30.0,
    run_bytes=64 << 20,
    loop_iterations=2000,
    fold_bytes=1 << 20,
)
MOST_ELEMENTS = 1 << 18  # of an input that is made here; a larger one is not worth the time
FAULT = "fault: "


@dataclass(frozen=True)
class Attempt:
    """How one input ended.

    Attributes:
        outcome: "ran", the name of an engine error and when it came, or `FAULT` and what came out.
        peak_bytes: Most memory that the process ever held, so far.
    """

    outcome: str
    peak_bytes: int


def attempt(corpus: Corpus, number: int, device: str = "cpu") -> Attempt:
    """Make input `number`, load it on a device, run what loads."""
    rng = random.Random(number)
    seed = corpus.pick(rng)
    data = mutated(seed.model, rng)
    outcome = try_model(data, seed.feeds, rng, device)
    return Attempt(outcome, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def try_model(
    data: bytes, feeds: Mapping[str, Any], rng: random.Random, device: str = "cpu"
) -> str:
    """Return how loading and running ended."""
    keep = engine.ALL if rng.random() < 0.2 else None
    try:
        with engine.load(data, device=device, outputs=keep, limits=LIMITS) as model:
            return _try_runs(model, feeds, rng)
    except GraphInvalid as error:
        return _fault(error)  # an error of the engine's tree, but one that says: our own fault
    except engine.EngineError as error:
        return f"{type(error).__name__} at load"
    except Exception as error:
        return _fault(error)


def _try_runs(model: engine.Model, feeds: Mapping[str, Any], rng: random.Random) -> str:
    """Run with the inputs that came with the seed, and where they do not fit, with made ones."""
    names = [spec.name for spec in model.inputs]
    given = {name: feeds[name] for name in names if name in feeds}
    outcome = _try_run(model, given) if len(given) == len(names) else "InvalidInput at run"
    if outcome == "InvalidInput at run":
        made = made_feeds(model.inputs, rng)
        outcome = "loaded; inputs too large to try" if made is None else _try_run(model, made)
    return outcome


def _try_run(model: engine.Model, feeds: Mapping[str, Any]) -> str:
    try:
        model.run(feeds)
    except GraphInvalid:
        raise
    except engine.EngineError as error:
        return f"{type(error).__name__} at run"
    return "ran"


def made_feeds(specs: Sequence[Any], rng: random.Random) -> dict[str, Any] | None:
    """Return small inputs that fit, or None when even those would be large."""
    generator = np.random.default_rng(rng.getrandbits(32))
    sizes: dict[str, int] = {}
    feeds = {}
    for spec in specs:
        shape = [_size(dim, sizes, rng) for dim in spec.shape or ()]
        # A dim of zero makes nothing small: numpy refuses such shapes as well.
        if prod(max(size, 1) for size in shape) > MOST_ELEMENTS:
            return None
        feeds[spec.name] = _packed(spec.kind, _made(spec.dtype, shape, generator), rng)
    return feeds


def _size(dim: int | str, sizes: dict[str, int], rng: random.Random) -> int:
    """Return a dim's number; symbols get one each, and expressions follow from them."""
    if isinstance(dim, int):
        return dim
    parsed = parse_dim(dim)
    for name in sorted(symbols_of(parsed)):
        sizes.setdefault(name, rng.randint(0, 3))
    try:
        return max(0, evaluate(parsed, sizes))
    except ZeroDivisionError:
        return 0


def _packed(kind: str, array: Any, rng: random.Random) -> Any:
    """Return an array as what an input wants: itself, a list, perhaps nothing, a dict."""
    if kind.startswith("optional"):
        return None if rng.random() < 0.3 else _packed(kind.removeprefix("optional("), array, rng)
    if kind.startswith("sequence"):
        return [array] * rng.randint(0, 3)
    return {} if kind.startswith("map") else array


def _made(name: str, shape: Sequence[int], generator: Any) -> Any:
    dtype = np.dtype(name)
    if dtype.kind == "O":
        return np.full(shape, "some text", object)
    if dtype.kind == "b":
        return generator.integers(0, 2, shape) > 0
    if dtype.kind in "iu":
        return np.asarray(generator.integers(0, 4, shape), dtype)
    return np.asarray(np.asarray(generator.standard_normal(shape), np.float32), dtype)


def _fault(error: Exception) -> str:
    """Name what came out and where, without what differs from input to input."""
    trace = error.__traceback__
    place = ""
    while trace is not None:
        code = trace.tb_frame.f_code
        if "/engine/" in code.co_filename:
            file = code.co_filename.rpartition("/engine/")[2]
            place = f"engine/{file}:{trace.tb_lineno} {code.co_name}"
        trace = trace.tb_next
    return f"{FAULT}{type(error).__name__} in {place}"
