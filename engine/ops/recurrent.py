"""Recurrent networks over whole sequences: RNN, GRU, LSTM, in one or both directions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from engine.ir.types import Dim, Shape, TensorType, element_count
from engine.ops.common import Array, narrow, one_of, widen
from engine.ops.contexts import ComputeContext, InferContext
from engine.ops.registry import operator
from engine.ops.row_rules import side_inputs_problem
from engine.ops.rows import RowContext, RowState, rows_on

Activation = Callable[[Array], Array]
State = tuple[Array, ...]  # the hidden state, and the cell of an LSTM
Step = Callable[[Array, State], State]

# Whether each direction runs backwards.
DIRECTIONS = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}
RECURRENT_ATTRIBUTES: dict[str, Any] = {
    "activation_alpha": (),
    "activation_beta": (),
    "activations": (),
    "clip": None,
    "direction": "forward",
    "hidden_size": None,
    "layout": 0,
}


def activation(xp: Any, name: str, alpha: float | None, beta: float | None) -> Activation:
    """One of ONNX's activation functions, by its name in any case."""
    a = {"leakyrelu": 0.01, "hardsigmoid": 0.2}.get(name.lower(), 1.0) if alpha is None else alpha
    b = {"hardsigmoid": 0.5}.get(name.lower(), 0.0 if name.lower() == "affine" else 1.0)
    b = b if beta is None else beta
    table: dict[str, Activation] = {
        "relu": lambda x: xp.maximum(x, 0),
        "tanh": xp.tanh,
        "sigmoid": lambda x: 1 / (1 + xp.exp(-x)),
        "affine": lambda x: a * x + b,
        "leakyrelu": lambda x: xp.where(x >= 0, x, a * x),
        "thresholdedrelu": lambda x: xp.where(x >= a, x, 0),
        "scaledtanh": lambda x: a * xp.tanh(b * x),
        "hardsigmoid": lambda x: xp.clip(a * x + b, 0, 1),
        "elu": lambda x: xp.where(x >= 0, x, a * (xp.exp(xp.minimum(x, 0)) - 1)),
        "softsign": lambda x: x / (1 + xp.abs(x)),
        "softplus": lambda x: xp.log1p(xp.exp(-xp.abs(x))) + xp.maximum(x, 0),
    }
    if name.lower() not in table:
        raise ValueError(f"activation {name!r} is unknown; known are {', '.join(sorted(table))}")
    return table[name.lower()]


@dataclass(frozen=True)
class Cell:
    """One direction's weights and functions.

    Attributes:
        w: Input weights (gates * hidden, input).
        r: Recurrence weights (gates * hidden, hidden).
        wb: Input biases (gates * hidden).
        rb: Recurrence biases (gates * hidden).
        peepholes: An LSTM's connections from cell to gates (3, hidden).
        functions: Activations in ONNX's order.
    """

    w: Array
    r: Array
    wb: Array
    rb: Array
    peepholes: Array
    functions: Sequence[Activation]
    attributes: Any

    def clip(self, xp: Any, x: Array) -> Array:
        """Hold gate inputs in bounds, if the node states any."""
        limit = self.attributes["clip"]
        return x if not limit else xp.clip(x, -limit, limit)


def infer_recurrent(ctx: InferContext) -> Sequence[TensorType]:
    """All hidden states, the last one, and for an LSTM the last cell."""
    one_of(ctx, "direction", DIRECTIONS)
    x, r = ctx.shape(0), ctx.shape(2)
    kind = ctx.type(0)
    if x is None or r is None:
        return [kind.with_shape(None)] * ctx.n_outputs
    if len(x) != 3 or len(r) != 3:
        ctx.fail(f"expected input and weights of rank 3, got {list(x)} and {list(r)}")
    directions = len(DIRECTIONS[ctx.attributes["direction"]])
    if isinstance(r[0], int) and r[0] != directions:
        ctx.fail(f"weights for {r[0]} directions, the node has {directions}")
    everything: Shape = (x[0], directions, x[1], r[2])
    last: Shape = (directions, x[1], r[2])
    if ctx.attributes["layout"]:
        everything, last = (x[0], x[1], directions, r[2]), (x[0], directions, r[2])
    kinds = [kind.with_shape(everything), kind.with_shape(last), kind.with_shape(last)]
    return kinds[: ctx.n_outputs]


