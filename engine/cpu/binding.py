"""Binds a program to the shapes of its inputs: sizes, offsets, loop counts, barriers.

Done once per combination of shapes; what comes out is data that native code walks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.cpu.buffers import Buffer, Place, PlainLayout, Program, Step
from engine.cpu.itemwise import batch_symbol, choose_cut
from engine.cpu.memory_plan import Liveness, Tenant, place
from engine.cpu.runtime.program import Group, NativeProgram, ResolvedStep
from engine.errors import InvalidInput, ResourceLimit, RunFailed
from engine.ir.types import Dim, SymDim, evaluate, symbols_of

# Numbers of bases: where operands are counted from.
LOCAL, ARENA, ABSOLUTE, FIRST_ARRAY = 0, 1, 2, 3
MAX_NUMBER = (1 << 62) - 1
Shapes = tuple[tuple[int, ...], ...]
Span = tuple[int, int, int]  # base, begin, end


@dataclass(frozen=True, eq=False)
class Bound:
    """A program for one combination of input shapes.

    Attributes:
        native: The steps as native code takes them.
        arena_bytes: Memory that a run needs.
        outputs: Shape and numpy type per output.
        bindings: The numbers that symbols stand for.
    """

    native: NativeProgram
    arena_bytes: int
    outputs: tuple[tuple[tuple[int, ...], np.dtype[Any]], ...]
    bindings: Mapping[str, int]


class Binder:
    """Binds one program, whose kernels and fixed values have addresses already."""

    def __init__(
        self,
        program: Program,
        addresses: Sequence[int],
        weights: Sequence[tuple[int, int]],
        *,
        scratch_bytes: int,
        limit_bytes: int,
        label: str,
    ) -> None:
        """Take an address per step, and address and bytes per fixed value."""
        self._program, self._addresses, self._weights = program, addresses, weights
        self._scratch_bytes, self._limit, self._label = scratch_bytes, limit_bytes, label
        self._liveness = Liveness(program)
        self._batch = batch_symbol(program)
        sizes = [size for _, size in weights]
        self._cut = choose_cut(program, self._batch, sizes) if self._batch else 0

    def bind(
        self, shapes: Shapes, tail: Sequence[ResolvedStep] = (), tail_scratch: int = 0
    ) -> Bound:
        """Return the program for these shapes; ones that do not fit are an `InvalidInput`.

        The steps of a `tail`, and their scratch memory, follow the program's own.
        """
        bindings = self._bindings(shapes)
        number = Numbers(bindings)
        self._check_requirements(number)
        items = bindings[self._batch] if self._batch and self._cut else 0
        self._check_sizes(number)
        placement = _Placement(self, number, items if items > 1 else 0)
        native, arena = placement.resolve(tail, tail_scratch)
        if arena > self._limit:
            raise ResourceLimit(self._label, f"{arena} bytes", f"run_bytes={self._limit}")
        outputs = tuple(
            (tuple(number(d) for d in b.plain.shape), b.plain.dtype.numpy)
            for b in self._program.outputs
        )
        return Bound(native, arena, outputs, bindings)

    def _bindings(self, shapes: Shapes) -> dict[str, int]:
        """Bind every bare symbol, then hold all dims to what they were said to be."""
        bindings: dict[str, int] = {}
        pairs = [
            pair
            for buffer, shape in zip(self._program.inputs, shapes, strict=True)
            for pair in _aligned(buffer, shape)
        ]
        for _, expected, actual in pairs:
            if isinstance(expected, SymDim) and expected.is_symbol:
                bindings.setdefault(str(expected), actual)
        for buffer, expected, actual in pairs:
            if symbols_of(expected) <= bindings.keys() and evaluate(expected, bindings) != actual:
                raise InvalidInput(
                    f"value {buffer.name!r}: expected the dim {expected} = "
                    f"{evaluate(expected, bindings)}, got {actual}"
                )
        return bindings

    def _check_sizes(self, number: Numbers) -> None:
        """Refuse what cannot fit before anything is allocated, naming the node that asks for it."""
        outputs = sum(number(b.plain.size_bytes) for b in self._program.outputs)
        for step in self._program.steps:
            self._check_shapes(step, number)
            largest = max(map(number, (step.tasks, *step.numbers)))
            if largest > MAX_NUMBER:  # more than native code counts to: no memory holds it either
                where = f"node {step.node.label!r} ({step.node.op})"
                raise ResourceLimit(where, f"a size of {largest}", f"run_bytes={self._limit}")
            for buffer in step.writes:
                size = number(buffer.root[0].size_bytes)
                if size + outputs > self._limit and size:
                    need = f"{max(size, outputs)} bytes"
                    where = f"node {step.node.label!r} ({step.node.op})"
                    raise ResourceLimit(where, need, f"run_bytes={self._limit}")

    def _check_shapes(self, step: Step, number: Numbers) -> None:
        """Refuse shapes that cut away more than there is: only numbers tell, not symbols."""
        for buffer in step.writes:
            layout = buffer.layout
            shape = layout.shape if isinstance(layout, PlainLayout) else ()
            if number(step.tasks) < 0 or any(number(dim) < 0 for dim in shape):
                reason = (
                    f"expected no negative dims, its result would be {list(map(number, shape))}"
                )
                raise RunFailed(step.node.label, step.node.op, reason)

    def _check_requirements(self, number: Numbers) -> None:
        for rule in self._program.requirements:
            left, right = number(rule.left), number(rule.right)
            if left != right:
                reason = f"{rule.message}: {left} and {right}"
                raise RunFailed(rule.node.label, rule.node.op, reason)


class _Placement:
    """One binding under construction."""

    def __init__(self, binder: Binder, number: Numbers, items: int) -> None:
        self._program, self._liveness = binder._program, binder._liveness
        self._addresses, self._weights = binder._addresses, binder._weights
        self._scratch_bytes = binder._scratch_bytes
        self._number, self._items = number, items
        self._cut = binder._cut if items else 0
        self._of_item = number.with_one(binder._batch) if items and binder._batch else number
        self._where: dict[int, tuple[int, int]] = {}  # tenant -> base, offset

    def resolve(self, tail: Sequence[ResolvedStep], tail_scratch: int) -> tuple[NativeProgram, int]:
        """Place every value and return the steps, and the bytes of the arena."""
        local, shared = self._split()
        local_bytes = self._place(LOCAL, local, self._of_item)
        arena_bytes = self._place(ARENA, shared, self._number)
        steps = self._program.steps
        groups = []
        if self._cut:
            groups.append(Group(0, self._cut, self._items, local_bytes))
        if self._cut < len(steps) + len(tail):
            groups.append(Group(self._cut, len(steps) + len(tail) - self._cut, 0, 0))
        resolved = self._steps(0, self._cut, self._of_item, itemwise=True)
        resolved += self._steps(self._cut, len(steps), self._number, itemwise=False)
        scratch = max(self._scratch_bytes, tail_scratch)
        return NativeProgram([*resolved, *tail], groups, scratch), arena_bytes

    def _split(self) -> tuple[list[Tenant], list[Tenant]]:
        """Return who lives only while one picture goes through, and who lives for all of them."""
        local = [t for t in self._liveness.tenants if t.last < self._cut]
        rest = [t for t in self._liveness.tenants if t.last >= self._cut]
        # Written picture by picture: alive from the first one on.
        shared = [Tenant(t.size_bytes, 0 if t.first < self._cut else t.first, t.last) for t in rest]
        self._originals = {id(new): old for new, old in zip(shared, rest, strict=True)}
        return local, shared

    def _place(self, base: int, tenants: Sequence[Tenant], number: Numbers) -> int:
        offsets, total = place(tenants, [number(t.size_bytes) for t in tenants])
        for tenant, offset in zip(tenants, offsets, strict=True):
            self._where[id(self._originals.get(id(tenant), tenant))] = base, offset
        return total

    def _steps(
        self, begin: int, end: int, number: Numbers, *, itemwise: bool
    ) -> list[ResolvedStep]:
        hazards = _Hazards()
        found = []
        for i in range(begin, end):
            step = self._program.steps[i]
            operands = [self._operand(b, itemwise) for b in (*step.writes, *step.reads)]
            spans = [self._span(b, number) for b in (*step.writes, *step.reads)]
            found.append(
                ResolvedStep(
                    address=self._addresses[i],
                    operands=tuple(operands),
                    numbers=tuple(number(d) for d in step.numbers),
                    tasks=number(step.tasks),
                    chunk=0,
                    barrier=hazards.add(step, spans),
                )
            )
        return found

    def _operand(self, buffer: Buffer, itemwise: bool) -> tuple[int, int, int]:
        """Return base, offset, and the bytes to go on for every further item."""
        root, offset = buffer.root
        base, begin = self._begin(root)
        moves = itemwise and base not in (LOCAL, ABSOLUTE)
        return base, begin + offset, self._of_item(root.size_bytes) if moves else 0

    def _span(self, buffer: Buffer, number: Numbers) -> Span:
        root, _ = buffer.root
        base, begin = self._begin(root)
        return base, begin, begin + number(root.size_bytes)

    def _begin(self, root: Buffer) -> tuple[int, int]:
        inputs, outputs = len(self._program.inputs), len(self._program.outputs)
        match root.place:
            case Place.ARENA:
                return self._where[id(self._liveness.tenant(root))]
            case Place.WEIGHTS:
                return ABSOLUTE, self._weights[root.index][0]
            case Place.INPUT:
                return FIRST_ARRAY + root.index, 0
            case Place.OUTPUT if root.index >= 0:
                return FIRST_ARRAY + inputs + root.index, 0
            case Place.OUTPUT:  # a fault: behind the outputs
                return FIRST_ARRAY + inputs + outputs - 1 - root.index, 0


class Numbers:
    """Dims evaluated for one binding; equal dims once."""

    def __init__(self, bindings: Mapping[str, int]) -> None:
        self._bindings = bindings
        self._known: dict[Dim, int] = {}

    def __call__(self, dim: Dim) -> int:
        """Return the number that a dim comes to."""
        if isinstance(dim, int):
            return dim
        found = self._known.get(dim)
        if found is None:
            try:
                found = self._known[dim] = evaluate(dim, self._bindings)
            except ZeroDivisionError as error:
                raise InvalidInput(f"the size {dim} divides by 0 for these inputs") from error
        return found

    def with_one(self, symbol: str) -> Numbers:
        """Return the numbers for a batch of one."""
        return Numbers({**self._bindings, symbol: 1})


class _Hazards:
    """Says before which steps all threads must meet: where a step touches what an earlier one,
    since they last met, wrote; or writes what it read.
    """

    def __init__(self) -> None:
        self._written: list[Span] = []
        self._read: list[Span] = []

    def add(self, step: Step, spans: Sequence[Span]) -> bool:
        """Take in the next step; return whether it needs a barrier before it."""
        writes = list(spans[: len(step.writes)])
        reads = [span for span in spans[len(step.writes) :] if span[0] != ABSOLUTE]
        clash = _meet(self._written, [*writes, *reads]) or _meet(self._read, writes)
        if clash:
            self._written.clear()
            self._read.clear()
        self._written += writes
        self._read += reads
        return clash


def _meet(xs: Sequence[Span], ys: Sequence[Span]) -> bool:
    return any(x[0] == y[0] and x[1] < y[2] and y[1] < x[2] for x in xs for y in ys)


def _aligned(buffer: Buffer, shape: tuple[int, ...]) -> list[tuple[Buffer, Dim, int]]:
    expected = buffer.plain.shape
    if len(shape) != len(expected):
        raise InvalidInput(
            f"value {buffer.name!r}: expected rank {len(expected)}, got the shape {list(shape)}"
        )
    return [(buffer, dim, actual) for dim, actual in zip(expected, shape, strict=True)]
