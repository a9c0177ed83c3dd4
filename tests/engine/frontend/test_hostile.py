"""Small files that ask for much end in the right error, at once and before anything is allocated.

Every case loads and runs in this process, whose calls and memory are measured around it.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import GraphProto, TensorProto, helper

import engine
from engine.errors import InvalidModel, ResourceLimit
from tests.counting import CallCounter
from tests.engine.onnx_models import model, node

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
BIG = 10**12
LIMITS = engine.Limits(run_bytes=64 << 20)
CALLS = 4_000_000  # four times what the largest of these takes, which is seconds
GROWTH_BYTES = 512 << 20


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def floats(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def try_it(
    source: bytes | Path, feeds: Mapping[str, Any] | None = None, device: str = "cpu"
) -> None:
    """Load and run, with ones for inputs that `feeds` leaves out."""
    with engine.load(source, device=device, limits=LIMITS) as net:
        given = dict(feeds or {})
        for spec in net.inputs:
            shape = [d if isinstance(d, int) else 2 for d in spec.shape or ()]
            given.setdefault(spec.name, np.ones(shape, np.dtype(spec.dtype)))
        net.run(given)


class Measured:
    """Holds a block to the calls and the memory that a small file may cost."""

    def __enter__(self) -> None:
        self.before = _peak_bytes()
        self.counter = CallCounter()
        self.counter.start()

    def __exit__(self, *_: object) -> None:
        self.counter.stop()
        assert self.counter.calls < CALLS
        assert _peak_bytes() - self.before < GROWTH_BYTES


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


# name -> operator, its inputs in order ("x" is fed), values of the others, x's shape, opset, rest
Case = tuple[str, list[str], dict[str, np.ndarray], list[Any], int, dict[str, Any]]
IMAGE = [1, 1, 4, 4]
FILTER = {"w": np.ones((1, 1, 3, 3), np.float32)}
GREEDY: dict[str, Case] = {
    "expand": ("Expand", ["x", "s"], {"s": ints(BIG, 1, 4)}, ["N", 4], 21, {}),
    "tile": ("Tile", ["x", "s"], {"s": ints(BIG, BIG)}, ["N", 4], 21, {}),
    "fill": ("ConstantOfShape", ["s"], {"s": ints(2**62, 2**62)}, ["N"], 21, {}),
    "pad": ("Pad", ["x", "p"], {"p": ints(0, 0, BIG, 0)}, ["N", 4], 21, {}),
    "edges": ("Pad", ["x", "p"], {"p": ints(0, 0, BIG, 0)}, ["N", 4], 21, {"mode": "edge"}),
    "one hot": (
        "OneHot",
        ["i", "d", "v"],
        {"i": ints(1), "d": np.array(BIG), "v": floats(0, 1)},
        ["N"],
        21,
        {},
    ),
    "resize": ("Resize", ["x", "", "z"], {"z": floats(1, 1, 1e6, 1e6)}, IMAGE, 21, {}),
    "sizes": ("Resize", ["x", "", "", "z"], {"z": ints(1, 1, 10**6, 10**6)}, IMAGE, 21, {}),
    "upsample": ("Upsample", ["x", "z"], {"z": floats(1, 1, 1e6, 1e6)}, IMAGE, 9, {}),
    "top k": ("TopK", ["x", "k"], {"k": ints(BIG)}, ["N", 4], 21, {}),
    "crop": ("CenterCropPad", ["x", "s"], {"s": ints(BIG, 4)}, ["N", 4], 21, {}),
    "window": ("HannWindow", ["n"], {"n": np.array(BIG)}, ["N"], 21, {}),
    "outer": ("Einsum", ["x", "x", "x"], {}, [100, 100], 21, {"equation": "ab,cd,ef->abcdef"}),
    "conv": ("Conv", ["x", "w"], FILTER, IMAGE, 21, {"pads": [10**6] * 4}),
    "steps": ("Conv", ["x", "w"], FILTER, IMAGE, 21, {"pads": [10**6] * 4, "strides": [10**6] * 2}),
    "deconv": ("ConvTranspose", ["x", "w"], FILTER, IMAGE, 21, {"output_shape": [10**6, 10**6]}),
    "spread": ("ConvTranspose", ["x", "w"], FILTER, IMAGE, 21, {"strides": [10**6, 10**6]}),
    "pool": (
        "MaxPool",
        ["x"],
        {},
        IMAGE,
        21,
        {"kernel_shape": [10**6] * 2, "pads": [10**6 - 1] * 4, "strides": [10**6] * 2},
    ),
    "unpool": (
        "MaxUnpool",
        ["x", "i", "o"],
        {"i": np.zeros((1, 1, 4, 4), np.int64), "o": ints(1, 1, 10**6, 10**6)},
        IMAGE,
        21,
        {"kernel_shape": [2, 2]},
    ),
    "regions": (
        "RoiAlign",
        ["x", "r", "b"],
        {"r": np.zeros((1, 4), np.float32), "b": ints(0)},
        IMAGE,
        21,
        {"output_height": 1, "output_width": 1, "sampling_ratio": 10**6},
    ),
}


def greedy(name: str, fed: Sequence[str] = ()) -> tuple[bytes, dict[str, np.ndarray]]:
    """The case's model, and values for the weights that are given at run time instead."""
    op, order, weights, shape, opset, attributes = GREEDY[name]
    inputs: list[Any] = [("x", shape)]
    inputs += [(k, list(weights[k].shape), _kind(weights[k])) for k in fed]
    fixed = {key: value for key, value in weights.items() if key not in fed}
    outputs = ["y", "at"] if op == "TopK" else ["y"]
    made = model(
        [node(op, order, outputs, **attributes)], inputs, [("y", None)], fixed, opset=opset
    )
    return made, {key: weights[key] for key in fed}


