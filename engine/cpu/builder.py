"""Structured code over llvmlite's IR builder: loops, conditions, vectors of numbers in memory.

Kernels are written with a `Builder`. Pointers are opaque bytes; an element type is named where
memory is read or written. Numbers in registers have the type in which arithmetic is done: float32
for the narrow floats, the integer itself otherwise; `load` widens and `store` rounds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import llvmlite.ir as ir

from engine.cpu.target import Target
from engine.dtypes import DType


class _BFloat(ir.Type):  # type: ignore[misc]  # llvmlite has no types
    """LLVM's `bfloat`, which llvmlite cannot name."""

    intrinsic_name = "bf16"

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat)

    def __hash__(self) -> int:
        return hash(_BFloat)

    def format_constant(self, value: Any) -> str:
        return str(value)


PTR, VOID = ir.PointerType(), ir.VoidType()
I1, I8, I16, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
F16, F32, F64, BF16 = ir.HalfType(), ir.FloatType(), ir.DoubleType(), _BFloat()

# How an element lies in memory, and how it is held in a register.
MEMORY: Final[dict[DType, ir.Type]] = {
    DType.FLOAT32: F32,
    DType.FLOAT64: F64,
    DType.FLOAT16: F16,
    DType.BFLOAT16: BF16,
    DType.BOOL: I8,
    DType.INT8: I8,
    DType.UINT8: I8,
    DType.INT16: I16,
    DType.UINT16: I16,
    DType.INT32: I32,
    DType.UINT32: I32,
    DType.INT64: I64,
    DType.UINT64: I64,
}
REGISTER: Final = {**MEMORY, DType.FLOAT16: F32, DType.BFLOAT16: F32, DType.BOOL: I1}

Value = Any  # an ir.Value; llvmlite has no types
Number = int | Value  # integer arithmetic takes Python's numbers, too


def vector(element: ir.Type, lanes: int) -> ir.Type:
    """Return the type of a vector, or of one number for a single lane."""
    return element if lanes == 1 else ir.VectorType(element, lanes)


def i64(value: Number) -> Value:
    """Return a 64-bit integer for a Python number; values pass through."""
    return I64(value) if isinstance(value, int) else value


def lanes_of(value: Value) -> int:
    """Return how many numbers a register holds."""
    return value.type.count if isinstance(value.type, ir.VectorType) else 1


class Loop:
    """A loop under construction.

    Attributes:
        i: The counter.
        values: What is carried, as of the beginning of this turn.
        next: What the next turn shall carry; assign it before the loop's block ends.
        result: What is carried after the last turn; read it after the loop.
    """

    __slots__ = ("i", "next", "result", "values")

    def __init__(self, i: Value, values: list[Value]) -> None:
        self.i, self.values, self.next, self.result = i, values, values, values


