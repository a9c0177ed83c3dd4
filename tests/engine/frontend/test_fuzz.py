"""The model door under fire: whatever the bytes are, only the engine's own errors come out.

`make test` tries a few hundred files, `make test-full` thousands; `python -m benchmarks.fuzz` tries
tens of thousands in worker processes.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper

import engine
from benchmarks.fuzz.attempt import FAULT, attempt
from benchmarks.fuzz.corpus import Corpus
from benchmarks.fuzz.structures import structures
from engine.errors import GraphInvalid
from tests.engine.onnx_models import convnet, mlp, model, node, normal

LIMITS = engine.Limits(
    model_bytes=1 << 22, nodes=500, load_s=20, run_bytes=1 << 26, fold_bytes=1 << 20
)


def branch(op: str) -> GraphProto:
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, None)
    return helper.make_graph([helper.make_node(op, ["x"], ["out"])], op, [], [out])


def mixed() -> bytes:
    """A model with shape arithmetic, a function, a choice, constants of several kinds."""
    function = helper.make_function(
        "my",
        "F",
        ["a"],
        ["b"],
        [helper.make_node("Neg", ["a"], ["b"])],
        [helper.make_opsetid("", 21)],
    )
    nodes = [
        node("F", ["x"], ["f"], domain="my"),
        node("Shape", ["f"], ["s"]),
        node("Gather", ["s", "zero"], ["n"], axis=0),
        node("Unsqueeze", ["n", "axis"], ["n1"]),
        node("Constant", [], ["rest"], value_ints=[-1, 4]),
        node("Concat", ["n1", "rest"], ["t"], axis=0),
        node("Reshape", ["f", "t"], ["r"]),
        node("If", ["yes"], ["c"], then_branch=branch("Abs"), else_branch=branch("Relu")),
        node("Transpose", ["r"], ["tr"], perm=[0, 2, 1]),
        node("Softmax", ["tr"], ["y"], axis=-1),
    ]
    weights = {"zero": np.array(0), "axis": np.array([0]), "yes": np.array(True)}
    return model(
        nodes,
        [("x", ["N", "L", 8])],
        [("y", None), ("c", None)],
        weights,
        functions=[function],
        domains={"my": 1},
    )


SEEDS = [mlp(), convnet(), mixed()]


def try_model(data: bytes) -> bool:
    """Load and run a file; True when that works. Other exceptions than the engine's go through."""
    try:
        with engine.load(data, device="reference", limits=LIMITS) as net:
            feeds = {}
            for spec in net.inputs:
                shape = [d if isinstance(d, int) else 2 for d in spec.shape or ()]
                if np.prod([max(d, 1) for d in shape], dtype=np.float64) > 1e6:
                    return True
                feeds[spec.name] = np.zeros(shape, np.dtype(spec.dtype))
            net.run(feeds)
    except GraphInvalid:
        raise  # an EngineError, but one that says that the engine is at fault
    except engine.EngineError:
        return False
    return True


def bytes_changed(data: st.DataObject) -> bytes:
    """Cut, doubled, overwritten: damage that knows nothing of the format."""
    raw = bytearray(data.draw(st.sampled_from(SEEDS)))
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(raw)))
        match data.draw(st.sampled_from(["set", "cut", "insert", "truncate", "repeat"])):
            case "set":
                raw[start : start + 1] = bytes([data.draw(st.integers(0, 255))])
            case "cut":
                del raw[start : start + data.draw(st.integers(1, 40))]
            case "insert":
                raw[start:start] = data.draw(st.binary(min_size=1, max_size=10))
            case "truncate":
                del raw[max(1, start) :]
            case "repeat":
                raw[start:start] = raw[start : start + data.draw(st.integers(1, 60))]
    return bytes(raw)


NUMBERS = st.sampled_from([0, 1, -1, 2, 3, 7, 99, 2**31, -(2**31), 2**63 - 1, -(2**63)])
NAMES = st.sampled_from(["x", "y", "", "w", "n", "s", "t", "nowhere", "a/b"])
OPS = st.sampled_from(
    [
        "Add",
        "Conv",
        "MatMul",
        "Reshape",
        "Gather",
        "Concat",
        "Slice",
        "Transpose",
        "If",
        "Loop",
        "Expand",
        "Pad",
        "Split",
        "Resize",
        "Tile",
        "ConstantOfShape",
        "Range",
        "BatchNormalization",
        "Shape",
        "Einsum",
        "ReduceSum",
        "Softmax",
        "Gemm",
        "Where",
    ]
)


def attribute_changed(attribute: AttributeProto, data: st.DataObject) -> None:
    match data.draw(st.sampled_from(["number", "kind", "name", "numbers", "tensor"])):
        case "number":
            attribute.i = data.draw(NUMBERS)
            attribute.f = data.draw(st.floats(width=32))
        case "kind":
            attribute.type = data.draw(st.integers(0, 14))
        case "name":
            attribute.name = data.draw(
                st.sampled_from(["axis", "perm", "to", "value", "pads", "group"])
            )
        case "numbers":
            del attribute.ints[:]
            attribute.ints.extend(data.draw(st.lists(NUMBERS, max_size=6)))
        case "tensor":
            tensor_changed(attribute.t, data)


