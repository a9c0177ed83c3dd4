"""Small models of every structure that a file may have: bodies, functions, lists, shape arithmetic.

They are seeds for mutation, so that damage reaches the code that reads such structures.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT, INT64, BOOL, STRING = (
    TensorProto.FLOAT,
    TensorProto.INT64,
    TensorProto.BOOL,
    TensorProto.STRING,
)
OPSET = 21


def structures() -> dict[str, bytes]:
    """Return every structure by name."""
    models = {
        "shape arithmetic": _shape_arithmetic(),
        "loop": _loop(),
        "loop over a sequence": _sequence_loop(),
        "scan": _scan(),
        "choice": _choice(),
        "functions": _functions(),
        "optional": _optional(),
        "quantized": _quantized(),
        "strings": _strings(),
        "trees": _trees(),
        "recurrent": _recurrent(),
        "sparse": _sparse(),
    }
    return {name: model.SerializeToString() for name, model in models.items()}


def _value(name: str, kind: int = FLOAT, shape: Sequence[int | str] | None = None) -> object:
    return helper.make_tensor_value_info(name, kind, shape)


def _tensor(name: str, *values: object, dtype: object = np.int64) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(values, dtype), name)


def _model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[object],
    outputs: Sequence[object],
    weights: Sequence[onnx.TensorProto] = (),
    functions: Sequence[onnx.FunctionProto] = (),
    **domains: int,
) -> onnx.ModelProto:
    graph = helper.make_graph(list(nodes), "structure", inputs, outputs, list(weights))
    opsets = [helper.make_opsetid("", OPSET)]
    opsets += [helper.make_opsetid(name.replace("_", "."), v) for name, v in domains.items()]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10, functions=list(functions))


def _shape_arithmetic() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["n"], axis=0),
        helper.make_node("Unsqueeze", ["n", "axes"], ["n1"]),
        helper.make_node("Mul", ["n1", "two"], ["n2"]),
        helper.make_node("Concat", ["n2", "rest"], ["t"], axis=0),
        helper.make_node("Reshape", ["x", "t"], ["r"]),
        helper.make_node("ConstantOfShape", ["t2"], ["c"]),
        helper.make_node("Expand", ["c", "two"], ["e"]),
        helper.make_node("Range", ["zero", "n", "one"], ["g"]),
        helper.make_node("Tile", ["r", "reps"], ["tiled"]),
        helper.make_node("Pad", ["tiled", "pads"], ["y"]),
    ]
    weights = [
        numpy_helper.from_array(np.array(0), "zero"),
        numpy_helper.from_array(np.array(1), "one"),
        _tensor("axes", 0),
        _tensor("two", 2),
        _tensor("rest", -1),
        _tensor("t2", 2, 1),
        _tensor("reps", 1, 2),
        _tensor("pads", 0, 1, 0, 1),
    ]
    outputs = [_value("y"), _value("e"), _value("g", INT64)]
    return _model(nodes, [_value("x", FLOAT, ["N", 4])], outputs, weights)


def _loop() -> onnx.ModelProto:
    body = helper.make_graph(
        [
            helper.make_node("Add", ["v", "x"], ["v2"]),
            helper.make_node("Cast", ["i"], ["f"], to=FLOAT),
            helper.make_node("Mul", ["v2", "f"], ["o"]),
            helper.make_node("Identity", ["c"], ["c2"]),
        ],
        "body",
        [_value("i", INT64, []), _value("c", BOOL, []), _value("v", FLOAT, ["N", 4])],
        [_value("c2", BOOL, []), _value("v2", FLOAT, ["N", 4]), _value("o", FLOAT, ["N", 4])],
    )
    loop = helper.make_node("Loop", ["trips", "yes", "x"], ["last", "all"], body=body)
    weights = [
        numpy_helper.from_array(np.array(3), "trips"),
        numpy_helper.from_array(np.array(True), "yes"),
    ]
    outputs = [_value("last"), _value("all")]
    return _model([loop], [_value("x", FLOAT, ["N", 4])], outputs, weights)


def _sequence_loop() -> onnx.ModelProto:
    sequence = helper.make_tensor_sequence_value_info
    body = helper.make_graph(
        [
            helper.make_node("SequenceInsert", ["s", "x"], ["s2"]),
            helper.make_node("Identity", ["c"], ["c2"]),
        ],
        "body",
        [_value("i", INT64, []), _value("c", BOOL, []), sequence("s", FLOAT, None)],
        [_value("c2", BOOL, []), sequence("s2", FLOAT, None)],
    )
    nodes = [
        helper.make_node("SequenceEmpty", [], ["empty"]),
        helper.make_node("Loop", ["trips", "", "empty"], ["list"], body=body),
        helper.make_node("SequenceAt", ["list", "one"], ["item"]),
        helper.make_node("SequenceLength", ["list"], ["count"]),
        helper.make_node("ConcatFromSequence", ["list"], ["y"], axis=0),
        helper.make_node("SplitToSequence", ["y", "one"], ["parts"], axis=0),
        helper.make_node("SequenceErase", ["parts"], ["fewer"]),
    ]
    weights = [
        numpy_helper.from_array(np.array(3), "trips"),
        numpy_helper.from_array(np.array(1), "one"),
    ]
    outputs = [_value("y"), _value("item"), _value("count", INT64), sequence("fewer", FLOAT, None)]
    return _model(nodes, [_value("x", FLOAT, ["N", 2])], outputs, weights)


def _scan() -> onnx.ModelProto:
    body = helper.make_graph(
        [
            helper.make_node("Add", ["h", "item"], ["h2"]),
            helper.make_node("Tanh", ["h2"], ["o"]),
        ],
        "body",
        [_value("h", FLOAT, [4]), _value("item", FLOAT, [4])],
        [_value("h2", FLOAT, [4]), _value("o", FLOAT, [4])],
    )
    scan = helper.make_node(
        "Scan", ["h0", "x"], ["h", "y"], body=body, num_scan_inputs=1, scan_input_axes=[1]
    )
    inputs = [_value("h0", FLOAT, [4]), _value("x", FLOAT, [4, "T"])]
    return _model([scan], inputs, [_value("h"), _value("y")])


def _branch(name: str, op: str, *, nested: onnx.NodeProto | None = None) -> onnx.GraphProto:
    nodes = [helper.make_node(op, ["x"], [f"{name}_0"])]
    last = f"{name}_0"
    if nested is not None:
        nodes.append(nested)
        last = nested.output[0]
    return helper.make_graph(nodes, name, [], [_value(last)])


def _choice() -> onnx.ModelProto:
    inner = helper.make_node(
        "If",
        ["second"],
        ["inner"],
        then_branch=_branch("a", "Abs"),
        else_branch=_branch("b", "ReduceSum"),
    )
    outer = helper.make_node(
        "If",
        ["first"],
        ["y"],
        then_branch=_branch("c", "Relu", nested=inner),
        else_branch=_branch("d", "Neg"),
    )
    inputs = [_value("first", BOOL, []), _value("second", BOOL, []), _value("x", FLOAT, ["N"])]
    return _model([outer], inputs, [_value("y")])


def _functions() -> onnx.ModelProto:
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("my", 1)]
    leaky = helper.make_node("LeakyRelu", ["a"], ["b"])
    leaky.attribute.add(name="alpha", ref_attr_name="slope", type=onnx.AttributeProto.FLOAT)
    inner = helper.make_function("my", "Inner", ["a"], ["b"], [leaky], opsets, ["slope"])
    outer = helper.make_function(
        "my",
        "Outer",
        ["p", "q"],
        ["r"],
        [
            helper.make_node("Inner", ["p"], ["t"], domain="my", slope=0.5),
            helper.make_node("Add", ["t", "q"], ["r"]),
        ],
        opsets,
    )
    nodes = [
        helper.make_node("Outer", ["x", "w"], ["y"], domain="my"),
        helper.make_node("Outer", ["y", "y"], ["z"], domain="my"),
    ]
    weights = [_tensor("w", 1, 2, 3, 4, dtype=np.float32)]
    return _model(
        nodes, [_value("x", FLOAT, ["N", 4])], [_value("z")], weights, [inner, outer], my=1
    )


def _optional() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Optional", ["x"], ["o"]),
        helper.make_node("OptionalHasElement", ["o"], ["has"]),
        helper.make_node("OptionalGetElement", ["o"], ["y"]),
    ]
    return _model(nodes, [_value("x", FLOAT, ["N"])], [_value("y"), _value("has", BOOL)])


def _quantized() -> onnx.ModelProto:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["w", "scale", "zero"], ["dw"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["dx"]),
        helper.make_node("MatMul", ["dx", "dw"], ["m"]),
        helper.make_node("DynamicQuantizeLinear", ["m"], ["u", "us", "uz"]),
        helper.make_node("MatMulInteger", ["u", "w2", "uz"], ["y"]),
    ]
    weights = [
        numpy_helper.from_array(np.array(0.1, np.float32), "scale"),
        numpy_helper.from_array(np.array(3, np.int8), "zero"),
        numpy_helper.from_array(np.arange(8, dtype=np.int8).reshape(4, 2), "w"),
        numpy_helper.from_array(np.arange(6, dtype=np.uint8).reshape(2, 3), "w2"),
    ]
    inputs = [_value("x", FLOAT, ["N", 4])]
    return _model(nodes, inputs, [_value("y", TensorProto.INT32)], weights)


def _strings() -> onnx.ModelProto:
    nodes = [
        helper.make_node("StringNormalizer", ["x"], ["n"], case_change_action="LOWER"),
        helper.make_node("StringSplit", ["n"], ["parts", "count"], delimiter=" "),
        helper.make_node("RegexFullMatch", ["n"], ["match"], pattern="t.*(x|y)t"),
        helper.make_node("StringConcat", ["n", "n"], ["y"]),
        helper.make_node(
            "LabelEncoder",
            ["n"],
            ["label"],
            domain="ai.onnx.ml",
            keys_strings=["text", "b"],
            values_int64s=[1, 2],
        ),
    ]
    outputs = [
        _value("y", STRING),
        _value("parts", STRING),
        _value("match", BOOL),
        _value("label", INT64),
    ]
    return _model(nodes, [_value("x", STRING, ["N"])], outputs, ai_onnx_ml=4)


def _trees() -> onnx.ModelProto:
    tree = helper.make_node(
        "TreeEnsembleRegressor",
        ["x"],
        ["y"],
        domain="ai.onnx.ml",
        n_targets=1,
        nodes_falsenodeids=[2, 0, 0],
        nodes_featureids=[1, 0, 0],
        nodes_modes=["BRANCH_LEQ", "LEAF", "LEAF"],
        nodes_nodeids=[0, 1, 2],
        nodes_treeids=[0, 0, 0],
        nodes_truenodeids=[1, 0, 0],
        nodes_values=[0.5, 0.0, 0.0],
        target_ids=[0, 0],
        target_nodeids=[1, 2],
        target_treeids=[0, 0],
        target_weights=[1.0, -1.0],
    )
    scaler = helper.make_node(
        "Scaler", ["y"], ["z"], domain="ai.onnx.ml", offset=[0.5], scale=[2.0]
    )
    return _model([tree, scaler], [_value("x", FLOAT, ["N", 3])], [_value("z")], ai_onnx_ml=3)


def _recurrent() -> onnx.ModelProto:
    rng = np.random.default_rng(0)

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)

    nodes = [
        helper.make_node("LSTM", ["x", "w", "r", "b"], ["", "h", ""], hidden_size=2),
        helper.make_node("GRU", ["x", "w3", "r3"], ["g"], hidden_size=2, direction="forward"),
        helper.make_node("TopK", ["g", "k"], ["t", "ti"], axis=-1),
        helper.make_node("Einsum", ["h", "h"], ["y"], equation="abc,abd->acd"),
    ]
    weights = [
        weight("w", 1, 8, 3),
        weight("r", 1, 8, 2),
        weight("b", 1, 16),
        weight("w3", 1, 6, 3),
        weight("r3", 1, 6, 2),
        _tensor("k", 1),
    ]
    return _model(nodes, [_value("x", FLOAT, ["T", "N", 3])], [_value("y"), _value("t")], weights)


def _sparse() -> onnx.ModelProto:
    values = numpy_helper.from_array(np.array([1, 2], np.float32), "w")
    sparse = helper.make_sparse_tensor(values, _tensor("", 1, 6), [2, 4])
    nodes = [
        helper.make_node("Constant", [], ["w2"], sparse_value=sparse),
        helper.make_node("Where", ["mask", "x", "w2"], ["s"]),
        helper.make_node("NonZero", ["s"], ["nz"]),
        helper.make_node("Transpose", ["nz"], ["places"]),
        helper.make_node("GatherND", ["s", "places"], ["found"]),
        helper.make_node("ScatterND", ["s", "places", "found"], ["y"]),
    ]
    inputs = [_value("x", FLOAT, [2, 4]), _value("mask", BOOL, [2, 4])]
    return _model(nodes, inputs, [_value("y"), _value("found")])
