"""From a graph to a graph of regions: survey, partition, lowering, kernels, weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

import engine.cpu.lower.families  # noqa: F401  # registers the rules
from engine.cpu.beside import Beside
from engine.cpu.binding import Binder
from engine.cpu.buffers import Program
from engine.cpu.code_store import CodeStore, Progress
from engine.cpu.compiled import CompiledGraph, Coverage
from engine.cpu.kernel import Kernel
from engine.cpu.lanes import Lanes
from engine.cpu.lower.context import Lowering
from engine.cpu.lower.pictures import plan_pictures
from engine.cpu.lower.rules import NoKernel
from engine.cpu.partition import Region, partition, region_node
from engine.cpu.region import CompiledRegion
from engine.cpu.survey import Survey, survey
from engine.cpu.target import Target
from engine.cpu.weight_store import WeightStore
from engine.evaluation import evaluate_graph
from engine.inference import Scope
from engine.ir.graph import Graph, Node, Value
from engine.limits import Deadline, Limits
from engine.ops.registry import Registry


@dataclass
class Lowered:
    """A program waiting for its code."""

    program: Program
    scope: str
    label: str


@dataclass
class GraphCompiler:
    """Compiles one graph with its bodies.

    Attributes:
        target: The processor.
        registry: The operators.
        limits: Bounds on the plan.
        precision: How contractions may compute.
        deadline: When compiling must be over.
    """

    target: Target
    registry: Registry
    limits: Limits
    precision: str = "fp32"
    deadline: Deadline = field(default_factory=lambda: Deadline(Limits().load_s))
    lowered: list[Lowered] = field(default_factory=list)
    coverage: list[Coverage] = field(default_factory=list)

    def rewrite(self, graph: Graph) -> Graph:
        """Return the graph with region nodes in place of native ones."""
        evaluation = evaluate_graph(
            graph, self.registry, limits=self.limits, deadline=self.deadline
        )
        return self._rewrite(graph, graph, evaluation.scope, "")

    def _rewrite(self, graph: Graph, visible: Graph, scope: Scope, where: str) -> Graph:
        """Rewrite a graph; `visible` also knows the types and fixed values around a body."""
        reasons: dict[int, str] = {}
        while True:
            found = survey(
                visible,
                self.target,
                self.registry,
                symbolic=scope.symbolic,
                precision=self.precision,
                excluded=reasons,
                deadline=self.deadline,
            )
            items = partition(graph, found)
            begin = len(self.lowered)
            refused = self._lower_regions(visible, items, scope, where)
            if not refused:
                break
            del self.lowered[begin:]
            reasons.update(refused)
        self._note_coverage(graph, items, found)
        return self._assembled(graph, visible, items, scope, where, begin)

    def _lower_regions(
        self, graph: Graph, items: Sequence[Node | Region], scope: Scope, where: str
    ) -> dict[int, str]:
        """Lower every region; return the nodes that cannot be, with reasons."""
        refused: dict[int, str] = {}
        for item in items:
            if isinstance(item, Region):
                refused.update(self._lower_region(graph, item, scope, where))
        return refused

    def _lower_region(
        self, graph: Graph, region: Region, scope: Scope, where: str
    ) -> dict[int, str]:
        pictures = plan_pictures(graph, region.nodes, self.target)
        lowering = Lowering(
            graph,
            region.nodes,
            self.target,
            inputs=region.inputs,
            outputs=region.outputs,
            registry=self.registry,
            symbolic=scope.symbolic,
            precision=self.precision,
            borders=pictures.borders,
            places=pictures.places,
            fills=pictures.fills,
        )
        for node in region.nodes:
            self.deadline.check(f"node {node.label!r}")
            try:
                lowering.lower(node)
            except NoKernel as reason:  # alone it had been possible
                return {id(node): str(reason)}
        program = lowering.finish()
        if not any(step.kernel.computes for step in program.steps):
            return {id(node): "it only moves data between others" for node in region.nodes}
        self.lowered.append(Lowered(program, where, region_node(region, 0).name))
        return {}

    def _note_coverage(self, graph: Graph, items: Sequence[Node | Region], found: Survey) -> None:
        for item in items:
            for node in item.nodes if isinstance(item, Region) else (item,):
                self.coverage.append(Coverage(node, found.reasons.get(id(node)), graph.name))

    def _assembled(
        self,
        graph: Graph,
        visible: Graph,
        items: Sequence[Node | Region],
        scope: Scope,
        where: str,
        begin: int,
    ) -> Graph:
        nodes: list[Node] = []
        index = begin
        for item in items:
            if isinstance(item, Region):
                nodes.append(region_node(item, index))
                index += 1
            else:
                nodes.append(self._with_bodies(item, visible, scope, where))
        read = {name for node in nodes for name in node.reads} | set(graph.output_names)
        return graph.replace(
            nodes=tuple(nodes),
            initializers={k: v for k, v in graph.initializers.items() if k in read},
            constants={k: v for k, v in graph.constants.items() if k in read},
        )

    def _with_bodies(self, node: Node, visible: Graph, scope: Scope, where: str) -> Node:
        """Rewrite the bodies of a node; they see what is known around them."""
        changed = {}
        for name, body in node.bodies:
            inner = scope.body(node, name)
            if inner is None:
                continue
            seen = body.replace(
                inputs=(*body.inputs, *_captured(body, visible)),
                types={**visible.types, **body.types},
                constants={**_fixed(visible), **body.constants},
            )
            changed[name] = self._rewrite(body, seen, inner, f"{where}/{node.label}/{name}")
        return node.replace(attributes={**node.attributes, **changed}) if changed else node


def _captured(body: Graph, visible: Graph) -> tuple[Value, ...]:
    return tuple(
        Value(name, visible.types[name])
        for name in sorted(body.free_names)
        if name in visible.types and visible.constant(name) is None
    )


def _fixed(graph: Graph) -> Mapping[str, np.ndarray]:
    return {**graph.initializers, **graph.constants}


def native_coverage(
    graph: Graph, target: Target, registry: Registry, limits: Limits
) -> tuple[Coverage, ...]:
    """Return what would become of every node; nothing is packed or emitted."""
    compiler = GraphCompiler(target, registry, limits)
    compiler.rewrite(graph)
    return tuple(compiler.coverage)


def compile_graph(
    graph: Graph,
    *,
    target: Target,
    registry: Registry,
    limits: Limits,
    threads: int,
    precision: str = "fp32",
    store: CodeStore | None = None,
    progress: Progress | None = None,
    deadline: Deadline | None = None,
    beside: Beside | None = None,
) -> CompiledGraph:
    """Compile a graph; kernels come from `store` where they are known already.

    `beside` is what plans of the same model for other sizes share: such a plan is compiled while
    they serve, so children do what they can of it.
    """
    deadline = deadline or Deadline(limits.load_s)
    compiler = GraphCompiler(target, registry, limits, precision, deadline)
    rewritten = compiler.rewrite(graph)
    weights = WeightStore() if beside is None else WeightStore(beside.weights)
    lanes = Lanes() if beside is None else beside.lanes
    with ThreadPoolExecutor(1) as other:  # LLVM and numpy both let go of the GIL
        compiling = other.submit(
            (store or CodeStore()).get,
            kernels_of(compiler.lowered),
            target,
            in_time(deadline, progress),
            aside=beside is not None,
        )
        packed = [_packed(each, weights, deadline) for each in compiler.lowered]
        handles = compiling.result()
    regions = []
    for each, found in zip(compiler.lowered, packed, strict=True):
        steps = each.program.steps
        binder = Binder(
            each.program,
            [handles[step.kernel].address for step in steps],
            found,
            scratch_bytes=max((s.kernel.scratch_bytes(target) for s in steps), default=0),
            limit_bytes=limits.effective_run_bytes,
            label=each.label,
        )
        regions.append(CompiledRegion(each.program, binder, threads, lanes))
    return CompiledGraph(
        graph=rewritten,
        types=graph.types,
        regions=regions,
        coverage=tuple(compiler.coverage),
        lanes=lanes,
        code=list(handles.values()),
        weights=weights,
        weights_bytes=weights.size_bytes,
    )


def _packed(lowered: Lowered, weights: WeightStore, deadline: Deadline) -> list[tuple[int, int]]:
    """Pack the fixed values of a program; what they were packed from may go then."""
    found = []
    for each in lowered.program.weights:
        deadline.check(f"packing {each.key.partition('|')[0]!r}")
        found.append(weights.find(each, lowered.scope))
    lowered.program.weights.clear()
    return found


def in_time(deadline: Deadline, progress: Progress | None) -> Progress:
    """Return a progress that ends the compilation of kernels with `ResourceLimit` when it is time,
    after the kernel in hand.
    """

    def told(done: int, total: int) -> None:
        deadline.check(f"kernel {done} of {total}")
        if progress is not None:
            progress(done, total)

    return told


def kernels_of(lowered: Sequence[Lowered]) -> list[Kernel]:
    """Return the kernels of all programs, each once."""
    return list(dict.fromkeys(s.kernel for each in lowered for s in each.program.steps))