def tensor_changed(tensor: TensorProto, data: st.DataObject) -> None:
    match data.draw(st.sampled_from(["dims", "type", "raw", "external", "ints"])):
        case "dims":
            del tensor.dims[:]
            tensor.dims.extend(data.draw(st.lists(NUMBERS, max_size=4)))
        case "type":
            tensor.data_type = data.draw(st.integers(-1, 28))
        case "raw":
            tensor.raw_data = data.draw(st.binary(max_size=32))
        case "external":
            tensor.data_location = TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value=data.draw(NAMES))
        case "ints":
            values = np.array(data.draw(st.lists(NUMBERS, max_size=5)), np.int64)
            tensor.data_type, tensor.raw_data = TensorProto.INT64, values.tobytes()
            del tensor.dims[:]
            tensor.dims.append(len(values))


def node_changed(changed: NodeProto, data: st.DataObject) -> None:
    match data.draw(st.sampled_from(["op", "inputs", "outputs", "attribute", "domain"])):
        case "op":
            changed.op_type = data.draw(OPS)
        case "inputs":
            changed.input[:] = data.draw(st.lists(NAMES, max_size=5))
        case "outputs":
            changed.output[:] = data.draw(st.lists(NAMES, max_size=3))
        case "attribute":
            if changed.attribute:
                attribute_changed(data.draw(st.sampled_from(list(changed.attribute))), data)
            else:
                attribute_changed(changed.attribute.add(name="axis"), data)
        case "domain":
            changed.domain = data.draw(st.sampled_from(["", "my", "ai.onnx.ml", "com.microsoft"]))


def proto_changed(data: st.DataObject) -> bytes:
    """Valid protobuf that says something else."""
    proto = ModelProto.FromString(data.draw(st.sampled_from(SEEDS)))
    graph = proto.graph
    for _ in range(data.draw(st.integers(1, 3))):
        match data.draw(st.sampled_from(["node", "tensor", "dim", "opset", "drop", "move"])):
            case "node":
                node_changed(data.draw(st.sampled_from(list(graph.node))), data)
            case "tensor":
                tensor_changed(data.draw(st.sampled_from(list(graph.initializer))), data)
            case "dim":
                dims = graph.input[0].type.tensor_type.shape.dim
                dims[data.draw(st.integers(0, len(dims) - 1))].dim_value = data.draw(NUMBERS)
            case "opset":
                proto.opset_import[0].version = data.draw(st.integers(0, 30))
            case "drop":
                if len(graph.node) > 1:
                    del graph.node[data.draw(st.integers(0, len(graph.node) - 1))]
            case "move":
                graph.node.append(graph.node[0])
                del graph.node[0]
    return proto.SerializeToString()


LENIENT = [HealthCheck.too_slow, HealthCheck.data_too_large]


@settings(max_examples=100, deadline=None, suppress_health_check=LENIENT)
@given(data=st.data())
def test_damaged_bytes_are_refused_in_order(data: st.DataObject) -> None:
    try_model(bytes_changed(data))


@settings(max_examples=100, deadline=None, suppress_health_check=LENIENT)
@given(data=st.data())
def test_false_statements_are_refused_in_order(data: st.DataObject) -> None:
    try_model(proto_changed(data))


@pytest.mark.slow
@pytest.mark.timeout(1200)
@settings(max_examples=2000, deadline=None, suppress_health_check=LENIENT)
@given(data=st.data())
def test_damaged_bytes_many(data: st.DataObject) -> None:
    try_model(bytes_changed(data))


@pytest.mark.slow
@pytest.mark.timeout(1200)
@settings(max_examples=2000, deadline=None, suppress_health_check=LENIENT)
@given(data=st.data())
def test_false_statements_many(data: st.DataObject) -> None:
    try_model(proto_changed(data))


def faults(corpus: Corpus, numbers: range) -> dict[int, str]:
    outcomes = {number: attempt(corpus, number).outcome for number in numbers}
    return {number: text for number, text in outcomes.items() if text.startswith(FAULT)}


def test_mutated_structures_are_refused_in_order() -> None:
    assert not faults(Corpus({"structures": sorted(structures())}), range(300))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_mutated_networks_and_node_tests_many() -> None:
    assert not faults(Corpus(), range(1_000_000, 1_005_000))


@pytest.mark.parametrize("name", structures())
def test_the_structures_themselves_load(name: str) -> None:
    engine.load(structures()[name], device="reference", limits=LIMITS).close()


def test_the_seeds_themselves_run() -> None:
    assert all(map(try_model, SEEDS)) and normal(1).shape == (1,)
