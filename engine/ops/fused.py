"""Chains of elementwise operators as one node: the engine's own domain `millrace`, which passes
write and no model file needs.

A fused node carries the expression of its chain as text (`engine.ir.expr_text`), composed from the
operators' own definitions, so the portable kernel, the rules and every device's code come from the
same expression as those of the parts. Inputs appear in the type in which they compute; the last
step rounds to the type of the result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from engine.dtypes import FLOATS, INTEGERS, DType
from engine.errors import InvalidModel
from engine.ir.expr import Expr
from engine.ir.expr_text import arguments_of, read_expr, substitute
from engine.ops.define import elementwise

FUSED_DOMAIN: Final = "millrace"
FUSED_VERSION: Final = 1
# What an expression may read or give. Packed and 8-bit floats keep their own nodes.
FUSED_TYPES: Final = FLOATS | INTEGERS | {DType.BOOL}


def _result(attributes: Mapping[str, Any], present: Sequence[DType]) -> DType:
    return read_expr(text_of_attribute(attributes["expression"])).dtype


def text_of_attribute(value: object) -> str:
    """Return a string attribute as text, whichever way the file held it."""
    return value.decode() if isinstance(value, bytes) else str(value)


@elementwise(
    "Elementwise",
    since=FUSED_VERSION,
    types=FUSED_TYPES,
    inputs={"xs": FUSED_TYPES},
    result=_result,
    domain=FUSED_DOMAIN,
)
def fused_elementwise(*xs: Expr, expression: str) -> Expr:
    """A chain of elementwise operators, rounded once at its end."""
    expr = read_expr(text_of_attribute(expression))
    if arguments_of(expr) != len(xs):
        raise InvalidModel(f"the expression takes {arguments_of(expr)} inputs, there are {len(xs)}")
    return substitute(expr, xs)
