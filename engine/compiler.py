"""From a model file to an artifact: import, give it a batch dimension, optimise, prove what may be
batched.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from engine.artifact import Artifact
from engine.errors import EngineError, InvalidInput, ResourceLimit
from engine.ir.graph import Graph, Node, Value
from engine.limits import Deadline, Limits
from engine.lowering.batch_axes import BatchVerdict, find_batch_axes
from engine.lowering.batch_symbol import propose_batched
from engine.lowering.leading import LeadingDims, find_leading_dims
from engine.ops.registry import REGISTRY, USER_DOMAIN, Registry
from engine.parameters import count_parameters
from engine.passes.context import PassContext
from engine.passes.pipeline import LEVELS, Pipeline, Watcher, run_pipeline
from engine.passes.roles import compile_role

# Named, and imported when a model is compiled: a process that only runs artifacts (the server,
# whose models compile in child processes) never loads the ONNX parser.
IMPORTER = "engine.frontend.onnx_importer"

Facts = dict[str, tuple[int, ...]]  # other files that were read, see `Artifact.external`
Source = str | os.PathLike[str] | bytes


class _All:
    """The type of `ALL`."""

    def __repr__(self) -> str:
        return "engine.ALL"


ALL: Final = _All()
Outputs = Sequence[str] | _All | None
DEFAULT_LEVEL = 2
PART: Final = "it is a part of a generation, whose rows are told apart by their inputs"
# What a graph may be compiled for; devices know more precisions.
EXACT, INT8, STORED_INT8 = "fp32", "int8", "int8-stored"


@dataclass(frozen=True)
class CompileRequest:
    """How a model is to be compiled.

    Attributes:
        outputs: Values to keep; None for the graph's outputs, `ALL` for every one (at O0).
        keep: Values to keep beside those.
        level: 0 takes the graph as it is, 1 tidies, 2 optimises.
        limits: Bounds on the work.
        registry: The operators.
        precision: "int8" has products with fixed weights compute in bytes, "int8-stored" those
            whose weights are bytes in the file; anything else leaves the graph exact.
        role: Part of an encoder-decoder to be made of the file (`engine.passes.roles`); it has
            inputs and outputs of its own. "" takes the graph as it is.
    """

    outputs: Outputs = None
    level: int = DEFAULT_LEVEL
    limits: Limits = field(default_factory=Limits)
    registry: Registry = REGISTRY
    keep: tuple[str, ...] = ()
    precision: str = EXACT
    role: str = ""

    @property
    def pipeline(self) -> Pipeline:
        """The passes of the level; none when every value is kept."""
        return LEVELS[0] if isinstance(self.outputs, _All) else LEVELS[self.level]


def compile_model(
    source: Source,
    request: CompileRequest = CompileRequest(),
    *,
    base_dir: Path | None = None,
    watch: Watcher | None = None,
    deadline: Deadline | None = None,
) -> Artifact:
    """Compile a model in this process.

    `watch` is shown the graph after the import and each pass. `deadline` is when it must be over,
    by default `load_s` from now.
    """
    deadline = deadline or Deadline(request.limits.load_s)
    read_model: Callable[..., tuple[Graph, Facts]] = importlib.import_module(IMPORTER).read_model
    imported, external = read_model(
        source,
        limits=request.limits,
        registry=request.registry,
        base_dir=base_dir,
        deadline=deadline,
    )
    if request.registry is not REGISTRY:
        imported = _with_users_apart(imported, request.registry)
    parameters = count_parameters(imported, imported.initializers)
    if request.role:
        ctx = PassContext(request.registry, request.limits, deadline, request.precision)
        part = compile_role(imported, request.role, request.pipeline, ctx, watch)
        verdict = BatchVerdict(None, PART)
        return Artifact(part, part.output_names, verdict, parameters, external)
    outputs = _default_outputs(imported, request.outputs)
    graph = _keep(imported, request.outputs, request.keep)
    ctx = PassContext(request.registry, request.limits, deadline, request.precision)
    optimised, verdict = _optimise(graph, request.pipeline, ctx, (*outputs, *request.keep), watch)
    leading = _leading_dims(graph, verdict, ctx)
    return Artifact(optimised, outputs, verdict, parameters, external, leading=leading)


def _optimise(
    graph: Graph,
    pipeline: Pipeline,
    ctx: PassContext,
    outputs: Sequence[str],
    watch: Watcher | None,
) -> tuple[Graph, BatchVerdict]:
    """Optimise the first form of the graph whose rows are proved independent, or the graph as it
    came.
    """
    plain = run_pipeline(graph, pipeline, ctx, watch)
    first = _verdict(plain, ctx, outputs)
    if first.axes is not None:
        return plain, first
    reasons = [first.reason]
    for proposal in _proposals(graph, ctx):
        candidate = run_pipeline(proposal, pipeline, ctx, watch)
        verdict = _verdict(candidate, ctx, outputs)
        if verdict.axes is not None:
            return candidate, verdict
        reasons.append(verdict.reason)
    return plain, BatchVerdict(None, reasons[min(1, len(reasons) - 1)])


def _leading_dims(graph: Graph, verdict: BatchVerdict, ctx: PassContext) -> LeadingDims | None:
    if verdict.axes is None:
        return None
    try:
        return find_leading_dims(graph, verdict.axes, ctx.registry, ctx.limits, ctx.deadline)
    except ResourceLimit:
        raise
    except EngineError:
        return None


def _proposals(graph: Graph, ctx: PassContext) -> Iterator[Graph]:
    return propose_batched(graph, ctx.registry, ctx.limits, ctx.deadline)


def _verdict(graph: Graph, ctx: PassContext, outputs: Sequence[str]) -> BatchVerdict:
    names = set(outputs)
    wanted = tuple(v for v in graph.outputs if v.name in names)
    try:
        return find_batch_axes(
            graph.replace(outputs=wanted), ctx.registry, ctx.limits, ctx.deadline
        )
    except EngineError as error:
        return BatchVerdict(None, str(error))


def _with_users_apart(graph: Graph, registry: Registry) -> Graph:
    """Put nodes whose operator the user brought into a domain of their own, in bodies too."""
    return graph.replace(nodes=tuple(_apart(node, registry) for node in graph.nodes))


def _apart(node: Node, registry: Registry) -> Node:
    bodies = {key: _with_users_apart(body, registry) for key, body in node.bodies}
    if bodies:
        node = node.replace(attributes={**node.attributes, **bodies})
    return node.replace(domain=USER_DOMAIN) if registry.is_users(node) else node


def _default_outputs(graph: Graph, outputs: Outputs) -> tuple[str, ...]:
    if outputs is None or isinstance(outputs, _All):
        return graph.output_names
    return tuple(dict.fromkeys(outputs))


def _keep(graph: Graph, outputs: Outputs, keep: Sequence[str]) -> Graph:
    """Make every value that may be fetched an output of the graph, so that passes keep it."""
    if outputs is None and not keep:
        return graph
    if isinstance(outputs, _All):
        computed = [name for node in graph.nodes for name in node.outputs if name]
        names = list(dict.fromkeys([*graph.output_names, *computed]))
    else:
        wanted = graph.output_names if outputs is None else outputs
        names = list(dict.fromkeys([*wanted, *keep]))
    for name in names:
        if name not in graph.types:
            raise InvalidInput(f"no value is called {name!r}; {_suggestion(graph, name)}")
    return graph.replace(outputs=tuple(Value(name, graph.types[name]) for name in names))


def _suggestion(graph: Graph, name: str) -> str:
    computed = [n for node in graph.nodes for n in node.outputs if n]
    close = [n for n in computed if name.lower() in n.lower()][:8] or computed[-8:]
    return f"the graph's outputs are {list(graph.output_names)}, other values {close}"


__all__ = ["ALL", "CompileRequest", "Outputs", "Source", "compile_model"]
