"""Networks as exporters write them, node for node, built by hand: no exporter is needed to test."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.engine.onnx_models import model

FLOAT, HALF, DOUBLE, INT = (
    TensorProto.FLOAT,
    TensorProto.FLOAT16,
    TensorProto.DOUBLE,
    TensorProto.INT64,
)
NUMPY = {FLOAT: np.float32, HALF: np.float16, DOUBLE: np.float64}
SQRT2 = 1.4142135381698608


class Net:
    """Collects nodes; every call returns the name of a value."""

    def __init__(self, opset: int, kind: int = FLOAT, seed: int = 0) -> None:
        self.opset, self.kind = opset, kind
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, np.ndarray] = {}
        self.rng = np.random.default_rng(seed)

    def __call__(self, op: str, *inputs: str, out: str = "", **attributes: object) -> str:
        out = out or f"{op.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [out], name=f"n_{out}", **attributes))
        return out

    def weight(self, *shape: int, scale: float = 0.3) -> str:
        """Random weights of the net's own type."""
        values = (self.rng.standard_normal(shape) * scale).astype(NUMPY[self.kind])
        return self._add(values)

    def number(self, value: object, kind: int | None = None) -> str:
        """A constant: a number of the net's type, or integers."""
        array = np.array(value)
        if array.dtype.kind == "f":
            array = array.astype(NUMPY[self.kind if kind is None else kind])
        return self._add(array)

    def _add(self, array: np.ndarray) -> str:
        name = f"w{len(self.weights)}"
        self.weights[name] = array
        return name

    def mean(self, x: str, op: str = "ReduceMean") -> str:
        """A reduction of the last axis that keeps it, as the opset writes it."""
        if self.opset >= 18 or (self.opset >= 13 and op == "ReduceSum"):
            return self(op, x, self.number([-1]), keepdims=1)
        return self(op, x, axes=[-1], keepdims=1)

    def axes(self, op: str, x: str, axes: list[int]) -> str:
        """Squeeze or Unsqueeze."""
        if self.opset >= 13:
            return self(op, x, self.number(axes))
        return self(op, x, axes=axes)

    def model(self, inputs: list, outputs: list) -> bytes:
        """The finished file."""
        return model(self.nodes, inputs, outputs, self.weights, opset=self.opset)


# ------------------------------------------------------------------------------ torch, TorchScript


def view_by_shape(net: Net, x: str, *rest: int) -> str:
    """`x.view(x.shape[0], x.shape[1], *rest)`: sizes are taken apart and put together again."""
    sizes = []
    for axis in (0, 1):
        size = net("Gather", net("Shape", x), net.number(axis), axis=0)
        sizes.append(net.axes("Unsqueeze", size, [0]))
    target = net("Concat", *sizes, *(net.number([r]) for r in rest), axis=0)
    return net("Reshape", x, target)


def torch_layer_norm(net: Net, x: str, size: int) -> str:
    """Opset 16 and before; half precision takes the way over double that torch takes."""
    half = net.kind == HALF
    kind = DOUBLE if half else net.kind
    d = net("Sub", x, net.mean(x))
    wide = net("Cast", d, to=DOUBLE) if half else d
    square = net("Pow", wide, net.number(2.0, kind))
    total = net("Add", net.mean(square), net.number(1e-5, kind))
    y = net("Div", wide, net("Sqrt", total))
    y = net("Cast", y, to=HALF) if half else y
    return net("Add", net("Mul", y, net.weight(size)), net.weight(size))


def torch_gelu(net: Net, x: str) -> str:
    """nn.GELU()."""
    inner = net("Add", net("Erf", net("Div", x, net.number(SQRT2))), net.number(1.0))
    return net("Mul", net("Mul", x, inner), net.number(0.5))


def torch_gelu_tanh(net: Net, x: str) -> str:
    """nn.GELU(approximate="tanh")."""
    cube = net("Mul", x, net("Mul", x, x))
    inner = net("Add", x, net("Mul", net.number(0.044715), cube))
    total = net("Add", net.number(1.0), net("Tanh", net("Mul", net.number(0.79788458), inner)))
    return net("Mul", net.number(0.5), net("Mul", x, total))


def dense(net: Net, x: str, size: int, to: int, flipped: bool = False) -> str:
    """nn.Linear on more than two axes."""
    y, bias = net("MatMul", x, net.weight(size, to)), net.weight(to)
    return net("Add", bias, y) if flipped else net("Add", y, bias)


