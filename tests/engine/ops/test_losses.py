from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from engine.errors import InvalidModel, RunFailed
from tests.engine.ops.single_node import NodeCase, check_node, check_rows, floats, int64, row_states

SHAPES = [(3, 5), (3, 5, 2), (2, 4, 2, 3)]


def scores_and_target(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    scores = floats(*shape, seed=1)
    target = np.random.default_rng(2).integers(0, shape[1], (shape[0], *shape[2:]))
    return scores, target


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("ignore", [{}, {"ignore_index": 1}, {"ignore_index": -7}])
@pytest.mark.parametrize("weighted", [False, True])
def test_losses(shape, reduction, ignore, weighted):
    scores, target = scores_and_target(shape)
    inputs: list[np.ndarray | None] = [scores, target]
    if ignore.get("ignore_index", 0) < 0:
        target.flat[0] = ignore["ignore_index"]
    if weighted:
        inputs.append(np.abs(floats(shape[1], seed=3)))
    check_node("NegativeLogLikelihoodLoss", *inputs, reduction=reduction, opset=13, **ignore)
    check_node("SoftmaxCrossEntropyLoss", *inputs, reduction=reduction, opset=13, **ignore)
    check_node(
        "SoftmaxCrossEntropyLoss", *inputs, reduction=reduction, opset=12, outputs=2, **ignore
    )


@pytest.mark.parametrize("dtype", [np.float64, np.float16, ml_dtypes.bfloat16])
def test_losses_of_other_types(dtype):
    scores, target = scores_and_target((4, 5))
    for op in ("NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss"):
        wide = NodeCase(op, [scores, target.astype(np.int32)], opset=22).run_engine()[0]
        (ours,) = NodeCase(op, [scores.astype(dtype), target], opset=22).run_engine()
        np.testing.assert_allclose(ours.astype(np.float32), wide, rtol=2e-2)


def test_scores_too_large_for_an_exponential():
    scores = np.array([[1000.0, 0.0], [-1000.0, 0.0]], np.float32)
    check_node("SoftmaxCrossEntropyLoss", scores, int64(1, 0), reduction="none", outputs=2)


def test_rows():
    scores, target = scores_and_target((3, 5, 2))
    for op in ("NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss"):
        case = NodeCase(op, [scores, target], {"reduction": "none"})
        assert all(state.is_rows for state in check_rows(case, (0, 1)))
        assert not row_states(case, (0,))[0].is_rows
        assert not row_states(NodeCase(op, [scores, target]), (0, 1))[0].is_rows


@pytest.mark.parametrize("op", ["NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss"])
def test_what_does_not_fit(op):
    scores, target = scores_and_target((3, 5, 2))
    with pytest.raises(InvalidModel, match="reduction"):
        NodeCase(op, [scores, target], {"reduction": "most"}).graph()
    with pytest.raises(InvalidModel, match="target"):
        NodeCase(op, [scores, target[0]]).graph()
    with pytest.raises(InvalidModel, match="scores"):
        NodeCase(op, [scores[0, 0], target[0]]).graph()
    with pytest.raises(RunFailed, match="target classes"):
        NodeCase(op, [scores, target + 5]).run_engine()
    with pytest.raises(RunFailed, match="target"):
        NodeCase(op, [scores, target[:, :1]]).run_engine()
