"""Walks a graph in order: types every value, and computes what is fixed and small enough to be
known now.

Types come from the operators' own rules, never from what the file claims. Nodes whose inputs are
all fixed are computed within a budget, so that shape arithmetic that passes through floats is known
as well, and an If whose condition is fixed becomes its branch. The importer uses it with a small
budget, constant folding with a large one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from engine.dtypes import SIGNED_INTEGERS, DType
from engine.errors import EngineError, InvalidModel, UnsupportedOp
from engine.inference import (
    MAX_SYMBOLIC,
    Scope,
    infer_context,
    infer_types,
    infer_values,
    type_of,
)
from engine.ir.graph import Array, Graph, Node, Value
from engine.ir.types import SymDim, TensorType
from engine.ir.value_types import ValueType
from engine.limits import Deadline, Limits
from engine.ops.contexts import BodyFacts, ComputeContext, InferContext
from engine.ops.registry import Operator, Registry
from engine.renaming import rename_node

COUNTING = SIGNED_INTEGERS | {DType.BOOL}
IMPORT_FOLD_BYTES = 8192
FOLD_FLOPS = 1e9
DEEP = 3  # bodies inside of that many others are typed again for every look at one of those
MANY_DEEP_WALKS = 1000
# Sizes of the outputs depend on values, but never exceed a small multiple of the inputs'.
BOUNDED_BY_INPUT = frozenset({"NonZero", "Compress", "Unique"})


@dataclass(frozen=True)
class FoldBudget:
    """How large a constant the walk may compute, and whether computed nodes leave the graph."""

    bytes: int = IMPORT_FOLD_BYTES
    remove: bool = False


@dataclass(frozen=True)
class Evaluation:
    """What a walk found out: the typed graph, what is known by value, and how many nodes were
    computed.
    """

    graph: Graph
    scope: Scope
    folded: int


def evaluate_graph(
    graph: Graph,
    registry: Registry,
    *,
    limits: Limits,
    deadline: Deadline,
    budget: FoldBudget = FoldBudget(),
) -> Evaluation:
    """Type every value of `graph` anew from its inputs; errors name the node whose rule failed."""
    scope = Scope()
    walk = Walk(registry, limits, deadline, budget)
    typed = walk.run(graph, scope, [v.type for v in graph.inputs])
    return Evaluation(typed, scope, walk.folded)


class Walk:
    """Types nodes one after the other, in a scope that the caller keeps."""

    def __init__(
        self,
        registry: Registry,
        limits: Limits,
        deadline: Deadline,
        budget: FoldBudget,
        root: Graph | None = None,
    ) -> None:
        """Who visits the nodes of a graph one by one names it as the `root`."""
        self.registry = registry
        self.limits = limits
        self.deadline = deadline
        self.budget = budget
        self.folded = 0
        self._depth = 0
        self._deep_walks = 0
        self._root = root
        self._taken: set[str] = set()  # every name of the root; only inlining needs to know

    def run(
        self,
        graph: Graph,
        scope: Scope,
        given: Sequence[ValueType | None],
        fixed: Sequence[Array | None] = (),
    ) -> Graph:
        """Type a graph from its inputs' types, some of which may be known by value."""
        if self._depth == 0:
            self._root = graph
        inputs = _typed_inputs(graph, given)
        for value in inputs:
            scope.types[value.name] = value.type
        for value, array in zip(inputs, fixed, strict=False):
            if array is not None:
                scope.add_constant(value.name, array)
        for name, array in (*graph.initializers.items(), *graph.constants.items()):
            scope.add_constant(name, array)
        constants = dict(graph.constants)
        nodes: list[Node] = []
        pending = deque(graph.nodes)
        while pending:
            node = pending.popleft()
            self.deadline.check(f"node {node.label!r}")
            branch = _fixed_branch(node, scope)
            if branch is not None:
                names = self._names_inside(graph)
                pending.extendleft(reversed(_inline(node, branch, scope, constants, names)))
            elif (kept := self.visit(node, scope, constants)) is not None:
                nodes.append(kept)
        typed = [*(v.name for v in inputs), *graph.initializers, *constants]
        typed += [name for node in nodes for name in node.outputs if name]
        return graph.replace(
            inputs=inputs,
            outputs=tuple(Value(v.name, _output_type(v.name, scope, graph)) for v in graph.outputs),
            nodes=tuple(nodes),
            constants=constants,
            types={name: scope.types[name] for name in typed},
        )

    def _names_inside(self, graph: Graph) -> set[str]:
        """Return all names in use, so that what is inlined gets new ones."""
        if not self._taken:
            for around, node in (self._root or graph).walk():
                self._taken.update(around.input_names, around.initializers, around.constants)
                self._taken.update(node.outputs)
        return self._taken

    def visit(self, node: Node, scope: Scope, constants: dict[str, Array]) -> Node | None:
        """Type a node's outputs; return the node to keep, or None when its outputs became
        constants.
        """
        operator = self.registry.find(node)
        bodies: dict[str, Graph] = {}
        ctx = self._context(operator, node, scope, bodies)
        types = typed_outputs(operator, ctx)
        scope.types.update(
            (name, kind) for name, kind in zip(node.outputs, types, strict=True) if name
        )
        values = self._evaluate(operator, ctx, types)
        if values is None:
            _follow_values(operator, ctx, types, scope)
            values = _known_outputs(node, scope) if self.budget.remove else None
        if values is None:
            return node.replace(attributes={**node.attributes, **bodies}) if bodies else node
        self.folded += 1
        for name, value in zip(node.outputs, values, strict=False):
            if name and value is not None:
                scope.add_constant(name, value)
                if self.budget.remove:
                    constants[name] = value
        return None if self.budget.remove else node

    def _context(
        self, operator: Operator, node: Node, scope: Scope, bodies: dict[str, Graph]
    ) -> InferContext:
        ctx = infer_context(operator, node, scope)
        if not any(True for _ in node.bodies):
            return ctx

        def infer_body(
            body: Graph, given: Sequence[ValueType | None], fixed: Sequence[Array | None] = ()
        ) -> BodyFacts:
            inner = scope.inner()
            self._depth += 1
            self._deep_walks += self._depth > DEEP
            typed = self.run(body, inner, given, fixed)
            self._depth -= 1
            for key, original in node.bodies:
                if original is body:
                    bodies[key] = typed
                    scope.bodies[id(node), key] = node, inner
            outputs = typed.outputs
            return BodyFacts(
                [v.type for v in outputs], [inner.constants.get(v.name) for v in outputs]
            )

        is_late = self._deep_walks > MANY_DEEP_WALKS
        return replace(ctx, infer_body=infer_body, hurried=is_late)

    def _evaluate(
        self, operator: Operator, ctx: InferContext, kinds: Sequence[ValueType]
    ) -> list[Array | None] | None:
        """Return the node's values when its inputs are fixed and the result stays small.

        Only tensors are ever fixed.
        """
        types = [kind for kind in kinds if isinstance(kind, TensorType)]
        if len(types) != len(kinds):
            return None
        fixed = [
            array is not None or kind is None
            for array, kind in zip(ctx.constants, ctx.types, strict=True)
        ]
        if not all(fixed) or not operator.deterministic or any(True for _ in ctx.node.bodies):
            return None
        if not self._is_small(operator, ctx, types):
            return None
        compute = ComputeContext(
            xp=np,
            node=ctx.node,
            attributes=ctx.attributes,
            version=ctx.version,
            types=ctx.types,
            outputs=types,
            constants=ctx.constants,
            limits=self.limits,
        )
        try:
            with np.errstate(all="ignore"):
                values: list[Array | None] = [
                    np.asarray(v) for v in operator.compute(compute, *ctx.constants)
                ]
        except Exception:  # whatever is wrong shows, with the node's name, if a run ever gets there
            return None
        if len(values) < len(types):
            return None
        agree = all(type_of(v).dtype is t.dtype for v, t in zip(values, types, strict=False))
        return values if agree else None

    def _is_small(self, operator: Operator, ctx: InferContext, types: Sequence[TensorType]) -> bool:
        inputs = sum(array.nbytes for array in ctx.constants if array is not None)
        if ctx.node.op in BOUNDED_BY_INPUT:
            return bool(inputs * 8 <= self.budget.bytes)
        if any(not t.is_static or _bytes(t) > self.budget.bytes for t in types):
            return False
        if not self.budget.remove and inputs > self.budget.bytes:
            return False
        if operator.flops is None:
            return True
        flops = operator.count_flops(ctx)
        return isinstance(flops, int) and flops <= FOLD_FLOPS


