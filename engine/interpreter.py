"""Runs a graph of portable definitions over any array namespace, within limits.

Everything that does not depend on values is settled once, when the plan is built: operators are
looked up and specialised, names become slots of a list, and each step knows which slots are dead
after it. A call walks the steps. Folding, control flow and the reference device all run through
here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import numpy as np

from engine.body_kernel import RunState, body_kernel
from engine.device import Observer, RunControl
from engine.errors import (
    EngineError,
    InvalidInput,
    InvalidModel,
    ResourceLimit,
    RunCancelled,
    RunFailed,
)
from engine.ir.graph import Array, Graph, Node, Value
from engine.ir.types import TensorType
from engine.ir.value_types import ValueType
from engine.ir.values import value_bytes
from engine.limits import Limits
from engine.ops.contexts import ComputeContext
from engine.ops.registry import REGISTRY, Kernel, Operator, Registry
from engine.size_guard import SizeGuard, node_guard
from engine.transfers import holds, on_host, to_device, to_host

NEVER = RunControl()  # the control of a run that nobody holds
REMEMBERED_FETCHES = 256  # lists of fetches known by heart; callers may send any number of them


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One node made ready: which slots it reads and writes, what computes it, what dies after."""

    node: Node
    kernel: Kernel
    inputs: tuple[int, ...]  # slots; slot 0 always holds None, the absent input
    outputs: tuple[int, ...]  # slots; 0 for an output that nobody wants
    dead: tuple[int, ...]
    dead_objects: tuple[int, ...]  # those that hold no arrays, but lists, dicts or None
    tensors_only: bool  # among what it writes and what dies with it
    enters_body: bool  # the kernel takes the RunState first
    guard: Callable[[Sequence[Array | None]], None] | None


