"""Decoders with something changed at random: a step graph that is made all the same computes what
the changed decoder computes.
"""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto

from engine.errors import EngineError, InvalidModel, NotRecognised
from engine.frontend.onnx_importer import read_model
from engine.interpreter import run_graph
from engine.ir.graph import Graph
from engine.limits import Limits
from engine.ops import REGISTRY
from engine.passes.context import PassContext
from engine.passes.pipeline import LEVELS
from engine.passes.roles import STEP, compile_role
from tests.engine.generation.networks import unpack

STEP_FILE = "decoder_with_past_model.onnx"
OPERATORS = ("Add", "Mul", "Sub", "Identity", "Neg", "Abs", "Max", "Sqrt", "Softmax")
ROWS, SPAN, CACHE_ROWS, PLACES = 2, 4, 3, 8
TAKEN = [2, 0]  # the cache rows and sources of the rows
LENGTHS = np.array([4, 2])  # of the sources


def change(proto: ModelProto, rng: random.Random) -> None:
    """Let a node read something else, be something else, or be gone."""
    nodes = proto.graph.node
    node = rng.choice(nodes)
    kind = rng.randrange(4)
    if kind == 0:
        names = [name for other in nodes for name in other.output]
        node.input[rng.randrange(len(node.input))] = rng.choice(names)
    elif kind == 1:
        node.op_type = rng.choice(OPERATORS)
        del node.attribute[:]
    elif kind == 2 and node.attribute:
        attribute = rng.choice(node.attribute)
        attribute.i, attribute.f = rng.choice([-1, 0, 1, 2]), rng.choice([0.5, -1.0])
    else:
        last = node.output[0]
        node.output[0] = f"{last}/before"
        nodes.insert(
            list(nodes).index(node) + 1,
            onnx.helper.make_node(rng.choice(["Neg", "Abs", "Identity"]), [node.output[0]], [last]),
        )


def old_feeds(graph: Graph, past: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Return inputs of the decoder as it came: two rows behind as many tokens."""
    feeds: dict[str, np.ndarray] = {
        "input_ids": rng.integers(3, 50, (ROWS, 1)),
        "encoder_attention_mask": (np.arange(SPAN)[None] < LENGTHS[:, None]).astype(np.int64),
    }
    for value in graph.inputs:
        if value.name.startswith("past"):
            _, heads, _, width = value.type.shape or ()
            places = past if ".decoder." in value.name else SPAN
            shape = (ROWS, heads, places, width)
            feeds[value.name] = rng.standard_normal(shape).astype(np.float32)  # type: ignore[arg-type]
    return {v.name: feeds[v.name] for v in graph.inputs}


def new_feeds(step: Graph, old: dict[str, np.ndarray], past: int) -> dict[str, np.ndarray]:
    """Return the same for the step graph, every row somewhere in caches full of other numbers."""
    lengths = np.zeros(CACHE_ROWS, np.int64)
    lengths[TAKEN] = LENGTHS
    feeds: dict[str, np.ndarray] = {
        "tokens": old["input_ids"],
        "position": np.full(ROWS, past),
        "slot": np.array(TAKEN),
        "source": np.array(TAKEN),
        "source_length": lengths,
        "history": np.tile(np.arange(CACHE_ROWS, dtype=np.int32)[:, None], (1, PLACES)),
    }
    for value in step.inputs:
        side, layer, part = (*value.name.split("."), "", "")[:3]
        if side in ("past", "cross"):
            whose = "decoder" if side == "past" else "encoder"
            rows = old[f"past_key_values.{layer}.{whose}.{part}"].transpose(0, 2, 1, 3)
            width = rows.shape[2] * rows.shape[3]
            feeds[value.name] = np.full((CACHE_ROWS, PLACES, width), 7, np.float32)
            feeds[value.name][TAKEN, : rows.shape[1]] = rows.reshape(ROWS, rows.shape[1], width)
    return {v.name: feeds[v.name] for v in step.inputs}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> ModelProto:
    return onnx.load(unpack("mbart", tmp_path_factory.mktemp("net")) / STEP_FILE)


@pytest.mark.parametrize("seed", range(12))
def test_changed_decoders(seed: int, original: ModelProto, tmp_path: Path) -> None:
    proto = ModelProto.FromString(original.SerializeToString())
    if seed:  # the first is as it was
        change(proto, random.Random(seed))
    try:
        graph = read_model(proto.SerializeToString(), limits=Limits(), registry=REGISTRY).graph
        step = compile_role(graph, STEP, LEVELS[2], PassContext(REGISTRY))
    except NotRecognised as error:
        assert seed and str(error)
        return
    except InvalidModel:
        assert seed
        return
    past = seed % 5
    old = old_feeds(graph, past, np.random.default_rng(seed))
    try:
        wanted = run_graph(graph, old, fetches=["logits"])["logits"][:, 0]
    except EngineError:
        return  # what the decoder cannot compute, a step need not compute either
    found = run_graph(step, new_feeds(step, old, past), fetches=["logits"])["logits"]
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-3)