def typed_outputs(operator: Operator, ctx: InferContext) -> tuple[ValueType, ...]:
    """Return the types of a node's outputs; whatever its rule meets is an `InvalidModel` naming the
    node.
    """
    node = ctx.node
    where = f"node {node.label!r} ({node.op})"
    try:
        types = infer_types(operator, ctx)
    except UnsupportedOp:
        raise
    except InvalidModel as error:
        if repr(node.label) in str(error):
            raise
        raise InvalidModel(f"{where}: {error}") from error
    except (AttributeError, RecursionError, MemoryError) as error:
        raise InvalidModel(f"{where} does not fit its operator: {error}") from error
    for kind in types:
        if kind.shape is not None and any(isinstance(d, int) and d < 0 for d in kind.shape):
            raise InvalidModel(f"{where}: its output would be {kind}, with a negative dim")
    return types


def _follow_values(
    operator: Operator, ctx: InferContext, types: Sequence[ValueType], scope: Scope
) -> None:
    """Note integer outputs known by value; those that hold plain numbers count as fixed."""
    try:
        values = infer_values(operator, ctx)
    except (EngineError, ArithmeticError, ValueError, TypeError, LookupError):
        return  # not known is always a sound answer
    for name, value, kind in zip(ctx.node.outputs, values, types, strict=False):
        if (
            not name
            or value is None
            or value.size > MAX_SYMBOLIC
            or kind.dtype not in COUNTING
            or not _fits(value, kind.dtype)
        ):
            continue
        scope.symbolic[name] = value
        if not any(isinstance(d, SymDim) for d in value.flat):
            scope.constants[name] = value.astype(kind.dtype.numpy)


