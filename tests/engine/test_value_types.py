"""Types of sequences, optionals and maps: joining, text, JSON, and values that they describe."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.artifact import map_artifact, write_artifact
from engine.compiler import compile_model
from engine.dtypes import DType
from engine.errors import GraphInvalid
from engine.graph_json import GraphLoader, GraphWriter, read_type, write_type
from engine.ir.graph import Graph, Node, Value
from engine.ir.printer import print_graph
from engine.ir.types import Dim, TensorType, symbol
from engine.ir.value_types import (
    MapType,
    OptionalType,
    SequenceType,
    ValueType,
    all_varying,
    covers,
    join_types,
    refreshed,
    symbols_in,
    varying_dim,
)
from engine.ir.values import copy_value, misfit, value_bytes
from engine.ir.verify import contradicts, verify_graph
from engine.loading import model_from_artifact
from tests.engine.onnx_models import normal
from tests.engine.ops.test_sequences import growing

N, M = symbol("N"), symbol("M")


def real(*shape: Dim) -> TensorType:
    return TensorType(DType.FLOAT32, shape)


ROWS = SequenceType(real(N, 3))
EMPTY = SequenceType(TensorType(DType.FLOAT32), 0)
SCORES = MapType(DType.INT64, real())
KINDS: list[ValueType] = [
    real(N, 3),
    TensorType(DType.STRING),
    ROWS,
    SequenceType(real(N, varying_dim()), N * 2 + 1),
    OptionalType(ROWS),
    SequenceType(MapType(DType.STRING, real())),
    SCORES,
]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_types_are_written_and_read(kind: ValueType) -> None:
    assert read_type(json.loads(json.dumps(write_type(kind)))) == kind
    assert not contradicts(kind, kind) and covers(kind, kind)
    assert join_types(kind, kind) == kind


def test_types_read_well() -> None:
    assert str(OptionalType(ROWS)) == "optional(sequence(float32[N, 3]))"
    assert str(SequenceType(SCORES, 2)) == "sequence(map(int64, float32[]), 2)"


def test_other_kinds_answer_what_tensors_answer() -> None:
    for kind in (ROWS, OptionalType(ROWS), SCORES):
        assert (kind.dtype, kind.shape, kind.rank, kind.is_static) == (
            DType.FLOAT32,
            None,
            None,
            False,
        )
    assert SequenceType(OptionalType(real(N)), N).substitute({"N": 4}) == SequenceType(
        OptionalType(real(4)), 4
    )
    assert MapType(DType.INT64, real(N)).substitute({"N": M}) == MapType(DType.INT64, real(M))


@pytest.mark.parametrize(
    ("a", "b", "text"),
    [
        (real(N, 3), real(N, 4), "float32[N, any]"),
        (real(N), real(M), "float32[any]"),
        (real(N), real(N, 1), "float32[...]"),
        (real(N), TensorType(DType.FLOAT32), "float32[...]"),
        (ROWS, SequenceType(real(M, 3), 2), "sequence(float32[any, 3])"),
        (SequenceType(real(2), 2), SequenceType(real(2), 2), "sequence(float32[2], 2)"),
        (EMPTY, SequenceType(real(N), 1), "sequence(float32[N])"),
        (SequenceType(real(N), 1), EMPTY, "sequence(float32[N])"),
        (OptionalType(real(2)), OptionalType(real(3)), "optional(float32[any])"),
        (OptionalType(real(2)), real(2), "optional(float32[2])"),
        (real(2), OptionalType(real(2)), "optional(float32[2])"),
        (SCORES, SCORES, "map(int64, float32[])"),
    ],
    ids=str,
)
def test_joined_types_cover_both(a: ValueType, b: ValueType, text: str) -> None:
    import re

    joined = join_types(a, b)
    assert re.sub(r"any_\d+", "any", str(joined)) == text
    assert join_types(joined, b, symbols_in(joined)) == joined  # and again changes nothing


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (real(2), TensorType(DType.INT64, (2,))),
        (real(2), ROWS),
        (ROWS, SequenceType(TensorType(DType.INT64))),
        (EMPTY, SequenceType(TensorType(DType.INT64), 0)),
        (SCORES, MapType(DType.STRING, real())),
    ],
    ids=str,
)
def test_what_has_nothing_in_common_is_told(a: ValueType, b: ValueType) -> None:
    with pytest.raises(ValueError, match="cannot be"):
        join_types(a, b)
    assert contradicts(a, b) and not covers(a, b)


def test_varying_dims_are_new_each_time_and_others_stay() -> None:
    kind = SequenceType(real(N, varying_dim()))
    one, other = refreshed(kind.element), refreshed(kind.element)
    assert one != other and one.shape is not None and one.shape[0] == N
    assert symbols_in(all_varying(kind)).isdisjoint(symbols_in(kind))


# ------------------------------------------------------------------------------ values


@pytest.mark.parametrize(
    ("value", "least"),
    [
        (None, 0),
        (np.zeros(100, np.float32), 400),
        ([np.zeros(100, np.float32)] * 3, 1200),
        ({"a": 1.0, "b": 2.0}, 2),
        ([{1: 0.5}], 1),
        ("text", 1),
    ],
)
def test_every_value_has_a_size(value: Any, least: int) -> None:
    assert least <= value_bytes(value) <= least + 1000


def test_copies_share_nothing() -> None:
    value = [{"a": np.zeros(2)}, np.ones(2)]
    copied = copy_value(value)
    copied[0]["a"][:] = 5
    copied[1][:] = 5
    assert value[0]["a"].sum() == 0 and value[1].sum() == 2


def test_misfits_are_found_deep_inside() -> None:
    kind = SequenceType(MapType(DType.INT64, SequenceType(real(2))), 1)
    assert misfit([{1: [normal(2)]}], kind) is None
    assert misfit([], kind) == f"expected {kind}, got 0 elements"
    problem = misfit([{1: [normal(2), normal(3)]}], kind)
    assert problem == "element 0: key 1: element 1: expected float32[2], got shape [3]"


# ------------------------------------------------------------------------------ graphs


def graph_of_kinds() -> Graph:
    """y = Optional(x); z = an empty optional whose type an attribute holds."""
    kind = OptionalType(ROWS)
    nodes = (
        Node("Optional", ("x",), ("y",), version=15),
        Node("Optional", (), ("z",), {"type": ROWS}, version=15),
    )
    outputs = (Value("y", kind), Value("z", kind))
    types: dict[str, ValueType] = {"x": ROWS, "y": kind, "z": kind}
    return Graph("kinds", (Value("x", ROWS),), outputs, nodes, types=types)


def test_graphs_of_other_kinds_are_verified_printed_and_written() -> None:
    graph = graph_of_kinds()
    verify_graph(graph, reinfer=lambda g: g.types)
    assert print_graph(graph) == (
        "graph %kinds(%x: sequence(float32[N, 3])) {\n"
        "  %y: optional(sequence(float32[N, 3])) = Optional@15(%x)\n"
        "  %z: optional(sequence(float32[N, 3])) = Optional@15() "
        "type=type<sequence(float32[N, 3])>\n"
        "  return %y: optional(sequence(float32[N, 3])), %z: optional(sequence(float32[N, 3]))\n"
        "}\n"
    )
    writer = GraphWriter()
    back = GraphLoader(writer.blobs).graph(json.loads(json.dumps(writer.graph(graph))))
    assert back.types == graph.types and back.nodes[1].attributes == {"type": ROWS}
    with pytest.raises(GraphInvalid, match="'y' should be sequence"):
        verify_graph(graph, reinfer=lambda g: {**g.types, "y": ROWS})


def test_loops_over_sequences_run_from_artifacts(tmp_path: Path) -> None:
    made = compile_model(growing())
    write_artifact(made, tmp_path / "a")
    back = map_artifact(tmp_path / "a")
    assert back.graph.types == made.graph.types
    feeds = {"x": normal(2, 3), "m": np.array(3)}
    with (
        model_from_artifact(made, "reference") as one,
        model_from_artifact(back, "reference") as two,
    ):
        np.testing.assert_array_equal(one.run(feeds)["z"], two.run(feeds)["z"])
        assert len(two.run(feeds)["all"]) == 3
