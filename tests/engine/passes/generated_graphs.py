"""Random graphs for hypothesis: elementwise chains, products, convolutions, moves, reductions and
arithmetic on shapes, over symbolic dims, with repeated parts and values that are kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from tests.engine.passes.exported import FLOAT, Net

Shape = tuple[int, ...]
INPUTS = {"x": (("N", 4, 6), (2, 4, 6)), "z": (("N", "L", 6), (2, 3, 6)), "p": (("N", 4), (2, 4))}
UNARY = ("Relu", "Sigmoid", "Tanh", "Neg", "Abs", "Erf", "Softplus", "Identity", "HardSwish")
LARGEST = 600  # elements of a value


@dataclass
class Generated:
    """A model, what to feed it, and which values are outputs."""

    data: bytes
    feeds: dict[str, np.ndarray]
    outputs: list[str]


class Builder:
    """Adds one random node after the other to a net; shapes are those of the feeds."""

    def __init__(self, draw: Callable[..., object]) -> None:
        self.draw = draw
        self.net = Net(18, FLOAT, seed=draw(st.integers(0, 99)))  # type: ignore[arg-type]
        self.shapes: dict[str, Shape] = {name: shape for name, (_, shape) in INPUTS.items()}

    def pick(self, options: list) -> object:  # type: ignore[type-arg]
        return self.draw(st.sampled_from(options))

    def add(self, shape: Shape, op: str, *inputs: str, **attributes: object) -> str:
        name = self.net(op, *inputs, **attributes)
        self.shapes[name] = shape
        return name

    def step(self) -> None:
        recent = list(self.shapes)[-4:] + list(INPUTS)
        x = str(self.pick(recent))
        kinds = [self.unary, self.unary, self.scaled, self.scaled, self.binary, self.binary]
        kinds += [self.gate, self.matmul, self.transpose, self.reshape, self.reduce, self.softmax]
        kinds += [self.conv, self.concat, self.choose, self.there_and_back, self.slice, self.norm]
        self.pick(kinds)(x, self.shapes[x])  # type: ignore[operator]

    def unary(self, x: str, shape: Shape) -> None:
        self.add(shape, str(self.pick(list(UNARY))), x)

    def scaled(self, x: str, shape: Shape) -> None:
        op = str(self.pick(["Add", "Mul", "Sub", "Div", "Max", "Min"]))
        kind = self.pick(["number", "vector", "one"])
        if kind == "vector" and shape:
            other = self.net.weight(shape[-1], scale=1.0)
        elif kind == "one":
            other = self.net.number([[0.5]] if len(shape) > 1 else 0.5)
        else:
            other = self.net.number(float(self.pick([2.0, 0.5, -1.5, 1.0, 3.0])))
        if op == "Div":
            other = self.net.number(2.0)
        inputs = (x, other) if op == "Div" or self.draw(st.booleans()) else (other, x)
        self.add(shape, op, *inputs)

    def binary(self, x: str, shape: Shape) -> None:
        partners = [n for n, s in self.shapes.items() if _fits(s, shape)]
        other = str(self.pick(partners))
        self.add(shape, str(self.pick(["Add", "Mul", "Sub"])), x, other)

    def gate(self, x: str, shape: Shape) -> None:
        sigmoid = self.add(shape, "Sigmoid", x)
        self.add(shape, "Mul", x, sigmoid)

    def matmul(self, x: str, shape: Shape) -> None:
        if len(shape) < 2:
            return
        size = int(self.pick([3, 5]))  # type: ignore[call-overload]
        y = self.add((*shape[:-1], size), "MatMul", x, self.net.weight(shape[-1], size))
        if self.draw(st.booleans()):
            self.add(self.shapes[y], "Add", self.net.weight(size), y)

    def transpose(self, x: str, shape: Shape) -> None:
        perm = list(self.draw(st.permutations(range(len(shape)))))  # type: ignore[call-overload]
        self.add(tuple(shape[a] for a in perm), "Transpose", x, perm=perm)

    def reshape(self, x: str, shape: Shape) -> None:
        """By fixed sizes, or by the input's own sizes put together again."""
        if len(shape) < 2:
            return
        rest = int(np.prod(shape[1:]))
        target = self.pick([[0, -1], [-1, rest], [-1, *shape[1:]]])
        if self.draw(st.booleans()):
            name = self.net.number(target)
        else:
            first = self.net("Shape", x, start=0, end=1)
            name = self.net("Concat", first, self.net.number(list(shape[1:])), axis=0)
            target = [0, *shape[1:]]
        after = tuple(shape[0] if d in (0, -1) and i == 0 else d for i, d in enumerate(target))  # type: ignore[arg-type,var-annotated]
        after = tuple(rest if d == -1 else d for d in after)
        self.add(after, "Reshape", x, name)

    def reduce(self, x: str, shape: Shape) -> None:
        if not shape:
            return
        axis = int(self.pick(list(range(len(shape)))))  # type: ignore[call-overload]
        op = str(self.pick(["ReduceMean", "ReduceMax", "ReduceSum"]))
        keep = int(self.draw(st.booleans()))  # type: ignore[call-overload]
        after = (*shape[:axis], *([1] if keep else []), *shape[axis + 1 :])
        self.add(after, op, x, self.net.number([axis]), keepdims=keep)

    def softmax(self, x: str, shape: Shape) -> None:
        if shape:
            self.add(shape, "Softmax", x, axis=int(self.pick(list(range(len(shape))))))  # type: ignore[call-overload]

    def conv(self, x: str, shape: Shape) -> None:
        if len(shape) != 3 or shape[2] < 3:
            return
        weight = self.net.weight(4, shape[1], 3)
        y = self.add((shape[0], 4, shape[2]), "Conv", x, weight, pads=[1, 1])
        if self.draw(st.booleans()):
            statistics = [self.net.weight(4) for _ in range(3)]
            variance = self.net.number([0.5, 1.0, 1.5, 2.0])
            self.add(self.shapes[y], "BatchNormalization", y, *statistics, variance)

    def concat(self, x: str, shape: Shape) -> None:
        if not shape or np.prod(shape) > LARGEST:
            return
        same = [n for n, s in self.shapes.items() if s == shape]
        axis = len(shape) - 1
        self.add((*shape[:-1], 2 * shape[-1]), "Concat", x, str(self.pick(same)), axis=axis)

    def choose(self, x: str, shape: Shape) -> None:
        same = [n for n, s in self.shapes.items() if s == shape]
        test = self.net("Greater", x, self.net.number(0.123))
        self.add(shape, "Where", test, x, str(self.pick(same)))

    def there_and_back(self, x: str, shape: Shape) -> None:
        kind = int(self.pick([11, 10]))  # type: ignore[call-overload]
        wide = self.net("Cast", x, to=kind)
        self.add(shape, "Cast", wide if kind == 11 else x, to=FLOAT)

    def slice(self, x: str, shape: Shape) -> None:
        if not shape or shape[-1] < 2:
            return
        start, end = self.pick([(0, shape[-1]), (1, shape[-1]), (0, 2**60)])  # type: ignore[misc]
        after = (*shape[:-1], min(end, shape[-1]) - start)
        bounds = (self.net.number([start]), self.net.number([end]), self.net.number([-1]))
        self.add(after, "Slice", x, *bounds)

    def norm(self, x: str, shape: Shape) -> None:
        if not shape:
            return
        d = self.net("Sub", x, self.net.mean(x))
        total = self.net("Add", self.net.mean(self.net("Mul", d, d)), self.net.number(1e-2))
        y = self.add(shape, "Div", d, self.net("Sqrt", total))
        self.add(shape, "Mul", y, self.net.weight(shape[-1]))


