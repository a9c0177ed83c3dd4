"""The optimisation levels: each a list of named passes, run in this order, the graph verified after
each.
"""

from __future__ import annotations

from collections.abc import Callable

from engine.errors import EngineError, GraphInvalid
from engine.ir.graph import Graph
from engine.ir.verify import verify_graph
from engine.passes.constant_folding import fold_constants
from engine.passes.context import Pass, PassContext
from engine.passes.conv_bn_fusion import fuse_conv_bn
from engine.passes.dead_code import eliminate_dead_code
from engine.passes.identity_elimination import eliminate_identity

Pipeline = tuple[tuple[str, Pass], ...]

O0: Pipeline = ()
O1: Pipeline = (
    ("constant_folding", fold_constants),
    ("identity_elimination", eliminate_identity),
    ("dead_code", eliminate_dead_code),
)
O2: Pipeline = (
    ("constant_folding", fold_constants),
    ("identity_elimination", eliminate_identity),
    ("conv_bn_fusion", fuse_conv_bn),
    ("dead_code", eliminate_dead_code),
)
LEVELS: dict[int, Pipeline] = {0: O0, 1: O1, 2: O2}

Watcher = Callable[[int, str, Graph], None]


def run_pipeline(
    graph: Graph, pipeline: Pipeline, ctx: PassContext, watch: Watcher | None = None
) -> Graph:
    """Apply the passes in order; `watch` is shown the graph before the first and after each."""
    verify_graph(graph)
    if watch is not None:
        watch(0, "import", graph)
    for number, (name, apply) in enumerate(pipeline, start=1):
        ctx.deadline.check(f"pass {name}")
        graph = _apply(name, apply, graph, ctx)
        if watch is not None:
            watch(number, name, graph)
    return graph


def _apply(name: str, apply: Pass, graph: Graph, ctx: PassContext) -> Graph:
    try:
        result = apply(graph, ctx)
        verify_graph(result)
    except GraphInvalid as error:
        raise GraphInvalid(f"after pass {name}: {error}") from error
    except EngineError:
        raise
    except Exception as error:  # a fault of the pass must not take down who loads a model
        raise GraphInvalid(f"pass {name} failed: {type(error).__name__}: {error}") from error
    return result