def _kind(value: np.ndarray) -> int:
    return INT64 if value.dtype == np.int64 else FLOAT


@pytest.mark.parametrize("name", GREEDY)
def test_sizes_in_the_file_are_refused(name: str) -> None:
    made, _ = greedy(name)
    with Measured(), pytest.raises(ResourceLimit, match="run_bytes="):
        try_it(made, device="reference")


@pytest.mark.native
@pytest.mark.parametrize("name", GREEDY)
def test_native_code_refuses_such_sizes_or_needs_no_memory_for_them(name: str) -> None:
    """A window of any size over a small picture needs no more than the picture."""
    made, _ = greedy(name)
    with Measured():
        if name == "pool":
            try_it(made)
        else:
            with pytest.raises(ResourceLimit, match="run_bytes="):
                try_it(made)


@pytest.mark.parametrize("name", [n for n in GREEDY if GREEDY[n][2] and GREEDY[n][2] != FILTER])
def test_sizes_that_only_a_run_tells_are_refused(name: str) -> None:
    weights = GREEDY[name][2]
    made, feeds = greedy(name, [key for key in weights if key != "r"])
    with Measured(), pytest.raises(ResourceLimit, match="run_bytes="):
        try_it(made, feeds)


RANKS: dict[str, tuple[list[str], list[Any]]] = {
    "Reshape": (["x", "s"], ["N", 4]),
    "Expand": (["x", "s"], ["N", 4]),
    "ConstantOfShape": (["s"], ["N"]),
    "Col2Im": (["x", "s", "s"], ["N", 4, 4]),
}


@pytest.mark.parametrize("op", RANKS)
def test_shapes_of_very_many_dims_are_refused(op: str) -> None:
    """A vector of 2^40 numbers is easily declared as the shape of something."""
    order, shape = RANKS[op]
    inputs = [("x", shape), ("s", [2**40], INT64)]
    made = model([node(op, order, ["y"])], inputs, [("y", None)], {}, opset=21)
    with Measured(), pytest.raises(InvalidModel, match=f"{2**40} dims; there may be 64"):
        try_it(made)


def test_slices_of_very_many_axes_are_refused() -> None:
    inputs = [("x", ["N", 4]), ("s", [2**40], INT64)]
    made = model([node("Slice", ["x", "s", "s"], ["y"])], inputs, [("y", None)], {}, opset=21)
    with Measured(), pytest.raises(InvalidModel, match=f"{2**40} starts for 2 axes"):
        try_it(made)


