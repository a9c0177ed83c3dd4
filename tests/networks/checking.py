"""Runs a network on the engine and holds it to its recorded answers and to its own shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import engine
from engine.ir.types import SymDim, TensorType, parse_dim
from tests.networks.cases import Answer, Arrays, Case, read_cases
from tests.networks.table import Network


def load(path: Path, level: int, device: str = "reference") -> engine.Model:
    """Load as the file says (0, every value kept) or optimised (2)."""
    return engine.load(path, device=device, outputs=engine.ALL if level == 0 else None)


def check_network(path: Path, network: Network, level: int, device: str = "reference") -> None:
    """Hold a network to everything that is expected of it."""
    with load(path, level, device) as model:
        cases = read_cases(path.with_suffix(".npz"))
        for case in cases:
            results = model.run(case.feeds, model.kept if level == 0 else None)
            for name, answer in case.answers.items():
                check_answer(name, results[name], answer, network.tolerance)
            check_shapes(model, case.feeds, results, network.open)
        if level:
            check_batch(model, network, cases[0])


def check_batch(model: engine.Model, network: Network, case: Case) -> None:
    """Hold `Model.batch` to what is expected, and a row of a batch to what it gives alone."""
    assert model.batch == network.batch, model.batch_reason
    assert network.alone in (model.batch_reason or ""), model.batch_reason
    if model.batch is None:
        return
    first = {n: a[:1] if n in model.batch.inputs else a for n, a in case.feeds.items()}
    single = model.run(first)
    for name in model.batch.outputs:
        check_answer(f"row 0 of {name}", single[name], case.answers[name][:1], network.tolerance)


def check_answer(name: str, got: Any, want: Answer, tolerance: float) -> None:
    """Compare an output with the one on file."""
    if isinstance(want, list):
        assert [list(row) for row in got] == [list(row) for row in want], name
        got, want = (np.array([list(row.values()) for row in r], np.float32) for r in (got, want))
    assert got.shape == want.shape, name
    assert got.dtype == want.dtype, name
    if want.dtype.kind != "f":
        np.testing.assert_array_equal(got, want, err_msg=name)
        return
    largest = max(1e-6, float(np.abs(want.astype(np.float64)).max(initial=0)))
    difference = float(np.abs(got.astype(np.float64) - want.astype(np.float64)).max(initial=0))
    assert difference <= tolerance * largest, (
        f"{name}: off by {difference / largest:.2e} of its largest value {largest:.3g}"
    )


def check_shapes(
    model: engine.Model, feeds: Arrays, results: Mapping[str, Any], still_open: frozenset[str]
) -> None:
    """Hold every value that came out to its symbolic shape, the symbols bound by the feeds."""
    bound = bindings(model.inputs, feeds)
    outputs = {spec.name for spec in model.outputs}
    for name, result in results.items():
        kind = model.graph.types[name]
        if not isinstance(kind, TensorType):  # a sequence has no shape
            continue
        shape = kind.shape
        if shape is None:
            assert name not in outputs - still_open, f"{name}: the rank is not known"
            continue
        assert len(shape) == result.ndim, f"{name}: {shape} came out as {result.shape}"
        for dim, size in zip(shape, result.shape, strict=True):
            if isinstance(dim, SymDim) and not dim.symbols <= bound.keys():
                assert name not in outputs - still_open, f"{name}: {dim} is not known by {bound}"
                if dim.is_symbol:
                    bound[str(dim)] = size
            else:
                number = dim.evaluate(bound) if isinstance(dim, SymDim) else dim
                assert number == size, f"{name}: {dim} of {shape} is {number}, came out as {size}"


def bindings(inputs: Sequence[engine.TensorSpec], feeds: Arrays) -> dict[str, int]:
    """Return the sizes of the symbols that the inputs' shapes consist of."""
    bound: dict[str, int] = {}
    for spec in inputs:
        for text, size in zip(spec.shape or (), feeds[spec.name].shape, strict=False):
            dim = parse_dim(text) if isinstance(text, str) else text
            if isinstance(dim, SymDim) and dim.is_symbol:
                assert bound.setdefault(str(dim), size) == size
    return bound
