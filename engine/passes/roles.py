"""What a file of an encoder-decoder is compiled to: one of several graphs that decoding is made of.

A file as Optimum exports it becomes, by its role:

    encoder     tokens of sources -> what the encoder makes of them
    cross       that -> keys and values of every decoder layer, (N, M, W) each
    step        one token per row, over static caches (`engine.passes.step_graph`)
    prefix      whole targets so far -> logits of their last tokens: decodes without caches
    whole       the same from sources: of a file that holds encoder and decoder
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from engine.dtypes import DType
from engine.errors import EngineError, GraphInvalid, NotRecognised
from engine.evaluation import evaluate_graph
from engine.ir.graph import Array, Graph, Node, Value
from engine.ir.types import Shape, TensorType, symbol
from engine.ir.value_types import ValueType
from engine.passes.cache_names import (
    CACHE_POSITION,
    CACHE_SWITCH,
    CROSS,
    ENCODED,
    LOGITS,
    OWN,
    PLAIN_MASK,
    POSITION_IDS,
    SOURCE_MASK,
    TARGET_MASK,
    TOKENS,
    WHOLE_TOKENS,
    CacheName,
    cache_name,
    caches,
)
from engine.passes.context import PassContext
from engine.passes.dead_code import eliminate_dead_code
from engine.passes.head_splitting import split_heads
from engine.passes.identity_elimination import eliminate_identity
from engine.passes.pipeline import O1, Pipeline, Watcher, run_pipeline
from engine.passes.position_limits import longest
from engine.passes.step_graph import METADATA, to_step_graph

ENCODER, CROSS_STATES, STEP, PREFIX, WHOLE = "encoder", "cross", "step", "prefix", "whole"
LAST: Final = "last"  # input of `prefix` and `whole`: where each target ends
VERSION: Final = 13  # of the nodes that are put in
N, M, L, P = symbol("N"), symbol("M"), symbol("L"), symbol("P")
# Whose sizes are lengths: of sources in an encoder, of targets where those are decoded at once.
LENGTHS: Final = {ENCODER: "M", PREFIX: "L", WHOLE: "L"}
# Behind it attention is one node each; what tidies before it is due again once caches are in.
RECOGNISED: Final = "attention_fusion"


@dataclass(frozen=True)
class _Draft:
    """What the graph of a role takes and gives.

    Attributes:
        inputs: Shapes of inputs that the file may have; None keeps what it says.
        outputs: Names of outputs, in order.
        nodes: More nodes, which compute some of them.
        constants: Fixed values that those read.
        more: Inputs that the file does not have.
        cached: Which branch of a merged decoder it is.
    """

    inputs: Mapping[str, Shape | None]
    outputs: Sequence[str]
    nodes: Sequence[Node] = ()
    constants: Mapping[str, Array] = field(default_factory=dict)
    more: Sequence[Value] = ()
    cached: bool = False


def compile_role(
    graph: Graph, role: str, pipeline: Pipeline, ctx: PassContext, watch: Watcher | None = None
) -> Graph:
    """Return the optimised graph of a role.

    Raises:
        NotRecognised: The file has not the form that the role needs; says what is in the way.
        GraphInvalid: A fault of the engine's own.
    """
    try:
        return _compiled(graph, role, pipeline, ctx, watch)
    except EngineError:
        raise
    except Exception as error:  # a fault here must not take down who loads a model
        reason = f"{type(error).__name__}: {error}"
        raise GraphInvalid(f"role {role!r} failed: {reason}") from error


def _compiled(
    graph: Graph, role: str, pipeline: Pipeline, ctx: PassContext, watch: Watcher | None
) -> Graph:
    graph = prepare(graph, role, ctx)
    pipeline = _with_heads_apart(pipeline)
    if role != STEP:
        again = O1 if role == CROSS_STATES and pipeline else ()
        most = longest(graph, LENGTHS[role], ctx) if role in LENGTHS else None
        done = _fed(run_pipeline(graph, (*pipeline, *again), ctx, watch))
        facts = json.dumps({"positions": most})
        return done.replace(metadata={**done.metadata, METADATA: facts})
    names = [name for name, _ in pipeline]
    if RECOGNISED not in names:
        raise NotRecognised("a step graph needs optimisation level 2")
    place = names.index(RECOGNISED) + 1
    graph = to_step_graph(run_pipeline(graph, pipeline[:place], ctx, watch), ctx)
    return run_pipeline(graph, (*O1, *pipeline[place:]), ctx, watch)


def _with_heads_apart(pipeline: Pipeline) -> Pipeline:
    """Return the pipeline with passes that make old exporters' attention recognisable."""
    names = [name for name, _ in pipeline]
    if RECOGNISED not in names:
        return pipeline
    place = names.index(RECOGNISED)
    more: Pipeline = (
        ("head_splitting", split_heads),
        ("leftovers_of_merging", eliminate_identity),
        ("unused_merging", eliminate_dead_code),
    )
    return (*pipeline[:place], *more, *pipeline[place:])