@pytest.mark.parametrize("fed", [False, True])
def test_range(fed: bool) -> None:
    weights = {"a": np.array(0), "b": np.array(2**62), "c": np.array(1)}
    inputs: list[Any] = [(k, [], INT64) for k in weights] if fed else [("x", [1])]
    made = model(
        [node("Range", ["a", "b", "c"], ["y"])],
        inputs,
        [("y", None, INT64)],
        {} if fed else weights,
    )
    with Measured(), pytest.raises(ResourceLimit, match="run_bytes="):
        try_it(made, weights if fed else None)


# --------------------------------------------------------------------------------- repetition


def info(name: str, kind: int = FLOAT, shape: Sequence[int] | None = None) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def body(step: onnx.NodeProto, tag: str = "") -> GraphProto:
    """A loop's body whose state `v` goes through a step."""
    names = [f"i{tag}", f"c{tag}", f"v{tag}", f"c2{tag}", f"v2{tag}"]
    i, c, v, c2, v2 = names
    return helper.make_graph(
        [node("Identity", [c], [c2]), step],
        f"body{tag}",
        [info(i, INT64, []), info(c, BOOL, []), info(v)],
        [info(c2, BOOL, []), info(v2)],
    )


def loop(trips: str, step: onnx.NodeProto, weights: dict[str, np.ndarray], **feeds: Any) -> bytes:
    inputs: list[Any] = [("x", [4]), *((name, [], INT64) for name in feeds)]
    made = node("Loop", [trips, "", "x"], ["y"], body=body(step))
    return model([made], inputs, [("y", None)], weights)


STEP = node("Neg", ["v"], ["v2"])


def test_a_loop_of_very_many_passes() -> None:
    with Measured(), pytest.raises(ResourceLimit, match="loop_iterations=1000000"):
        try_it(loop("t", STEP, {"t": np.array(2**62)}))
    with Measured(), pytest.raises(ResourceLimit, match="loop_iterations=1000000"):
        try_it(loop("t", STEP, {}, t=0), {"t": np.array(2**62)})


def test_a_loop_that_never_ends() -> None:
    with Measured(), pytest.raises(ResourceLimit, match="loop_iterations="):
        try_it(loop("", STEP, {}))


def test_loops_in_loops_are_counted_together() -> None:
    inner = node("Loop", ["t", "", "v"], ["v2"], body=body(node("Neg", ["vb"], ["v2b"]), "b"))
    made = loop("t", inner, {"t": np.array(1000)})
    with (
        Measured(),
        pytest.raises(ResourceLimit, match="loop_iterations=5000"),
        engine.load(made, limits=engine.Limits(loop_iterations=5000)) as net,
    ):
        net.run({"x": np.ones(4, np.float32)})


def test_a_state_that_doubles() -> None:
    made = loop("t", node("Concat", ["v", "v"], ["v2"], axis=0), {"t": np.array(1000)})
    with Measured(), pytest.raises(ResourceLimit, match="run_bytes="):
        try_it(made)


def test_a_chain_that_doubles() -> None:
    nodes = [node("Concat", [f"v{k}", f"v{k}"], [f"v{k + 1}"], axis=0) for k in range(60)]
    with Measured(), pytest.raises(ResourceLimit, match="run_bytes="):
        try_it(model(nodes, [("v0", ["N", 4])], [("v60", None)]))
    with Measured(), pytest.raises(ResourceLimit, match="run_bytes="):
        weights = {"v0": np.ones((1, 4), np.float32)}
        try_it(model(nodes, [("x", [1])], [("v60", None)], weights))