def bert_torchscript(
    opset: int = 14, size: int = 8, heads: int = 2, kind: int = FLOAT, tanh: bool = False
) -> bytes:
    """A layer of BERT with its mask."""
    net = Net(opset, kind)
    q, k, v = (dense(net, "x", size, size, flipped=True) for _ in range(3))
    q = net("Transpose", view_by_shape(net, q, heads, -1), perm=[0, 2, 1, 3])
    k = net("Transpose", view_by_shape(net, k, heads, -1), perm=[0, 2, 3, 1])
    v = net("Transpose", view_by_shape(net, v, heads, -1), perm=[0, 2, 1, 3])
    mask = net.axes("Unsqueeze", net.axes("Unsqueeze", "mask", [1]), [2])
    mask = net("Sub", net.number(1.0), net("Cast", mask, to=kind))
    mask = net("Mul", mask, net.number(-1e4))
    scores = net("Div", net("MatMul", q, k), net.number((size / heads) ** 0.5))
    weights = net("Softmax", net("Add", scores, mask), axis=-1 if opset >= 13 else 3)
    y = net("Transpose", net("MatMul", weights, v), perm=[0, 2, 1, 3])
    y = dense(net, view_by_shape(net, y, -1), size, size, flipped=True)
    x = torch_layer_norm(net, net("Add", "x", y), size)
    gelu = torch_gelu_tanh if tanh else torch_gelu
    y = dense(net, gelu(net, dense(net, x, size, 4 * size, flipped=True)), 4 * size, size)
    y = torch_layer_norm(net, net("Add", x, y), size)
    net("Identity", y, out="y")
    return net.model(
        [("x", ["N", "L", size], kind), ("mask", ["N", "L"], INT)], [("y", None, kind)]
    )


# ------------------------------------------------------------------------------ torch, dynamo


