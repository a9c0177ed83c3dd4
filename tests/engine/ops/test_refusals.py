"""Attributes and shapes that mean nothing are refused when a model is loaded, not when it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from engine.errors import InvalidModel, ResourceLimit
from engine.interpreter import GraphPlan
from engine.limits import Limits
from tests.engine.ops.single_node import NodeCase, floats, int64

X = floats(2, 3, 4)
HEADS = [floats(1, 2, 3, 4)] * 3
GATES = [floats(3, 2, 5), floats(1, 4, 5), floats(1, 4, 4)]
UPDATE = [X, int64(1)[None], floats(1, 3, 4)]
KERNEL = [floats(1, 2, 5), floats(2, 3, 3)]

# operator, opset, inputs, attributes, a part of the message
REFUSED: list[tuple[str, int, Sequence[np.ndarray], Mapping[str, Any], str]] = [
    # The array library would take these; "empty" hands out memory that nobody wrote to.
    *(("Pad", 21, [X, int64(*range(6))], {"mode": m}, m) for m in ("empty", "maximum", "mean")),
    ("RNN", 14, GATES, {"direction": "sideways"}, "sideways"),
    ("ScatterND", 18, UPDATE, {"reduction": "sideways"}, "sideways"),
    ("ScatterElements", 18, [X, np.zeros((1, 1, 1), np.int64), X], {"reduction": "mean"}, "mean"),
    ("Gelu", 20, [X], {"approximate": "roughly"}, "roughly"),
    ("LpNormalization", 22, [X], {"p": 3}, "p is 3"),
    ("Attention", 23, HEADS, {"qk_matmul_output_mode": 4}, "0 to 3"),
    ("Attention", 23, HEADS, {"qk_matmul_output_mode": -1}, "0 to 3"),
    ("GatherND", 13, [X, np.zeros((1, 4), np.int64)], {}, "index tuples of 4"),
    ("GatherND", 13, [X, np.zeros((2, 3), np.int64)], {"batch_dims": 1}, "index tuples of 3"),
    ("GatherND", 13, [X, np.zeros((2, 1), np.int64)], {"batch_dims": -1}, "-1 batch dims"),
    ("Concat", 13, [X, floats(2, 5, 4)], {"axis": 0}, r"\[3, 5\]"),
    ("ConvTranspose", 11, KERNEL, {"strides": [1, 1, 1]}, "strides has 3"),
    ("ConvTranspose", 11, KERNEL, {"pads": [1, 1, 1]}, "pads has 3"),
    ("ConvTranspose", 11, KERNEL, {"pads": [-1, 0]}, "negative"),
    ("ConvTranspose", 11, KERNEL, {"output_padding": [-1]}, "negative"),
    ("Slice", 13, [X, int64(0, 0, 0, 0), int64(1, 1, 1, 1)], {}, "4 starts for 3 axes"),
]


@pytest.mark.parametrize(("op", "opset", "inputs", "attributes", "reason"), REFUSED)
def test_what_means_nothing_is_refused(
    op: str,
    opset: int,
    inputs: Sequence[np.ndarray],
    attributes: Mapping[str, Any],
    reason: str,
) -> None:
    with pytest.raises(InvalidModel, match=reason):
        NodeCase(op, inputs, dict(attributes), opset).graph()


def test_padding_of_integer_convolutions_is_counted() -> None:
    """Strides larger than the padded image leave one position of the result."""
    inputs = [np.ones((1, 1, 4), np.uint8), np.ones((1, 1, 1), np.uint8)]
    case = NodeCase("ConvInteger", inputs, {"pads": [1 << 24] * 2, "strides": [1 << 40]})
    plan = GraphPlan(case.graph(), limits=Limits(run_bytes=1 << 20))
    with pytest.raises(ResourceLimit, match="run_bytes="):
        plan.run(case.feeds())


def test_a_tensor_of_one_value_has_no_deviation() -> None:
    """Its mean square less its squared mean comes out below zero, which has no root."""
    x = np.repeat(np.linspace(0.1, 9.0, 64, dtype=np.float32), 77).reshape(1, 64, 7, 11)
    case = NodeCase("MeanVarianceNormalization", [x], {"axes": [0, 2, 3]})
    (ours,) = case.run_engine()
    assert np.abs(ours).max() <= 1.001 and not np.isnan(ours).any()


def test_products_of_integers_scale_by_fractions() -> None:
    a, b = np.arange(6, dtype=np.int32).reshape(2, 3), np.ones((3, 1), np.int32)
    (ours,) = NodeCase("Gemm", [a, b], {"alpha": 0.5}, 13).run_engine()
    assert ours.tolist() == [[1], [6]]


def test_a_known_size_wins_over_a_symbol() -> None:
    """Whether the symbol turns out to be that size or 1, the result has it."""
    case = NodeCase("Einsum", [floats(1, 4), floats(3, 4)], {"equation": "ij,ij->ij"}, fixed=(1,))
    assert case.graph("symbolic").outputs[0].type.shape == (3, 4)
    (ours,) = case.run_engine("symbolic")
    assert ours.shape == (3, 4)


def test_sums_of_many_operands_are_taken_in_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """All at once, this would be 64^6 multiplications."""
    taken: list[Sequence[int]] = []
    einsum = np.einsum

    def noting(equation: str, *operands: np.ndarray, optimize: Any) -> np.ndarray:
        (_, *pairs), _ = np.einsum_path(equation, *operands, optimize=optimize)
        taken.extend(pairs)
        return einsum(equation, *operands, optimize=optimize)

    monkeypatch.setattr(np, "einsum", noting)
    x = floats(64, 64, 64)
    case = NodeCase("Einsum", [x, x, x], {"equation": "abc,cde,efa->bdf"}, fixed=(0, 1, 2))
    (ours,) = case.run_engine()
    assert [len(pair) for pair in taken] == [2, 2]
    wide = x.astype(np.float64)
    pair = np.tensordot(wide, wide, (2, 0))  # a b d e
    expected = np.tensordot(pair, wide, ((3, 0), (0, 2)))
    np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-2)