def _fed(graph: Graph) -> Graph:
    """Drop inputs that nothing reads: a caller feeds what counts."""
    read = {name for node in graph.nodes for name in node.reads} | graph.output_set
    unread = {v.name for v in graph.inputs} - read
    types = {name: kind for name, kind in graph.types.items() if name not in unread}
    return graph.replace(inputs=tuple(v for v in graph.inputs if v.name in read), types=types)


def prepare(graph: Graph, role: str, ctx: PassContext) -> Graph:
    """Return the graph with the inputs and outputs of a role, typed anew."""
    draft = ROLES[role](graph)
    kinds = {v.name: v.type for v in graph.inputs}
    others = [name for name in kinds if name not in draft.inputs and name != CACHE_SWITCH]
    unknown = [name for name in others if cache_name(name) is None]
    if unknown:
        raise NotRecognised(
            f"unknown inputs {unknown}; known here are {sorted({*draft.inputs, CACHE_SWITCH})}"
        )
    given = [Value(n, _retyped(n, kinds[n], s)) for n, s in draft.inputs.items() if n in kinds]
    constants = {**graph.constants, **draft.constants}
    if CACHE_SWITCH in kinds:
        constants[CACHE_SWITCH] = np.full([1] * (kinds[CACHE_SWITCH].rank or 0), draft.cached)
    # A merged file's other branch, which goes, may read more.
    inputs = (*given, *(Value(n, kinds[n]) for n in others), *draft.more)
    unknown_type = TensorType(DType.FLOAT32)
    outputs = tuple(Value(n, graph.types.get(n, unknown_type)) for n in draft.outputs)
    nodes = (*graph.nodes, *draft.nodes)
    changed = graph.replace(inputs=inputs, outputs=outputs, nodes=nodes, constants=constants)
    typed = evaluate_graph(changed, ctx.registry, limits=ctx.limits, deadline=ctx.deadline).graph
    fed = _fed(eliminate_dead_code(typed, ctx))
    left = sorted({*others}.intersection(fed.input_names))
    if left:
        raise NotRecognised(f"role {role!r} needs no caches, yet the graph reads {left}")
    return fed


def _retyped(name: str, kind: ValueType, shape: Shape | None) -> TensorType:
    if not isinstance(kind, TensorType):
        raise NotRecognised(f"input {name!r} is {kind}, expected a tensor")
    if shape is not None and kind.shape is not None and len(kind.shape) != len(shape):
        raise NotRecognised(f"input {name!r} is {kind}, expected {len(shape)} dims")
    return kind if shape is None else kind.with_shape(shape)


# ------------------------------------------------------------------------------ the roles


def _encoder(graph: Graph) -> _Draft:
    _require(graph, graph.input_names, TOKENS, "an encoder")
    return _Draft({TOKENS: (N, M), PLAIN_MASK: (N, M)}, graph.output_names[:1])


def _cross(graph: Graph) -> _Draft:
    found = caches(graph.output_names, CROSS)
    if not found:
        raise NotRecognised(
            "the decoder without past gives no present.*.encoder.key: nothing tells keys and "
            "values of the source from others"
        )
    nodes = [node for cache in found for node in _flat(cache)]
    target = {_target(cache): np.array([0, 0, -1]) for cache in found}
    return _Draft(_decoder_inputs(graph), [c.slot_out for c in found], nodes, target)


