"""Operators of language models that ONNX Runtime does not have: held to `onnx.reference`."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

from engine.dtypes import DType
from engine.errors import InvalidModel, RunFailed
from engine.frontend.onnx_importer import import_model
from engine.interpreter import GraphPlan
from engine.limits import Limits
from engine.ops import REGISTRY
from tests.engine.ops.single_node import (
    NodeCase,
    assert_close,
    check_rows,
    floats,
    int64,
    row_states,
)


def check(op: str, given: list[Any], outputs: int = 1, opset: int = 28, **attributes: Any) -> None:
    """Compare with onnx.reference, with static and with symbolic dims."""
    case = NodeCase(op, given, attributes, opset, outputs=outputs)
    theirs = ReferenceEvaluator(onnx.load_from_string(case.model())).run(None, case.feeds())
    loose = max(2e-2 if x is not None and x.dtype.itemsize < 4 else 1e-5 for x in given)
    for dims in ("static", "symbolic"):
        for ours, expected in zip(case.run_engine(dims), theirs, strict=True):
            assert_close(ours, np.asarray(expected), loose, loose)


# ------------------------------------------------------------------------------ LinearAttention


def tokens(rule: str, heads: int = 4, shared: int = 2, per_key: bool = False) -> list[Any]:
    """Queries, keys, values, a past state and the gates of a rule; sizes 3 and 5, 6 tokens."""
    batch, length = 3, 6
    key = floats(batch, length, shared * 3, seed=1)
    gates = [
        -np.abs(floats(batch, length, shared * (3 if per_key else 1), seed=4)),
        1 / (1 + np.exp(floats(batch, length, shared, seed=5))),
    ]
    decay, beta = ("gated" in rule and gates[0]), ("delta" in rule and gates[1])
    return [
        floats(batch, length, heads * 3),
        key / np.linalg.norm(key, axis=-1, keepdims=True),
        floats(batch, length, shared * 5, seed=2),
        floats(batch, shared, 3, 5, seed=3),
        None if decay is False else decay,
        None if beta is False else beta,
    ]


@pytest.mark.parametrize("rule", ["linear", "gated", "delta", "gated_delta"])
@pytest.mark.parametrize(("heads", "shared"), [(2, 2), (4, 2), (3, 1)])
@pytest.mark.parametrize("past", [True, False])
def test_linear_attention(rule, heads, shared, past):
    for per_key in (True, False) if "gated" in rule else (False,):
        given = tokens(rule, heads, shared, per_key)
        given[3] = given[3] if past else None
        while given[-1] is None:
            given.pop()
        check(
            "LinearAttention",
            given,
            outputs=2,
            update_rule=rule,
            q_num_heads=heads,
            kv_num_heads=shared,
            scale=0.0 if past else 0.3,
        )


def test_linear_attention_in_two_parts_and_in_half_precision():
    attributes = {"q_num_heads": 4, "kv_num_heads": 2}
    given = tokens("gated_delta")
    whole, end = NodeCase("LinearAttention", given, attributes, 27, outputs=2).run_engine()
    parts, state = [], given[3]
    for part in (slice(0, 4), slice(4, 6)):
        cut = [x[:, part] if i != 3 else state for i, x in enumerate(given)]
        y, state = NodeCase("LinearAttention", cut, attributes, 27, outputs=2).run_engine()
        parts.append(y)
    assert_close(np.concatenate(parts, 1), whole, 1e-5, 1e-6)
    assert_close(state, end, 1e-5, 1e-6)
    half = [x.astype(np.float16) for x in given]
    half[3] = given[3]  # the state may be kept in another type
    y, state = NodeCase("LinearAttention", half, attributes, 27, outputs=2).run_engine()
    assert (y.dtype, state.dtype) == (np.float16, np.float32)
    assert_close(y.astype(np.float32), whole, 2e-2, 2e-2)


@pytest.mark.parametrize(
    ("change", "attributes"),
    [
        ({}, {"kv_num_heads": 3}),
        ({}, {"kv_num_heads": 0}),
        ({}, {"q_num_heads": 5}),
        ({}, {"update_rule": "gated"}),
        ({}, {"update_rule": "other"}),
        ({0: floats(3, 12)}, {}),
        ({5: None}, {}),
    ],
)
def test_linear_attention_errors(change, attributes):
    given = [change.get(i, x) for i, x in enumerate(tokens("gated_delta"))]
    with pytest.raises(InvalidModel):
        known = {"q_num_heads": 4, "kv_num_heads": 2, **attributes}
        NodeCase("LinearAttention", given, known, 27, outputs=2).graph()


def test_linear_attention_rows():
    attributes = {"q_num_heads": 4, "kv_num_heads": 2}
    case = NodeCase("LinearAttention", tokens("gated_delta"), attributes, 27, outputs=2)
    assert all(state.is_rows for state in check_rows(case, range(6)))
    assert not row_states(case, (0, 1, 2))[0].is_rows


# -------------------------------------------------------------------------- CausalConvWithState


@pytest.mark.parametrize("activation", ["none", "silu", "swish"])
@pytest.mark.parametrize(("length", "taps"), [(6, 3), (2, 4), (5, 1), (1, 1)])
@pytest.mark.parametrize("optional", [(), (2,), (3,), (2, 3)])
def test_causal_convolution(activation, length, taps, optional):
    given = [floats(3, 4, length), floats(4, 1, taps), floats(4), floats(3, 4, taps - 1, seed=1)]
    kept = [x if i < 2 or i in optional else None for i, x in enumerate(given)]
    check("CausalConvWithState", kept, outputs=2, activation=activation)


def test_causal_convolution_in_half_precision_by_rows_and_wrong():
    given = [floats(3, 4, 6), floats(4, 1, 3), floats(4), floats(3, 4, 2, seed=1)]
    check("CausalConvWithState", [x.astype(np.float16) for x in given], outputs=2)
    case = NodeCase("CausalConvWithState", given, {"activation": "silu"}, 27, outputs=2)
    assert all(state.is_rows for state in check_rows(case, (0, 3)))
    assert not row_states(case, (0,))[0].is_rows
    for wrong in ({1: floats(3, 1, 3)}, {1: floats(4, 2, 3)}, {0: floats(4, 6)}):
        inputs = [wrong.get(i, x) for i, x in enumerate(given)]
        with pytest.raises(InvalidModel):
            NodeCase("CausalConvWithState", inputs, {}, 27, outputs=2).graph()
    with pytest.raises(InvalidModel, match="activation"):
        NodeCase("CausalConvWithState", given, {"activation": "relu"}, 27, outputs=2).graph()
    late = [*given[:3], floats(3, 4, 3)]
    with pytest.raises(RunFailed, match="past state"):
        NodeCase("CausalConvWithState", late, {}, 27, outputs=2).run_engine()


# -------------------------------------------------------------------------------- TensorScatter


@pytest.mark.parametrize("mode", ["linear", "circular"])
@pytest.mark.parametrize("axis", [-2, 1, -1])
@pytest.mark.parametrize("starts", [None, (0, 2, 3)])
def test_tensor_scatter(mode, axis, starts):
    shape = [3, 6, 6, 6]
    update = list(shape)
    update[axis] = 3
    given = [floats(*shape), floats(*update, seed=1)]
    check("TensorScatter", [*given, *([int64(*starts)] if starts else [])], mode=mode, axis=axis)


def test_tensor_scatter_goes_around_keeps_rows_and_refuses():
    cache, update = floats(3, 5, 2), floats(3, 2, 2, seed=1)
    check("TensorScatter", [cache, update, int64(4, 9, 0)], mode="circular")
    case = NodeCase("TensorScatter", [cache, update, int64(0, 3, 1)], {}, 24)
    assert check_rows(case, (0, 1, 2))[0].is_rows
    assert not row_states(case, (0, 1))[0].is_rows
    for starts in ((4, 0, 0), (-1, 0, 0)):
        with pytest.raises(RunFailed, match="do not fit"):
            NodeCase("TensorScatter", [cache, update, int64(*starts)], {}, 24).run_engine()
    for wrong, attributes in (
        (update, {"axis": 0}),
        (update, {"axis": 3}),
        (update, {"mode": "other"}),
        (floats(3, 2, 3), {}),
        (floats(3, 2), {}),
    ):
        with pytest.raises(InvalidModel):
            NodeCase("TensorScatter", [cache, wrong], attributes, 24).graph()


# ------------------------------------------------------------------------------- RotaryEmbedding


@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("part", [0, 4])
@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("positions", [False, True])
def test_rotary_embedding(interleaved, part, flat, positions):
    x = floats(3, 5, 2 * 6) if flat else floats(3, 2, 5, 6)
    table = (9,) if positions else (3, 5)
    tables = [floats(*table, (part or 6) // 2, seed=seed) for seed in (1, 2)]
    places = np.random.default_rng(3).integers(0, 9, (3, 5))
    check(
        "RotaryEmbedding",
        [x, *tables, *([places] if positions else [])],
        opset=23,
        interleaved=interleaved,
        rotary_embedding_dim=part,
        num_heads=2,
    )


def test_rotary_embedding_by_rows_in_half_precision_and_wrong():
    tables = [floats(9, 3, seed=1), floats(9, 3, seed=2)]
    given = [floats(3, 2, 5, 6), *tables, np.arange(15).reshape(3, 5) % 9]
    case = NodeCase("RotaryEmbedding", given, {}, 23)
    assert check_rows(case, (0, 3))[0].is_rows
    assert not row_states(case, (0,))[0].is_rows
    own = [given[0], floats(3, 5, 3), floats(3, 5, 3)]
    assert check_rows(NodeCase("RotaryEmbedding", own, {}, 23), (0, 1, 2))[0].is_rows
    half = [x.astype(np.float16) if x.dtype == np.float32 else x for x in given]
    check("RotaryEmbedding", half, opset=23)
    with pytest.raises(RunFailed, match="outside"):
        NodeCase("RotaryEmbedding", [*given[:3], given[3] + 9], {}, 23).run_engine()
    with pytest.raises(RunFailed, match="tables"):
        NodeCase("RotaryEmbedding", given, {"rotary_embedding_dim": 4}, 23).run_engine()
    for inputs, attributes in (
        ([floats(3, 5, 12), *given[1:]], {}),
        ([floats(3, 5, 12), *given[1:]], {"num_heads": 5}),
        (given[:3], {}),
        (own + given[3:], {}),
        (given, {"rotary_embedding_dim": 3}),
    ):
        with pytest.raises(InvalidModel):
            NodeCase("RotaryEmbedding", inputs, attributes, 23).graph()


# ------------------------------------------------------------------------- SwiGLU, CumProd, Det


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_swiglu(dtype):
    given = [floats(3, 5, dtype=dtype, scale=4), floats(3, 5, seed=1, dtype=dtype)]
    check("SwiGLU", given)
    check("SwiGLU", given, alpha=1.7)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.int32, np.uint64])
@pytest.mark.parametrize("axis", [0, -1])
def test_cumulative_products(dtype, axis):
    x = np.random.default_rng(0).integers(1, 5, (4, 3, 5)).astype(dtype)
    for exclusive in (0, 1):
        for reverse in (0, 1):
            check("CumProd", [x, int64(axis).reshape(())], exclusive=exclusive, reverse=reverse)


def test_cumulative_products_by_rows_and_wrong():
    x = floats(3, 4)
    case = NodeCase("CumProd", [x, int64(1)], {"exclusive": 1}, 26, fixed=(1,))
    assert check_rows(case, (0,))[0].is_rows
    assert not row_states(NodeCase("CumProd", [x, int64(0)], {}, 26, (1,)), (0,))[0].is_rows
    for axis in (int64(2), int64(0, 1)):
        with pytest.raises(InvalidModel):
            NodeCase("CumProd", [x, axis], {}, 26, fixed=(1,)).graph()


@pytest.mark.parametrize("shape", [(3, 3), (2, 4, 4), (2, 3, 1, 1), (0, 2, 2), (2, 0, 0)])
def test_determinants(shape):
    check("Det", [floats(*shape)], opset=22)
    check("Det", [floats(*shape, dtype=np.float64)], opset=11)


def test_determinants_by_rows_and_wrong():
    assert check_rows(NodeCase("Det", [floats(3, 2, 2)], {}, 22), (0,))[0].is_rows
    assert not row_states(NodeCase("Det", [floats(3, 3)], {}, 22), (0,))[0].is_rows
    half = NodeCase("Det", [floats(2, 2, dtype=np.float16)], {}, 22).run_engine()[0]
    assert half.dtype == np.float16
    for shape in ((3, 2), (3,)):
        with pytest.raises(InvalidModel, match="square"):
            NodeCase("Det", [floats(*shape)], {}, 22).graph()


# -------------------------------------------------------------------------------------- BitCast

WIDTHS = {
    8: [
        np.int8,
        np.uint8,
        ml_dtypes.float8_e4m3fn,
        ml_dtypes.float8_e5m2,
        ml_dtypes.float8_e8m0fnu,
    ],
    16: [np.int16, np.uint16, np.float16, ml_dtypes.bfloat16],
    32: [np.int32, np.uint32, np.float32],
    64: [np.int64, np.uint64, np.float64, np.complex64],
}


@pytest.mark.parametrize("bits", WIDTHS)
def test_bits_stay(bits):
    raw = np.random.default_rng(bits).integers(0, 256, (4, bits // 8 * 6), dtype=np.uint8)
    for source in WIDTHS[bits]:
        for to in WIDTHS[bits]:
            number = DType.from_numpy(to).onnx
            case = NodeCase("BitCast", [raw.view(source)], {"to": number}, 26)
            (ours,) = case.run_engine("symbolic")
            assert ours.dtype == to
            np.testing.assert_array_equal(ours.view(np.uint8), raw)


def test_bits_of_packed_types_and_bools():
    nibbles = np.arange(16, dtype=np.uint8).reshape(4, 4)
    kinds = [ml_dtypes.uint4, ml_dtypes.int4, ml_dtypes.float4_e2m1fn]
    given = nibbles.astype(ml_dtypes.uint4)
    for kind in (*kinds, ml_dtypes.uint4):
        number = DType.from_numpy(np.dtype(kind)).onnx
        (given,) = NodeCase("BitCast", [given], {"to": number}, 26).run_engine()
        assert given.dtype == kind
    np.testing.assert_array_equal(given.astype(np.uint8), nibbles)
    signed = NodeCase(
        "BitCast", [nibbles.astype(ml_dtypes.uint4)], {"to": DType.INT4.onnx}, 26
    ).run_engine()[0]
    np.testing.assert_array_equal(
        signed.astype(int), np.where(nibbles > 7, nibbles - 16.0, nibbles)
    )
    truth = NodeCase("BitCast", [nibbles], {"to": DType.BOOL.onnx}, 26).run_engine()[0]
    np.testing.assert_array_equal(truth, nibbles != 0)


@pytest.mark.parametrize("to", [DType.INT16.onnx, DType.STRING.onnx, DType.UINT4.onnx, 99])
def test_bits_of_another_width_are_refused(to):
    with pytest.raises(InvalidModel):
        NodeCase("BitCast", [floats(2, 2)], {"to": to}, 26).graph()
    case = NodeCase("BitCast", [floats(3, 2)], {"to": DType.INT32.onnx}, 26)
    assert check_rows(case, (0,))[0].is_rows


# --------------------------------------------------------------------------------- FlexAttention


def modifier(op: str, *constants: float, dtype: int = 1) -> onnx.GraphProto:
    """A graph that applies one operator to scores and a constant."""
    shape = ["B", "H", "L", "S"]
    names = [f"c{i}" for i in range(len(constants))]
    return helper.make_graph(
        [helper.make_node(op, ["s", *names], ["t"])],
        "modifier",
        [helper.make_tensor_value_info("s", dtype, shape)],
        [helper.make_tensor_value_info("t", dtype, shape)],
        [
            helper.make_tensor(name, dtype, [], [value])
            for name, value in zip(names, constants, strict=True)
        ],
    )


def flex(given: list[np.ndarray], outputs: int = 1, **attributes: Any) -> onnx.ModelProto:
    names = ["q", "k", "v"]
    node = helper.make_node("FlexAttention", names, ["y"], domain="ai.onnx.preview", **attributes)
    kind = DType.from_numpy(given[0].dtype).onnx
    inputs = [helper.make_tensor_value_info(n, kind, [f"{n}{i}" for i in range(4)]) for n in names]
    result = helper.make_tensor_value_info("y", kind, None)
    graph = helper.make_graph([node], "flex", inputs, [result])
    opsets = [helper.make_opsetid("", 26), helper.make_opsetid("ai.onnx.preview", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


HEADS = [floats(2, 4, 3, 8), floats(2, 2, 5, 8, seed=1), floats(2, 2, 5, 6, seed=2)]


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"scale": 0.2},
        {"score_mod": ("Mul", 2.0)},
        {"prob_mod": ("Tanh",), "score_mod": ("Add", 0.5)},
    ],
)
def test_flex_attention(dtype, attributes):
    kind = 11 if dtype == np.float64 else 1
    made = {
        name: modifier(*value, dtype=kind) if isinstance(value, tuple) else value
        for name, value in attributes.items()
    }
    given = [x.astype(dtype) for x in HEADS]
    model = flex(given, **made)
    feeds = dict(zip("qkv", given, strict=True))
    (theirs,) = ReferenceEvaluator(model).run(None, feeds)
    graph = import_model(model.SerializeToString(), limits=Limits(), registry=REGISTRY)
    ours = GraphPlan(graph).run(feeds)["y"]
    loose = 5e-3 if dtype == np.float16 else 1e-5
    assert_close(ours, np.asarray(theirs), loose, loose)
    assert str(graph.outputs[0].type.shape) == "(q0, q1, q2, v3)"


@pytest.mark.parametrize(
    "attributes",
    [
        {"score_mod": ("Shape",)},
        {"score_mod": ("Flatten",)},
        {"score_mod": ("Cast",)},
        {"softmax_precision": 7},
    ],
)
def test_flex_attention_errors(attributes):
    made = {
        name: modifier(*value) if isinstance(value, tuple) else value
        for name, value in attributes.items()
    }
    if attributes.get("score_mod") == ("Cast",):
        made["score_mod"].node[0].attribute.append(helper.make_attribute("to", 11))
        made["score_mod"].output[0].type.tensor_type.elem_type = 11
    if attributes.get("score_mod") in (("Shape",), ("Flatten",)):
        made["score_mod"].output[0].ClearField("type")
    with pytest.raises(InvalidModel):
        import_model(flex(HEADS, **made).SerializeToString(), limits=Limits(), registry=REGISTRY)
