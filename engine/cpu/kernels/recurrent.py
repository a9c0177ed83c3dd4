"""Recurrent layers: all steps of a few sequences, once the inputs' products are there.

What comes from the inputs is one product over all steps, made before. What comes from the state is
computed here: packed so that all gates of a vector of units lie side by side, hence the sums of a
cell never leave the registers, and neither do its gates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import llvmlite.ir as ir

from engine.cpu.builder import I32, Value
from engine.cpu.kernel import Kernel, KernelBuilder
from engine.cpu.kernels.tile import broadcast, load_columns, multiply_add
from engine.cpu.target import Target
from engine.cpu.vmath import sigmoid, tanh
from engine.dtypes import DType

GATES: Final = {"LSTM": 4, "GRU": 3, "RNN": 1}
ROWS: Final = 4  # sequences of one task
FUNCTIONS: Final = ("relu", "sigmoid", "tanh")


@dataclass(frozen=True)
class Given:
    """Which of the optional operands there are."""

    lengths: bool = False
    hidden: bool = False
    memory: bool = False
    peepholes: bool = False


@dataclass(frozen=True)
class Recurrent(Kernel):
    """operands: all hidden states, the last one, (LSTM) the last memory, then: gates from the
    inputs, packed weights, (GRU) biases of the state's product, those of `given` in order.
    numbers: steps, sequences; elements from step to step, direction to direction and sequence to
    sequence of all states; the last two of the last states; elements from step to step and sequence
    to sequence of the gates. Tasks: directions times blocks of `ROWS` sequences.

    Attributes:
        cell: "LSTM", "GRU" (whose reset gate follows the product) or "RNN".
        hidden: Units.
        functions: Names of its activations, for every direction.
        backwards: Whether each direction runs backwards.
        given: The optional operands.
        dtype: What state and weights are multiplied as: FLOAT32, or BFLOAT16 in pairs; what is kept
            from step to step is float32.
    """

    cell: str
    hidden: int
    functions: tuple[tuple[str, ...], ...]
    backwards: tuple[bool, ...]
    given: Given
    dtype: DType = DType.FLOAT32

    @property
    def gates(self) -> int:
        """Gates of a unit."""
        return GATES[self.cell]

    @property
    def terms(self) -> int:
        """Units of the state that are multiplied: in pairs, if their type asks for it."""
        return self.hidden + (self.hidden % 2 if self.dtype is DType.BFLOAT16 else 0)

    def units(self, target: Target) -> int:
        """Units in memory: whole vectors."""
        return target.whole_vectors(self.hidden)

    def scratch_bytes(self, target: Target) -> int:
        """Two hidden states and a memory for every sequence of a task; both states rounded."""
        return 4 * ROWS * self.units(target) * 4

    def emit(self, module: ir.Module, name: str, target: Target) -> None:
        """Blocks of sequences; where there are fewer than a block, one by one."""
        f = KernelBuilder(module, name, target)
        batch = f.number(1)
        blocks = f.div(f.add(batch, ROWS - 1), ROWS)
        with f.loop(f.low, f.high, unroll=False) as task:
            direction, block = f.divmod(task.i, blocks)
            if len(set(self.functions)) == 1:
                self._emit_block(f, direction, 0, block, batch)
            else:
                for d in range(len(self.backwards)):
                    with f.if_(f.equals(direction, d)):
                        self._emit_block(f, direction, d, block, batch)
        f.ret()

    def _emit_block(
        self, f: KernelBuilder, direction: Value, alike: int, block: Value, batch: Value
    ) -> None:
        """Write the code of a direction whose activations are those of direction `alike`."""
        functions = self.functions[alike]
        with f.if_else(f.less(batch, ROWS)) as (few, many):
            with few, f.loop(0, batch, unroll=False) as row:
                _Sequences(self, f, direction, functions, row.i, 1).run()
            with many:
                # The last block reaches back; what it does twice comes out the same.
                first = f.least(f.mul(block, ROWS), f.sub(batch, ROWS))
                _Sequences(self, f, direction, functions, first, ROWS).run()


class _Sequences:
    """Code for some neighbouring sequences in one direction."""

    def __init__(
        self,
        kernel: Recurrent,
        f: KernelBuilder,
        direction: Value,
        functions: tuple[str, ...],
        first: Value,
        rows: int,
    ) -> None:
        self.kernel, self.f, self.direction, self.rows = kernel, f, direction, rows
        self.functions, self.first = functions, first
        self.units = kernel.units(f.target)
        self.is_lstm = kernel.cell == "LSTM"
        size = ROWS * self.units * 4
        self.memory = f.at_bytes(f.scratch, 2 * size)
        self.rounded = f.at_bytes(f.scratch, 3 * size)
        self.pair = 2 if kernel.dtype is DType.BFLOAT16 else 1
        self.gates_per_unit = kernel.gates * f.lanes  # elements of a vector of units
        operands = iter(range(16))
        self.y, self.last = f.operand(next(operands)), f.operand(next(operands))
        self.last_memory = f.operand(next(operands)) if self.is_lstm else None
        self.inputs, self.weights = f.operand(next(operands)), f.operand(next(operands))
        has = kernel.given
        self.bias = f.operand(next(operands)) if kernel.cell == "GRU" else None
        self.lengths = f.operand(next(operands)) if has.lengths else None
        self.start = f.operand(next(operands)) if has.hidden else None
        self.start_memory = f.operand(next(operands)) if has.memory else None
        self.looks = f.operand(next(operands)) if has.peepholes else None
        names = ("steps", "batch", "y_step", "y_direction", "y_row", "last_direction", "last_row")
        self.number = {n: f.number(k) for k, n in enumerate((*names, "x_step", "x_row"))}

    def run(self) -> None:
        """From the first state to the last."""
        f, steps = self.f, self.number["steps"]
        self._begin()
        with f.loop(0, steps, carry=[f.mul(0, 1)], unroll=False) as turn:
            t = turn.i
            backwards = self.kernel.backwards
            if any(backwards):
                back = f.sub(f.sub(steps, 1), t)
                t = back if all(backwards) else f.choose(f.equals(self.direction, 1), back, t)
            old = turn.values[0]
            new = f.sub(1, old)
            self._step(t, old, self._state(old), self._state(new))
            self._write(t, self._state(new))
            turn.next = [new]
        self._end(self._state(turn.result[0]))

    def _state(self, which: Value) -> Value:
        return self.f.at(self.f.scratch, self.f.mul(which, ROWS * self.units))

    def _factors(self, which: Value) -> Value:
        """Return a state as it is multiplied."""
        if self.pair == 1:
            return self._state(which)
        place = self.f.mul(which, ROWS * self.units)
        return self.f.at(self.rounded, place, self.kernel.dtype)

    # ------------------------------------------------------------------ first and last states

    def _begin(self) -> None:
        first, f, dtype = self.f.mul(0, 1), self.f, self.kernel.dtype
        self._fill(self._state(first), self.start)
        if self.pair > 1:
            state, factors = self._state(first), self._factors(first)
            with f.loop(0, self.rows * self.units, f.lanes, unroll=False) as k:
                f.store(f.load(f.at(state, k.i)), f.at(factors, k.i, dtype), dtype)
        if self.is_lstm:
            self._fill(self.memory, self.start_memory)

    def _fill(self, state: Value, source: Value | None) -> None:
        """Set a state to what is given, or to zeros."""
        f, hidden = self.f, self.kernel.hidden
        f.clear(state, self.rows * self.units * 4)
        if source is not None:
            for r in range(self.rows):
                f.copy(f.at(state, r * self.units), self._last_row(source, r), hidden * 4)

    def _last_row(self, array: Value, row: int) -> Value:
        """Return a row of an array of first or last states."""
        f, number = self.f, self.number
        place = f.mul(f.add(self.first, row), number["last_row"])
        return f.at(array, f.add(place, f.mul(number["last_direction"], self.direction)))

    def _end(self, state: Value) -> None:
        f, size = self.f, self.kernel.hidden * 4
        for r in range(self.rows):
            f.copy(self._last_row(self.last, r), f.at(state, r * self.units), size)
            if self.last_memory is not None:
                source = f.at(self.memory, r * self.units)
                f.copy(self._last_row(self.last_memory, r), source, size)

    def _write(self, t: Value, state: Value) -> None:
        """Put the states where the result wants them; zeros for sequences that are over."""
        f, number, size = self.f, self.number, self.kernel.hidden * 4
        for r in range(self.rows):
            row = f.add(self.first, r)
            place = f.add(f.mul(t, number["y_step"]), f.mul(row, number["y_row"]))
            place = f.add(place, f.mul(number["y_direction"], self.direction))
            to, source = f.at(self.y, place), f.at(state, r * self.units)
            if self.lengths is None:
                f.copy(to, source, size)
                continue
            with f.if_else(self._runs(t, r)) as (runs, over):
                with runs:
                    f.copy(to, source, size)
                with over:
                    f.clear(to, size)

    def _runs(self, t: Value, row: int) -> Value:
        """Whether a sequence is still running at a step."""
        f = self.f
        place = f.at_bytes(self.lengths, f.mul(f.add(self.first, row), 4))
        length = f.b.load(place, typ=I32, align=4)
        return f.less(t, f.b.sext(length, t.type))

    # ------------------------------------------------------------------ one step

    def _step(self, t: Value, odd: Value, old: Value, new: Value) -> None:
        """All units, a vector or two at a time; every other step from the last to the first.

        Weights that are a little too many for the cache are then found there for the most part:
        what was read last is read first.
        """
        f, kernel, number = self.f, self.kernel, self.number
        wide = self.gates_per_unit * (self.units // f.lanes)  # gates of one direction
        inputs = []
        for r in range(self.rows):
            row = f.mul(f.add(self.first, r), number["x_row"])
            place = f.add(f.mul(t, number["x_step"]), row)
            inputs.append(f.at(self.inputs, f.add(place, f.mul(self.direction, wide))))
        terms, dtype = kernel.terms, kernel.dtype
        weights = f.at(self.weights, f.mul(self.direction, wide * terms), dtype)
        # Sums of one sequence would wait for each other: of two vectors there are twice as many.
        width = f.lanes * (2 if self.rows == 1 and self.units % (2 * f.lanes) == 0 else 1)
        factors = self._factors(odd), self._factors(f.sub(1, odd))
        with f.loop(0, self.units, width, unroll=False) as turn:
            back = f.sub(self.units - width, turn.i)
            first = f.choose(f.equals(odd, 0), turn.i, back)
            units = [f.add(first, k) for k in range(0, width, f.lanes)]
            panels = [f.at(weights, f.mul(u, kernel.gates * terms), dtype) for u in units]
            given = [[self._given(row, unit) for row in inputs] for unit in units]
            starts = [self._firsts(rows, unit) for rows, unit in zip(given, units, strict=True)]
            gates = self._sums(panels, factors[0], starts)
            for k, unit in enumerate(units):
                for r in range(self.rows):
                    self._cell(t, r, unit, given[k][r], gates[k][r], old, new, factors[1])

    def _given(self, row: Value, unit: Value) -> list[Value]:
        """Return what the inputs give to the gates of a vector of units."""
        f, count = self.f, self.kernel.gates
        offset = f.mul(unit, count)
        return [f.load(f.at(row, f.add(offset, g * f.lanes))) for g in range(count)]

    def _firsts(self, given: list[list[Value]], unit: Value) -> list[list[Value]]:
        """Return what the sums begin with: of a GRU's last gate only the state's bias."""
        if self.bias is None:
            return given
        bias = self.f.load(
            self.f.at(self.bias, self.f.add(unit, self.f.mul(self.direction, self.units)))
        )
        return [[*row[:2], bias] for row in given]

    def _sums(
        self, panels: list[Value], old: Value, firsts: list[list[list[Value]]]
    ) -> list[list[list[Value]]]:
        """Return the gates with the state's products added, by vector of units and sequence."""
        f, count, dtype, pair = self.f, self.kernel.gates, self.kernel.dtype, self.pair
        carry = [value for rows in firsts for row in rows for value in row]
        with f.loop(0, self.kernel.terms // pair, carry=carry, unroll=False) as k:
            state, before, sums = f.at(old, f.mul(k.i, pair), dtype), iter(k.values), []
            numbers = [
                broadcast(f, f.at(state, r * self.units, dtype), dtype) for r in range(self.rows)
            ]
            for panel in panels:
                line = f.at(panel, f.mul(k.i, self.gates_per_unit * pair), dtype)
                weights = [
                    load_columns(f, f.at(line, g * f.lanes * pair, dtype), dtype)
                    for g in range(count)
                ]
                for number in numbers:
                    sums += [multiply_add(f, number, w, next(before), dtype) for w in weights]
            k.next = sums
        found = iter(k.result)
        return [[[next(found) for _ in row] for row in rows] for rows in firsts]

    def _cell(
        self,
        t: Value,
        row: int,
        unit: Value,
        given: Sequence[Value],
        gates: Sequence[Value],
        old: Value,
        new: Value,
        factors: Value,
    ) -> None:
        f, dtype = self.f, self.kernel.dtype
        place = f.add(unit, row * self.units)
        before = f.load(f.at(old, place))
        if self.is_lstm:
            at = f.at(self.memory, place)
            memory = f.load(at)
            after, kept = self._lstm(gates, memory, unit)
            f.store(self._unless_over(t, row, kept, memory), at)
        elif self.kernel.cell == "GRU":
            after = self._gru(given, gates, before)
        else:
            after = self._activate(0, gates[0])
        after = self._unless_over(t, row, after, before)
        f.store(after, f.at(new, place))
        if self.pair > 1:
            f.store(after, f.at(factors, place, dtype), dtype)

    def _unless_over(self, t: Value, row: int, new: Value, old: Value) -> Value:
        return new if self.lengths is None else self.f.choose(self._runs(t, row), new, old)

    def _lstm(self, gates: Sequence[Value], memory: Value, unit: Value) -> tuple[Value, Value]:
        """Return hidden state and memory."""
        b = self.f.b
        give, out, keep, cell = gates
        if self.looks is not None:
            give = self._look(0, unit, memory, give)
            keep = self._look(2, unit, memory, keep)
        kept = b.fmul(self._activate(0, keep), memory)
        memory = self.f.fma(self._activate(0, give), self._activate(1, cell), kept)
        if self.looks is not None:
            out = self._look(1, unit, memory, out)
        return b.fmul(self._activate(0, out), self._activate(2, memory)), memory

    def _look(self, which: int, unit: Value, memory: Value, gate: Value) -> Value:
        """Add what a gate sees of the memory."""
        f = self.f
        first = f.mul(f.add(f.mul(self.direction, 3), which), self.units)
        return f.fma(f.load(f.at(self.looks, f.add(unit, first))), memory, gate)

    def _gru(self, given: Sequence[Value], gates: Sequence[Value], before: Value) -> Value:
        f = self.f
        update, reset = self._activate(0, gates[0]), self._activate(0, gates[1])
        fresh = self._activate(1, f.fma(reset, gates[2], given[2]))
        return f.fma(update, f.b.fsub(before, fresh), fresh)

    def _activate(self, which: int, x: Value) -> Value:
        f = self.f
        match self.functions[which]:
            case "sigmoid":
                return sigmoid(f, x)
            case "tanh":
                return tanh(f, x)
            case "relu":  # NaN stays
                return f.choose(f.b.fcmp_ordered("<", x, f.floats(0.0)), f.floats(0.0), x)
        raise ValueError(f"no code for {self.functions[which]!r}")