class Builder:
    """One LLVM function under construction; `b` is llvmlite's own builder.

    Attributes:
        module: Where the function lives; helper functions and intrinsics go there too.
        target: The processor.
        lanes: float32 lanes of its vectors.
        function: The llvmlite function.
    """

    def __init__(
        self,
        module: ir.Module,
        name: str,
        parameters: Sequence[tuple[str, ir.Type]],
        target: Target,
        *,
        result: ir.Type = VOID,
        internal: bool = True,
        inline: bool | None = None,
        noalias: bool = False,
    ) -> None:
        self.module, self.target, self.lanes = module, target, target.lanes
        kind = ir.FunctionType(result, [type_ for _, type_ in parameters])
        self.function = ir.Function(module, kind, name)
        if internal:
            self.function.linkage = "internal"
        self.function.attributes.add("nounwind")
        if inline is not None:
            self.function.attributes.add("alwaysinline" if inline else "noinline")
        self._parameters: dict[str, Value] = {}
        for (parameter, type_), value in zip(parameters, self.function.args, strict=True):
            value.name = parameter
            if noalias and type_ == PTR:
                value.add_attribute("noalias")
            self._parameters[parameter] = value
        self.entry = self.function.append_basic_block("entry")
        self.b = ir.IRBuilder(self.entry)

    def parameter(self, name: str) -> Value:
        """Return a parameter of the function by its name."""
        return self._parameters[name]

    def ret(self, value: Value | None = None) -> Any:
        """End the function; return it."""
        if value is None:
            self.b.ret_void()
        else:
            self.b.ret(value)
        return self.function

    # ------------------------------------------------------------------ control flow

    @contextmanager
    def loop(
        self,
        low: Number,
        high: Number,
        step: Number = 1,
        carry: Sequence[Value] = (),
        *,
        unroll: bool | None = None,
    ) -> Iterator[Loop]:
        """Run the block for i in range(low, high, step), signed; `carry` goes round as values."""
        b, low, high = self.b, i64(low), i64(high)
        before = b.block
        head, body, end = (b.append_basic_block(part) for part in ("head", "body", "end"))
        b.branch(head)
        b.position_at_end(head)
        i = b.phi(I64)
        i.add_incoming(low, before)
        phis = [b.phi(value.type) for value in carry]
        for phi, value in zip(phis, carry, strict=True):
            phi.add_incoming(value, before)
        b.cbranch(b.icmp_signed("<", i, high), body, end)
        b.position_at_end(body)
        loop = Loop(i, phis)
        yield loop
        i.add_incoming(b.add(i, i64(step)), b.block)
        for phi, value in zip(phis, loop.next, strict=True):
            phi.add_incoming(value, b.block)
        back = b.branch(head)
        if unroll is False:
            self._forbid_unrolling(back)
        b.position_at_end(end)
        loop.result = phis

    def _forbid_unrolling(self, branch: Any) -> None:
        disable = self.module.add_metadata(
            [ir.MetaDataString(self.module, "llvm.loop.unroll.disable")]
        )
        marker = self.module.add_metadata(
            [ir.MetaDataString(self.module, self.function.name), disable]
        )
        branch.set_metadata("llvm.loop", marker)

    @contextmanager
    def if_(self, condition: Value, *, likely: bool | None = None) -> Iterator[None]:
        """Run the block when the condition holds."""
        with self.b.if_then(condition, likely=likely):
            yield

    def if_else(self, condition: Value) -> Any:
        """`with f.if_else(c) as (then, otherwise): with then: ...; with otherwise: ...`."""
        return self.b.if_else(condition)

    def choose(self, condition: Value, x: Value, y: Value) -> Value:
        """Return x where the condition holds, else y."""
        return self.b.select(condition, x, y)

    # ------------------------------------------------------------------ integers (i64)

    def add(self, *terms: Number) -> Value:
        """Return the sum; Python numbers fold."""
        fixed = sum(t for t in terms if isinstance(t, int))
        total: Value | None = None
        for term in terms:
            if not isinstance(term, int):
                total = term if total is None else self.b.add(total, term)
        if total is None:
            return I64(fixed)
        return self.b.add(total, I64(fixed)) if fixed else total

    def sub(self, x: Number, y: Number) -> Value:
        """Return x - y."""
        return self.b.sub(i64(x), i64(y))

    def mul(self, x: Number, y: Number) -> Value:
        """Return x * y."""
        if isinstance(x, int) and isinstance(y, int):
            return I64(x * y)
        if isinstance(x, int):
            x, y = y, x
        return x if isinstance(y, int) and y == 1 else self.b.mul(x, i64(y))

    def div(self, x: Number, y: Number) -> Value:
        """Return x // y of numbers that are not negative."""
        return i64(x) if isinstance(y, int) and y == 1 else self.b.udiv(i64(x), i64(y))

    def rem(self, x: Number, y: Number) -> Value:
        """Return x % y of numbers that are not negative."""
        return self.b.urem(i64(x), i64(y))

    def divmod(self, x: Number, y: Number) -> tuple[Value, Value]:
        """Return quotient and remainder of numbers that are not negative."""
        quotient = self.div(x, y)
        return quotient, self.sub(x, self.mul(quotient, y))

    def least(self, x: Number, y: Number) -> Value:
        """Return the smaller of two signed numbers."""
        return self.choose(self.less(x, y), i64(x), i64(y))

    def greatest(self, x: Number, y: Number) -> Value:
        """Return the larger of two signed numbers."""
        return self.choose(self.less(x, y), i64(y), i64(x))

    def less(self, x: Number, y: Number) -> Value:
        """Return whether x < y, signed."""
        return self.b.icmp_signed("<", i64(x), i64(y))

    def equals(self, x: Number, y: Number) -> Value:
        """Return whether x == y."""
        return self.b.icmp_signed("==", i64(x), i64(y))

    # ------------------------------------------------------------------ memory

    def at(self, pointer: Value, index: Number, dtype: DType = DType.FLOAT32) -> Value:
        """Return the address of element `index` behind a pointer."""
        return self.at_bytes(pointer, self.mul(index, dtype.itemsize))

    def at_bytes(self, pointer: Value, offset: Number) -> Value:
        """Return the address `offset` bytes behind a pointer."""
        if isinstance(offset, int) and offset == 0:
            return pointer
        return self.b.gep(pointer, [i64(offset)], inbounds=True, source_etype=I8)

    def load(self, pointer: Value, dtype: DType = DType.FLOAT32, lanes: int | None = None) -> Value:
        """Return `lanes` neighbours (default: a whole vector) as numbers to compute with."""
        lanes = self.lanes if lanes is None else lanes
        raw = self.b.load(pointer, typ=vector(MEMORY[dtype], lanes), align=dtype.itemsize)
        return self.widen(raw, dtype)

    def widen(self, raw: Value, dtype: DType) -> Value:
        """Return what lies in memory as numbers to compute with."""
        lanes = lanes_of(raw)
        if dtype is DType.BFLOAT16:
            # The upper half of a float32. As integers: not every target extends bfloat itself.
            bits = self.b.zext(self.b.bitcast(raw, vector(I16, lanes)), vector(I32, lanes))
            return self.b.bitcast(self.b.shl(bits, self.integers(16, lanes)), vector(F32, lanes))
        if dtype is DType.FLOAT16:
            return self.b.fpext(raw, vector(F32, lanes))
        if dtype is DType.BOOL:
            return self.b.icmp_unsigned("!=", raw, ir.Constant(raw.type, _filled(0, lanes)))
        return raw

    def narrow(self, value: Value, dtype: DType) -> Value:
        """Return numbers as they lie in memory, rounded to nearest even."""
        lanes = lanes_of(value)
        if dtype is DType.BFLOAT16 and not self.target.has_bf16_dot:
            return self._round_to_bf16(value, lanes)
        if dtype in (DType.BFLOAT16, DType.FLOAT16):
            return self.b.fptrunc(value, vector(MEMORY[dtype], lanes))
        if dtype is DType.BOOL:
            return self.b.zext(value, vector(I8, lanes))
        return value

    def _round_to_bf16(self, value: Value, lanes: int) -> Value:
        """Round in integers: add half of the last place, ties to even; NaN stays NaN."""
        b = self.b
        bits = b.bitcast(value, vector(I32, lanes))
        odd = b.and_(b.lshr(bits, self.integers(16, lanes)), self.integers(1, lanes))
        rounded = b.add(b.add(bits, self.integers(0x7FFF, lanes)), odd)
        nan = b.fcmp_unordered("uno", value, value)
        quiet = b.or_(bits, self.integers(0x400000, lanes))
        kept = b.lshr(b.select(nan, quiet, rounded), self.integers(16, lanes))
        return b.trunc(kept, vector(I16, lanes))

    def store(self, value: Value, pointer: Value, dtype: DType = DType.FLOAT32) -> None:
        """Write numbers as neighbours of this type."""
        self.b.store(self.narrow(value, dtype), pointer, align=dtype.itemsize)

    def stack(self, size_bytes: int) -> Value:
        """Return memory on the stack, aligned to cache lines, for the whole function."""
        with self.b.goto_entry_block():
            memory = self.b.alloca(ir.ArrayType(I8, size_bytes))
            memory.align = 64
            memory.type = PTR  # llvmlite gives allocations typed pointers; all others are opaque
        return memory

    def clear(self, pointer: Value, size_bytes: Number, byte: Value | None = None) -> None:
        """Set bytes to zero, or to the one given."""
        fill = self.intrinsic("llvm.memset.p0.i64", VOID, [PTR, I8, I64, I1])
        self.b.call(fill, [pointer, I8(0) if byte is None else byte, i64(size_bytes), I1(0)])

    def copy(self, destination: Value, source: Value, size_bytes: Number) -> None:
        """Copy bytes between places that do not overlap."""
        move = self.intrinsic("llvm.memcpy.p0.p0.i64", VOID, [PTR, PTR, I64, I1])
        self.b.call(move, [destination, source, i64(size_bytes), I1(0)])

    def prefetch(self, pointer: Value, *, level: int = 2) -> None:
        """Ask for a cache line to be read into the cache of this level."""
        fetch = self.intrinsic("llvm.prefetch.p0", VOID, [PTR, I32, I32, I32])
        self.b.call(fetch, [pointer, I32(0), I32(4 - level), I32(1)])

    # ------------------------------------------------------------------ numbers in registers

    def floats(self, value: float, lanes: int | None = None, type_: ir.Type = F32) -> Value:
        """Return a number in every lane."""
        lanes = self.lanes if lanes is None else lanes
        return ir.Constant(vector(type_, lanes), _filled(float(value), lanes))

    def integers(self, value: int, lanes: int | None = None, type_: ir.Type = I32) -> Value:
        """Return a whole number in every lane."""
        lanes = self.lanes if lanes is None else lanes
        return ir.Constant(vector(type_, lanes), _filled(value, lanes))

    def splat(self, number: Value, lanes: int | None = None) -> Value:
        """Return one number in every lane."""
        lanes = self.lanes if lanes is None else lanes
        if lanes == 1:
            return number
        kind = vector(number.type, lanes)
        empty = ir.Constant(kind, ir.Undefined)
        first = self.b.insert_element(empty, number, I32(0))
        return self.b.shuffle_vector(first, empty, ir.Constant(vector(I32, lanes), [0] * lanes))

    def fma(self, x: Value, y: Value, z: Value) -> Value:
        """Return x * y + z: rounded once where the processor does so, else twice."""
        if not self.target.has_fma:  # would become a call into the C library per lane
            return self.b.fadd(self.b.fmul(x, y), z)
        return self.call_intrinsic("fma", x, y, z)

    def call_intrinsic(self, name: str, *args: Value) -> Value:
        """Call `llvm.<name>` overloaded on the type of its first argument."""
        kind = args[0].type
        found = self.intrinsic(f"llvm.{name}.{suffix(kind)}", kind, [a.type for a in args])
        return self.b.call(found, list(args))

    def intrinsic(self, name: str, result: ir.Type, parameters: Sequence[ir.Type]) -> Any:
        """Return the declaration of a function by its full name."""
        if name in self.module.globals:
            return self.module.globals[name]
        return ir.Function(self.module, ir.FunctionType(result, list(parameters)), name)

    def sum_lanes(self, value: Value) -> Value:
        """Return the sum of all lanes of a float vector, in any order."""
        element = value.type.element
        total = self.intrinsic(
            f"llvm.vector.reduce.fadd.{suffix(value.type)}", element, [element, value.type]
        )
        return self.b.call(total, [ir.Constant(element, -0.0), value], fastmath=("reassoc",))

    def max_lanes(self, value: Value) -> Value:
        """Return the largest lane of a float vector without NaN."""
        element = value.type.element
        found = self.intrinsic(
            f"llvm.vector.reduce.fmax.{suffix(value.type)}", element, [value.type]
        )
        return self.b.call(found, [value], fastmath=("nnan",))

    def call(self, function: Any, *args: Value) -> Value:
        """Call a function of the module."""
        return self.b.call(function, list(args))


def suffix(kind: ir.Type) -> str:
    """Return how LLVM writes a type in the name of an overloaded intrinsic."""
    if isinstance(kind, ir.VectorType):
        return f"v{kind.count}{suffix(kind.element)}"
    if isinstance(kind, ir.IntType):
        return f"i{kind.width}"
    return {F16: "f16", F32: "f32", F64: "f64", BF16: "bf16"}[kind]


def _filled(value: float | int, lanes: int) -> Any:
    return value if lanes == 1 else [value] * lanes
