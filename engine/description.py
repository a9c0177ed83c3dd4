"""Describes a compiled graph for people: every node's type, weights and arithmetic."""

from __future__ import annotations

from dataclasses import dataclass

from engine.artifact import Artifact
from engine.evaluation import evaluate_graph
from engine.inference import Scope, infer_context
from engine.ir.graph import Graph, Node
from engine.ir.types import Dim
from engine.limits import Deadline, Limits
from engine.ops.registry import REGISTRY, Registry
from engine.parameters import count_parameters


@dataclass(frozen=True)
class NodeDescription:
    """One node: what it is, what it gives, and what it costs."""

    name: str
    op: str
    outputs: tuple[str, ...]
    parameters: int
    flops: Dim | None


@dataclass(frozen=True)
class Description:
    """A model's nodes, and what they come to."""

    nodes: tuple[NodeDescription, ...]
    parameters: int
    weights_bytes: int
    flops: Dim


def describe(artifact: Artifact, registry: Registry = REGISTRY) -> Description:
    """Return the description of an artifact's graph; arithmetic may depend on symbols."""
    graph, limits = artifact.graph, Limits()
    deadline = Deadline(limits.load_s)
    scope = evaluate_graph(graph, registry, limits=limits, deadline=deadline).scope
    nodes = tuple(_describe_node(node, graph, scope, registry) for node in graph.nodes)
    arrays = (*graph.initializers.values(), *graph.constants.values())
    return Description(
        nodes=nodes,
        parameters=artifact.parameters,
        weights_bytes=sum(int(array.nbytes) for array in arrays),
        flops=sum((n.flops for n in nodes if n.flops is not None), start=0),
    )


def _describe_node(node: Node, graph: Graph, scope: Scope, registry: Registry) -> NodeDescription:
    operator = registry.find(node)
    return NodeDescription(
        name=node.label,
        op=node.op,
        outputs=tuple(f"{name}: {graph.types[name]}" for name in node.outputs if name),
        parameters=count_parameters(graph, node.inputs),
        flops=operator.count_flops(infer_context(operator, node, scope)),
    )
