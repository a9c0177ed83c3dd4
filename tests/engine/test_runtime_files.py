"""Files that ONNX Runtime's optimizer and quantizer write load here and agree with it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)

import engine
from engine.errors import UnsupportedOp
from tests.engine.runtime_nets import bert, conv_net, decomposed, feeds_for, recurrent_net

NETS = {
    "bert": (bert, {"B": 3, "S": 5}),
    "conv": (conv_net, {"N": 3}),
    "recurrent": (recurrent_net, {"S": 4, "N": 3}),
    "decomposed": (decomposed, {"B": 2, "S": 4}),
}
FOUND = ("FusedMatMul", "FastGelu", "QuickGelu", "Gelu", "SkipLayerNormalization")
Level = onnxruntime.GraphOptimizationLevel
STEP = 1 / 255 * 1.01  # of an 8-bit output between 0 and 1
# With 8 bits on both sides ONNX Runtime's sums overflow on older processors.
PORTABLE = {"reduce_range": True}


def operators(path: Path) -> set[str]:
    return {f"{node.domain}.{node.op_type}".lstrip(".") for node in onnx.load(path).graph.node} - {
        "Constant"
    }


def session(path: Path, level: Any = Level.ORT_ENABLE_ALL, save: Path | None = None) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = level
    if save is not None:
        options.optimized_model_filepath = str(save)
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def optimized(path: Path, level: Any = Level.ORT_ENABLE_EXTENDED) -> Path:
    target = path.with_name(f"optimized-{path.name}")
    session(path, level, target)
    return target


def source(name: str, folder: Path) -> tuple[Path, dict[str, np.ndarray]]:
    build, sizes = NETS[name]
    model, path = build(), folder / f"{name}.onnx"
    onnx.save(model, path)
    return path, feeds_for(model, seed=9, **sizes)


class Samples(CalibrationDataReader):
    """Three random inputs to take ranges from."""

    def __init__(self, name: str) -> None:
        build, sizes = NETS[name]
        self._left: Iterator[dict[str, np.ndarray]] = iter(
            [feeds_for(build(), seed=k, **sizes) for k in range(3)]
        )

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._left, None)


def check(
    path: Path,
    feeds: dict[str, np.ndarray],
    *wanted: str,
    atol: float = 1e-5,
    level: Any = Level.ORT_ENABLE_ALL,
) -> None:
    """The file has the operators that it is there for, and both engines give the same."""
    assert set(wanted) <= operators(path), operators(path)
    theirs = session(path, level).run(None, feeds)
    with engine.load(path, device="reference") as model:
        ours = list(model.run(feeds).values())
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-4, atol=atol)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("bert", ["com.microsoft.Attention", "com.microsoft.BiasGelu", "LayerNormalization"]),
        ("conv", ["com.microsoft.FusedConv", "com.microsoft.FusedGemm"]),
        ("recurrent", ["LSTM"]),
        ("decomposed", [*(f"com.microsoft.{op}" for op in FOUND), "SimplifiedLayerNormalization"]),
    ],
)
def test_optimized(tmp_path, name, wanted):
    path, feeds = source(name, tmp_path)
    check(optimized(path), feeds, *wanted)


def test_an_optimized_bert_keeps_texts_apart(tmp_path):
    path, feeds = source("bert", tmp_path)
    with engine.load(optimized(path), device="reference") as model:
        assert model.batch is not None
        (together,) = model.run(feeds).values()
        (alone,) = model.run({name: x[1:2] for name, x in feeds.items()}).values()
    np.testing.assert_allclose(together[1:2], alone, rtol=1e-5, atol=1e-6)


def test_a_layout_of_one_processor_is_refused_by_name(tmp_path):
    # At its highest level ONNX Runtime writes layouts that it reads itself, on such a machine only.
    path, _ = source("conv", tmp_path)
    bound = optimized(path, Level.ORT_ENABLE_ALL)
    if not any(name.startswith("com.microsoft.nchwc") for name in operators(bound)):
        pytest.skip("this processor has no layout of its own")
    with pytest.raises(UnsupportedOp, match=r"com\.microsoft\.nchwc.*ORT_ENABLE_EXTENDED"):
        engine.load(bound, device="reference")


QLINEAR = [
    f"com.microsoft.QLinear{name}"
    for name in ("Add", "Mul", "Sigmoid", "LeakyRelu", "Concat", "AveragePool", "Softmax")
]


@pytest.mark.parametrize("activation", [QuantType.QUInt8, QuantType.QInt8])
@pytest.mark.parametrize("per_channel", [False, True])
def test_quantized_by_operators(tmp_path, per_channel, activation):
    path, feeds = source("conv", tmp_path)
    target = tmp_path / "quantized.onnx"
    types = {"activation_type": activation, "weight_type": QuantType.QInt8} | PORTABLE
    form = {"quant_format": QuantFormat.QOperator, "per_channel": per_channel}
    quantize_static(path, target, Samples("conv"), **form, **types)
    wanted = [*QLINEAR, "QLinearConv", "com.microsoft.QGemm"]
    check(target, feeds, *wanted, "com.microsoft.QLinearGlobalAveragePool", atol=STEP)
    # Integers with the channels last are no layout of one processor.
    check(optimized(target, Level.ORT_ENABLE_ALL), feeds, atol=STEP)


@pytest.mark.parametrize("activation", [QuantType.QUInt8, QuantType.QInt8])
def test_quantized_by_pairs(tmp_path, activation):
    path, feeds = source("conv", tmp_path)
    target = tmp_path / "quantized.onnx"
    types = {"activation_type": activation, "weight_type": QuantType.QInt8} | PORTABLE
    form = {"quant_format": QuantFormat.QDQ, "per_channel": True}
    quantize_static(path, target, Samples("conv"), **form, **types)
    check(target, feeds, "QuantizeLinear", "DequantizeLinear", "Conv", atol=STEP)
    check(optimized(target), feeds, "QLinearConv", "com.microsoft.QGemm", atol=STEP)


@pytest.mark.parametrize("activation", [QuantType.QUInt16, QuantType.QInt16])
def test_quantized_to_sixteen_bits(tmp_path, activation):
    path, feeds = source("conv", tmp_path)
    target = tmp_path / "quantized.onnx"
    types = {"activation_type": activation, "weight_type": QuantType.QInt8} | PORTABLE
    options = {"extra_options": {"UseQDQContribOps": True}}
    quantize_static(path, target, Samples("conv"), **types, **options)
    wanted = ["com.microsoft.QuantizeLinear", "com.microsoft.DequantizeLinear"]
    check(target, feeds, *wanted, atol=1e-4)


def test_quantized_attention(tmp_path):
    path, feeds = source("bert", tmp_path)
    target = tmp_path / "quantized.onnx"
    types = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8} | PORTABLE
    quantize_static(path, target, Samples("bert"), quant_format=QuantFormat.QOperator, **types)
    # One step of the rounding in the middle is several at the end of a layer: few may take it.
    check(target, feeds, "QLinearMatMul", "com.microsoft.QLinearSoftmax", atol=0.3)
    pairs = tmp_path / "pairs.onnx"
    quantize_static(path, pairs, Samples("bert"), quant_format=QuantFormat.QDQ, **types)
    # Fused, ONNX Runtime rounds elsewhere than the file says; as written it agrees.
    check(pairs, feeds, "QuantizeLinear", atol=1e-5, level=Level.ORT_DISABLE_ALL)


@pytest.mark.parametrize("weights", [QuantType.QInt8, QuantType.QUInt8])
@pytest.mark.parametrize(
    ("name", "wanted", "fused"),
    [
        ("bert", "MatMulInteger", "com.microsoft.MatMulIntegerToFloat"),
        ("conv", "ConvInteger", "com.microsoft.DynamicQuantizeMatMul"),
        ("recurrent", "com.microsoft.DynamicQuantizeLSTM", "com.microsoft.DynamicQuantizeMatMul"),
    ],
)
def test_quantized_on_the_way(tmp_path, name, wanted, fused, weights):
    path, feeds = source(name, tmp_path)
    target = tmp_path / "quantized.onnx"
    per_channel = weights is QuantType.QInt8
    quantize_dynamic(path, target, weight_type=weights, per_channel=per_channel, **PORTABLE)
    # Of an LSTM, ONNX Runtime rounds the states too.
    atol = 0.02 if name == "recurrent" else 1e-5
    check(target, feeds, wanted, atol=atol)
    check(optimized(target), feeds, fused, atol=atol)