# How a step gets its inputs. SPECIAL has a guard or a body, or no input at all.
ONE_INPUT, SEVERAL_INPUTS, SPECIAL = 1, 2, 3
Instruction = tuple[int, Kernel, Callable[[list[Any]], Any], int, tuple[int, ...], Step]
Program = tuple[Instruction, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Schedule:
    """The steps that one set of fetches needs, as the loop takes them."""

    program: Program
    fetched: tuple[tuple[str, int], ...]


class GraphPlan:
    """A graph ready to run over one array namespace.

    Thread-safe: a run keeps its state to itself.
    """

    def __init__(
        self,
        graph: Graph,
        *,
        xp: Any = np,
        registry: Registry = REGISTRY,
        limits: Limits | None = None,
        outside: Mapping[str, ValueType] | None = None,
    ) -> None:
        """Make a graph ready; `outside` are types of what a body may capture."""
        self.graph = graph
        self._visible: Mapping[str, ValueType] = {**(outside or {}), **graph.types}
        self._xp = xp
        self._registry = registry
        self._limits = limits or Limits()
        self._limit_bytes = self._limits.effective_run_bytes
        captured = sorted(graph.free_names)
        self._slots = _number_slots(graph, captured)
        self._template: list[Any] = [None] * (len(self._slots) + 1)
        for name in (*graph.initializers, *graph.constants):
            self._template[self._slots[name]] = _frozen(graph.constant(name), xp)
        self._feeds = tuple((name, self._slots[name]) for name in graph.input_names)
        self._captured = tuple(self._slots[name] for name in captured)
        self._bodies: list[GraphPlan] = []
        with np.errstate(all="ignore"):  # weights may hold anything, signalling NaN too
            self._kernels = {id(node): self._prepare(node) for node in graph.nodes}
        told = [Value(name, outside[name]) for name in captured if outside and name in outside]
        self._sizes = SizeGuard(graph, self._limit_bytes, told)
        self._guarded = graph.input_names + tuple(captured)
        self._schedules: dict[tuple[str, ...], Schedule] = {}
        self._whole = self._schedule(graph.output_names)

    def run(
        self,
        feeds: Mapping[str, Array],
        fetches: Sequence[str] | None = None,
        control: RunControl | None = None,
    ) -> dict[str, Array]:
        """Compute `fetches` (default: every output) from a value for every input."""
        schedule = self._whole if fetches is None else self._schedule(tuple(fetches))
        slots = self._template.copy()
        try:
            for name, slot in self._feeds:
                slots[slot] = feeds[name]
        except KeyError as error:
            raise InvalidInput(f"input {error} is missing") from None
        self._sizes.check(feeds)
        state = RunState(control or NEVER)
        # Overflow and division by zero give inf and NaN, as ONNX wants, without a word.
        with np.errstate(all="ignore"):
            self._walk(schedule.program, slots, state)
        return {name: slots[slot] for name, slot in schedule.fetched}

    def run_body(
        self, state: RunState, captured: Sequence[Array], inputs: Sequence[Array]
    ) -> list[Array]:
        """Run as a body: positional inputs, values of the captured names, the state of the run."""
        state.passes += 1
        if state.passes > self._limits.loop_iterations:
            limit = self._limits.loop_iterations
            need = f"more than {limit} passes through bodies"
            raise ResourceLimit(f"body {self.graph.name!r}", need, f"loop_iterations={limit}")
        slots = self._template.copy()
        for (_, slot), value in zip(self._feeds, inputs, strict=True):
            slots[slot] = value
        for slot, value in zip(self._captured, captured, strict=True):
            slots[slot] = value
        self._sizes.check(dict(zip(self._guarded, (*inputs, *captured), strict=True)))
        before = state.alive_bytes
        self._walk(self._whole.program, slots, state)
        state.alive_bytes = before
        return [slots[slot] for _, slot in self._whole.fetched]

    def memory(self) -> dict[str, int]:
        """Return bytes of fixed values, bodies included; there is neither an arena nor code."""
        weights = sum(map(value_bytes, self._template))
        weights += sum(body.memory()["weights_bytes"] for body in self._bodies)
        return {"weights_bytes": weights, "arena_bytes": 0, "code_bytes": 0}

    # ------------------------------------------------------------------------------ the walk

    def _walk(self, program: Program, slots: list[Any], state: RunState) -> None:
        control, limit, alive = state.control, self._limit_bytes, state.alive_bytes
        watched = control.observer is not None
        step = None
        try:
            # The loop is the price of every call: what it needs is unpacked, not looked up.
            for how, kernel, gather, output, dead, step in program:
                if control.cancelled:
                    raise RunCancelled(f"cancelled before node {step.node.label!r}")
                if how == SPECIAL or watched:
                    state.alive_bytes = alive
                    results = _watched(step, slots, state)
                elif how == ONE_INPUT:
                    results = kernel(gather(slots))
                else:
                    results = kernel(*gather(slots))
                if output:
                    value = slots[output] = results[0]
                    alive += value.nbytes
                else:
                    alive += _store(step, slots, results)
                if alive > limit:
                    raise ResourceLimit(_where(step.node), f"{alive} bytes", f"run_bytes={limit}")
                for slot in dead:
                    alive -= slots[slot].nbytes
                    slots[slot] = None
        except EngineError:
            raise
        except MemoryError as error:
            assert step is not None
            raise ResourceLimit(_where(step.node), error, "the memory there is") from error
        except Exception as error:
            if step is None:
                raise
            raise _failure(step, error) from error
        state.alive_bytes = alive

    # ------------------------------------------------------------------------------ building

    def _prepare(self, node: Node) -> tuple[Kernel, Operator]:
        op = self._registry.find(node)
        types = self.graph.types
        xp = self._xp if any(node.bodies) else self._namespace(op, node)
        fixed = (self._fixed(name) for name in node.inputs)
        ctx = ComputeContext(
            xp=xp,
            node=node,
            attributes=op.complete(node),
            version=node.version,
            types=tuple(types.get(name) for name in node.inputs),
            outputs=tuple(types[name] for name in node.outputs if name in types),
            constants=tuple(fixed if xp is self._xp else (to_host(self._xp, v) for v in fixed)),
            limits=self._limits,
        )
        bodies = {name: self._body_plan(body) for name, body in node.bodies}
        self._bodies += bodies.values()
        if bodies:
            captured = tuple(self._visible.get(name) for name in node.captured)
            return body_kernel(op, ctx, bodies, captured, self._limit_bytes), op
        try:
            kernel = op.kernel(ctx)
            return (kernel if xp is self._xp else on_host(self._xp, kernel)), op
        except EngineError:
            raise
        except Exception as error:  # fixed values that no valid model has
            reason = f"{type(error).__name__}: {error}"
            raise InvalidModel(f"{_where(node)} cannot be prepared: {reason}") from error

    def _body_plan(self, body: Graph) -> GraphPlan:
        return GraphPlan(
            body,
            xp=self._xp,
            registry=self._registry,
            limits=self._limits,
            outside={name: self._visible[name] for name in body.free_names & self._visible.keys()},
        )

    def _namespace(self, op: Operator, node: Node) -> Any:
        """Return where the node runs: on the device, or numpy when something is not held there."""
        types = map(self.graph.types.get, (*node.inputs, *node.outputs))
        kinds = [kind.dtype.numpy for kind in types if isinstance(kind, TensorType)]
        on_device = not op.host and all(holds(self._xp, kind) for kind in kinds)
        return self._xp if on_device else np

    def _fixed(self, name: str) -> Array | None:
        is_fixed = name in self.graph.initializers or name in self.graph.constants
        return self._template[self._slots[name]] if is_fixed else None

    def _schedule(self, fetches: tuple[str, ...]) -> Schedule:
        found = self._schedules.get(fetches)
        if found is None:
            if len(self._schedules) >= REMEMBERED_FETCHES:
                self._schedules.clear()
            # Two threads may both build it; they build the same.
            found = self._schedules[fetches] = self._build_schedule(fetches)
        return found

    def _build_schedule(self, fetches: tuple[str, ...]) -> Schedule:
        known = set(self.graph.output_names)
        for name in fetches:
            if name not in known:
                listed = ", ".join(self.graph.output_names)
                raise InvalidInput(f"no output is called {name!r}; there are {listed}")
        needed = set(fetches)
        kept: list[Node] = []
        for node in reversed(self.graph.nodes):
            if not needed.isdisjoint(node.outputs):
                kept.append(node)
                needed.update(node.reads)
        steps = self._steps(kept, set(fetches))
        fetched = tuple((name, self._slots[name]) for name in fetches)
        return Schedule(tuple(map(_instruction, steps)), fetched)

    def _steps(self, backwards: Sequence[Node], live: set[str]) -> tuple[Step, ...]:
        """Build steps from the last node to the first: a name dies at the first reader met."""
        produced = {name for node in backwards for name in node.outputs if name}
        steps = []
        for node in backwards:
            used = {name for name in node.outputs if name in live}
            dying = {n for n in (*node.reads, *node.outputs) if n in produced and n not in live}
            live.update(node.reads)
            steps.append(self._step(node, used | dying, tuple(sorted(dying))))
        return tuple(reversed(steps))

    def _step(self, node: Node, wanted: set[str], dying: Sequence[str]) -> Step:
        kernel, op = self._kernels[id(node)]
        names = (*node.inputs, *node.captured)
        inputs = tuple(self._slots[name] if name else 0 for name in names)
        objects = tuple(name for name in dying if self._is_object(name))
        written = (name for name in node.outputs if name in wanted)
        return Step(
            node=node,
            kernel=kernel,
            inputs=inputs,
            outputs=tuple(self._slots[n] if n and n in wanted else 0 for n in node.outputs),
            dead=tuple(self._slots[name] for name in dying if name not in objects),
            dead_objects=tuple(self._slots[name] for name in objects),
            tensors_only=not objects and not any(map(self._is_object, written)),
            enters_body=any(True for _ in node.bodies),
            guard=node_guard(op, node, self.graph, self._limit_bytes, self._sizes.symbols),
        )

    def _is_object(self, name: str) -> bool:
        """Whether the value is no tensor, so that it has no `nbytes`."""
        kind = self.graph.types.get(name)
        return kind is not None and not isinstance(kind, TensorType)


def run_graph(
    graph: Graph,
    feeds: Mapping[str, Array],
    *,
    xp: Any = np,
    limits: Limits | None = None,
    fetches: Sequence[str] | None = None,
    observer: Observer | None = None,
    registry: Registry = REGISTRY,
) -> dict[str, Array]:
    """Run a graph once. Who runs it again keeps a `GraphPlan`."""
    plan = GraphPlan(graph, xp=xp, registry=registry, limits=limits)
    return plan.run(feeds, fetches, RunControl(observer) if observer is not None else None)


def _instruction(step: Step) -> Instruction:
    """Return a step as the loop wants it: `output` is the only output's slot, or 0."""
    is_special = step.enters_body or step.guard is not None or not step.inputs
    how = SPECIAL if is_special else ONE_INPUT if len(step.inputs) == 1 else SEVERAL_INPUTS
    gather = itemgetter(*step.inputs) if step.inputs else tuple
    output = step.outputs[0] if len(step.outputs) == 1 and step.tensors_only else 0
    return how, step.kernel, gather, output, step.dead, step


def _watched(step: Step, slots: list[Any], state: RunState) -> Sequence[Array]:
    """Compute a step that needs more than its kernel: a guard, a body, or somebody who watches."""
    inputs = [slots[i] for i in step.inputs]
    if step.guard is not None:
        step.guard(inputs[: len(step.node.inputs)])
    start = time.perf_counter()
    results = step.kernel(state, *inputs) if step.enters_body else step.kernel(*inputs)
    observer = state.control.observer
    if observer is not None:
        observer(step.node, time.perf_counter() - start, inputs, results)
    return results


def _store(step: Step, slots: list[Any], results: Sequence[Array]) -> int:
    """Put outputs where they belong, drop objects that died; return how many more bytes there
    are.
    """
    size = 0
    for slot, value in zip(step.outputs, results, strict=False):
        if slot:
            slots[slot] = value
            size += value_bytes(value)
    for slot in step.dead_objects:
        size -= value_bytes(slots[slot])
        slots[slot] = None
    return size


def _number_slots(graph: Graph, captured: Sequence[str]) -> dict[str, int]:
    """Give every name a slot, from 1 on."""
    names = dict.fromkeys(
        (*captured, *graph.input_names, *graph.initializers, *graph.constants, *graph.producers)
    )
    return {name: slot for slot, name in enumerate(names, start=1)}


def _frozen(value: Array, xp: Any) -> Array:
    """Return a fixed value on the device, read-only where possible: outputs may be views of it."""
    if xp is not np:
        return to_device(xp, value)
    protected = np.asarray(value).view()
    protected.flags.writeable = False
    return protected


def _where(node: Node) -> str:
    return f"node {node.label!r} ({node.op})"


def _failure(step: Step, error: Exception) -> RunFailed:
    reason = f"{type(error).__name__}: {error}".splitlines()[0][:500]
    return RunFailed(step.node.label, step.node.op, reason)
