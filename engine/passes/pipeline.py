"""The optimisation levels: each a list of named passes, run in this order, the graph verified after
each.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from engine.errors import EngineError, GraphInvalid, InvalidModel, ResourceLimit
from engine.evaluation import evaluate_graph
from engine.ir.graph import Graph, Node
from engine.ir.verify import verify_graph
from engine.ops.registry import Registry
from engine.passes.activation_fusion import fuse_activations
from engine.passes.activation_unfolding import unfold_activations
from engine.passes.attention_fusion import fuse_attention
from engine.passes.batch_norm_unfolding import unfold_batch_norm
from engine.passes.bodies import rewrite_everywhere
from engine.passes.cast_elimination import eliminate_casts
from engine.passes.common_subexpression_elimination import eliminate_common_subexpressions
from engine.passes.constant_folding import fold_constants
from engine.passes.context import Pass, PassContext
from engine.passes.conv_bn_fusion import fuse_conv_bn
from engine.passes.dead_code import eliminate_dead_code
from engine.passes.einsum_unfolding import unfold_einsum
from engine.passes.elementwise_fusion import fuse_elementwise
from engine.passes.epilogue_fusion import fuse_epilogues
from engine.passes.identity_elimination import eliminate_identity
from engine.passes.integer_weights import quantize_weights, use_integer_weights
from engine.passes.matmul_add_fusion import fuse_matmul_add
from engine.passes.norm_fusion import fuse_norms
from engine.passes.qdq_fusion import fuse_quantized_products, write_out_quantization
from engine.passes.quantized_tables import pick_from_bytes, unpack_weights
from engine.passes.reshape_elimination import eliminate_reshapes
from engine.passes.sequence_elimination import eliminate_sequences
from engine.passes.softmax_fusion import fuse_softmax
from engine.passes.transpose_elimination import eliminate_transposes
from engine.passes.volume_convolution import split_volumes

Pipeline = tuple[tuple[str, Pass], ...]

O0: Pipeline = ()
O1: Pipeline = (
    ("sequence_elimination", eliminate_sequences),
    ("constant_folding", fold_constants),
    ("cast_elimination", eliminate_casts),
    ("reshape_elimination", eliminate_reshapes),
    ("identity_elimination", eliminate_identity),
    ("common_subexpression_elimination", eliminate_common_subexpressions),
    ("dead_code", eliminate_dead_code),
)
# What exporters wrote out is recognised before transpositions move and chains fuse.
# Products of integers come before all: folding would make floats of quantized weights.
O2: Pipeline = (
    ("activation_unfolding", unfold_activations),
    ("einsum_unfolding", unfold_einsum),
    ("quantized_products", fuse_quantized_products),
    ("integer_weights", use_integer_weights),
    ("quantized_tables", pick_from_bytes),
    ("unpacked_weights", unpack_weights),
    *O1,
    ("activation_fusion", fuse_activations),
    ("norm_fusion", fuse_norms),
    ("softmax_fusion", fuse_softmax),
    ("attention_fusion", fuse_attention),
    ("transpose_elimination", eliminate_transposes),
    ("leftovers_of_transposes", eliminate_identity),
    ("conv_bn_fusion", fuse_conv_bn),
    ("batch_norm_unfolding", unfold_batch_norm),
    ("volume_convolutions", split_volumes),
    ("matmul_add_fusion", fuse_matmul_add),
    ("quantized_weights", quantize_weights),
    ("quantization_expressions", write_out_quantization),
    ("elementwise_fusion", fuse_elementwise),
    ("epilogue_fusion", fuse_epilogues),
    ("leftovers_of_fusion", eliminate_dead_code),
)
LEVELS: dict[int, Pipeline] = {0: O0, 1: O1, 2: O2}

RETYPED_NODES = 5_000  # typing a larger graph once more would show in the time to load it

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
    if pipeline and len(graph.nodes) <= RETYPED_NODES:
        _check_types(graph, ctx)
    return graph


def _check_types(graph: Graph, ctx: PassContext) -> None:
    """Hold the types that passes have kept to what the operators say of the new graph."""
    try:
        fresh = evaluate_graph(
            graph, ctx.registry, limits=ctx.limits, deadline=ctx.deadline
        ).graph.types
    except ResourceLimit:
        raise
    except InvalidModel as error:
        # Passes make more values known, and these may contradict what the file says of others: a
        # run would have met that too.
        raise InvalidModel(f"seen once the graph was optimised: {error}") from error
    except EngineError as error:
        raise GraphInvalid(f"after all passes the graph cannot be typed again: {error}") from error
    verify_graph(graph, reinfer=lambda _: fresh)


def _apply(name: str, apply: Pass, graph: Graph, ctx: PassContext) -> Graph:
    try:
        # Weights may hold anything, signalling NaN too; what comes of it is no matter for warnings.
        with np.errstate(all="ignore"):
            if apply is fold_constants:  # walks through bodies itself, knowing what surrounds them
                result = apply(graph, ctx)
            else:
                result = rewrite_everywhere(graph, lambda each: apply(each, ctx))
        if result is graph:
            return graph
        verify_graph(result, known=lambda node: _is_known(ctx.registry, node))
    except GraphInvalid as error:
        raise GraphInvalid(f"after pass {name}: {error}") from error
    except EngineError:
        raise
    except Exception as error:  # a fault of the pass must not take down who loads a model
        raise GraphInvalid(f"pass {name} failed: {type(error).__name__}: {error}") from error
    return result


def _is_known(registry: Registry, node: Node) -> bool:
    try:
        registry.find(node)
    except EngineError:
        return False
    return True
