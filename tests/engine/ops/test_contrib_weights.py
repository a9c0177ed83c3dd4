"""Products with weights of few bits, against ONNX Runtime."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from engine.errors import InvalidModel, RunFailed, UnsupportedOp
from tests.engine.ops.single_node import NodeCase, check_node, check_rows, floats, row_states
from tests.engine.ops.test_quantization import integers, scalar

MICROSOFT = "com.microsoft"


def case(op: str, *inputs: np.ndarray | None, outputs: int = 1, **attributes: object) -> NodeCase:
    return NodeCase(op, inputs, attributes, outputs=outputs, domain=MICROSOFT)


# ---------------------------------------------------------------------- 8 and 16 bits


def test_sixteen_bits():
    # ONNX Runtime multiplies in int32 as well: what wraps there wraps here.
    a, b = integers(3, 40, dtype=np.int16), integers(40, 5, dtype=np.int16, seed=1)
    check_node("MatMulInteger16", a, b, domain=MICROSOFT, atol=0)
    check_node("MatMulInteger16", a[None], b, domain=MICROSOFT, atol=0)


@pytest.mark.parametrize("per_column", [False, True])
@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_integers_to_floats(dtype, per_column):
    a, b = integers(2, 3, 8), integers(8, 5, dtype=dtype, seed=1)
    scale = np.arange(1, 6, dtype=np.float32) / 100 if per_column else scalar(0.02)
    zero = np.arange(5).astype(dtype) if per_column else scalar(3, dtype)
    bias = floats(5, seed=2)
    inputs = [a, b, scalar(0.03), scale, scalar(120, np.uint8), zero, bias]
    close = {"domain": MICROSOFT, "atol": 1e-3, "fixed": (1, 3, 5)}
    check_node("MatMulIntegerToFloat", *inputs, **close)
    check_node("MatMulIntegerToFloat", *inputs[:4], **close | {"fixed": (1, 3)})
    many = [a[0], b, np.ones(3, np.float32), scale]
    with pytest.raises(UnsupportedOp, match="per row of A"):
        case("MatMulIntegerToFloat", *many).graph()


@pytest.mark.parametrize("per_column", [False, True])
@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_inputs_quantized_on_the_way(dtype, per_column):
    a, b = floats(2, 3, 8), integers(8, 5, dtype=dtype, seed=1)
    scale = np.arange(1, 6, dtype=np.float32) / 100 if per_column else scalar(0.02)
    zero = np.arange(5).astype(dtype) if per_column else scalar(3, dtype)
    close = {"domain": MICROSOFT, "atol": 1e-4}
    check_node("DynamicQuantizeMatMul", a, b, scale, zero, floats(5), fixed=(1, 2, 3), **close)
    check_node("DynamicQuantizeMatMul", a, b, scale, fixed=(1, 2), **close)


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("per_channel", [False, True])
def test_recurrent_net(direction, per_channel):
    directions = 2 if direction == "bidirectional" else 1
    units, width = 4, 6
    w = integers(directions, width, 4 * units, dtype=np.int8)
    r = integers(directions, units, 4 * units, dtype=np.int8, seed=1)
    size = (directions, 4 * units) if per_channel else (directions,)
    parameters = [np.full(size, 0.005, np.float32), np.zeros(size, np.int8)] * 2
    x, bias = floats(5, 3, width), floats(directions, 8 * units, seed=2)
    lengths = np.array([5, 2, 4], np.int32)
    state = [floats(directions, 3, units, seed=s, scale=0.5) for s in (3, 4)]
    inputs = [x, w, r, bias, lengths, *state, None, *parameters]
    attributes = {"direction": direction, "hidden_size": units}
    # ONNX Runtime rounds inputs and states to 8 bits on the way.
    fixed, near = (1, 2, 8, 9, 10, 11), 0.03
    close = {"domain": MICROSOFT, "atol": near, "rtol": near, "outputs": 3, "fixed": fixed}
    check_node("DynamicQuantizeLSTM", *inputs, **close, **attributes)
    with pytest.raises(InvalidModel, match="weights of rank 3"):
        case("DynamicQuantizeLSTM", x, w[0], r, **attributes).graph()


# ---------------------------------------------------------------------- blocks


def blocks(n: int, k: int, block: int, bits: int, seed: int = 0) -> list[np.ndarray]:
    """Packed weights (n, k), their scales and packed zero points."""
    count = -(-k // block)
    packed = integers(n, count, block * bits // 8, seed=seed)
    scales = np.random.default_rng(seed).uniform(0.01, 0.1, (n, count)).astype(np.float32)
    return [packed, scales, integers(n, -(-count * bits // 8), seed=seed + 1)]


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("k", [64, 80])
@pytest.mark.parametrize("zeros", ["none", "packed", "floats"])
def test_few_bits(zeros, k, bits):
    a, (packed, scales, packed_zeros) = floats(2, 3, k), blocks(24, k, 32, bits)
    inputs = [a, packed, scales]
    if zeros != "none":
        own = np.full(scales.shape, 1.5, np.float32)
        inputs.append(own if zeros == "floats" else packed_zeros)
    if zeros == "floats" and bits != 4:
        pytest.skip("ONNX Runtime knows these with 4 bits only")
    attributes = {"K": k, "N": 24, "bits": bits, "block_size": 32}
    fixed = range(1, len(inputs))
    close = {"domain": MICROSOFT, "rtol": 1e-3, "atol": 1e-3, "fixed": fixed}
    check_node("MatMulNBits", *inputs, **close, **attributes)


def test_few_bits_with_a_bias_and_flat_parameters():
    a, (packed, scales, zeros) = floats(5, 128), blocks(24, 128, 16, 4)
    inputs = [a, packed, scales, zeros, None, floats(24)]
    attributes = {"K": 128, "N": 24, "block_size": 16}
    close = {"domain": MICROSOFT, "rtol": 1e-3, "atol": 1e-3}
    check_node("MatMulNBits", *inputs, **close, fixed=(1, 2, 3, 5), **attributes)
    inputs[2:4] = [scales.reshape(-1), zeros.reshape(-1)]
    check_node("MatMulNBits", *inputs, **close, fixed=(1, 2, 3, 5), **attributes)
    half = [a.astype(np.float16), packed, scales.astype(np.float16)]
    close = {"domain": MICROSOFT, "rtol": 2e-2, "atol": 2e-2}
    check_node("MatMulNBits", *half, **close, fixed=(1, 2), **attributes)


def test_few_bits_do_the_same_at_once_and_by_rows(monkeypatch):
    a, (packed, scales, zeros) = floats(5, 128), blocks(24, 128, 16, 4)
    groups = (np.arange(128) % 8).astype(np.int32)
    attributes = {"K": 128, "N": 24, "block_size": 16}
    inputs = [a, packed, scales, zeros, groups]
    fixed = NodeCase("MatMulNBits", inputs, attributes, fixed=(1, 2, 3, 4), domain=MICROSOFT)
    monkeypatch.setattr("engine.ops.contrib_block_weights.CHUNK", 300)
    loose = case("MatMulNBits", *inputs, **attributes)
    np.testing.assert_allclose(fixed.run_engine()[0], loose.run_engine()[0], rtol=1e-5, atol=1e-5)
    low, high = packed & 15, packed >> 4
    codes = np.stack([low, high], -1).reshape(24, 128).astype(np.float64)
    shift = np.stack([zeros & 15, zeros >> 4], -1).reshape(24, 8)[:, groups]
    expected = a @ ((codes - shift) * scales[:, groups]).T
    np.testing.assert_allclose(loose.run_engine()[0], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"bits": 3}, "bits must be"),
        ({"block_size": 24}, "power of two"),
        ({"K": 60}, "expected 60 entries"),
        ({"N": 23}, "do not hold 23 x 64"),
        ({"N": 0}, "must be 1 or more"),
    ],
)
def test_blocks_are_checked(attributes, message):
    inputs = [floats(2, 64), *blocks(24, 64, 32, 4)]
    known = {"K": 64, "N": 24, "block_size": 32} | attributes
    with pytest.raises(InvalidModel, match=message):
        case("MatMulNBits", *inputs, **known).graph()


def test_groups_outside_of_the_blocks():
    import engine

    inputs = [floats(2, 64), *blocks(24, 64, 32, 4), np.full(64, 2, np.int32)]
    node = case("MatMulNBits", *inputs, K=64, N=24, block_size=32)
    with (
        engine.load(node.model(), device="reference") as model,
        pytest.raises(RunFailed, match="g_idx"),
    ):
        model.run(node.feeds())


@pytest.mark.parametrize("kind", [0, 1])
@pytest.mark.parametrize("block", [16, 64])
def test_values_out_of_a_table(kind, block):
    a, packed = floats(2, 3, 32), integers(24 * 32 // 2)
    largest = np.abs(floats(24 * 32 // block, seed=1))
    attributes = {"K": 32, "N": 24, "block_size": block, "quant_type": kind}
    close = {"domain": MICROSOFT, "rtol": 1e-3, "atol": 1e-3, "fixed": (1, 2)}
    check_node("MatMulBnb4", a, packed, largest, **close, **attributes)
    for wrong, message in (({"N": 23}, "input 1 has 384"), ({"quant_type": 2}, "quant_type=2")):
        with pytest.raises(InvalidModel, match=message):
            case("MatMulBnb4", a, packed, largest, **attributes | wrong).graph()


INDICES = np.array([[3, 0], [-1, 4]], np.int64)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("with_zeros", [False, True])
def test_gathered_bytes(bits, with_zeros):
    table, scales = integers(5, 64 * bits // 8), floats(5, 4, scale=0.1)
    zeros = [integers(5, 4 * bits // 8, seed=1)] if with_zeros else []
    attributes = {"bits": bits, "block_size": 16}
    op = "GatherBlockQuantized"
    fixed = (0, 2, 3) if with_zeros else (0, 2)
    inputs = [table, INDICES, scales, *zeros]
    check_node(op, *inputs, domain=MICROSOFT, fixed=fixed, **attributes)


@pytest.mark.parametrize("dtype", [ml_dtypes.int4, ml_dtypes.uint4], ids=["int4", "uint4"])
@pytest.mark.parametrize(("gather", "blocked"), [(0, 1), (1, 0), (0, 2), (2, 1)])
def test_gathered_nibbles(dtype, gather, blocked):
    codes = integers(5, 32, 5) % 16 - (8 if dtype is ml_dtypes.int4 else 0)
    order = {1: (0, 1, 2), 0: (1, 0, 2), 2: (0, 2, 1)}[blocked]
    table = np.ascontiguousarray(codes.transpose(order)).astype(dtype)
    shape = [d if k != blocked else 2 for k, d in enumerate(table.shape)]
    zeros = (integers(*shape) % 8).astype(dtype)
    inputs = [table, INDICES[0], floats(*shape, scale=0.1), zeros]
    attributes = {"block_size": 16, "gather_axis": gather, "quantize_axis": blocked}
    check_node("GatherBlockQuantized", *inputs, domain=MICROSOFT, fixed=(0, 2, 3), **attributes)
    with pytest.raises(InvalidModel, match="along which the blocks lie"):
        case("GatherBlockQuantized", *inputs, **attributes | {"gather_axis": blocked}).graph()


def test_an_index_outside_of_the_table_gives_zeros():
    inputs = [integers(5, 32), np.array([1, 7], np.int64), floats(5, 4)]
    (ours,) = case("GatherBlockQuantized", *inputs, block_size=16).run_engine("symbolic")
    assert ours[0].any()
    assert not ours[1].any()


NBITS = {"K": 64, "N": 24, "block_size": 32}
ROWS = [
    (case("MatMulNBits", floats(3, 64), *blocks(24, 64, 32, 4), **NBITS), (0,), True),
    (case("MatMulNBits", floats(64), *blocks(24, 64, 32, 4), **NBITS), (0,), False),
    (
        case(
            *("MatMulBnb4", floats(3, 16), integers(16), floats(2)),
            K=16,
            N=2,
            block_size=16,
            quant_type=1,
        ),
        (0,),
        True,
    ),
    (
        case("GatherBlockQuantized", integers(5, 8), np.array([1, 2, 0]), floats(5, 1)),
        (1,),
        True,
    ),
    (
        case("MatMulInteger16", integers(3, 4, dtype=np.int16), integers(4, 2, dtype=np.int16)),
        (0,),
        True,
    ),
    (case("DynamicQuantizeMatMul", floats(3, 4), integers(4, 2), scalar(0.1)), (0,), False),
    (
        case("MatMulIntegerToFloat", integers(3, 4), integers(4, 2), scalar(0.1), scalar(0.1)),
        (0,),
        True,
    ),
]


@pytest.mark.parametrize(("node", "items", "expected"), ROWS)
def test_rows(node, items, expected):
    (state,) = check_rows(node, items) if expected else row_states(node, items)
    assert state.is_rows == expected