def recurrent_rows(ctx: RowContext) -> Sequence[RowState]:
    """Items lie on the batch axis of the input and of every state given."""
    batch = 0 if ctx.attributes["layout"] else 1
    places = {0: batch, 4: 0, 5: batch, 6: batch}
    problem = side_inputs_problem(ctx, tuple(places))
    if problem:
        return ctx.mixed(problem)
    first = ctx.rows[0]
    for i, axis in places.items():
        state = ctx.rows[i] if i < len(ctx.rows) else None
        if state is not None and state != rows_on(axis, first.block if first else 1):
            return ctx.mixed(f"input {i} does not carry the items on axis {axis}")
    assert first is not None
    everything = rows_on(0 if ctx.attributes["layout"] else 2, first.block)
    last = rows_on(batch, first.block)
    return [everything, last, last][: len(ctx.node.outputs)]


def recurrent_flops(ctx: InferContext) -> Dim:
    """Two per weight, item and step."""
    x, w, r = ctx.shape(0), ctx.shape(1), ctx.shape(2)
    if x is None or w is None or r is None:
        return 0
    return 2 * x[0] * x[1] * (element_count(w) + element_count(r))


def run_recurrent(
    ctx: ComputeContext,
    inputs: Sequence[Array | None],
    gates: int,
    defaults: Sequence[str],
    make_step: Callable[[Any, Cell], Step],
) -> list[Array]:
    """Run every direction; narrow floats compute in float32."""
    xp, attributes = ctx.xp, ctx.attributes
    padded: list[Any] = [*inputs, *(None,) * (8 - len(inputs))]
    (x, w, r, bias, lengths), states = padded[:5], padded[5:]
    batch_first = bool(attributes["layout"])
    sequence = widen(xp, x.swapaxes(0, 1) if batch_first else x)  # (T, B, I)
    hidden = r.shape[2]
    if w.shape[1] != gates * hidden or w.shape[2] != sequence.shape[2]:
        raise ValueError(f"weights {w.shape} and {r.shape} do not fit an input of {x.shape}")
    outputs, finals = [], []
    for d, backwards in enumerate(DIRECTIONS[attributes["direction"]]):
        cell = _cell(ctx, w[d], r[d], bias, states[2], d, gates, defaults)
        state = tuple(
            xp.zeros((sequence.shape[1], hidden), dtype=sequence.dtype)
            if given is None
            else widen(xp, given[:, d] if batch_first else given[d])
            for given in states[: 2 if gates == 4 else 1]
        )
        step = make_step(xp, cell)
        steps, state = _run_direction(ctx, sequence, lengths, state, step, backwards)
        outputs.append(steps)
        finals.append(state)
    y = xp.stack(outputs, axis=1)  # (T, D, B, H)
    lasts = [xp.stack(each) for each in zip(*finals, strict=True)]  # (D, B, H)
    if batch_first:
        y, lasts = y.transpose(2, 0, 1, 3), [each.swapaxes(0, 1) for each in lasts]
    return [narrow(xp.ascontiguousarray(each), x.dtype) for each in (y, *lasts)][: ctx.n_outputs]


def _cell(
    ctx: ComputeContext,
    w: Array,
    r: Array,
    bias: Array | None,
    peepholes: Array | None,
    d: int,
    gates: int,
    defaults: Sequence[str],
) -> Cell:
    xp, attributes, size = ctx.xp, ctx.attributes, r.shape[1]
    count = len(defaults)
    names = tuple(attributes["activations"]) or tuple(defaults) * (d + 1)
    alphas, betas = (_numbers(attributes[f"activation_{k}"], names) for k in ("alpha", "beta"))
    part = slice(d * count, (d + 1) * count)
    functions = [
        activation(xp, *each) for each in zip(names[part], alphas[part], betas[part], strict=True)
    ]
    biases = xp.zeros(2 * gates * size, dtype=xp.float32) if bias is None else bias[d]
    looks = xp.zeros(3 * size, dtype=xp.float32) if peepholes is None else peepholes[d]
    w, r, biases, looks = (widen(xp, each) for each in (w, r, biases, looks))
    half = gates * size
    return Cell(w, r, biases[:half], biases[half:], looks.reshape(3, -1), functions, attributes)


def _numbers(given: Sequence[float], names: Sequence[str]) -> list[float | None]:
    """Hand out parameters in order to the activations that take one."""
    left = iter(given)
    plain = {"relu", "tanh", "sigmoid", "softsign", "softplus"}
    return [None if name.lower() in plain else next(left, None) for name in names]


