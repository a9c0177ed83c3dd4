"""Where values lie in the arena: never two living ones at one place, and dead ones make room."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import llvmlite.ir as ir
from hypothesis import given
from hypothesis import strategies as st

from engine.cpu.buffers import Buffer, Place, PlainLayout, Program, Step
from engine.cpu.kernel import Kernel
from engine.cpu.memory_plan import ALIGNMENT, Liveness, Tenant, place
from engine.cpu.target import Target
from engine.dtypes import DType
from engine.ir.graph import Node
from engine.ir.types import symbol

NODE = Node("Test", (), ())
N = symbol("N")


@dataclass(frozen=True)
class Nothing(Kernel):
    def emit(self, module: ir.Module, name: str, target: Target) -> None:
        raise AssertionError("never emitted")


def buffer(name: str, size: int = 64, place: Place = Place.ARENA) -> Buffer:
    layout = PlainLayout((size,), DType.UINT8)
    return Buffer(name, layout, layout.size_bytes, place)


def step(write: Buffer, *reads: Buffer, in_place: bool = False) -> Step:
    return Step(Nothing(), (write,), reads, (), 1, NODE, in_place)


tenants = st.lists(
    st.tuples(st.integers(0, 1000), st.integers(0, 12), st.integers(0, 6)), max_size=24
)


@given(tenants)
def test_the_living_never_share_memory(rows: list[tuple[int, int, int]]) -> None:
    living = [Tenant(size, first, first + more) for size, first, more in rows]
    sizes = [size for size, _, _ in rows]
    offsets, total = place(living, sizes)
    for i, a in enumerate(living):
        assert offsets[i] % ALIGNMENT == 0
        assert offsets[i] + sizes[i] <= total
        for j in range(i):
            b = living[j]
            together = a.first <= b.last and b.first <= a.last
            apart = offsets[i] + sizes[i] <= offsets[j] or offsets[j] + sizes[j] <= offsets[i]
            assert not together or apart or not sizes[i] or not sizes[j]


def test_a_chain_of_values_takes_room_for_two() -> None:
    chain = [buffer(f"v{i}", 4096) for i in range(10)]
    program = Program([step(b, a) for a, b in itertools.pairwise(chain)])
    found = Liveness(program)
    _, total = place(found.tenants, [4096] * len(found.tenants))
    assert total == 2 * 4096


def test_a_step_in_place_takes_over_what_dies() -> None:
    a, b, c = buffer("a"), buffer("b"), buffer("c")
    program = Program([step(a), step(b, a, in_place=True), step(c, b, in_place=True)])
    found = Liveness(program)
    assert found.tenant(a) is found.tenant(b) is found.tenant(c)
    assert (found.tenant(a).first, found.tenant(a).last) == (0, 2)


def test_what_is_read_later_is_not_taken_over() -> None:
    a, b, c = buffer("a"), buffer("b"), buffer("c")
    program = Program([step(a), step(b, a, in_place=True), step(c, a, b)])
    found = Liveness(program)
    assert found.tenant(a) is not found.tenant(b)


def test_other_sizes_and_places_are_not_taken_over() -> None:
    a, b = buffer("a", 64), buffer("b", 128)
    x, y = buffer("x", 64, Place.INPUT), buffer("y", 64)
    found = Liveness(Program([step(a), step(b, a, in_place=True), step(y, x, in_place=True)]))
    assert found.tenant(a) is not found.tenant(b)
    assert len(found.tenants) == 3


def test_an_operand_that_is_read_twice_is_not_taken_over() -> None:
    """One of the two may be read at other places than it is written."""
    a, b = buffer("a"), buffer("b")
    found = Liveness(Program([step(a), step(b, a, a, in_place=True)]))
    assert found.tenant(a) is not found.tenant(b)


def test_a_view_keeps_its_owner_alive() -> None:
    whole = buffer("whole", 256)
    part = Buffer("part", PlainLayout((64,), DType.UINT8), 64, Place.ARENA, whole, 128)
    late = buffer("late", 256)
    found = Liveness(Program([step(whole), step(late), step(buffer("end"), part, late)]))
    assert found.tenant(whole).last == 2
    assert part.root == (whole, 128)


def test_sizes_may_be_symbols() -> None:
    layout = PlainLayout((N, 4), DType.FLOAT32)
    value = Buffer("v", layout, layout.size_bytes)
    assert str(Liveness(Program([step(value)])).tenants[0].size_bytes) == "16*N"
