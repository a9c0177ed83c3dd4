"""Builds small quantized models in the form of QDQ, as quantizers write them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx

from tests.engine.onnx_models import Spec, model, node

UINT8, INT8 = onnx.TensorProto.UINT8, onnx.TensorProto.INT8


@dataclass
class Qdq:
    """A model under construction: methods add nodes and return the name of what they give."""

    seed: int = 0
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: dict[str, np.ndarray] = field(default_factory=dict)
    count: int = 0

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)

    def name(self, hint: str) -> str:
        self.count += 1
        return f"{hint}{self.count}"

    def constant(self, hint: str, value: np.ndarray) -> str:
        name = self.name(hint)
        self.weights[name] = value
        return name

    def add(self, op: str, *inputs: str, **attributes: object) -> str:
        out = self.name(op.lower())
        self.nodes.append(node(op, inputs, [out], **attributes))
        return out

    def parameters(self, scale: float, zero: int, dtype: type) -> tuple[str, str]:
        return (
            self.constant("scale", np.float32(scale).reshape(())),
            self.constant("zero", np.array(zero, dtype)),
        )

    def quantize(self, x: str, scale: float, zero: int = 0, dtype: type = np.uint8) -> str:
        return self.add("QuantizeLinear", x, *self.parameters(scale, zero, dtype))

    def dequantize(self, x: str, scale: float, zero: int = 0, dtype: type = np.uint8) -> str:
        return self.add("DequantizeLinear", x, *self.parameters(scale, zero, dtype))

    def pair(self, x: str, scale: float, zero: int = 0, dtype: type = np.uint8) -> str:
        """QuantizeLinear and DequantizeLinear."""
        return self.dequantize(self.quantize(x, scale, zero, dtype), scale, zero, dtype)

    def fixed(
        self,
        shape: tuple[int, ...],
        axis: int | None = 0,
        dtype: type = np.int8,
        zero: int = 0,
        spread: float = 0.02,
    ) -> str:
        """Fixed integers, dequantized."""
        info = np.iinfo(dtype)
        values = self.rng.integers(info.min, info.max, shape, dtype=dtype, endpoint=True)
        entries = () if axis is None else (shape[axis],)
        scales = (self.rng.random(entries) * spread + spread / 4).astype(np.float32)
        inputs = [
            self.constant("w", values),
            self.constant("ws", np.asarray(scales, np.float32)),
            self.constant("wz", np.full(entries, zero, dtype)),
        ]
        attributes = {} if axis is None else {"axis": axis}
        return self.add("DequantizeLinear", *inputs, **attributes)

    def bias(self, count: int, scale: float = 0.001) -> str:
        """A bias as quantizers write it: int32, dequantized along axis 0."""
        inputs = [
            self.constant("b", self.rng.integers(-3000, 3000, count, dtype=np.int32)),
            self.constant("bs", np.full(count, scale, np.float32)),
            self.constant("bz", np.zeros(count, np.int32)),
        ]
        return self.add("DequantizeLinear", *inputs, axis=0)

    def build(self, inputs: list[Spec], outputs: list[Spec], opset: int = 17) -> bytes:
        return model(self.nodes, inputs, outputs, self.weights, opset=opset)


def conv_net(seed: int = 0, *, size: int = 9, channels: int = 5, filters: int = 20) -> bytes:
    """Convolution, window of 3, pool, a residual block, a classifier."""
    q = Qdq(seed)
    x = q.pair("x", 0.04, 121)
    w = q.fixed((filters, channels, 3, 3))
    x = q.pair(q.add("Conv", x, w, q.bias(filters), pads=[1, 1, 1, 1]), 0.6, 3)
    x = q.pair(q.add("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2]), 0.6, 3)
    y = q.pair(q.add("Conv", x, q.fixed((filters, filters, 1, 1)), q.bias(filters)), 4.0, 0)
    y = q.add("Conv", y, q.fixed((filters, filters, 3, 3)), q.bias(filters), pads=[1, 1, 1, 1])
    y = q.pair(y, 60.0, 131)
    x = q.pair(q.add("Add", y, x), 60.0, 120)
    x = q.pair(q.add("GlobalAveragePool", x), 20.0, 99)
    x = q.pair(q.add("Flatten", x), 20.0, 99)
    x = q.pair(q.add("Gemm", x, q.fixed((7, filters)), q.bias(7), transB=1), 30.0, 127)
    q.nodes.append(node("Identity", [x], ["y"]))
    return q.build([("x", ["N", channels, size, size])], [("y", ["N", 7])])


def transformer_block(seed: int = 0, *, width: int = 24, heads: int = 3, wide: int = 40) -> bytes:
    """Attention and a gated net as quantized transformers have them, of any length."""
    q, each = Qdq(seed), width // heads
    x = q.pair("x", 0.03, 128)
    parts = []
    for i, perm in enumerate(([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3])):
        y = q.pair(q.add("MatMul", x, q.fixed((width, width), 1, spread=0.005)), 0.12, 120 + i)
        y = q.add("Add", q.constant("bias", q.rng.standard_normal(width).astype(np.float32)), y)
        y = q.add("Reshape", y, q.constant("shape", np.array([0, 0, heads, each])))
        parts.append(q.pair(q.add("Transpose", y, perm=perm), 0.13, 120 + i))
    scores = q.pair(q.add("MatMul", parts[0], parts[1]), 1.4, 125)
    scores = q.add("Div", scores, q.constant("root", np.float32(8.0).reshape(())))
    scores = q.add("Add", scores, "mask")
    shares = q.pair(q.add("Softmax", scores, axis=-1), 1 / 255, 0)
    y = q.pair(q.add("MatMul", shares, parts[2]), 0.1, 127)
    y = q.add("Transpose", y, perm=[0, 2, 1, 3])
    y = q.pair(q.add("Reshape", y, q.constant("shape", np.array([0, 0, width]))), 0.1, 127)
    y = q.pair(q.add("MatMul", y, q.fixed((width, width), 1, spread=0.005)), 0.1, 120)
    x = q.add("Add", y, x)
    gamma = q.constant("gamma", np.ones(width, np.float32))
    beta = q.constant("beta", np.zeros(width, np.float32))
    x = q.pair(q.add("LayerNormalization", x, gamma, beta), 0.03, 127)
    y = q.pair(q.add("MatMul", x, q.fixed((width, wide), 1, spread=0.005)), 0.1, 126)
    y = q.add("Add", q.constant("bias", q.rng.standard_normal(wide).astype(np.float32)), y)
    half = q.add("Mul", y, q.constant("half", np.float32(0.5).reshape(())))
    inner = q.add("Div", y, q.constant("root", np.float32(1.4142135).reshape(())))
    inner = q.add("Add", q.add("Erf", inner), q.constant("one", np.float32(1.0).reshape(())))
    y = q.pair(q.add("Mul", half, inner), 0.05, 8)
    y = q.pair(q.add("MatMul", y, q.fixed((wide, width), 1, spread=0.005)), 0.1, 120)
    q.nodes.append(node("Add", [y, x], ["y"]))
    shape = ["N", "L", width]
    return q.build([("x", shape), ("mask", ["N", 1, 1, "L"])], [("y", shape)])
