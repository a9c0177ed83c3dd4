"""Rare functions, lane by lane through the C library."""

from __future__ import annotations

import llvmlite.ir as ir

from engine.cpu.builder import F32, Builder, Value, lanes_of, vector


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
    """Return a function of the module that calls `scalar` for every lane."""
    name = f"{symbol}_x{kind.count}"
    if name in f.module.globals:
        return f.module.globals[name]
    parameters = [(f"x{i}", kind) for i in range(arity)]
    g = Builder(f.module, name, parameters, f.target, result=kind, inline=False)
    given = [g.parameter(parameter) for parameter, _ in parameters]
    result = ir.Constant(kind, ir.Undefined)
    for lane in range(kind.count):
        place = ir.IntType(32)(lane)
        each = [g.b.extract_element(x, place) for x in given]
        result = g.b.insert_element(result, g.b.call(scalar, each), place)
    return g.ret(result)
