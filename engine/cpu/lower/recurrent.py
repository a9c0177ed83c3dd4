"""Rules of recurrent layers: one product for all steps of the inputs, then the steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from engine.cpu.buffers import Buffer
from engine.cpu.kernels.panels import to_bfloat16
from engine.cpu.kernels.recurrent import FUNCTIONS, GATES, ROWS, Given, Recurrent
from engine.cpu.lower.context import Lowering
from engine.cpu.lower.epilogue import Epilogue
from engine.cpu.lower.half_rows import Rows, input_rows
from engine.cpu.lower.matmul import FixedWeights, add_product, product_type
from engine.cpu.lower.rules import NoKernel, lowers
from engine.dtypes import DType
from engine.ir.graph import Node
from engine.ir.types import Dim, Shape, ceildiv

DEFAULTS: Final = {
    "LSTM": ("sigmoid", "tanh", "tanh"),
    "GRU": ("sigmoid", "tanh"),
    "RNN": ("tanh",),
}
BACKWARDS: Final = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}
INPUTS: Final = 8  # the most that any of them has


@dataclass(frozen=True)
class Layer:
    """A recurrent node, checked.

    Attributes:
        kernel: Its steps.
        lanes: float32 values of a vector.
        names: Its inputs, "" for what is left out.
        w: Weights of the inputs (directions, gates * hidden, inputs).
        r: Weights of the state (directions, gates * hidden, hidden).
        bias: Biases (directions, 2 * gates * hidden).
    """

    kernel: Recurrent
    lanes: int
    names: tuple[str, ...]
    w: np.ndarray
    r: np.ndarray
    bias: np.ndarray

    @property
    def key(self) -> str:
        """Names the fixed numbers within the graph."""
        return f"{self.names[1]},{self.names[2]},{self.names[3]}|{self.lanes}"

    def packed(self, x: np.ndarray) -> np.ndarray:
        """Return (D, gates * hidden, ...) as (D, vectors, gates, lanes, ...), zeros at the end."""
        directions, gates, hidden = x.shape[0], self.kernel.gates, self.kernel.hidden
        units = -(-hidden // self.lanes) * self.lanes
        wide = np.zeros((directions, gates, units, *x.shape[2:]), np.float32)
        wide[:, :, :hidden] = x.reshape(directions, gates, hidden, *x.shape[2:])
        apart = wide.reshape(directions, gates, units // self.lanes, self.lanes, *x.shape[2:])
        return np.ascontiguousarray(apart.swapaxes(1, 2))

    def input_weights(self) -> np.ndarray:
        """Return (inputs, all gates): the right side of the product."""
        packed = self.packed(self.w)
        return np.ascontiguousarray(packed.reshape(-1, self.w.shape[2]).T)

    def input_bias(self) -> np.ndarray:
        """Return a number per gate; of a GRU's last gate the state's bias is kept apart."""
        half = self.kernel.gates * self.kernel.hidden
        added, state = self.bias[:, :half], self.bias[:, half:].copy()
        if self.kernel.cell == "GRU":
            state[:, 2 * self.kernel.hidden :] = 0
        return self.packed(added + state).reshape(-1)

    def state_weights(self) -> np.ndarray:
        """Return (D, vectors, hidden, gates, lanes), or (D, vectors, pairs, gates, lanes, 2)."""
        apart = np.moveaxis(self.packed(self.r), -1, 2)
        if self.kernel.dtype is not DType.BFLOAT16:
            return np.ascontiguousarray(apart)
        terms = self.kernel.terms
        apart = np.pad(apart, ((0, 0), (0, 0), (0, terms - apart.shape[2]), (0, 0), (0, 0)))
        pairs = apart.reshape(*apart.shape[:2], terms // 2, 2, *apart.shape[3:])
        return to_bfloat16(np.moveaxis(pairs, 3, -1))

    def state_bias(self) -> np.ndarray:
        """Return the state's biases of a GRU's last gate (D, units)."""
        last = self.bias[:, (2 * 3 - 1) * self.kernel.hidden :]
        return self.padded(last)

    def padded(self, x: np.ndarray) -> np.ndarray:
        """Return (..., hidden) with zeros up to whole vectors."""
        more = -x.shape[-1] % self.lanes
        return np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, more)])


@lowers("LSTM", "GRU", "RNN")
def recurrent(ctx: Lowering, node: Node) -> None:
    """Weights are fixed; lengths, sequences and first states are not."""
    layer = _layer(ctx, node)
    names, kernel = layer.names, layer.kernel
    batch_first = bool(ctx.attributes(node)["layout"])
    shape = ctx.shape(names[0])
    steps, batch = (shape[1], shape[0]) if batch_first else (shape[0], shape[1])
    reads = _reads(ctx, node, layer, batch)
    wide = len(kernel.backwards) * kernel.gates * kernel.units(ctx.target)
    gates = ctx.temporary_plain("gates", (shape[0], shape[1], wide), DType.FLOAT32)
    fixed = FixedWeights(f"{layer.key}|in", layer.input_weights(), layer.input_bias(), layer.key)
    x = input_rows(ctx, names[0], layer.w.shape[2], node)
    add_product(ctx, node, Rows(gates, wide), x, steps * batch, fixed, Epilogue(), ())
    numbers = _numbers(kernel, steps, batch, wide, batch_first)
    ctx.step(
        kernel,
        _writes(ctx, node, kernel, steps, batch),
        [gates, *reads],
        tasks=len(kernel.backwards) * ceildiv(batch, ROWS),
        numbers=numbers,
        node=node,
    )


def _layer(ctx: Lowering, node: Node) -> Layer:
    attributes: Any = ctx.attributes(node)
    names = (*node.inputs, *("",) * (INPUTS - len(node.inputs)))
    backwards = BACKWARDS.get(attributes["direction"], ())
    w, r = _fixed(ctx, names[1]), _fixed(ctx, names[2])
    if not backwards or r.ndim != 3:
        raise NoKernel(f"direction {attributes['direction']!r}, weights of the state {r.shape}")
    gates, hidden = GATES[node.op], r.shape[-1]
    shape = ctx.shape(names[0])
    if len(shape) != 3 or not hidden or r.shape != (len(backwards), gates * hidden, hidden):
        raise NoKernel(f"weights of the state are {r.shape}, the input {list(map(str, shape))}")
    if w.shape != (len(backwards), gates * hidden, shape[2]) or not w.size:
        raise NoKernel(f"weights of the inputs are {w.shape}")
    if attributes["clip"] or attributes.get("input_forget"):
        raise NoKernel("it clips, or couples its gates")
    if node.op == "GRU" and not attributes["linear_before_reset"]:
        raise NoKernel("its reset gate comes before the product")
    bias = np.zeros((len(backwards), 2 * gates * hidden), np.float32)
    if names[3]:
        bias = _fixed(ctx, names[3])
    if bias.shape != (len(backwards), 2 * gates * hidden):
        raise NoKernel(f"biases are {bias.shape}")
    given = Given(bool(names[4]), bool(names[5]), bool(names[6]), bool(names[7]))
    functions = _functions(node.op, attributes, len(backwards))
    kernel = Recurrent(node.op, hidden, functions, backwards, given, product_type(ctx))
    return Layer(kernel, ctx.target.lanes, names, w, r, bias)


def _fixed(ctx: Lowering, name: str) -> np.ndarray:
    value = ctx.constant(name)
    if value is None or value.dtype != np.float32:
        raise NoKernel(f"{name!r} is no fixed float32 array")
    return value


def _functions(op: str, attributes: Any, directions: int) -> tuple[tuple[str, ...], ...]:
    """Return the names of the activations per direction."""
    count = len(DEFAULTS[op])
    named = tuple(n.lower() for n in attributes["activations"]) or DEFAULTS[op] * directions
    if len(named) != count * directions or not set(named) <= set(FUNCTIONS):
        raise NoKernel(f"activations {list(named)}")
    return tuple(named[d * count : (d + 1) * count] for d in range(directions))


def _reads(ctx: Lowering, node: Node, layer: Layer, batch: Dim) -> list[Buffer]:
    """Return weights, biases and what is given of lengths, states and peepholes."""
    names, kernel, key = layer.names, layer.kernel, layer.key
    found = [ctx.weights(f"{key}|state|{kernel.dtype}", layer.state_weights)]
    if kernel.cell == "GRU":
        found.append(ctx.weights(f"{key}|state bias", layer.state_bias))
    if names[4]:
        if ctx.dtype(names[4]) is not DType.INT32 or len(ctx.shape(names[4])) != 1:
            raise NoKernel(f"{names[4]!r} is no vector of int32")
        ctx.require_equal(
            ctx.shape(names[4])[0], batch, node, "there is not one length per sequence"
        )
        found.append(ctx.plain(names[4], node))
    batch_first = bool(ctx.attributes(node)["layout"])
    for name in names[5:7]:
        if name:
            first: Shape = (len(kernel.backwards), batch, kernel.hidden)
            wanted = (batch, *first[::2]) if batch_first else first
            if len(ctx.shape(name)) != 3 or ctx.dtype(name) is not DType.FLOAT32:
                raise NoKernel(f"the first state {name!r} is no float32 array of rank 3")
            for mine, right in zip(ctx.shape(name), wanted, strict=True):
                ctx.require_equal(mine, right, node, f"the first state {name!r} does not fit")
            found.append(ctx.plain(name, node))
    if names[7]:
        looks = _fixed(ctx, names[7])
        if looks.size != len(kernel.backwards) * 3 * kernel.hidden:
            raise NoKernel(f"peepholes are {looks.shape}")
        looks = looks.reshape(len(kernel.backwards), 3, kernel.hidden)
        found.append(ctx.weights(f"{names[7]}|{layer.lanes}", lambda: layer.padded(looks)))
    return found


def _writes(ctx: Lowering, node: Node, kernel: Recurrent, steps: Dim, batch: Dim) -> list[Buffer]:
    """Return all outputs; memory of its own for those that the node leaves out."""
    directions, hidden = len(kernel.backwards), kernel.hidden
    last: Shape = (directions, batch, hidden)
    shapes = [(steps, *last), last, last][: 3 if kernel.cell == "LSTM" else 2]
    names = (*node.outputs, "", "")
    return [
        ctx.output(name) if name else ctx.temporary_plain("state", shape, DType.FLOAT32)
        for name, shape in zip(names, shapes, strict=False)
    ]


def _numbers(kernel: Recurrent, steps: Dim, batch: Dim, wide: int, batch_first: bool) -> list[Dim]:
    """Return the kernel's numbers."""
    directions, hidden = len(kernel.backwards), kernel.hidden
    if batch_first:  # (B, T, D, H) and (B, D, H)
        states: list[Dim] = [directions * hidden, hidden, steps * directions * hidden]
        return [steps, batch, *states, hidden, directions * hidden, wide, steps * wide]
    states = [directions * batch * hidden, batch * hidden, hidden]  # (T, D, B, H) and (D, B, H)
    return [steps, batch, *states, batch * hidden, hidden, batch * wide, wide]
