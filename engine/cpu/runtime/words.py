"""Code on shared words: plain and atomic access, endless loops, and what the system offers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import llvmlite.ir as ir

from engine.cpu.builder import I32, I64, PTR, VOID, Builder, Number, Value, i64
from engine.cpu.runtime.layout import WORD
from engine.cpu.target import Target

MONOTONIC: Final = 1
FUTEX_CALL: Final = {True: 202, False: 98}  # the system call's number on x86, on arm64
FUTEX_WAIT_PRIVATE, FUTEX_WAKE_PRIVATE = 128, 129
NS_PER_S: Final = 1_000_000_000
SLEEP_NS: Final = 2_000_000  # a sleeper looks again by itself, to notice that its run was cancelled
_POINTERS: Final = frozenset({"context", "slot", "step", "pointers", "scratch", "local", "starts"})


class WordFunction(Builder):
    """A function of the runtime: parameters are pointers or numbers by their names."""

    def __init__(self, module: ir.Module, name: str, target: Target, *parameters: str) -> None:
        kinds = [(p, PTR if p in _POINTERS else I64) for p in parameters]
        super().__init__(module, name, kinds, target, result=I64)

    # ------------------------------------------------------------------ words

    def word(self, pointer: Value, index: Number) -> Value:
        """Return the address of a word."""
        return self.at_bytes(pointer, self.mul(index, WORD))

    def read(self, pointer: Value, index: Number) -> Value:
        """Return a word that nobody writes meanwhile."""
        return self.b.load(self.word(pointer, index), typ=I64, align=WORD)

    def write(self, pointer: Value, index: Number, value: Number) -> None:
        """Set a word that nobody reads meanwhile."""
        self.b.store(i64(value), self.word(pointer, index), align=WORD)

    def pointer(self, pointer: Value, index: Number) -> Value:
        """Return a word as an address."""
        return self.b.load(self.word(pointer, index), typ=PTR, align=WORD)

    def peek(self, pointer: Value, index: Number, ordering: str = "acquire") -> Value:
        """Return a word that others may write."""
        return self.b.load_atomic(self.word(pointer, index), ordering, WORD, typ=I64)

    def poke(self, pointer: Value, index: Number, value: Number) -> None:
        """Set a word that others read."""
        # An exchange: llvmlite's atomic store does not know opaque pointers.
        self.b.atomic_rmw("xchg", self.word(pointer, index), i64(value), "seq_cst")

    def increase(self, pointer: Value, index: Number, by: Number) -> None:
        """Add to a word that others add to."""
        self.b.atomic_rmw("add", self.word(pointer, index), i64(by), "seq_cst")

    def swap(self, pointer: Value, index: Number, old: Number, new: Number) -> Value:
        """Set a word if it still holds `old`; return whether it did."""
        pair = self.b.cmpxchg(self.word(pointer, index), i64(old), i64(new), "seq_cst", "seq_cst")
        return self.b.extract_value(pair, 1)

    def at_least(self, x: Number, y: Number) -> Value:
        """Return whether x >= y, signed."""
        return self.b.icmp_signed(">=", i64(x), i64(y))

    def not_zero(self, value: Value) -> Value:
        """Return whether a word is not 0."""
        return self.b.icmp_unsigned("!=", value, I64(0))

    # ------------------------------------------------------------------ loops

    @contextmanager
    def again(self) -> Iterator[None]:
        """Repeat the block until it returns from the function."""
        body = self.b.append_basic_block("again")
        self.b.branch(body)
        self.b.position_at_end(body)
        yield
        self.b.branch(body)

    @contextmanager
    def forever(self) -> Iterator[Any]:
        """Repeat the block until it branches to the yielded block; code goes on there."""
        body, end = self.b.append_basic_block("turn"), self.b.append_basic_block("end")
        self.b.branch(body)
        self.b.position_at_end(body)
        yield end
        self.b.branch(body)
        self.b.position_at_end(end)

    # ------------------------------------------------------------------ the system

    def now_ns(self) -> Value:
        """Return a clock in nanoseconds, the one of `time.monotonic_ns`."""
        clock = self.intrinsic("clock_gettime", I32, [I32, PTR])
        time = self.stack(2 * WORD)
        self.b.call(clock, [I32(MONOTONIC), time])
        return self.add(self.mul(self.read(time, 0), NS_PER_S), self.read(time, 1))

    def pause(self, times: int = 1) -> None:
        """Tell the processor that this thread spins."""
        for _ in range(times):
            if self.target.is_x86:
                self.b.call(self.intrinsic("llvm.x86.sse2.pause", VOID, []), [])
            else:
                self.b.call(self.intrinsic("llvm.aarch64.hint", VOID, [I32]), [I32(1)])

    def let_others_run(self) -> None:
        """Give the core away for a turn."""
        self.b.call(self.intrinsic("sched_yield", I32, []), [])

    def sleep_while(self, word: Value, value: Value) -> None:
        """Sleep until woken, as long as the low half of a word equals the low half of `value`."""
        self._futex(word, FUTEX_WAIT_PRIVATE, self.b.and_(value, I64(0xFFFFFFFF)), I64(0))

    def sleep_briefly_while(self, word: Value, value: Value) -> None:
        """Sleep likewise, but no longer than `SLEEP_NS`."""
        limit = self.stack(2 * WORD)
        self.write(limit, 0, 0)
        self.write(limit, 1, SLEEP_NS)
        low = self.b.and_(value, I64(0xFFFFFFFF))
        self._futex(word, FUTEX_WAIT_PRIVATE, low, self.b.ptrtoint(limit, I64))

    def wake(self, word: Value) -> None:
        """Wake all that sleep on a word."""
        self._futex(word, FUTEX_WAKE_PRIVATE, I64(0x7FFFFFFF), I64(0))

    def _futex(self, word: Value, operation: int, value: Value, limit: Value) -> None:
        address = self.b.ptrtoint(word, I64)
        arguments = [I64(operation), value, limit, I64(0), I64(0)]
        number = I64(FUTEX_CALL[self.target.is_x86])
        self.b.call(self._syscall(), [number, address, *arguments])

    def _syscall(self) -> Any:
        name = "syscall"
        if name in self.module.globals:
            return self.module.globals[name]
        return ir.Function(self.module, ir.FunctionType(I64, [I64], var_arg=True), name)
