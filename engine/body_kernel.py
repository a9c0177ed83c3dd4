"""The kernel of a node with bodies: it hands the operator its bodies, ready to run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from engine.device import RunControl
from engine.errors import ResourceLimit, RunCancelled
from engine.ir.graph import Array, Graph
from engine.ir.types import Dim, TensorType, evaluate
from engine.ir.value_types import ValueType
from engine.ops.contexts import BodyRun, ComputeContext
from engine.ops.registry import Kernel, Operator


@dataclass(slots=True)
class RunState:
    """What one run shares with the bodies that it enters."""

    control: RunControl
    alive_bytes: int = 0
    passes: int = 0  # of all bodies together: loops in loops multiply


class BodyPlan(Protocol):
    """A body made ready to run."""

    graph: Graph

    def run_body(
        self, state: RunState, captured: Sequence[Array], inputs: Sequence[Array]
    ) -> list[Array]:
        """Run once: positional inputs, values of the captured names in sorted order."""


def body_kernel(
    op: Operator,
    ctx: ComputeContext,
    plans: Mapping[str, BodyPlan],
    captured_types: Sequence[ValueType | None],
    limit: int,
) -> Kernel:
    """Return a kernel that gives the operator its bodies, with captured values already in place."""
    node = ctx.node
    where = f"node {node.label!r} ({node.op})"
    count = len(node.inputs)
    places = {name: i for i, name in enumerate(node.captured)}
    wanted = {key: [places[n] for n in sorted(p.graph.free_names)] for key, p in plans.items()}

    def kernel(state: RunState, *values: Array | None) -> Sequence[Array]:
        captured = values[count:]

        def body(key: str) -> BodyRun:
            mine = [captured[i] for i in wanted[key]]
            return lambda inputs: plans[key].run_body(state, mine, inputs)

        def check_cancel() -> None:
            if state.control.cancelled:
                raise RunCancelled(f"cancelled in node {node.label!r}")

        def charge(size: int) -> None:
            # What follows in this run starts from here; the walk around it keeps its own count.
            state.alive_bytes += size
            if state.alive_bytes > limit:
                raise ResourceLimit(where, f"{state.alive_bytes} bytes", f"run_bytes={limit}")

        bound = replace(
            ctx,
            bodies={key: body(key) for key in plans},
            check_cancel=check_cancel,
            charge=charge,
            dim_value=lambda dim: dim_value(dim, (*ctx.types, *captured_types), values),
        )
        return op.compute(bound, *values[:count])

    return kernel


def dim_value(
    dim: Dim, kinds: Sequence[ValueType | None], values: Sequence[Array | None]
) -> int | None:
    """Return the number that a dim comes to, by the shapes of values whose types name its symbols;
    None when they do not.
    """
    bindings: dict[str, int] = {}
    for kind, value in zip(kinds, values, strict=True):
        if isinstance(kind, TensorType) and kind.shape is not None and value is not None:
            bindings.update((str(d), n) for d, n in zip(kind.shape, value.shape, strict=False))
    try:
        return evaluate(dim, bindings)
    except (KeyError, ArithmeticError):
        return None