@pytest.mark.parametrize("kind", [TensorProto.INT32, INT64])
@pytest.mark.parametrize("dim", ["N", 3])
def test_shape_arithmetic_that_squares_again_and_again(kind: int, dim: str | int) -> None:
    """Symbols get no powers that cannot be written down; numbers wrap, as they do in a run."""
    nodes = [node("Shape", ["x"], ["s"]), node("Cast", ["s"], ["s0"], to=kind)]
    nodes += [node("Mul", [f"s{k}", f"s{k}"], [f"s{k + 1}"]) for k in range(40)]
    made = model(nodes, [("x", [dim])], [("s40", None, kind)])
    width = 32 if kind == TensorProto.INT32 else 64
    expected = pow(3, 2**40, 2**width)
    with Measured(), engine.load(made) as net:
        found = net.run({"x": np.ones(3, np.float32)})["s40"]
    assert int(found[0]) % 2**width == expected


# --------------------------------------------------------------------------------- nesting


def functions(depth: int, calls: int) -> bytes:
    """Functions each of which calls the next one several times, in a row."""
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("my", 1)]
    made = []
    for k in range(depth):
        names = ["a", *(f"t{c}" for c in range(1, calls)), "b"]
        steps = [helper.make_node(f"F{k + 1}", [a], [b], domain="my") for a, b in pairwise(names)]
        last = [helper.make_node("Neg", ["a"], ["b"])]
        made.append(
            helper.make_function(
                "my", f"F{k}", ["a"], ["b"], steps if k < depth - 1 else last, opsets
            )
        )
    return model(
        [node("F0", ["x"], ["y"], domain="my")],
        [("x", [4])],
        [("y", None)],
        functions=made,
        domains={"my": 1},
    )


def test_functions_that_double() -> None:
    with Measured(), pytest.raises(ResourceLimit, match="nodes=20000"):
        engine.load(functions(31, 2), limits=engine.Limits(nodes=20_000))
    with Measured(), pytest.raises(ResourceLimit, match="nesting=32"):
        engine.load(functions(64, 1))
    with Measured():
        try_it(functions(5, 3))


def choices(depth: int) -> bytes:
    """An If in an If in an If."""

    def branch(name: str, step: onnx.NodeProto) -> GraphProto:
        return helper.make_graph([step], name, [], [info(step.output[0])])

    inner = branch("b0", node("Neg", ["x"], ["r0"]))
    for k in range(1, depth):
        other = branch(f"e{k}", node("Abs", ["x"], [f"o{k}"]))
        step = node("If", ["c"], [f"r{k}"], then_branch=inner, else_branch=other)
        inner = branch(f"b{k}", step)
    outer = node(
        "If", ["c"], ["y"], then_branch=inner, else_branch=branch("e", node("Abs", ["x"], ["o"]))
    )
    return model([outer], [("x", [4]), ("c", [], BOOL)], [("y", None)])


@pytest.mark.parametrize("depth", [1, 8, 20])
def test_bodies_in_bodies(depth: int) -> None:
    with Measured():
        try_it(choices(depth), {"c": np.array(True)})


def test_bodies_nested_too_deep() -> None:
    limits = engine.Limits(nesting=8)
    with Measured(), pytest.raises(ResourceLimit, match="nesting=8"):
        engine.load(choices(10), limits=limits)


def test_messages_nested_deeper_than_protobuf_reads() -> None:
    data = b""
    for _ in range(5000):  # graph.node.attribute.g, again and again
        data = _field(6, data)
        data = _field(1, _field(5, data))
    with Measured(), pytest.raises(InvalidModel, match="not an ONNX"):
        engine.load(_field(7, data))


def _field(number: int, data: bytes) -> bytes:
    size, length = len(data), b""
    while size > 127:
        length += bytes([size & 127 | 128])
        size >>= 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + data


# --------------------------------------------------------------------------------- tensors


def with_tensor(**fields: Any) -> onnx.ModelProto:
    proto = onnx.ModelProto.FromString(
        model([node("Add", ["x", "w"], ["y"])], [("x", [4])], [("y", None)])
    )
    tensor = proto.graph.initializer.add(name="w", data_type=fields.pop("data_type", FLOAT))
    tensor.dims.extend(fields.pop("dims", [4]))
    if "raw_data" in fields:
        tensor.raw_data = fields.pop("raw_data")
    if fields:
        tensor.data_location = TensorProto.EXTERNAL
    for key, value in fields.items():
        tensor.external_data.add(key=key, value=str(value))
    return proto


