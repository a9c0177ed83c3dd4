"""The machine's measured peak: fused multiply-adds on registers, made with LLVM for this CPU."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Barrier

import llvmlite.binding as llvm
from llvmlite import ir

# Enough independent sums to cover a latency of 4 cycles on 2 units, few enough for 16 registers.
SUMS = 12
PASSES = 2_000_000


def fma_module(width: int, sums: int = SUMS) -> ir.Module:
    """Return `void fma(i64 passes, float* out)`: each pass does `sums` vector multiply-adds."""
    module = ir.Module("peak")
    vector = ir.VectorType(ir.FloatType(), width)
    size = ir.IntType(64)
    kind = ir.FunctionType(ir.VoidType(), [size, vector.as_pointer()])
    function = ir.Function(module, kind, "fma")
    function.attributes.add("nounwind")
    fused_kind = ir.FunctionType(vector, [vector] * 3)
    fused = ir.Function(module, fused_kind, f"llvm.fma.v{width}f32")  # no name of it in llvmlite
    passes, out = function.args
    entry, loop, done = (function.append_basic_block(n) for n in ("entry", "loop", "done"))
    start = ir.IRBuilder(entry)
    # Both factors are loaded, so that LLVM cannot compute anything ahead.
    a, b = (start.load(start.gep(out, [size(k)]), align=4) for k in range(2))
    start.branch(loop)
    body = ir.IRBuilder(loop)
    count = body.phi(size)
    totals = [body.phi(vector) for _ in range(sums)]
    count.add_incoming(size(0), entry)
    after = body.add(count, size(1))
    count.add_incoming(after, loop)
    for k, total in enumerate(totals):
        total.add_incoming(ir.Constant(vector, [float(k)] * width), entry)
        total.add_incoming(body.call(fused, [a, b, total]), loop)
    body.cbranch(body.icmp_unsigned("<", after, passes), loop, done)
    end = ir.IRBuilder(done)
    results = [next(v for v, block in total.incomings if block is loop) for total in totals]
    for k, result in enumerate(results):
        end.store(result, end.gep(out, [size(k)]), align=4)
    end.ret_void()
    return module


@dataclass(frozen=True)
class Peak:
    """The loop, compiled for vectors of one width; keeps the engine that owns the code."""

    width: int
    engine: object
    call: Callable[[int, ctypes.Array[ctypes.c_float]], None]

    def flops(self, threads: int) -> float:
        """Return floating-point operations a second on so many threads at once."""
        barrier = Barrier(threads)

        def work(_: int) -> tuple[float, float]:
            out = (ctypes.c_float * (self.width * SUMS))(*([0.5] * self.width * SUMS))
            self.call(PASSES // 20, out)  # the clock and the vector units wake up
            barrier.wait()
            start = time.perf_counter()
            self.call(PASSES, out)
            return start, time.perf_counter()

        with ThreadPoolExecutor(threads) as pool:
            spans = list(pool.map(work, range(threads)))
        seconds = max(end for _, end in spans) - min(start for start, _ in spans)
        return 2.0 * self.width * SUMS * PASSES * threads / seconds


def make_peak(width: int) -> Peak:
    """Compile the loop for vectors of so many floats."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    features = llvm.get_host_cpu_features().flatten()
    target = llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=features, opt=2
    )
    text = str(fma_module(width)).replace(
        "nounwind", f'nounwind "prefer-vector-width"="{32 * width}"'
    )
    module = llvm.parse_assembly(text)
    module.verify()
    engine = llvm.create_mcjit_compiler(module, target)
    engine.finalize_object()
    kind = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.POINTER(ctypes.c_float))
    return Peak(width, engine, kind(engine.get_function_address("fma")))


def best_peak(rounds: int = 3) -> Peak:
    """Return the loop of the width that is fastest here."""
    peaks = [make_peak(width) for width in (4, 8, 16)]
    return max(peaks, key=lambda peak: max(peak.flops(1) for _ in range(rounds)))
