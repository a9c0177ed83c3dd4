"""The operator registry: one block per operator holds all its facts.

A structured operator is a class of static methods; nothing is instantiated::

    @operator("Conv", since=(1, 11, 22))
    class Conv:
        attributes = {"group": 1, "strides": (), ...}            # every one, with its default

        @staticmethod
        def infer(ctx: InferContext) -> Sequence[TensorType]: ...          # a type per output

        @staticmethod
        def compute(ctx: ComputeContext, x, w, b=None) -> Sequence[Array]: ...

        @staticmethod
        def rows(ctx: RowContext) -> Sequence[RowState]: ...     # or else: everything mixes

        @staticmethod
        def flops(ctx: InferContext) -> Dim: ...                 # or else: only moves data

        @staticmethod
        def values(ctx: InferContext) -> Sequence[np.ndarray | None]: ...  # outputs by value

        @staticmethod
        def bind(ctx: ComputeContext) -> Kernel | None: ...      # specialise once per node

An attribute default of `REQUIRED` makes the attribute obligatory, `None` means absent. `moves =
True` says that the operator only moves elements (Gather, Concat, Reshape, ...), so that `compute`
also works on object arrays and symbolic shape values travel through it by themselves.
`deterministic = False` keeps folding away (RandomNormal); `tensors_only = False` lets
sequences, optionals and maps in. `host = True` says that `compute` works on numpy arrays whatever
the device (strings, trees): elsewhere the plan brings its inputs to the host. One class covers all
opset versions from its `since` on, told apart by `ctx.version`; another class may take a later
range of the same name.

Elementwise and reduction operators are defined once as expressions; see `elementwise` and
`reduction`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, Final, TypeVar

import numpy as np

from engine.errors import EngineError, InvalidModel, UnsupportedOp
from engine.ir.graph import Array, Node
from engine.ir.types import Dim
from engine.ir.value_types import ValueType
from engine.ops.contexts import ComputeContext, InferContext
from engine.ops.rows import RowContext, RowState, depends_on_everything

__all__ = [
    "REGISTRY",
    "REQUIRED",
    "ComputeContext",
    "InferContext",
    "Operator",
    "Registry",
    "RowContext",
    "RowState",
    "make_operator",
    "operator",
    "registry_of",
]

Infer = Callable[[InferContext], Sequence[ValueType]]
Compute = Callable[..., Sequence[Array]]
Kernel = Callable[..., Sequence[Array]]  # called with the node's inputs, None for absent ones
Rows = Callable[[RowContext], Sequence[RowState]]
Values = Callable[[InferContext], Sequence[np.ndarray | None]]
Flops = Callable[[InferContext], Dim]
Bind = Callable[[ComputeContext], Kernel | None]
C = TypeVar("C", bound=type)


class _Required:
    def __repr__(self) -> str:
        return "REQUIRED"


REQUIRED: Final = _Required()
# Another name of ONNX's own domain, for nodes whose operator the user brought: passes and kernels
# know ONNX's operators by name, and must not take these for them.
USER_DOMAIN: Final = "millrace.user"


@dataclass(frozen=True, eq=False)
class Operator:
    """Every fact about one operator of one domain.

    Attributes:
        name: ONNX's name.
        domain: "" is ONNX's own.
        since: Opset versions at which the operator changed, oldest first; it is known from the
            first on.
        until: First opset version that no longer has it, or None.
        attributes: Every attribute with its default.
        infer: Types of the outputs.
        compute: Values of the outputs over an array namespace.
        rows: How rows travel (`engine.ops.rows`).
        flops: Arithmetic operations of one call, or None when it only moves data.
        values: Integer outputs by value, from symbolic inputs, or None.
        bind: Specialises `compute` for one node, or None.
        moves: Whether elements are only moved, so `compute` takes object arrays as well.
        deterministic: Whether equal inputs give equal outputs.
        tensors_only: Whether every input must be a tensor; what else there is comes to no rule.
        host: Whether `compute` takes and gives numpy arrays on every device.
        definition: The expression it is rendered from, for elementwise and reduction operators.
    """

    name: str
    domain: str
    since: tuple[int, ...]
    attributes: Mapping[str, Any]
    infer: Infer
    compute: Compute
    rows: Rows = depends_on_everything
    flops: Flops | None = None
    values: Values | None = None
    bind: Bind | None = None
    until: int | None = None
    moves: bool = False
    deterministic: bool = True
    tensors_only: bool = True
    host: bool = False
    definition: Any = None

    def complete(self, node: Node) -> Mapping[str, Any]:
        """Return attributes over defaults; an unknown or missing one is an `InvalidModel`."""
        unknown = node.attributes.keys() - self.attributes.keys()
        if unknown:
            known = ", ".join(sorted(self.attributes)) or "none"
            raise InvalidModel(
                f"node {node.label!r} ({node.op}): unknown attribute {min(unknown)!r}; "
                f"known are {known}"
            )
        merged = {**self.attributes, **node.attributes}
        for name, value in merged.items():
            if value is REQUIRED:
                raise InvalidModel(
                    f"node {node.label!r} ({node.op}): attribute {name!r} is missing"
                )
        return MappingProxyType(merged)

    def count_flops(self, ctx: InferContext) -> Dim | None:
        """Return the arithmetic operations of a node; None where no rule says, or none that covers
        it.
        """
        if self.flops is None:
            return None
        try:
            return self.flops(ctx)
        except (EngineError, ArithmeticError, LookupError, TypeError, ValueError):
            return None

    def kernel(self, ctx: ComputeContext) -> Kernel:
        """Return what computes this one node: specialised, or `compute` with the context."""
        bound = self.bind(ctx) if self.bind is not None else None
        return partial(self.compute, ctx) if bound is None else bound


class Registry:
    """A table of operators, found by domain, name and opset version."""

    def __init__(self, operators: Iterable[Operator] = ()) -> None:
        self._table: dict[tuple[str, str], list[Operator]] = {}
        self._users: frozenset[Operator] = frozenset()
        for each in operators:
            self.add(each)

    def add(self, new: Operator) -> Operator:
        """Add an operator; the same name may be added again for a later range of versions."""
        entries = self._table.setdefault((_domain(new.domain), new.name), [])
        if any(old.since[0] == new.since[0] for old in entries):
            raise ValueError(
                f"operator {new.domain}.{new.name} since {new.since[0]} is there already"
            )
        entries.append(new)
        entries.sort(key=lambda entry: entry.since[0])
        return new

    def lookup(self, domain: str, op: str, version: int, *, node: str = "") -> Operator:
        """Return the operator as of this opset version, or raise `UnsupportedOp` naming `node`."""
        entries = self._table.get((_domain(domain), op), [])
        for entry in reversed(entries):
            if entry.since[0] <= version:
                if entry.until is not None and version >= entry.until:
                    raise UnsupportedOp(
                        node, op, domain, version, f"removed from ONNX at opset {entry.until}"
                    )
                return entry
        if entries:
            reason = f"introduced at opset {entries[0].since[0]}, the model declares {version}"
            raise UnsupportedOp(node, op, domain, version, reason)
        raise UnsupportedOp(node, op, domain, version)

    def find(self, node: Node) -> Operator:
        """Return the operator of a node, or raise `UnsupportedOp`."""
        return self.lookup(node.domain, node.op, node.version, node=node.label)

    def operators(self) -> Iterator[Operator]:
        """Yield every operator, by domain and name."""
        for key in sorted(self._table):
            yield from self._table[key]

    def extended(self, operators: Iterable[Operator]) -> Registry:
        """Return a copy with more operators; same name and first version replaces the old."""
        new, added = Registry(), tuple(operators)
        new._table = {key: list(entries) for key, entries in self._table.items()}
        new._users = self._users.union(added)
        for each in added:
            entries = new._table.setdefault((_domain(each.domain), each.name), [])
            entries[:] = [old for old in entries if old.since[0] != each.since[0]]
            new.add(each)
        return new

    def is_users(self, node: Node) -> bool:
        """Whether a node of ONNX's own domain has an operator that `extended` brought."""
        return node.domain == "" and self.find(node) in self._users


