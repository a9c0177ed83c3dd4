"""Rare functions, lane by lane through the C library."""

from __future__ import annotations

import llvmlite.ir as ir

from engine.cpu.builder import F32, Builder, Value, lanes_of, vector
from engine.dtypes import DType


def call_libm(f: Builder, name: str, *args: Value) -> Value:
    """Return `name` of float32 or float64 registers, as the C library has it."""
    lanes = lanes_of(args[0])
    kind = args[0].type
    element = kind if lanes == 1 else kind.element
    symbol = name + ("f" if element == F32 else "")
    scalar = f.intrinsic(symbol, element, [element] * len(args))
    if lanes == 1:
        return f.b.call(scalar, list(args))
    return f.call(_every_lane(f, symbol, scalar, vector(element, lanes), len(args)), *args)


def _every_lane(f: Builder, symbol: str, scalar: ir.Function, kind: ir.Type, arity: int) -> Value:
    """Return a function of the module that calls `scalar` for every lane.

    The lanes go through memory, for a call may overwrite every vector register.
    """
    name = f"{symbol}_x{kind.count}"
    if name in f.module.globals:
        return f.module.globals[name]
    dtype = DType.FLOAT32 if kind.element == F32 else DType.FLOAT64
    parameters = [(f"x{i}", kind) for i in range(arity)]
    g = Builder(f.module, name, parameters, f.target, result=kind, inline=False)
    size = kind.count * dtype.itemsize
    memory = [g.stack(size) for _ in range(arity)]
    for (parameter, _), place in zip(parameters, memory, strict=True):
        g.store(g.parameter(parameter), place, dtype)
    with g.loop(0, kind.count, unroll=False) as lane:
        places = [g.at(place, lane.i, dtype) for place in memory]
        g.store(g.call(scalar, *(g.load(place, dtype, 1) for place in places)), places[0], dtype)
    return g.ret(g.load(memory[0], dtype, kind.count))
