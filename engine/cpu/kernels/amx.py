"""Instructions on tiles (AMX): registers of up to 16 rows of 64 bytes that multiply as matrices.

What they do is told in Intel's Software Developer's Manual, volume 2. Sums take the left side, rows
of quads of bytes (pairs of bfloat16), times packed weights, whose rows hold a quad of each of 16
columns: what a panel of packed weights is made of anyway. The eight registers have fixed roles:
sums of two groups of rows by two vectors of columns, the left side of both groups, and the weights
of both vectors.

LLVM has intrinsics that name tile registers, but its scheduler renames those as if all of them had
one shape, so each instruction is written as assembly, which nothing touches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import llvmlite.ir as ir

from engine.cpu.builder import I8, I64, PTR, VOID, Builder, Number, Value, i64
from engine.cpu.kernel import KernelBuilder
from engine.cpu.target import Target

TILE_ROWS: Final = 16
ROW_BYTES: Final = 64
GROUPS: Final = 2  # groups of rows whose sums fit the registers, by as many vectors of columns
FULL: Final = GROUPS * TILE_ROWS  # rows of a full block of sums
QUAD_BYTES: Final = 4
LEAST_STEP: Final = TILE_ROWS // 2  # quads; shorter steps leave most of a tile empty

BF16_PAIRS: Final = "tdpbf16ps"
UNSIGNED_BYTES: Final = "tdpbusd"  # the left side's; weights are signed
SIGNED_BYTES: Final = "tdpbssd"

_LEFT, _RIGHT = 4, 6  # the first register of either
_COLUMN_BYTES_AT, _ROWS_AT = 16, 48  # in a configuration


def step_quads(target: Target, runs: Sequence[int]) -> int:
    """Return the quads that one step of a sum takes, the same for runs of so many bytes.

    0 where tiles do not suit: the processor has none, or no step of whole quads divides all runs
    without leaving most of a tile empty.
    """
    if not target.has_amx or any(run % QUAD_BYTES for run in runs):
        return 0
    quads = [run // QUAD_BYTES for run in runs]
    steps = range(TILE_ROWS, LEAST_STEP - 1, -1)
    return next((step for step in steps if all(count % step == 0 for count in quads)), 0)


def sum_tile(group: int, column: int) -> int:
    """Return the register of the sums of a group of rows and a vector of columns."""
    return GROUPS * group + column


def left_tile(group: int) -> int:
    """Return the register of the left side of a group of rows."""
    return _LEFT + group


def right_tile(column: int) -> int:
    """Return the register of the weights of a vector of columns."""
    return _RIGHT + column


# ---------------------------------------------------------------------- shapes of tiles


def configuration(rows: Sequence[int], step: int) -> bytes:
    """Return the 64 bytes that give tiles their shapes: rows of each group, quads of a step."""
    data = bytearray(64)
    data[0] = 1  # the palette

    def shape(tile: int, count: int, row_bytes: int) -> None:
        data[_COLUMN_BYTES_AT + 2 * tile] = row_bytes
        data[_ROWS_AT + tile] = count

    for column in range(GROUPS):
        shape(right_tile(column), step, ROW_BYTES)
    for group, count in enumerate(rows):
        shape(left_tile(group), count, step * QUAD_BYTES)
        for column in range(GROUPS):
            shape(sum_tile(group, column), count, ROW_BYTES)
    return bytes(data)


def configure(f: Builder, rows: Sequence[int], step: int) -> None:
    """Give tiles their shapes; they are zero then."""
    _assembly(f, "ldtilecfg ($0)", _constant(f, rows, step))


def configure_last(f: Builder, rows: Sequence[int], step: int, count: Value) -> None:
    """The same, but with `count` rows, a run-time number above 0, in the last group."""
    memory, last = f.stack(64), len(rows) - 1
    f.copy(memory, _constant(f, rows, step), 64)
    byte = f.b.trunc(count, I8)
    for tile in (left_tile(last), *(sum_tile(last, column) for column in range(GROUPS))):
        f.b.store(byte, f.at_bytes(memory, _ROWS_AT + tile), align=1)
    _assembly(f, "ldtilecfg ($0)", memory)


def _constant(f: Builder, rows: Sequence[int], step: int) -> Value:
    name = ".".join(map(str, ("tiles", *rows, step)))
    if name in f.module.globals:
        return f.module.globals[name]
    kind = ir.ArrayType(I8, 64)
    found = ir.GlobalVariable(f.module, kind, name)
    found.initializer = ir.Constant(kind, bytearray(configuration(rows, step)))
    found.linkage, found.global_constant, found.align = "internal", True, 64
    found.type = PTR  # llvmlite gives globals typed pointers; all others are opaque
    return found


def begin_tiles(f: KernelBuilder, rows: Sequence[int], step: int) -> None:
    """Begin a kernel that uses tiles, in these shapes."""
    configure(f, rows, step)


def end_tiles(f: KernelBuilder) -> None:
    """End it: a processor saves no power, and a switch of threads no time, while tiles are used."""
    _assembly(f, "tilerelease")


# ---------------------------------------------------------------------- work on tiles


def load_tile(f: Builder, tile: int, pointer: Value, step: Number) -> None:
    """Read a tile's rows, `step` bytes from one to the next."""
    _assembly(f, f"tileloadd ($0,$1), %tmm{tile}", pointer, i64(step))


def store_tile(f: Builder, tile: int, pointer: Value, step: Number) -> None:
    """Write a tile's rows, `step` bytes from one to the next."""
    _assembly(f, f"tilestored %tmm{tile}, ($0,$1)", pointer, i64(step))


def multiply_tiles(f: Builder, instruction: str, group: int, column: int) -> None:
    """Add the products of a group of rows and a vector of columns to their sums."""
    registers = right_tile(column), left_tile(group), sum_tile(group, column)
    _assembly(f, f"{instruction} " + ", ".join(f"%tmm{register}" for register in registers))


def _assembly(f: Builder, text: str, *operands: Value) -> None:
    kinds = [PTR if operand.type == PTR else I64 for operand in operands]
    constraints = ",".join(["r"] * len(operands) + ["~{memory}"])
    f.b.asm(ir.FunctionType(VOID, kinds), text, constraints, list(operands), side_effect=True)
