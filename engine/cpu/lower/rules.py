"""The table of lowering rules, filled by the files of this package."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from engine.ir.graph import Node

if TYPE_CHECKING:
    from engine.cpu.lower.context import Lowering

Rule = Callable[["Lowering", Node], None]
RULES: dict[tuple[str, str], Rule] = {}
# Rules of operators that are defined as expressions, by the definition's type: for those without a
# rule of their own, whoever brought them.
DEFINED: dict[type, Rule] = {}


class NoKernel(Exception):
    """A node has no native code, for the reason given; it runs from its portable definition."""


def lowers(*names: str, domain: str = "") -> Callable[[Rule], Rule]:
    """Register the rule of these operators."""

    def register(rule: Rule) -> Rule:
        for name in names:
            if (domain, name) in RULES:
                raise ValueError(f"{domain}.{name} has a rule already")
            RULES[domain, name] = rule
        return rule

    return register


def lowers_definitions(kind: type) -> Callable[[Rule], Rule]:
    """Register the rule of all operators with a definition of this type."""

    def register(rule: Rule) -> Rule:
        if kind in DEFINED:
            raise ValueError(f"definitions of type {kind.__name__} have a rule already")
        DEFINED[kind] = rule
        return rule

    return register
