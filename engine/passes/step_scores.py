"""What attention does to its scores beyond a scale: the bias of earlier positions, the mask of a
source.

The expression of the scores is held to `scale * x + bias`, on numbers: for every length of the
past, and for sources of several lengths. The scale is read from the expression, the bias computed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from engine.dtypes import DType
from engine.errors import NotRecognised
from engine.ir.expr import Expr
from engine.ir.graph import Array, Graph, Node
from engine.ir.render import compile_numpy
from engine.ops.fused_attention import scores_expression
from engine.passes.rewriting import fixed, tensor_type

HIDDEN: Final = -1e4  # a score of a place that counts for nothing: exp of it is 0
# Sources of several lengths, padded behind or not at all.
MASKS: Final = ((1,), (1, 1, 1, 1, 1), (1, 1, 1, 0, 0), (1, 0), (1, 1, 1, 1, 0, 0, 0))
LENGTHS: Final = (0, 1, 4)
TRIES: Final = (-3.0, 0.25, 2.0)  # scores at which an expression is looked at


@dataclass(frozen=True)
class Scores:
    """What one attention makes of its products.

    Attributes:
        node: The attention.
        scale: What a product is multiplied by.
        extras: Names of the values that take part beside.
    """

    node: Node
    scale: float
    extras: tuple[str, ...]
    apply: Callable[..., Array]

    @property
    def meaning(self) -> tuple[object, ...]:
        """What tells it from others that add something else."""
        return self.node.attributes["scores"], self.extras

    def bias(self, values: Mapping[str, Array], shape: tuple[int, ...]) -> Array:
        """Return what is added to the scaled products of this shape; NaN is never among it.

        Raises:
            NotRecognised: The scores are something else than scaled products and a bias.
        """
        extras = [values[name] for name in self.extras]
        with np.errstate(all="ignore"):
            bias = self._at(0.0, shape, extras)
            for number in TRIES:
                found = self._at(number, shape, extras)
                wanted = bias + np.float32(number * self.scale)
                hidden = (bias <= HIDDEN) & (found <= HIDDEN)
                if not (hidden | np.isclose(found, wanted, rtol=1e-4, atol=1e-5)).all():
                    raise NotRecognised(
                        f"attention {self.node.label!r}: its scores are no scaled products and a "
                        "bias"
                    )
        return bias

    def _at(self, number: float, shape: tuple[int, ...], extras: Sequence[Array]) -> Array:
        result = self.apply(np.full(shape, number, np.float32), *extras)
        return np.broadcast_to(result, shape)


def read_scores(graph: Graph, node: Node) -> Scores:
    """Return what an attention node does to its products."""
    names = node.inputs[3:]
    kinds = [tensor_type(graph, name) for name in node.inputs]
    lone = {}
    for i, name in enumerate(names, start=3):
        value = fixed(graph, name)
        if value is not None and value.size == 1:
            lone[i] = value.reshape(()).tolist()
    attributes = {"scores": node.attributes["scores"]}
    expr = scores_expression(attributes, [k.dtype if k else None for k in kinds], lone)
    scale = _slope(expr, {})
    if scale is None or not np.isfinite(scale) or expr.dtype is not DType.FLOAT32:
        raise NotRecognised(f"attention {node.label!r}: its products are not scaled by a number")
    return Scores(node, scale, names, compile_numpy(expr, np, arity=1 + len(names)))


def check_source_mask(scores: Scores, at: Callable[..., Mapping[str, Array]], heads: int) -> None:
    """Hold what is added to scores over a source to nothing where it has tokens, and to very
    negative numbers where it has none, unless the graph knows no mask.
    """
    for length in LENGTHS:
        for mask in MASKS:
            bias = scores.bias(at(length, mask), (1, heads, 1, len(mask)))
            shown = np.broadcast_to(np.array(mask, bool), bias.shape)
            hides = (bias[~shown] <= HIDDEN).all() or not bias.any()
            if bias[shown].any() or not hides:
                raise NotRecognised(
                    f"attention {scores.node.label!r} over the source adds something else than a "
                    "mask of its tokens to the scores"
                )


def _slope(expr: Expr, known: dict[int, float | None]) -> float | None:
    """Return what argument 0 is multiplied by on its way to the result: 0 where it has no part,
    None where it goes through anything but sums and products with numbers.
    """
    for each in expr.walk():
        known[id(each)] = _slope_of(each, [known[id(a)] for a in each.args])
    return known[id(expr)]


def _slope_of(expr: Expr, slopes: Sequence[float | None]) -> float | None:
    if expr.op == "arg":
        return float(expr.payload == 0)
    if all(s == 0.0 for s in slopes):
        return 0.0
    if any(s is None for s in slopes):
        return None
    numbers = [float(a.payload or 0) if a.op == "const" else None for a in expr.args]
    rule = RULES.get(expr.op)
    return rule([s or 0.0 for s in slopes], numbers) if rule else None


def _product(slopes: Sequence[float], numbers: Sequence[float | None]) -> float | None:
    (a, b), (left, right) = slopes, numbers
    if right is not None:
        return a * right
    return b * left if left is not None else None


def _quotient(slopes: Sequence[float], numbers: Sequence[float | None]) -> float | None:
    divisor = numbers[1]
    return slopes[0] / divisor if divisor else None


def _choice(slopes: Sequence[float], _: Sequence[float | None]) -> float | None:
    condition, a, b = slopes
    if condition != 0.0 or (a and b and a != b):
        return None
    return a or b  # the other one is a mask's number: which of them counts is checked on values


RULES: Final[Mapping[str, Callable[[Sequence[float], Sequence[float | None]], float | None]]] = {
    "add": lambda s, _: s[0] + s[1],
    "sub": lambda s, _: s[0] - s[1],
    "neg": lambda s, _: -s[0],
    "cast": lambda s, _: s[0],
    "mul": _product,
    "div": _quotient,
    "select": _choice,
}

__all__ = ["HIDDEN", "Scores", "check_source_mask", "read_scores"]