def _fits(shape: Shape, into: Shape) -> bool:
    if len(shape) > len(into):
        return False
    aligned = into[len(into) - len(shape) :]
    return all(a in (1, b) for a, b in zip(shape, aligned, strict=True))


@st.composite
def graphs(draw: Callable[..., object], nodes: int = 14) -> Generated:
    """A graph of up to `nodes` random steps; its last value and a few others are outputs."""
    builder = Builder(draw)
    for _ in range(int(draw(st.integers(2, nodes)))):  # type: ignore[call-overload]
        builder.step()
        if np.prod(list(builder.shapes.values())[-1]) > LARGEST:
            break
    computed = [n for n in builder.shapes if n not in INPUTS]
    if not computed:
        computed = [builder.add((2, 4), "Relu", "p")]
    more = draw(st.lists(st.sampled_from(computed), max_size=2))
    outputs = list(dict.fromkeys([computed[-1], *more]))  # type: ignore[misc]
    inputs = [(name, list(dims)) for name, (dims, _) in INPUTS.items()]
    rng = np.random.default_rng(7)
    feeds = {n: rng.standard_normal(s).astype(np.float32) for n, (_, s) in INPUTS.items()}
    return Generated(builder.net.model(inputs, [(n, None) for n in outputs]), feeds, outputs)