def _fits(value: np.ndarray, dtype: DType) -> bool:
    """Whether plain numbers stay within their type; beyond it a run wraps, and they are unknown."""
    if dtype is DType.BOOL:
        return True
    bounds = np.iinfo(dtype.numpy)
    numbers = (d for d in value.flat if not isinstance(d, SymDim))
    return all(bounds.min <= d <= bounds.max for d in numbers)


def _known_outputs(node: Node, scope: Scope) -> list[Array | None] | None:
    """Return the node's outputs when all of them turned out to be plain numbers (Shape of a static
    shape).
    """
    if not all(name in scope.constants for name in node.outputs if name):
        return None
    return [scope.constants.get(name) for name in node.outputs]


def _typed_inputs(graph: Graph, given: Sequence[ValueType | None]) -> tuple[Value, ...]:
    if len(given) != len(graph.inputs):
        raise InvalidModel(
            f"body {graph.name!r} has {len(graph.inputs)} inputs, its node gives it {len(given)}"
        )
    pairs = zip(graph.inputs, given, strict=True)
    return tuple(v if kind is None else Value(v.name, kind) for v, kind in pairs)


def _output_type(name: str, scope: Scope, graph: Graph) -> ValueType:
    kind = scope.types.get(name)
    if kind is None:
        raise InvalidModel(f"output {name!r} of graph {graph.name!r} is computed by no node")
    return kind


def _fixed_branch(node: Node, scope: Scope) -> Graph | None:
    """Return the branch that an If takes when its condition is fixed."""
    if node.op != "If" or node.domain or not node.inputs:
        return None
    condition = scope.constants.get(node.inputs[0])
    if condition is None or condition.size != 1:
        return None
    branch = node.attributes.get("then_branch" if condition.reshape(-1)[0] else "else_branch")
    return branch if isinstance(branch, Graph) else None


def _inline(
    node: Node, branch: Graph, scope: Scope, constants: dict[str, Array], taken: set[str]
) -> list[Node]:
    """Return the branch's nodes under names of their own, and identities that give the If's
    outputs.
    """
    if branch.inputs or len(branch.outputs) < len(node.outputs):
        raise InvalidModel(f"node {node.label!r} (If): a branch needs all outputs and no inputs")
    own = [*branch.initializers, *branch.constants, *branch.producers]
    renamed = {name: _new_name(f"{node.label}/{name}", scope, taken) for name in own}
    for name, value in (*branch.initializers.items(), *branch.constants.items()):
        constants[renamed[name]] = value
        scope.add_constant(renamed[name], value)
    ends = [
        Node(
            "Identity",
            (renamed.get(v.name, v.name),),
            (name,),
            version=node.version,
            name=f"{node.label}/{name}",
        )
        for v, name in zip(branch.outputs, node.outputs, strict=False)
        if name
    ]
    return [rename_node(each, renamed) for each in branch.nodes] + ends


def _new_name(name: str, scope: Scope, taken: set[str]) -> str:
    """Return the name, or a longer one when it is in use; take it."""
    while name in taken or name in scope.types:
        name += "'"
    taken.add(name)
    return name


def _bytes(kind: TensorType) -> int:
    assert kind.shape is not None
    # As the size guard counts: an empty axis hides no other.
    return prod(max(d, 1) for d in kind.shape if isinstance(d, int)) * kind.dtype.itemsize


__all__ = ["Evaluation", "FoldBudget", "evaluate_graph", "typed_outputs"]
