"""Cast elimination: a cast to a type that holds every value, followed by another, is skipped.

`Cast(Cast(x, float32), float16)` of a float16 x becomes a cast to its own type, which identity
elimination removes; `Cast(Cast(x, int64), float32)` of an int32 x becomes one cast. Left alone:
first casts that may lose something, text, packed and 8-bit types, and pairs whose meaning the
direct cast does not have (whole numbers that go by way of floats to a type that cannot hold them).
"""

from __future__ import annotations

from engine.dtypes import FLOATS, INTEGERS, DType
from engine.ir.graph import Graph, Node
from engine.passes.context import PassContext
from engine.passes.rewriting import replace_nodes, tensor_type

PLAIN = FLOATS | INTEGERS | {DType.BOOL}
# Bits of whole numbers that a float holds exactly.
PRECISION = {DType.FLOAT16: 11, DType.BFLOAT16: 8, DType.FLOAT32: 24, DType.FLOAT64: 53}


def eliminate_casts(graph: Graph, ctx: PassContext) -> Graph:
    """Let casts read what was there before a cast that loses nothing."""
    sources: dict[str, str] = {}
    changes: dict[int, Node | None] = {}
    for node in ctx.each(graph.nodes):
        if node.op != "Cast" or node.domain:
            continue
        name = node.inputs[0]
        source = sources.get(name)
        if source is not None and _may_skip(graph, source, name, node.outputs[0]):
            changes[id(node)] = node.replace(inputs=(source, *node.inputs[1:]))
            name = source
        if _is_lossless(graph, name, node.outputs[0]):
            sources[node.outputs[0]] = name
    return replace_nodes(graph, changes) if changes else graph


def _dtypes(graph: Graph, *names: str) -> list[DType] | None:
    kinds = [tensor_type(graph, name) for name in names]
    dtypes = [kind.dtype for kind in kinds if kind is not None]
    return dtypes if len(dtypes) == len(names) and PLAIN.issuperset(dtypes) else None


def _is_lossless(graph: Graph, source: str, target: str) -> bool:
    dtypes = _dtypes(graph, source, target)
    return dtypes is not None and holds(dtypes[1], dtypes[0])


def holds(target: DType, source: DType) -> bool:
    """Whether every value of `source` is a value of `target`."""
    if source is target or source is DType.BOOL:
        return True
    if target is DType.BOOL or (source.is_float and not target.is_float):
        return False
    if source.is_float:
        return source in (DType.FLOAT16, DType.BFLOAT16, DType.FLOAT32) and (
            target is DType.FLOAT64 or (target is DType.FLOAT32 and source is not target)
        )
    bits = source.bits - source.is_signed
    if target.is_float:
        largest = 16 if target is DType.FLOAT16 else 128  # the exponents that it has
        return bits <= PRECISION[target] and bits < largest
    return bits <= target.bits - target.is_signed and (target.is_signed or not source.is_signed)


def _may_skip(graph: Graph, source: str, middle: str, target: str) -> bool:
    """Whether the direct cast means the same as the one through the middle."""
    dtypes = _dtypes(graph, source, middle, target)
    if dtypes is None:
        return False
    first, between, last = dtypes
    if first.is_float:
        return True
    # From whole numbers, narrow floats are reached through float32: that could round twice.
    if last.is_narrow_float and first is not DType.BOOL:
        return False
    # Between whole numbers casts wrap; what a float out of range becomes is the processor's choice.
    return not (between.is_float and last.is_integer) or holds(last, first)