REGISTRY = Registry()  # the engine's own operators; `import engine.ops` fills it


def registry_of(table: object) -> Registry:
    """Return the operator table that a device was given, or the engine's own."""
    return table if isinstance(table, Registry) else REGISTRY


def make_operator(
    cls: type,
    name: str,
    since: int | Sequence[int],
    *,
    domain: str = "",
    until: int | None = None,
) -> Operator:
    """Return the operator that a class of static methods describes, without registering it."""
    return Operator(
        name=name,
        domain=domain,
        since=_versions(since),
        until=until,
        attributes=MappingProxyType(dict(getattr(cls, "attributes", {}))),
        infer=_required_rule(cls, "infer"),
        compute=_required_rule(cls, "compute"),
        rows=getattr(cls, "rows", depends_on_everything),
        flops=getattr(cls, "flops", None),
        values=getattr(cls, "values", None),
        bind=getattr(cls, "bind", None),
        moves=getattr(cls, "moves", False),
        deterministic=getattr(cls, "deterministic", True),
        tensors_only=getattr(cls, "tensors_only", True),
        host=getattr(cls, "host", False),
    )


def operator(
    name: str,
    since: int | Sequence[int],
    *,
    domain: str = "",
    until: int | None = None,
) -> Callable[[C], C]:
    """Register a structured operator: a class of static methods, see the module's docstring."""

    def register(cls: C) -> C:
        REGISTRY.add(make_operator(cls, name, since, domain=domain, until=until))
        return cls

    return register


def _required_rule(cls: type, rule: str) -> Callable[..., Any]:
    found: Callable[..., Any] | None = getattr(cls, rule, None)
    if found is None:
        raise TypeError(f"operator class {cls.__name__} needs a static method {rule!r}")
    return found


def _versions(since: int | Sequence[int]) -> tuple[int, ...]:
    return (since,) if isinstance(since, int) else tuple(since)


def _domain(domain: str) -> str:
    return "" if domain in ("ai.onnx", USER_DOMAIN) else domain