def bert_dynamo(size: int = 8, heads: int = 2, kind: int = FLOAT, safe: bool = False) -> bytes:
    """A layer of BERT, opset 18, through scaled_dot_product_attention."""
    net = Net(18, kind)
    batch, length = net("Shape", "x", start=0, end=1), net("Shape", "x", start=1, end=2)
    target = net("Concat", batch, length, net.number([heads]), net.number([-1]), axis=0)
    q, k, v = (
        net(
            "Transpose",
            net("Reshape", dense(net, "x", size, size), target, allowzero=1),
            perm=[0, 2, 1, 3],
        )
        for _ in range(3)
    )
    last = net("Concat", net.number([-1]), length, net.number([size // heads]), axis=0)
    four = net("Concat", batch, net.number([heads, size // heads]), length, axis=0)
    k = net("Transpose", net("Reshape", k, last), perm=[0, 2, 1])
    k = net("Reshape", k, four)
    scale = net.number([(size / heads) ** -0.25])
    mask = net("Cast", net("Unsqueeze", "mask", net.number([1, 2])), to=TensorProto.BOOL)
    mask = net("Where", mask, net.number(0.0), net.number(-np.inf if safe else -1e4))
    scores = net("Add", net("MatMul", net("Mul", q, scale), net("Mul", k, scale)), mask)
    weights = net("Softmax", scores, axis=-1)
    if safe:
        weights = net("Where", net("IsNaN", weights), net.number(0.0), weights)
    y = net("Transpose", net("MatMul", weights, v), perm=[0, 2, 1, 3])
    y = net("Reshape", y, net("Concat", batch, length, net.number([-1]), axis=0), allowzero=1)
    x = net("Add", "x", dense(net, y, size, size))
    x = net("LayerNormalization", x, net.weight(size), net.weight(size), axis=-1, epsilon=1e-5)
    y = dense(net, x, size, 4 * size)
    inner = net("Add", net("Erf", net("Div", y, net.number(SQRT2))), net.number(1.0))
    y = net("Mul", y, net("Mul", net.number(0.5), inner))
    x = net("Add", x, dense(net, y, 4 * size, size))
    net("LayerNormalization", x, net.weight(size), net.weight(size), axis=-1, out="y")
    return net.model(
        [("x", ["N", "L", size], kind), ("mask", ["N", "L"], INT)], [("y", None, kind)]
    )


# ------------------------------------------------------------------------------ tf2onnx


def tf_layer_norm(net: Net, x: str, size: int) -> str:
    """Keras: x * g + (bias - mean * g)."""
    mean = net.mean(x)
    d = net("Sub", x, mean)
    variance = net("Add", net.mean(net("Mul", d, d)), net.number(1e-6))
    g = net("Mul", net("Reciprocal", net("Sqrt", variance)), net.weight(size))
    return net("Add", net("Mul", x, g), net("Sub", net.weight(size), net("Mul", mean, g)))


def tf_gelu(net: Net, x: str) -> str:
    """Keras' gelu: 0.5 * x * (1 + erf(x / sqrt 2))."""
    inner = net("Add", net.number(1.0), net("Erf", net("Mul", x, net.number(0.70710677))))
    return net("Mul", net("Mul", net.number(0.5), x), inner)


def tf_softmax(net: Net, x: str) -> str:
    """A softmax that is written out."""
    top = net("ReduceMax", x, axes=[-1], keepdims=1)
    e = net("Exp", net("Sub", x, top))
    return net("Div", e, net.mean(e, "ReduceSum"))


def bert_tf2onnx(size: int = 8, heads: int = 2) -> bytes:
    """A layer of BERT, opset 13: matrices of all tokens, heads by constant shapes."""
    net = Net(13)
    part = size // heads
    tokens = net("Reshape", "x", net.number([-1, size]))

    def project(perm: list[int]) -> str:
        y = net("Add", net("MatMul", tokens, net.weight(size, size)), net.weight(size))
        y = net("Reshape", y, net.number([-1, 5, heads, part]))
        return net("Transpose", y, perm=perm)

    q, k, v = project([0, 2, 1, 3]), project([0, 2, 3, 1]), project([0, 2, 1, 3])
    scores = net("Mul", net("MatMul", q, k), net.number(part**-0.5))
    mask = net("Cast", net("Reshape", "mask", net.number([-1, 1, 1, 5])), to=FLOAT)
    mask = net("Mul", net("Sub", net.number(1.0), mask), net.number(-10000.0))
    y = net("MatMul", tf_softmax(net, net("Add", scores, mask)), v)
    y = net("Reshape", net("Transpose", y, perm=[0, 2, 1, 3]), net.number([-1, size]))
    y = net("Add", net("MatMul", y, net.weight(size, size)), net.weight(size))
    x = tf_layer_norm(net, net("Add", y, tokens), size)
    y = net("Add", net("MatMul", x, net.weight(size, 4 * size)), net.weight(4 * size))
    y = net("MatMul", tf_gelu(net, y), net.weight(4 * size, size))
    y = tf_layer_norm(net, net("Add", net("Add", y, net.weight(size)), x), size)
    net("Reshape", y, net.number([-1, 5, size]), out="y")
    return net.model([("x", ["N", 5, size]), ("mask", ["N", 5], INT)], [("y", None)])


# ------------------------------------------------------------------------------ others


def llama(kind: int = FLOAT, opset: int = 17, size: int = 8, hidden: int = 16) -> bytes:
    """RMSNorm in float32 and the gated feed-forward part of Llama."""
    net = Net(opset, kind)

    def norm(x: str) -> str:
        wide = net("Cast", x, to=FLOAT)
        square = net("Pow", wide, net.number(2.0, FLOAT))
        total = net("Add", net.mean(square), net.number(1e-6, FLOAT))
        inverse = net("Div", net.number(1.0, FLOAT), net("Sqrt", total))
        narrow = net("Cast", net("Mul", wide, inverse), to=kind)
        return net("Mul", net.weight(size), narrow)

    x = norm("x")
    gate = net("MatMul", x, net.weight(size, hidden))
    gate = net("Mul", gate, net("Sigmoid", gate))
    y = net("Mul", gate, net("MatMul", x, net.weight(size, hidden)))
    y = net("Add", "x", net("MatMul", y, net.weight(hidden, size)))
    net("Identity", norm(y), out="y")
    return net.model([("x", ["N", "L", size], kind)], [("y", None, kind)])


def residual_block(channels: int = 4, kind: int = FLOAT) -> bytes:
    """Two convolutions with BatchNormalization, a projection, and activations written out."""
    net = Net(13, kind)

    def conv_bn(x: str, before: int, kernel: int) -> str:
        pads = [kernel // 2] * 4
        y = net("Conv", x, net.weight(channels, before, kernel, kernel), pads=pads)
        statistics = [net.weight(channels) for _ in range(3)]
        variance = net.number(np.linspace(0.5, 1.5, channels))
        return net("BatchNormalization", y, *statistics, variance)

    y = conv_bn("x", 3, 3)
    low, high = net.number(0.0), net.number(6.0)
    clipped = net("Clip", net("Add", y, net.number(3.0)), low, high)
    y = net("Div", net("Mul", y, clipped), net.number(6.0))
    y = net("Add", conv_bn(y, channels, 3), conv_bn("x", 3, 1))
    net("Relu", y, out="y")
    return net.model([("x", ["N", 3, "H", "W"], kind)], [("y", None, kind)])


def channels_last(opset: int = 13) -> bytes:
    """Keras by tf2onnx: channels last outside, transposed before and after every convolution."""
    net = Net(opset)

    def conv(x: str, before: int, after: int) -> str:
        y = net("Transpose", x, perm=[0, 3, 1, 2])
        y = net("Conv", y, net.weight(after, before, 3, 3), net.weight(after), pads=[1, 1, 1, 1])
        return net("Transpose", y, perm=[0, 2, 3, 1])

    y = net("Relu", net("Add", conv("x", 3, 4), net.weight(4)))
    y = net("Concat", conv(y, 4, 4), conv(y, 4, 2), axis=3)
    y = net("Mul", y, net("Sigmoid", y))
    y = net("ReduceMean", y, axes=[1, 2], keepdims=0)
    net("Softmax", net("MatMul", y, net.weight(6, 5)), axis=-1, out="y")
    return net.model([("x", ["N", 6, 6, 3])], [("y", None)])