@pytest.mark.parametrize(
    ("dims", "kind", "words"),
    [
        ([2**40, 2**40], ResourceLimit, "model_bytes="),
        ([2**31], InvalidModel, "4 bytes of data"),
        ([-1], InvalidModel, "must not be negative"),
        ([1] * 65, InvalidModel, "rank 65"),
        ([0, 2**62], InvalidModel, "absurdly large"),
        ([0, 2**20], InvalidModel, "4 bytes of data"),
    ],
)
def test_tensors_that_claim_more_than_they_hold(
    dims: list[int], kind: type[Exception], words: str
) -> None:
    with Measured(), pytest.raises(kind, match=words):
        try_it(with_tensor(dims=dims, raw_data=b"1234").SerializeToString())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    inside = tmp_path / "model"
    (inside / "sub").mkdir(parents=True)
    for place in (inside / "w.bin", tmp_path / "secret.bin"):
        place.write_bytes(np.ones(4, np.float32).tobytes())
    (inside / "link.bin").symlink_to(tmp_path / "secret.bin")
    (inside / "out").symlink_to(tmp_path, target_is_directory=True)
    os.link(tmp_path / "secret.bin", inside / "hard.bin")
    os.mkfifo(inside / "fifo.bin")
    return inside


@pytest.mark.parametrize(
    ("location", "rest", "words"),
    [
        ("../secret.bin", {}, "plain relative path"),
        ("sub/../../secret.bin", {}, "plain relative path"),
        ("{outside}/secret.bin", {}, "plain relative path"),
        ("link.bin", {}, "links are not followed"),
        ("out/secret.bin", {}, "cannot open|is a link"),
        ("hard.bin", {}, "hard links"),
        ("fifo.bin", {}, "not a regular file"),
        ("none.bin", {}, "cannot open"),
        ("w.bin", {"offset": 2**62}, "beyond the 16 bytes"),
        ("w.bin", {"offset": 10**30}, "not a whole number"),
        ("w.bin", {"offset": -1}, "not a whole number"),
        ("w.bin", {"length": 2**62}, "its type and shape need 16 bytes"),
        ("w.bin", {"dims": [2**20]}, "beyond the 16 bytes"),
    ],
)
@pytest.mark.parametrize("isolate", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_external_data_stays_in_its_folder(
    folder: Path, location: str, rest: dict[str, Any], words: str, isolate: bool
) -> None:
    proto = with_tensor(location=location.format(outside=folder.parent), **rest)
    (folder / "m.onnx").write_bytes(proto.SerializeToString())
    with Measured(), pytest.raises(InvalidModel, match=words):
        engine.load(folder / "m.onnx", isolate=isolate)


def test_external_data_inside_the_folder_is_read(folder: Path) -> None:
    (folder / "m.onnx").write_bytes(with_tensor(location="w.bin").SerializeToString())
    with engine.load(folder / "m.onnx") as net:
        assert net.run({"x": np.ones(4, np.float32)})["y"].tolist() == [2.0] * 4


@pytest.mark.parametrize("variance", [0x7FA00000, 0xBF800000, 0x7F7FFFFF])
def test_weights_may_hold_anything(variance: int) -> None:
    """Signalling NaN, a variance below zero, the largest number: no word of the array library."""
    bits = np.full(2, variance, np.uint32).view(np.float32)
    weights = {"w": floats(*range(2 * 9)).reshape(2, 1, 3, 3), "one": floats(1, 1), "odd": bits}
    made = model(
        [
            node("Conv", ["x", "w"], ["c"]),
            node("BatchNormalization", ["c", "one", "odd", "odd", "odd"], ["n"]),
            node("Relu", ["n"], ["y"]),
            node("BatchNormalization", ["y", "odd", "one", "one", "odd"], ["z"]),
        ],
        [("x", ["N", 1, 4, 4])],
        [("z", None)],
        weights,
    )
    for outputs in (None, engine.ALL):
        with engine.load(made, limits=LIMITS, outputs=outputs) as net:
            net.run({"x": np.ones((1, 1, 4, 4), np.float32)})
