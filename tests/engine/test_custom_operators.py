"""Operators of one's own, written with nothing but what is public."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from onnx import TensorProto, helper

import engine
from engine.custom import (
    FLOATS,
    REQUIRED,
    ComputeContext,
    Expr,
    InferContext,
    RowContext,
    RowState,
    TensorType,
    expr,
    follow,
)
from tests.engine.onnx_models import convnet, mlp, model, node, normal


class Rotate:
    """The last axis, moved around by `by` places."""

    attributes = {"by": REQUIRED}  # noqa: RUF012  # read once, when the operator is made

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        if ctx.type(0).shape == ():
            ctx.fail("expected at least one axis")
        return [ctx.type(0)]

    @staticmethod
    def compute(ctx: ComputeContext, x: np.ndarray) -> Sequence[np.ndarray]:
        return [ctx.xp.roll(x, ctx.attributes["by"], axis=-1)]

    @staticmethod
    def rows(ctx: RowContext) -> Sequence[RowState]:
        last = (ctx.rank(0) or 1) - 1
        return follow(ctx, lambda axis: axis if axis < last else None)


def soft_clip(x: Expr, *, bound: float = 1.0) -> Expr:
    """x, bent so that it stays within the bound."""
    return expr.tanh(x / bound) * bound


ROTATE = engine.make_operator(Rotate, "Rotate", since=1, domain="my.domain")
SOFT_CLIP = engine.make_elementwise(soft_clip, "SoftClip", 1, types=FLOATS, domain="my.domain")


def both(**rotate: int) -> bytes:
    nodes = [
        node("SoftClip", ["x"], ["c"], domain="my.domain", bound=2.0),
        node("Rotate", ["c"], ["y"], domain="my.domain", **rotate),
    ]
    return model(nodes, [("x", ["N", 4])], [("y", None)], domains={"my.domain": 1})


@pytest.mark.parametrize("device", ["cpu", "reference"])
def test_a_model_runs_with_them_and_is_batched(device: str) -> None:
    x = normal(3, 4)
    with engine.load(both(by=1), device=device, ops=(ROTATE, SOFT_CLIP)) as net:
        assert net.outputs[0].shape == ("N", 4)
        assert net.batch is not None and net.batch.outputs == {"y"}
        expected = np.roll(np.tanh(x / 2) * 2, 1, axis=-1)
        np.testing.assert_allclose(net.run({"x": x})["y"], expected, rtol=1e-6)


def test_their_errors_are_those_of_any_operator() -> None:
    with pytest.raises(engine.UnsupportedOp, match=r"pass one with engine\.load"):
        engine.load(both(by=1))
    with pytest.raises(engine.InvalidModel, match="attribute 'by' is missing"):
        engine.load(both(), ops=(ROTATE, SOFT_CLIP))
    with pytest.raises(engine.InvalidModel, match="unknown attribute 'times'"):
        engine.load(both(by=1, times=2), ops=(ROTATE, SOFT_CLIP))
    with pytest.raises(ValueError, match="isolate=False"):
        engine.load(both(by=1), ops=(ROTATE, SOFT_CLIP), isolate=True)


def test_one_takes_the_place_of_the_engines_own() -> None:
    loud = engine.make_elementwise(lambda x: x * 0 + 7, "Relu", (6, 13, 14), types=FLOATS)
    x = normal(1, 8)
    with engine.load(mlp(), ops=(loud,), outputs=["a"]) as net:
        assert (net.run({"x": x})["a"] == 7).all()
    with engine.load(mlp(), outputs=["a"]) as net:
        assert not (net.run({"x": x})["a"] == 7).any()


class Sevens:
    """Whatever comes in, sevens of its shape go out."""

    attributes = {"axis": -1, "perm": None, "approximate": "none"}  # noqa: RUF012  # as above

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        return [ctx.type(0)]

    @staticmethod
    def compute(ctx: ComputeContext, x: np.ndarray, *others: np.ndarray) -> Sequence[np.ndarray]:
        return [ctx.xp.full_like(x, 7)]


SQRT2 = np.float32(2**0.5)
# Each is part of something that passes recognise by name, and take away or make one with others.
RECOGNISED = {
    "Identity": [node("Identity", ["x"], ["y"])],
    "Transpose": [node("Transpose", ["x"], ["y"], perm=[0, 1, 2])],
    "Softmax": [
        node("MatMul", ["x", "x"], ["a"]),
        node("Softmax", ["a"], ["b"]),
        node("MatMul", ["b", "x"], ["y"]),
    ],
    "Erf": [
        node("Div", ["x", "root"], ["a"]),
        node("Erf", ["a"], ["b"]),
        node("Add", ["b", "one"], ["c"]),
        node("Mul", ["x", "c"], ["d"]),
        node("Mul", ["d", "half"], ["y"]),
    ],
    "MatMul": [node("MatMul", ["x", "x"], ["a"]), node("Relu", ["a"], ["y"])],
}


@pytest.mark.parametrize("op", RECOGNISED)
@pytest.mark.parametrize("inside", [False, True])
def test_what_takes_their_place_is_not_taken_for_them(op: str, inside: bool) -> None:
    sevens = [engine.make_operator(Sevens, op, since=since) for since in (1, 9, 13)]
    nodes = RECOGNISED[op]
    if inside:
        body = helper.make_graph(nodes, "body", [], [helper.make_empty_tensor_value_info("y")])
        nodes = [node("If", ["yes"], ["y"], then_branch=body, else_branch=body)]
    constants = {"root": SQRT2, "one": np.float32(1), "half": np.float32(0.5)}
    inputs = [("x", [2, 4, 4]), ("yes", [], TensorProto.BOOL)]
    made = model(nodes, inputs, [("y", None)], {k: np.array(v) for k, v in constants.items()})
    feeds = {"x": normal(2, 4, 4), "yes": np.array(True)}
    results = []
    for outputs in (None, engine.ALL):
        with engine.load(made, device="reference", ops=sevens, outputs=outputs) as net:
            results.append(net.run(feeds, ["y"])["y"])
    np.testing.assert_allclose(*results, rtol=1e-5, atol=1e-5)
    with engine.load(made, device="reference") as net:
        assert not np.allclose(net.run(feeds)["y"], results[0])


@pytest.mark.parametrize("isolate", [False, True])
def test_kept_values_come_when_they_are_asked_for(isolate: bool) -> None:
    x = normal(2, 3, 8, 8)
    with engine.load(convnet(), keep=("f",), isolate=isolate) as net:
        assert [spec.name for spec in net.outputs] == ["y"] and net.kept == ("y", "f")
        assert net.batch is not None and net.batch.outputs == {"y", "f"}
        assert net.run({"x": x}).keys() == {"y"}
        found = net.run({"x": x}, fetches=["f"])
    with engine.load(convnet(), outputs=engine.ALL) as net:
        expected = net.run({"x": x}, fetches=["f"])
    np.testing.assert_allclose(found["f"], expected["f"], rtol=1e-5, atol=1e-6)
    with pytest.raises(engine.InvalidInput, match="no value is called 'nope'"):
        engine.load(convnet(), keep=("nope",))
