"""A graph under construction, for passes that go through the nodes once."""

from __future__ import annotations

from dataclasses import dataclass, field

from engine.ir.graph import Array, Graph, Node
from engine.ir.types import TensorType
from engine.passes.context import PassContext
from engine.passes.rewriting import fresh_name, with_constants, with_nodes


@dataclass
class GraphDraft:
    """The new graph, begun as a copy of the old one without its nodes.

    Attributes:
        graph: The graph as it was.
        ctx: What the pass may use.
        nodes: Nodes of the new graph, in order.
        constants: Fixed values that come in.
        types: Types of computed names that come in; none means that nothing was rewritten.
        taken: Names given out.
    """

    graph: Graph
    ctx: PassContext
    nodes: list[Node] = field(default_factory=list)
    constants: dict[str, Array] = field(default_factory=dict)
    types: dict[str, TensorType] = field(default_factory=dict)
    taken: set[str] = field(default_factory=set)

    def fresh(self, hint: str) -> str:
        """Return a name that nobody has."""
        name = fresh_name(self.graph, hint, self.taken)
        self.taken.add(name)
        return name

    def constant(self, hint: str, value: Array) -> str:
        """Return the name of a new fixed value."""
        name = self.fresh(hint)
        self.constants[name] = value
        return name

    def result(self) -> Graph:
        """Return the new graph, or the old one when nothing was rewritten."""
        if not self.types:
            return self.graph
        graph = with_constants(self.graph, self.constants)
        graph = graph.replace(types={**graph.types, **self.types})
        return with_nodes(graph, self.nodes)
