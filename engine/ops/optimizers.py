"""One step of training, from ai.onnx.preview.training: Adagrad, Adam, Momentum.

Inputs are the learning rate, the number of updates so far, and for each optimised tensor its
value, gradient and what the optimizer remembers, in groups: all values, then all gradients, and so
on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from engine.dtypes import DType
from engine.ir.types import TensorType
from engine.ops.checks import check_dtype
from engine.ops.common import Array
from engine.ops.contexts import ComputeContext, InferContext
from engine.ops.registry import REQUIRED, operator

FLOATS = frozenset({DType.FLOAT32, DType.FLOAT64})
DOMAIN = "ai.onnx.preview.training"
# The learning rate, the count of updates, and one tensor's inputs -> its outputs.
Step = Callable[..., Sequence[Array]]


def _infer(ctx: InferContext, per_tensor: int) -> Sequence[TensorType]:
    """Outputs are like the values and what is remembered: all inputs but the gradients."""
    count, rest = divmod(len(ctx.types) - 2, per_tensor)
    if rest or count < 1:
        ctx.fail(f"expected 2 inputs and {per_tensor} per tensor, got {len(ctx.types)}")
    check_dtype(ctx, (0, *range(2, len(ctx.types))), FLOATS)
    check_dtype(ctx, 1, (DType.INT64,))
    kinds = [ctx.type(2 + i) for i in range(count * per_tensor)]
    for i, kind in enumerate(kinds):
        if kind.dtype is not kinds[i % count].dtype:
            ctx.fail(f"input {2 + i} is {kind}, its tensor is {kinds[i % count]}")
    return [*kinds[:count], *kinds[2 * count :]]


def _each(
    step: Step, rate: Array, updates: Array, tensors: Sequence[Array], per_tensor: int
) -> Iterator[Array]:
    """Apply `step` to every tensor's group; yield the outputs in ONNX's order."""
    count = len(tensors) // per_tensor
    done = int(updates.reshape(()))
    # One number, of the tensors' own type, so that float32 stays float32.
    results = [
        step(rate.reshape(()).astype(tensors[i].dtype), done, *tensors[i::count])
        for i in range(count)
    ]
    for outputs in zip(*results, strict=True):
        for value, like in zip(outputs, tensors, strict=False):
            yield value.astype(like.dtype, copy=False)


@operator("Adagrad", since=1, domain=DOMAIN)
class Adagrad:
    """Steps scaled down by the root of all squared gradients so far (Duchi et al., 2011)."""

    attributes = {"decay_factor": 0.0, "epsilon": 1e-6, "norm_coefficient": 0.0}

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """New values, new sums of squares."""
        return _infer(ctx, 3)

    @staticmethod
    def compute(
        ctx: ComputeContext, rate: Array, updates: Array, *tensors: Array
    ) -> Sequence[Array]:
        """Each tensor by itself."""
        norm, decay, epsilon = (
            ctx.attributes[k] for k in ("norm_coefficient", "decay_factor", "epsilon")
        )

        def step(r: Array, done: int, x: Array, g: Array, h: Array) -> Sequence[Array]:
            gradient = norm * x + g
            squares = h + gradient * gradient
            return [
                x - r / (1 + done * decay) * gradient / (ctx.xp.sqrt(squares) + epsilon),
                squares,
            ]

        return list(_each(step, rate, updates, tensors, 3))


@operator("Adam", since=1, domain=DOMAIN)
class Adam:
    """Steps along a running mean of gradients, over the root of that of their squares."""

    attributes = {
        "alpha": 0.9,
        "beta": 0.999,
        "epsilon": 1e-6,
        "norm_coefficient": 0.0,
        "norm_coefficient_post": 0.0,
    }

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """New values, new means, new means of squares."""
        return _infer(ctx, 4)

    @staticmethod
    def compute(
        ctx: ComputeContext, rate: Array, updates: Array, *tensors: Array
    ) -> Sequence[Array]:
        """Each tensor by itself; the means' start at zero is corrected for (Kingma, Ba, 2015)."""
        a = ctx.attributes
        alpha, beta = a["alpha"], a["beta"]

        def step(r: Array, done: int, x: Array, g: Array, v: Array, h: Array) -> Sequence[Array]:
            gradient = a["norm_coefficient"] * x + g
            mean = alpha * v + (1 - alpha) * gradient
            squares = beta * h + (1 - beta) * gradient * gradient
            if done > 0:
                r = r * (1 - beta**done) ** 0.5 / (1 - alpha**done)
            moved = x - r * mean / (ctx.xp.sqrt(squares) + a["epsilon"])
            return [(1 - a["norm_coefficient_post"]) * moved, mean, squares]

        return list(_each(step, rate, updates, tensors, 4))


@operator("Momentum", since=1, domain=DOMAIN)
class Momentum:
    """Steps along a decaying sum of gradients, plain or as Nesterov's."""

    attributes = {
        "alpha": REQUIRED,
        "beta": REQUIRED,
        "mode": REQUIRED,
        "norm_coefficient": REQUIRED,
    }

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """New values, new sums."""
        if ctx.attributes["mode"] not in ("standard", "nesterov"):
            mode = ctx.attributes["mode"]
            ctx.fail(f"mode is {mode!r}; expected 'standard' or 'nesterov'")
        return _infer(ctx, 3)

    @staticmethod
    def compute(
        ctx: ComputeContext, rate: Array, updates: Array, *tensors: Array
    ) -> Sequence[Array]:
        """Each tensor by itself; the first gradient counts in full."""
        a = ctx.attributes

        def step(r: Array, done: int, x: Array, g: Array, v: Array) -> Sequence[Array]:
            gradient = a["norm_coefficient"] * x + g
            velocity = a["alpha"] * v + (a["beta"] if done > 0 else 1.0) * gradient
            if a["mode"] == "standard":
                return [x - r * velocity, velocity]
            return [x - r * (gradient + a["alpha"] * velocity), velocity]

        return list(_each(step, rate, updates, tensors, 3))
