"""ONNX in, typed graph out; every malformed file is an InvalidModel that says why."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import engine
from engine.errors import InvalidModel, ResourceLimit, UnsupportedOp
from engine.frontend.onnx_importer import import_model
from engine.ir.types import SymDim
from engine.limits import Limits
from engine.ops.registry import REGISTRY, USER_DOMAIN
from tests.engine.onnx_models import graph_of, load, mlp, model, node, normal, proto

X = ("x", ["N", 4])
Y = ("y", ["N", 4])


def refuse(data: bytes, reason: str, limits: Limits | None = None) -> InvalidModel:
    with pytest.raises(InvalidModel, match=reason) as caught:
        graph_of(data, limits)
    return caught.value


def run(data: bytes, **feeds: np.ndarray) -> np.ndarray:
    with load(data) as net:
        (result,) = net.run(feeds).values()
    return result


def test_a_net_arrives_whole() -> None:
    graph = graph_of(mlp())
    assert [str(v.type) for v in graph.inputs] == ["float32[N, 8]"]
    assert [str(v.type) for v in graph.outputs] == ["float32[N, 4]"]
    assert [n.op for n in graph.nodes] == ["Gemm", "Relu", "Gemm", "Softmax"]
    assert graph.initializers["w1"].shape == (8, 16)
    assert graph.nodes[0].version == 21


def test_paths_and_bytes_give_the_same(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(mlp())
    one = import_model(tmp_path / "m.onnx", limits=Limits(), registry=REGISTRY)
    assert one.types == graph_of(mlp()).types


def test_external_weights_are_read_from_the_models_folder(tmp_path: Path) -> None:
    w = normal(4, 4)
    w.tofile(tmp_path / "w.bin")
    built = proto([node("MatMul", ["x", "w"], ["y"])], [X], [Y], {"w": w})
    tensor = built.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="w.bin")
    (tmp_path / "m.onnx").write_bytes(built.SerializeToString())
    with engine.load(tmp_path / "m.onnx") as net:
        np.testing.assert_allclose(net.run({"x": np.eye(4, dtype=np.float32)})["y"], w)
    refuse(built.SerializeToString(), "load it from its path")


# ------------------------------------------------------------------------------ the file as a whole


@pytest.mark.parametrize("data", [b"", b"\0", b"hello, world", b"\x08\x0a", mlp()[:-7], mlp()[5:]])
def test_garbage_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidModel):
        graph_of(data)


@pytest.mark.parametrize("version", [0, -1, onnx.IR_VERSION + 1])
def test_unknown_ir_versions_are_refused(version: int) -> None:
    built = proto([node("Relu", ["x"], ["y"])], [X], [Y])
    built.ir_version = version
    refuse(built.SerializeToString(), "IR version")


@pytest.mark.parametrize("opset", [0, -1, onnx.defs.onnx_opset_version() + 1, 2**40])
def test_unknown_opsets_are_refused(opset: int) -> None:
    refuse(model([node("Relu", ["x"], ["y"])], [X], [Y], opset=opset), "opset")


def test_every_known_opset_and_ir_version_is_taken() -> None:
    for opset in range(1, onnx.defs.onnx_opset_version() + 1):
        graph_of(model([node("Relu", ["x"], ["y"])], [X], [Y], opset=opset))
    for version in range(3, onnx.IR_VERSION + 1):
        graph_of(model([node("Relu", ["x"], ["y"])], [X], [Y], ir_version=version))


@pytest.mark.parametrize("version", [1, 2])
def test_files_from_before_opsets_mean_the_first(version: int) -> None:
    relu = node("Relu", ["x"], ["y"], consumed_inputs=[0])
    built = proto([relu], [X], [Y], ir_version=version)
    del built.opset_import[:]
    assert graph_of(built.SerializeToString()).nodes[0].version == 1
    x = normal(2, 4)
    np.testing.assert_array_equal(run(built.SerializeToString(), x=x), np.maximum(x, 0))


def test_inlined_branches_take_no_name_that_comes_later() -> None:
    """Also when the first branch to be inlined lies in a body, and the name far behind it."""
    inner = helper.make_graph(
        [
            helper.make_node(
                "If",
                ["yes"],
                ["out"],
                name="inner",
                then_branch=branch("t", "Neg"),
                else_branch=branch("e", "Abs"),
            )
        ],
        "outer",
        [],
        [helper.make_empty_tensor_value_info("out")],
    )
    first = helper.make_node(
        "If", ["c"], ["h"], name="first", then_branch=inner, else_branch=branch("e", "Abs")
    )
    second = helper.make_node(
        "If",
        ["yes"],
        ["k"],
        name="second",
        then_branch=branch("t", "Exp"),
        else_branch=branch("e", "Abs"),
    )
    last = node("Add", ["h", "k"], ["second/out"])
    data = model(
        [first, second, last, node("Identity", ["second/out"], ["y"])],
        [X, ("c", [], TensorProto.BOOL)],
        [Y],
        {"yes": np.array(True)},
    )
    x = normal(2, 4)
    for flag in (True, False):
        want = (-x if flag else np.abs(x)) + np.exp(x)
        np.testing.assert_allclose(run(data, x=x, c=np.array(flag)), want, rtol=1e-6)


def test_opset_imports_must_be_there_and_agree() -> None:
    built = proto([node("Relu", ["x"], ["y"])], [X], [Y])
    built.opset_import.add(domain="ai.onnx", version=13)
    refuse(built.SerializeToString(), "two versions")
    del built.opset_import[:]
    refuse(built.SerializeToString(), "imports no opset")


def test_names_inside_of_the_engine_stay_there() -> None:
    inner = helper.make_node("Concat", ["x", "x"], ["y"], domain=USER_DOMAIN, axis=0)
    refuse(model([inner], [X], [("y", None)], domains={USER_DOMAIN: 13}), "inside of the engine")


def test_a_domain_must_be_imported() -> None:
    refuse(model([node("Foo", ["x"], ["y"], domain="a.b")], [X], [Y]), "no opset of domain 'a.b'")


def test_metadata_comes_along() -> None:
    built = proto([node("Relu", ["x"], ["y"])], [X], [Y], name="net")
    built.producer_name, built.model_version = "someone", 7
    built.metadata_props.add(key="names", value='["a"]')
    metadata = graph_of(built.SerializeToString()).metadata
    assert metadata == {
        "producer_name": "someone",
        "model_version": "7",
        "graph_name": "net",
        "names": '["a"]',
    }


def test_text_that_is_no_text_is_refused() -> None:
    data = model([node("Relu", ["x"], ["y"], name="somename")], [X], [Y])
    refuse(data.replace(b"somename", b"some\xff\xfeme"), "UTF-8|not an ONNX")


# ------------------------------------------------------------------------------ names and order


def test_nodes_out_of_order_are_put_in_order() -> None:
    nodes = [node("Relu", ["b"], ["y"]), node("Neg", ["a"], ["b"]), node("Abs", ["x"], ["a"])]
    assert [n.op for n in graph_of(model(nodes, [X], [Y])).nodes] == ["Abs", "Neg", "Relu"]


def test_cycles_are_refused() -> None:
    ring = [node("Add", ["x", "b"], ["a"]), node("Neg", ["a"], ["b"]), node("Abs", ["b"], ["y"])]
    refuse(model(ring, [X], [Y]), "cycle through node 'n_a'")
    refuse(model([node("Add", ["x", "y"], ["y"])], [X], [Y]), "reads its own output")


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        ([node("Relu", ["nowhere"], ["y"])], "reads 'nowhere'"),
        ([node("Relu", ["x"], ["z"])], "output 'y' of graph 'test' is computed by no node"),
        ([node("Relu", ["x"], ["y"]), node("Neg", ["x"], ["y"])], "'y' a second time"),
        ([node("Relu", ["x"], ["x"]), node("Neg", ["x"], ["y"])], "'x' a second time"),
        ([node("Relu", ["x"], ["w"]), node("Neg", ["x"], ["y"])], "'w' a second time"),
        ([node("Relu", ["x"], [""]), node("Neg", ["x"], ["y"])], "no outputs"),
        (
            [node("Constant", [], ["w"], value_float=1.0), node("Neg", ["x"], ["y"])],
            "defined twice",
        ),
    ],
)
def test_broken_wiring_is_refused(nodes: list[onnx.NodeProto], reason: str) -> None:
    refuse(model(nodes, [X], [Y], {"w": normal(4)}), reason)


def test_names_given_twice_are_refused() -> None:
    relu = [node("Relu", ["x"], ["y"])]
    refuse(model(relu, [X, X], [Y]), "input of graph 'test': 'x' is there twice")
    refuse(model(relu, [X], [Y, Y]), "output of graph 'test': 'y' is there twice")
    built = proto(relu, [X], [Y], {"w": normal(4)})
    built.graph.initializer.append(built.graph.initializer[0])
    refuse(built.SerializeToString(), "initializer 'w' of graph 'test' is given twice")
    built.graph.initializer[0].name = ""
    refuse(built.SerializeToString(), "has no name")


def test_a_graph_needs_outputs() -> None:
    refuse(model([node("Relu", ["x"], ["y"])], [X], []), "no outputs")


def test_inputs_with_an_initializer_are_constants() -> None:
    data = model(
        [node("MatMul", ["x", "w"], ["y"])],
        [X, ("w", [4, 4])],
        [Y],
        {"w": normal(4, 4)},
        ir_version=3,
    )
    assert graph_of(data).input_names == ("x",)


# ------------------------------------------------------------------------------ types and shapes


def test_dims_are_numbers_names_or_unknown() -> None:
    dims: list[int | str | None] = [2, "batch", None, "a-b", "in", "d_7", "3d"]
    graph = graph_of(model([node("Relu", ["x"], ["y"])], [("x", dims)], [("y", None)]))
    shape = graph.inputs[0].type.shape
    assert shape is not None and shape[0] == 2
    assert [str(d) for d in (shape[1], *shape[3:])] == ["batch", "a_b", "in_", "d_7_", "d_3d_"]
    assert isinstance(shape[2], SymDim) and shape[2].is_symbol
    assert graph.outputs[0].type.shape == shape


def test_a_dim_named_as_a_sum_of_names_is_their_sum() -> None:
    dims = ["past", "new", "past + new", "past + 1", "past + past"]
    graph = graph_of(model([node("Relu", ["x"], ["y"])], [("x", dims)], [("y", None)]))
    past, new, both, *others = graph.inputs[0].type.shape or ()
    assert both == past + new
    assert all(isinstance(d, SymDim) and d.is_symbol for d in others)


def test_different_names_stay_different() -> None:
    graph = graph_of(
        model([node("Relu", ["x"], ["y"])], [("x", ["a-b", "a.b", "a-b"])], [("y", None)])
    )
    shape = graph.inputs[0].type.shape
    assert shape is not None and shape[0] == shape[2] != shape[1]


def test_negative_dims_are_refused() -> None:
    refuse(model([node("Relu", ["x"], ["y"])], [("x", [-1, 4])], [Y]), "must not be negative")


def test_values_that_are_no_tensors_are_told() -> None:
    built = proto([node("Relu", ["x"], ["y"])], [X], [Y])
    built.graph.input[0].type.sequence_type.elem_type.tensor_type.elem_type = 1
    refuse(built.SerializeToString(), r"input 0 is sequence\(float32\[...\]\), expected a tensor")
    built.graph.input[0].type.sparse_tensor_type.elem_type = 1
    with pytest.raises(UnsupportedOp, match="sparse_tensor_type"):
        graph_of(built.SerializeToString())
    built.graph.input[0].ClearField("type")
    refuse(built.SerializeToString(), "'x' has no type")
    built.graph.input[0].name = ""
    refuse(built.SerializeToString(), "no name")


def test_outputs_may_leave_their_type_out_but_not_lie() -> None:
    built = proto([node("Relu", ["x"], ["y"])], [X], [Y])
    built.graph.output[0].ClearField("type")
    assert str(graph_of(built.SerializeToString()).outputs[0].type) == "float32[N, 4]"
    refuse(
        model([node("Relu", ["x"], ["y"])], [X], [("y", ["N", 4], TensorProto.INT64)]),
        "declared int64, the graph computes float32",
    )


def test_shapes_that_do_not_fit_are_refused() -> None:
    weights = {"w": normal(5, 4)}
    refuse(model([node("MatMul", ["x", "w"], ["y"])], [X], [Y], weights), "node 'n_y'")


def test_shape_arithmetic_is_followed_by_value() -> None:
    """What torch writes for `x.reshape(x.shape[0], -1, 4)`, with a detour through floats."""
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Gather", ["s", "zero"], ["n"], axis=0),
        node("Unsqueeze", ["n", "axis"], ["n1"]),
        node("Concat", ["n1", "rest"], ["target"], axis=0),
        node("Reshape", ["x", "target"], ["y"]),
    ]
    weights = {
        "zero": np.array(0),
        "axis": np.array([0]),
        "rest": np.array([-1, 4]),
    }
    graph = graph_of(model(nodes, [("x", ["N", "L", 8])], [("y", None)], weights))
    assert str(graph.outputs[0].type) == "float32[N, 2*L, 4]"


def test_fixed_shape_arithmetic_through_floats_is_computed() -> None:
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Cast", ["s"], ["f"], to=TensorProto.FLOAT),
        node("Mul", ["f", "scale"], ["g"]),
        node("Floor", ["g"], ["h"]),
        node("Cast", ["h"], ["i"], to=TensorProto.INT64),
        node("Expand", ["one", "i"], ["y"]),
    ]
    weights = {"scale": np.array([1.0, 0.5], np.float32), "one": np.ones((1, 1), np.float32)}
    graph = graph_of(model(nodes, [("x", [3, 5])], [("y", None)], weights))
    assert str(graph.outputs[0].type) == "float32[3, 2]"


# ------------------------------------------------------------------------------ nodes


def test_unknown_operators_are_named() -> None:
    data = model(
        [node("Frob", ["x"], ["y"], domain="my.ops", name="here")], [X], [Y], domains={"my.ops": 3}
    )
    with pytest.raises(UnsupportedOp) as caught:
        graph_of(data)
    error = caught.value
    assert (error.node, error.op, error.domain, error.opset) == ("here", "Frob", "my.ops", 3)


def test_nodes_without_a_name_get_one() -> None:
    unnamed = helper.make_node("Relu", ["x"], ["y"])
    assert graph_of(model([unnamed], [X], [Y])).nodes[0].name == "Relu_0"


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (node("LeakyRelu", ["x"], ["y"], alpha=1), "attribute 'alpha' has kind"),
        (node("Relu", ["x"], ["y"], beta=1.0), "unknown attribute 'beta'"),
        (node("Relu", ["x", "x"], ["y"]), "2 inputs, expected 1"),
        (node("Relu", ["x"], ["y", "z"]), "2 outputs, expected 1"),
        (node("Cast", ["x"], ["y"]), "attribute 'to' is missing"),
        (node("Cast", ["x"], ["y"], to=77), "node 'n_y'"),
        (node("Concat", ["x"], ["y"], axis=9), "node 'n_y'"),
        (node("Scatter", ["x", "x", "x"], ["y"]), "deprecated"),
    ],
)
def test_nodes_that_break_their_schema_are_refused(bad: onnx.NodeProto, reason: str) -> None:
    refuse(model([bad], [X], [Y]), reason)


def test_attributes_given_twice_are_refused() -> None:
    twice = node("LeakyRelu", ["x"], ["y"], alpha=0.5)
    twice.attribute.append(twice.attribute[0])
    refuse(model([twice], [X], [Y]), "given twice")


def test_attributes_without_a_type_are_told_by_their_field() -> None:
    leaky = node("LeakyRelu", ["x"], ["y"], alpha=0.5)
    leaky.attribute[0].type = onnx.AttributeProto.UNDEFINED
    assert graph_of(model([leaky], [X], [Y])).nodes[0].attributes == {"alpha": 0.5}


@pytest.mark.parametrize(
    ("attributes", "want"),
    [
        ({"value": numpy_helper.from_array(normal(4))}, normal(4)),
        ({"value_float": 2.0}, np.float32(2)),
        ({"value_floats": [1.0, 2.0]}, np.float32([1, 2])),
        ({"value_int": 3}, np.int64(3)),
        ({"value_ints": [3, 4]}, np.int64([3, 4])),
        ({"value_string": "a"}, np.array("a", object)),
        ({"value_strings": ["a", "b"]}, np.array(["a", "b"], object)),
        (
            {
                "sparse_value": helper.make_sparse_tensor(
                    numpy_helper.from_array(np.float32([5])),
                    numpy_helper.from_array(np.array([1])),
                    [3],
                )
            },
            np.float32([0, 5, 0]),
        ),
    ],
)
def test_every_form_of_constant(attributes: dict[str, object], want: np.ndarray) -> None:
    nodes = [node("Constant", [], ["c"], **attributes), node("Identity", ["x"], ["y"])]
    got = graph_of(model(nodes, [X], [Y])).constants["c"]
    assert got.dtype == want.dtype and got.tolist() == want.tolist()


def test_constants_need_one_value() -> None:
    for attributes in ({}, {"value_int": 1, "value_float": 2.0}):
        nodes = [node("Constant", [], ["c"], **attributes), node("Relu", ["x"], ["y"])]
        refuse(model(nodes, [X], [Y]), "exactly one value")


# ------------------------------------------------------------------------------ functions


def function(
    name: str, inputs: list[str], outputs: list[str], nodes: list[onnx.NodeProto], **options: object
) -> onnx.FunctionProto:
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("my", 1)]
    return helper.make_function("my", name, inputs, outputs, nodes, opsets, **options)  # type: ignore[arg-type]


def with_function(*functions: onnx.FunctionProto, **attributes: object) -> bytes:
    call = node("F", ["x"], ["y"], domain="my", name="call", **attributes)
    return model([call], [X], [Y], functions=functions, domains={"my": 1})


def leaky(**attribute: object) -> onnx.NodeProto:
    made = helper.make_node("LeakyRelu", ["t"], ["out"])
    made.attribute.add(name="alpha", ref_attr_name="slope", type=onnx.AttributeProto.FLOAT)
    return made


def test_functions_are_expanded_where_they_are_called() -> None:
    inner = function("G", ["a"], ["b"], [helper.make_node("Neg", ["a"], ["b"])])
    outer = function(
        "F",
        ["a"],
        ["out"],
        [helper.make_node("G", ["a"], ["t"], domain="my"), leaky()],
        attributes=["slope"],
    )
    data = with_function(outer, inner, slope=0.5)
    graph = graph_of(data)
    assert [n.op for n in graph.nodes] == ["Neg", "LeakyRelu"]
    assert graph.nodes[1].attributes == {"alpha": 0.5}
    assert graph.nodes[0].outputs == ("call/t",)
    x = np.float32([[1, -2, 3, -4]])
    np.testing.assert_array_equal(run(data, x=x), np.float32([[-0.5, 2, -1.5, 4]]))


def test_function_attributes_may_have_defaults() -> None:
    default = [helper.make_attribute("slope", 0.25)]
    body = function(
        "F",
        ["a"],
        ["out"],
        [helper.make_node("Neg", ["a"], ["t"]), leaky()],
        attribute_protos=default,
    )
    assert graph_of(with_function(body)).nodes[1].attributes == {"alpha": 0.25}
    assert graph_of(with_function(body, slope=2.0)).nodes[1].attributes == {"alpha": 2.0}


def test_functions_that_call_themselves_are_refused() -> None:
    call = helper.make_node("F", ["a"], ["b"], domain="my")
    refuse(with_function(function("F", ["a"], ["b"], [call])), "calls itself")


def test_functions_defined_twice_or_called_wrongly_are_refused() -> None:
    body = function("F", ["a"], ["b"], [helper.make_node("Neg", ["a"], ["b"])])
    refuse(with_function(body, body), "defined twice")
    call = node("F", ["x", "x"], ["y"], domain="my")
    refuse(model([call], [X], [Y], functions=[body], domains={"my": 1}), "more inputs")


def test_functions_may_hand_inputs_through() -> None:
    same = function("F", ["a", "b"], ["a"], [])
    np.testing.assert_array_equal(run(with_function(same), x=normal(2, 4)), normal(2, 4))
    refuse(with_function(function("F", ["a", "b"], ["b"], [])), "returns its input 'b', left out")


def test_calls_that_share_a_name_keep_their_values_apart() -> None:
    twice = function(
        "F",
        ["a"],
        ["b"],
        [helper.make_node("Exp", ["a"], ["t"]), helper.make_node("Neg", ["t"], ["b"])],
    )
    calls = [node("F", ["x"], ["h"], domain="my", name="call")]
    calls += [node("F", ["h"], ["y"], domain="my", name="call")]
    data = model(calls, [X], [Y], functions=[twice], domains={"my": 1})
    x = normal(2, 4)
    np.testing.assert_allclose(run(data, x=x), -np.exp(-np.exp(x)), rtol=1e-6)


def test_overloads_are_told_apart() -> None:
    one = function("F", ["a"], ["b"], [helper.make_node("Neg", ["a"], ["b"])])
    other = function("F", ["a"], ["b"], [helper.make_node("Exp", ["a"], ["b"])], overload="exp")
    for overload, want in (("", -normal(2, 4)), ("exp", np.exp(normal(2, 4)))):
        call = node("F", ["x"], ["y"], domain="my", overload=overload)
        data = model([call], [X], [Y], functions=[one, other], domains={"my": 1})
        np.testing.assert_allclose(run(data, x=normal(2, 4)), want, rtol=1e-6)
    call = node("F", ["x"], ["y"], domain="my", overload="nowhere")
    with pytest.raises(UnsupportedOp):
        graph_of(model([call], [X], [Y], functions=[one, other], domains={"my": 1}))


def test_functions_may_have_bodies_with_references_and_take_bodies() -> None:
    """`slope` is used inside a branch; `then` is a graph written where the function is called, so
    that `t` in it is the caller's, not the function's.
    """
    inner = helper.make_graph([leaky()], "inner", [], [helper.make_empty_tensor_value_info("out")])
    inner.node[0].input[0] = "a"
    made = helper.make_node("If", ["c"], ["t"], else_branch=inner)
    made.attribute.add(name="then_branch", ref_attr_name="then", type=onnx.AttributeProto.GRAPH)
    f = function("F", ["a", "c"], ["t"], [made], attributes=["slope", "then"])
    then = helper.make_graph(
        [helper.make_node("Neg", ["t"], ["a"])],
        "then",
        [],
        [helper.make_empty_tensor_value_info("a")],
    )
    nodes = [
        node("Exp", ["x"], ["t"]),
        node("F", ["x", "c"], ["y"], domain="my", slope=0.5, then=then, name="call"),
    ]
    flag = ("c", [], TensorProto.BOOL)
    data = model(nodes, [X, flag], [Y], functions=[f], domains={"my": 1})
    x = normal(2, 4)
    np.testing.assert_allclose(run(data, x=x, c=np.array(True)), -np.exp(x), rtol=1e-6)
    leaked = np.where(x < 0, x / 2, x)
    np.testing.assert_allclose(run(data, x=x, c=np.array(False)), leaked, rtol=1e-6)


# ------------------------------------------------------------------------------ bodies and limits


def branch(name: str, op: str, source: str = "x") -> onnx.GraphProto:
    return helper.make_graph(
        [helper.make_node(op, [source], ["out"])],
        name,
        [],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
    )


def if_model(condition: bool | None, then: onnx.GraphProto | None = None) -> bytes:
    made = helper.make_node(
        "If",
        ["c"],
        ["y"],
        name="choice",
        then_branch=then or branch("then", "Neg"),
        else_branch=branch("else", "Abs"),
    )
    if condition is None:
        return model([made], [X, ("c", [], TensorProto.BOOL)], [Y])
    return model([made], [X], [Y], {"c": np.array(condition)})


@pytest.mark.parametrize(("condition", "op"), [(True, "Neg"), (False, "Abs")])
def test_an_if_with_a_fixed_condition_is_its_branch(condition: bool, op: str) -> None:
    data = if_model(condition)
    graph = graph_of(data)
    assert [n.op for n in graph.nodes] == [op, "Identity"]
    assert str(graph.outputs[0].type) == "float32[N, 4]"
    want = np.negative if condition else np.abs
    np.testing.assert_array_equal(run(data, x=normal(2, 4)), want(normal(2, 4)))


def test_bodies_must_read_what_exists() -> None:
    refuse(if_model(True, branch("then", "Neg", "nowhere")), "reads 'nowhere'")


def test_bodies_are_limited_in_depth() -> None:
    graph = branch("leaf", "Neg")
    for depth in range(12):
        graph = helper.make_graph(
            [
                helper.make_node(
                    "If", ["c"], ["out"], then_branch=graph, else_branch=branch("e", "Abs")
                )
            ],
            f"level{depth}",
            [],
            [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
        )
    graph_of(if_model(True, graph))
    with pytest.raises(ResourceLimit, match="nesting=5"):
        graph_of(if_model(True, graph), Limits(nesting=5))


def test_function_calls_are_limited_in_depth() -> None:
    chain = [
        function(
            f"F{i}" if i else "F",
            ["a"],
            ["b"],
            [helper.make_node(f"F{i + 1}", ["a"], ["b"], domain="my")],
        )
        for i in range(5)
    ]
    chain.append(function("F5", ["a"], ["b"], [helper.make_node("Neg", ["a"], ["b"])]))
    graph_of(with_function(*chain))
    with pytest.raises(ResourceLimit, match="nesting=3"):
        graph_of(with_function(*chain), Limits(nesting=3))


def test_functions_cannot_explode() -> None:
    """Each function calls the next ten times: a million nodes out of a small file."""
    chain = [
        function(
            f"F{i}" if i else "F",
            ["a"],
            ["b"],
            [
                helper.make_node(f"F{i + 1}", ["a"], [f"t{k}" if k else "b"], domain="my")
                for k in range(10)
            ],
        )
        for i in range(6)
    ]
    chain.append(function("F6", ["a"], ["b"], [helper.make_node("Neg", ["a"], ["b"])]))
    with pytest.raises(ResourceLimit, match="nodes=1000"):
        graph_of(with_function(*chain), Limits(nodes=1000))


def test_limits_name_need_and_limit() -> None:
    with pytest.raises(ResourceLimit, match="model_bytes=100"):
        graph_of(mlp(), Limits(model_bytes=100))
    with pytest.raises(ResourceLimit, match="nodes=3"):
        graph_of(mlp(), Limits(nodes=3))
    with pytest.raises(ResourceLimit, match="load_s=0"):
        graph_of(mlp(), Limits(load_s=0))


def mixed(*nodes: onnx.NodeProto) -> bytes:
    """A model of these nodes, fed one tensor of float32 and one of float64."""
    inputs = [("x", [2, 2]), ("d", [2, 2], TensorProto.DOUBLE), ("c", [], TensorProto.BOOL)]
    return model(list(nodes), inputs, [("y", None)])


@pytest.mark.parametrize(
    "wrong",
    [
        node("MatMul", ["x", "d"], ["y"]),
        node("Concat", ["x", "x", "d"], ["y"], axis=0),
        node("Gemm", ["x", "x", "d"], ["y"]),
        node("Max", ["x", "x", "d"], ["y"]),
    ],
    ids=lambda each: each.op_type,
)
def test_inputs_of_one_type_may_not_differ(wrong: onnx.NodeProto) -> None:
    reason = f"{wrong.op_type}.* is float64, expected float32"
    refuse(mixed(wrong), reason)
    body = helper.make_graph([wrong], "body", [], [helper.make_empty_tensor_value_info("y")])
    other = helper.make_graph(
        [node("Identity", ["x"], ["z"])], "other", [], [helper.make_empty_tensor_value_info("z")]
    )
    refuse(mixed(node("If", ["c"], ["y"], then_branch=body, else_branch=other)), reason)


def test_inputs_with_types_of_their_own_may_differ() -> None:
    graph_of(mixed(node("Pow", ["x", "d"], ["y"])))
    graph_of(mixed(node("Where", ["c", "x", "x"], ["y"])))


@pytest.mark.parametrize("version", [0, -1, 9999])
def test_unknown_opsets_of_functions_are_refused(version: int) -> None:
    function = helper.make_function(
        "my.domain",
        "Twice",
        ["a"],
        ["b"],
        [node("Add", ["a", "a"], ["b"])],
        [helper.make_opsetid("", version)],
    )
    net = model(
        [helper.make_node("Twice", ["x"], ["y"], domain="my.domain")],
        [("x", [2])],
        [("y", [2])],
        functions=[function],
        domains={"my.domain": 1},
    )
    refuse(net, f"opset {version} ")