def _step(graph: Graph) -> _Draft:
    own = caches(graph.input_names, OWN)
    given = [c.past for c in own if c.present not in graph.output_names]
    if not own or given:
        raise NotRecognised(
            f"a decoder with past takes past_key_values.*.decoder.key and gives present.*; this "
            f"one takes {len(own)} caches of its own and does not give back {given}"
        )
    _require(graph, graph.output_names, LOGITS, "a decoder")
    inputs: dict[str, Shape | None] = {
        **_decoder_inputs(graph),
        TOKENS: (N, 1),
        CACHE_POSITION: (1,),
        POSITION_IDS: (N, 1),
    }
    for cache in (*own, *caches(graph.input_names, CROSS)):
        heads, width = _heads(graph, cache)
        inputs[cache.past] = (N, heads, P if cache.side == OWN else M, width)
    return _Draft(inputs, [LOGITS, *(c.present for c in own)], cached=True)


def _prefix(graph: Graph) -> _Draft:
    _require(graph, graph.input_names, TOKENS, "a decoder")
    return _ending_at_last(graph, _decoder_inputs(graph))


def _whole(graph: Graph) -> _Draft:
    for name in (TOKENS, WHOLE_TOKENS):
        _require(graph, graph.input_names, name, "a model.onnx of encoder and decoder")
    inputs: dict[str, Shape | None] = {
        TOKENS: (N, M),
        PLAIN_MASK: (N, M),
        WHOLE_TOKENS: (N, L),
        TARGET_MASK: (N, L),
    }
    return _ending_at_last(graph, inputs)


ROLES: Final[Mapping[str, Callable[[Graph], _Draft]]] = {
    ENCODER: _encoder,
    CROSS_STATES: _cross,
    STEP: _step,
    PREFIX: _prefix,
    WHOLE: _whole,
}


def _decoder_inputs(graph: Graph) -> dict[str, Shape | None]:
    kind = graph.types.get(ENCODED)
    width = kind.shape[-1:] if isinstance(kind, TensorType) and kind.shape else ()
    return {
        TOKENS: (N, L),
        ENCODED: (N, M, *width) if width else None,
        SOURCE_MASK: (N, M),
        TARGET_MASK: (N, L),
    }


def _flat(cache: CacheName) -> tuple[Node, Node]:
    """Lay heads side by side: (N, H, M, D) -> (N, M, H * D)."""
    turned = f"{cache.slot_out}/turned"
    transpose = Node("Transpose", (cache.present,), (turned,), {"perm": (0, 2, 1, 3)})
    reshape = Node("Reshape", (turned, _target(cache)), (cache.slot_out,))
    return transpose.replace(version=VERSION), reshape.replace(version=VERSION)


def _target(cache: CacheName) -> str:
    return f"{cache.slot_out}/target"


def _ending_at_last(graph: Graph, inputs: Mapping[str, Shape | None]) -> _Draft:
    """Give the logits of one place per row: (N, L, V) -> (N, V)."""
    _require(graph, graph.output_names, LOGITS, "a decoder")
    places, axes, result = f"{LAST}/places", f"{LAST}/axes", f"{LOGITS}/{LAST}"
    unsqueeze = Node("Unsqueeze", (LAST, axes), (places,), version=VERSION)
    gather = Node("GatherND", (LOGITS, places), (result,), {"batch_dims": 1}, version=VERSION)
    more = Value(LAST, TensorType(DType.INT64, (N,)))
    return _Draft(inputs, [result], [unsqueeze, gather], {axes: np.array([1])}, [more])


def _heads(graph: Graph, cache: CacheName) -> tuple[int, int]:
    """Return heads and width of a head of a cache (N, H, positions, D)."""
    kind = graph.types.get(cache.past)
    shape = kind.shape if isinstance(kind, TensorType) else None
    if (
        not isinstance(kind, TensorType)
        or not shape
        or len(shape) != 4
        or kind.dtype is not DType.FLOAT32
    ):
        raise NotRecognised(f"cache {cache.past!r} is {kind}, expected float32 with four dims")
    heads, width = shape[1], shape[3]
    if not isinstance(heads, int) or not isinstance(width, int):
        raise NotRecognised(f"cache {cache.past!r} is {kind}: heads and their width must be fixed")
    return heads, width


def _require(graph: Graph, names: Sequence[str], name: str, what: str) -> None:
    if name not in names:
        raise NotRecognised(
            f"{what} has {name!r}; this graph has {list(graph.input_names)} -> "
            f"{list(graph.output_names)}"
        )
