"""The end of a row: what is left of a vector is written, and nothing behind it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import llvmlite.ir as ir
import numpy as np
import pytest

from engine.cpu.builder import Value
from engine.cpu.expressions import emit_expr
from engine.cpu.kernel import Kernel, KernelBuilder
from engine.cpu.kernels.rows import Part, each_part
from engine.cpu.kernels.tile import load_lanes, store_lanes
from engine.cpu.target import Target, target_for
from engine.dtypes import DType
from engine.ir.expr import argument, cast
from tests.engine.cpu.harness import HOST_ISAS, run_kernel

NARROW = (
    *(DType.UINT8, DType.INT8, DType.BOOL, DType.UINT16, DType.INT16),
    *(DType.FLOAT16, DType.BFLOAT16, DType.INT32, DType.INT64),
)


@dataclass(frozen=True)
class Convert(Kernel):
    """operands: result, values. A fixed number of float32 become another type."""

    dtype: DType
    count: int
    in_parts: bool

    def emit(self, module: ir.Module, name: str, target: Target) -> None:
        f = KernelBuilder(module, name, target)
        expr = cast(argument(0, DType.FLOAT32), self.dtype)
        to, source = f.operand(0), f.operand(1)

        def convert(part: Part, _: list[Value]) -> list[Value]:
            x = part.load(f, source, DType.FLOAT32)
            part.store(f, emit_expr(f, expr, [x], lanes=part.lanes), to, self.dtype)
            return []

        with f.loop(f.low, f.high):
            if self.in_parts:
                each_part(f, self.count, (), convert)
            else:
                x = load_lanes(f, source, self.count)
                store_lanes(f, emit_expr(f, expr, [x]), to, self.count, self.dtype)
        f.ret()


def targets() -> list[Target]:
    found = [target_for(isa) for isa in HOST_ISAS]
    return found + [replace(t, has_bf16_dot=False) for t in found if t.has_bf16_dot]


@pytest.mark.parametrize("in_parts", [True, False])
@pytest.mark.parametrize("dtype", NARROW)
def test_nothing_is_written_behind_the_last_one(dtype: DType, in_parts: bool) -> None:
    for target in targets():
        if dtype is DType.FLOAT16 and target.isa == "sse2":
            continue  # it has no conversion
        for count in (1, 17, 18) if in_parts else (1, target.lanes - 1):
            x = np.arange(1, count + 1, dtype=np.float32)
            want = x.astype(dtype.numpy)
            kernel = Convert(dtype, count, in_parts)
            (got,) = run_kernel(kernel, [np.zeros_like(want), x], tasks=1, target=target)
            assert got.tobytes() == want.tobytes(), (target.isa, count)
