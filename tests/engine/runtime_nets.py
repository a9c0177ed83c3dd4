"""Small random nets that ONNX Runtime's optimizer and quantizer are given: a layer of BERT, a
convolutional net, a recurrent one.
"""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

HEADS, SIZE = 2, 8
HIDDEN = HEADS * SIZE


class Net:
    """Collects nodes and random weights; every method returns the name of a value."""

    def __init__(self, seed: int = 0) -> None:
        self.nodes: list[NodeProto] = []
        self.weights: list[TensorProto] = []
        self._rng = np.random.default_rng(seed)

    def op(self, kind: str, *inputs: str, **attributes: object) -> str:
        name = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def fixed(self, value: object, dtype: object = np.float32) -> str:
        name = f"fixed_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def weight(self, *shape: int, scale: float = 0.3, mean: float = 0.0) -> str:
        return self.fixed(self._rng.standard_normal(shape) * scale + mean)

    def ints(self, *values: int) -> str:
        return self.fixed(values, np.int64)

    def dense(self, x: str, inputs: int, outputs: int) -> str:
        y = self.op("MatMul", x, self.weight(inputs, outputs))
        return self.op("Add", y, self.weight(outputs))

    def layer_norm(self, x: str, size: int) -> str:
        """Written out, as exporters write it below opset 17."""
        centred = self.op("Sub", x, self.op("ReduceMean", x, axes=[-1]))
        square = self.op("Pow", centred, self.fixed(2.0))
        variance = self.op("ReduceMean", square, axes=[-1])
        root = self.op("Sqrt", self.op("Add", variance, self.fixed(1e-5)))
        scaled = self.op("Mul", self.op("Div", centred, root), self.weight(size, mean=1.0))
        return self.op("Add", scaled, self.weight(size))

    def gelu(self, x: str) -> str:
        erf = self.op("Erf", self.op("Div", x, self.fixed(np.sqrt(2))))
        y = self.op("Mul", x, self.op("Add", erf, self.fixed(1.0)))
        return self.op("Mul", y, self.fixed(0.5))

    def heads(self, x: str, order: list[int]) -> str:
        split = self.op("Reshape", x, self.ints(0, 0, HEADS, SIZE))
        return self.op("Transpose", split, perm=order)

    def attention(self, x: str, mask: str) -> str:
        q = self.heads(self.dense(x, HIDDEN, HIDDEN), [0, 2, 1, 3])
        k = self.heads(self.dense(x, HIDDEN, HIDDEN), [0, 2, 3, 1])
        v = self.heads(self.dense(x, HIDDEN, HIDDEN), [0, 2, 1, 3])
        scores = self.op("Div", self.op("MatMul", q, k), self.fixed(np.sqrt(SIZE)))
        weights = self.op("Softmax", self.op("Add", scores, mask), axis=3)
        mixed = self.op("Transpose", self.op("MatMul", weights, v), perm=[0, 2, 1, 3])
        return self.op("Reshape", mixed, self.ints(0, 0, HIDDEN))

    def mask(self, mask: str) -> str:
        """0 where there is a token, -10000 where there is none; (B, 1, 1, S)."""
        wide = self.op("Unsqueeze", self.op("Unsqueeze", mask, axes=[1]), axes=[2])
        seen = self.op("Cast", wide, to=TensorProto.FLOAT)
        return self.op("Mul", self.op("Sub", self.fixed(1.0), seen), self.fixed(-10000.0))

    def model(
        self, inputs: dict[str, tuple[int, list[int | str]]], outputs: list[str], opset: int
    ) -> ModelProto:
        given = [
            helper.make_tensor_value_info(name, kind, shape)
            for name, (kind, shape) in inputs.items()
        ]
        made = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
        graph = helper.make_graph(self.nodes, "net", given, made, self.weights)
        opsets = [helper.make_opsetid("", opset)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def bert(opset: int = 12) -> ModelProto:
    """Embeddings and one layer of BERT; ids and mask (B, S) int64 -> (B, S, HIDDEN)."""
    net = Net()
    words = net.op("Gather", net.weight(50, HIDDEN), "ids")
    kinds = net.op("Gather", net.weight(2, HIDDEN), "segments")
    places = net.op("Gather", net.weight(20, HIDDEN), net.op("Squeeze", _places(net), axes=[0]))
    summed = net.op("Add", net.op("Add", words, places), kinds)
    x = net.layer_norm(summed, HIDDEN)
    mixed = net.dense(net.attention(x, net.mask("mask")), HIDDEN, HIDDEN)
    x = net.layer_norm(net.op("Add", mixed, x), HIDDEN)
    inner = net.gelu(net.dense(x, HIDDEN, 32))
    y = net.layer_norm(net.op("Add", net.dense(inner, 32, HIDDEN), x), HIDDEN)
    shape: list[int | str] = ["B", "S"]
    names = ("ids", "segments", "mask")
    return net.model(dict.fromkeys(names, (TensorProto.INT64, shape)), [y], opset)


def _places(net: Net) -> str:
    """(1, S): the first entries of a fixed vector of positions, as many as there are tokens."""
    length = net.op("Gather", net.op("Shape", "ids"), net.fixed(1, np.int64))
    end = net.op("Unsqueeze", length, axes=[0])
    return net.op("Slice", net.fixed(np.arange(20)[None], np.int64), net.ints(0), end, net.ints(1))


def conv_net(opset: int = 13) -> ModelProto:
    """Convolutions, a residual, pools, a gate, products; (N, 3, 16, 16) -> (N, 10)."""
    net = Net(1)

    def conv(x: str, inputs: int, outputs: int, kernel: int, **how: object) -> str:
        group = how.get("group", 1)
        assert isinstance(group, int)
        weight = net.weight(outputs, inputs // group, kernel, kernel)
        return net.op("Conv", x, weight, net.weight(outputs), pads=[kernel // 2] * 4, **how)

    x = net.op("Relu", conv("x", 3, 8, 3, strides=[2, 2]))
    y = net.op("LeakyRelu", conv(x, 8, 8, 3, group=8), alpha=0.1)
    y = conv(y, 8, 8, 1)
    x = net.op("Relu", net.op("Add", y, x))
    left = net.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    right = net.op("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = net.op("Concat", left, right, axis=1)
    gate = net.op("Sigmoid", conv(net.op("GlobalAveragePool", x), 16, 16, 1))
    x = net.op("Flatten", net.op("GlobalAveragePool", net.op("Mul", x, gate)))
    x = net.op("Relu", net.op("Gemm", x, net.weight(12, 16), net.weight(12), transB=1))
    y = net.op("Softmax", net.op("Gemm", x, net.weight(12, 10), net.weight(10)), axis=1)
    return net.model({"x": (TensorProto.FLOAT, ["N", 3, 16, 16])}, [y], opset)


def decomposed(opset: int = 13) -> ModelProto:
    """Activations, normalizations and scaled products written out; (B, S, 16) -> (B, S, 16)."""
    net = Net(3)
    x = net.dense("x", 16, 16)
    cube = net.op("Mul", net.op("Pow", x, net.fixed(3.0)), net.fixed(0.044715))
    inner = net.op("Mul", net.op("Add", x, cube), net.fixed(np.sqrt(2 / np.pi)))
    outer = net.op("Add", net.op("Tanh", inner), net.fixed(1.0))
    x = net.op("Mul", net.op("Mul", x, net.fixed(0.5)), outer)
    x = net.op("MatMul", x, net.weight(16, 16))
    quick = net.op("Mul", x, net.op("Sigmoid", net.op("Mul", x, net.fixed(1.702))))
    x = net.gelu(net.op("MatMul", quick, net.weight(16, 16)))
    square = net.op("ReduceMean", net.op("Pow", x, net.fixed(2.0)), axes=[-1])
    root = net.op("Sqrt", net.op("Add", square, net.fixed(1e-5)))
    rms = net.op("Mul", net.op("Div", x, root), net.weight(16, mean=1.0))
    x = net.layer_norm(net.op("Add", rms, quick), 16)
    product = net.op("MatMul", x, net.op("Transpose", rms, perm=[0, 2, 1]))
    weights = net.op("Softmax", net.op("Mul", product, net.fixed(0.25)), axis=-1)
    y = net.op("MatMul", weights, x)
    return net.model({"x": (TensorProto.FLOAT, ["B", "S", 16])}, [y], opset)


def recurrent_net(opset: int = 13) -> ModelProto:
    """An LSTM in both directions and a product; (S, N, 6) -> (S, N, 5)."""
    net = Net(2)
    weights = [net.weight(2, 32, 6), net.weight(2, 32, 8), net.weight(2, 64)]
    hidden = net.op("LSTM", "x", *weights, hidden_size=8, direction="bidirectional")
    swapped = net.op("Transpose", hidden, perm=[0, 2, 1, 3])
    y = net.dense(net.op("Reshape", swapped, net.ints(0, 0, 16)), 16, 5)
    return net.model({"x": (TensorProto.FLOAT, ["S", "N", 6])}, [y], opset)


def feeds_for(model: ModelProto, seed: int = 0, **sizes: int) -> dict[str, np.ndarray]:
    """Random inputs of the sizes given by symbol; integers are 0 or 1, ids up to 49."""
    rng = np.random.default_rng(seed)
    feeds = {}
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        shape = [d.dim_value or sizes[d.dim_param] for d in dims]
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            feeds[value.name] = rng.standard_normal(shape).astype(np.float32)
        else:
            feeds[value.name] = rng.integers(0, 50 if value.name == "ids" else 2, shape)
    return feeds