def _run_direction(
    ctx: ComputeContext,
    sequence: Array,
    lengths: Array | None,
    state: State,
    step: Step,
    backwards: bool,
) -> tuple[Array, State]:
    xp = ctx.xp
    steps = sequence.shape[0]
    outputs = xp.zeros((steps, *state[0].shape), dtype=sequence.dtype)
    if not outputs.size:  # no item, however many steps
        return outputs, state
    for t in reversed(range(steps)) if backwards else range(steps):
        new = step(sequence[t], state)
        if lengths is not None:  # sequences that are over keep their state and give zeros
            runs = (t < lengths.reshape(-1))[:, None]
            new = tuple(xp.where(runs, n, o) for n, o in zip(new, state, strict=True))
            outputs[t] = xp.where(runs, new[0], 0)
        else:
            outputs[t] = new[0]
        state = new
    return outputs, state


@operator("RNN", since=(1, 7, 14, 22))
class RNN:
    """`H = f(X W' + H R' + b)`."""

    attributes = {**RECURRENT_ATTRIBUTES, "output_sequence": 0}
    infer, rows = staticmethod(infer_recurrent), staticmethod(recurrent_rows)
    flops = staticmethod(recurrent_flops)

    @staticmethod
    def compute(ctx: ComputeContext, *inputs: Array | None) -> Sequence[Array]:
        """One gate."""
        return run_recurrent(ctx, inputs, 1, ("Tanh",), RNN.step)

    @staticmethod
    def step(xp: Any, cell: Cell) -> Step:
        """What happens at one time."""
        (f,) = cell.functions
        bias = cell.wb + cell.rb

        def run(x: Array, state: State) -> State:
            return (f(cell.clip(xp, x @ cell.w.T + state[0] @ cell.r.T + bias)),)

        return run


@operator("GRU", since=(1, 3, 7, 14, 22))
class GRU:
    """Gated recurrent units: update, reset and hidden gates."""

    attributes = {**RECURRENT_ATTRIBUTES, "linear_before_reset": 0, "output_sequence": 0}
    infer, rows = staticmethod(infer_recurrent), staticmethod(recurrent_rows)
    flops = staticmethod(recurrent_flops)

    @staticmethod
    def compute(ctx: ComputeContext, *inputs: Array | None) -> Sequence[Array]:
        """Three gates."""
        return run_recurrent(ctx, inputs, 3, ("Sigmoid", "Tanh"), GRU.step)

    @staticmethod
    def step(xp: Any, cell: Cell) -> Step:
        """What happens at one time."""
        f, g = cell.functions
        size = cell.r.shape[1]
        r_hidden, rb_hidden = cell.r[2 * size :], cell.rb[2 * size :]
        before = bool(cell.attributes["linear_before_reset"])

        def run(x: Array, state: State) -> State:
            (h,) = state
            left = x @ cell.w.T + cell.wb
            both = left[:, : 2 * size] + h @ cell.r[: 2 * size].T + cell.rb[: 2 * size]
            both = f(cell.clip(xp, both))
            update, reset = both[:, :size], both[:, size:]
            if before:
                recalled = reset * (h @ r_hidden.T + rb_hidden)
            else:
                recalled = (reset * h) @ r_hidden.T + rb_hidden
            hidden = g(cell.clip(xp, left[:, 2 * size :] + recalled))
            return ((1 - update) * hidden + update * h,)

        return run


@operator("LSTM", since=(1, 7, 14, 22))
class LSTM:
    """Long short-term memory: input, output, forget and cell gates."""

    attributes = {**RECURRENT_ATTRIBUTES, "input_forget": 0, "output_sequence": 0}
    infer, rows = staticmethod(infer_recurrent), staticmethod(recurrent_rows)
    flops = staticmethod(recurrent_flops)

    @staticmethod
    def compute(ctx: ComputeContext, *inputs: Array | None) -> Sequence[Array]:
        """Four gates."""
        return run_recurrent(ctx, inputs, 4, ("Sigmoid", "Tanh", "Tanh"), LSTM.step)

    @staticmethod
    def step(xp: Any, cell: Cell) -> Step:
        """What happens at one time."""
        f, g, h = cell.functions
        look_in, look_out, look_forget = cell.peepholes
        bias = cell.wb + cell.rb
        coupled = bool(cell.attributes["input_forget"])

        def run(x: Array, state: State) -> State:
            hidden, memory = state
            gates = x @ cell.w.T + hidden @ cell.r.T + bias
            i, o, keep, c = xp.split(gates, 4, axis=-1)
            i = f(cell.clip(xp, i + look_in * memory))
            keep = 1 - i if coupled else f(cell.clip(xp, keep + look_forget * memory))
            memory = keep * memory + i * g(cell.clip(xp, c))
            o = f(cell.clip(xp, o + look_out * memory))
            return o * h(memory), memory

        return run
