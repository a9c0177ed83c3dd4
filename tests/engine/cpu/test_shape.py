"""Views, transposition, joining and taking apart, against the reference."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import engine
from engine.cpu.kernels.strided import KINDS, StridedCopy
from engine.cpu.lower.rules import NoKernel
from engine.cpu.native import compile_kernel
from engine.cpu.target import ISAS, host_target, target_for
from tests.engine.cpu.programs import check
from tests.engine.onnx_models import model, node, normal

I64, F32 = 7, 1
LANES = host_target().lanes


@pytest.mark.parametrize("perm", list(itertools.permutations(range(4))))
def test_transpose(perm: tuple[int, ...]) -> None:
    for shape in ((2, 3, 4, 5), (1, 33, 2, 18), (2, 17, 40, 1), (0, 2, 3, 4)):
        x = normal(*shape)
        out = [shape[k] for k in perm]
        names = [f"d{k}" for k in range(4)]
        nodes = [node("Transpose", ["x"], ["y"], perm=perm)]
        check(nodes, {"x": x}, [("y", out)])
        check(nodes, {"x": x}, [("y", [names[k] for k in perm])], shapes={"x": names})


@pytest.mark.parametrize("dtype", [np.int8, np.float16, np.int32, np.int64, np.bool_])
def test_transpose_of_every_width(dtype: type) -> None:
    x = np.random.default_rng(3).integers(0, 2, (3, 35, 21)).astype(dtype)
    kind = {np.int8: 3, np.float16: 10, np.int32: 6, np.int64: 7, np.bool_: 9}[dtype]
    check([node("Transpose", ["x"], ["y"], perm=[0, 2, 1])], {"x": x}, [("y", [3, 21, 35], kind)])


def test_views_cost_nothing() -> None:
    x = normal(2, 6, 1, 4)
    weights = {"s": np.array([0, -1], np.int64), "a": np.array([0], np.int64)}
    nodes = [
        node("Flatten", ["x"], ["f"], axis=2),
        node("Reshape", ["f", "s"], ["r"]),
        node("Unsqueeze", ["r", "a"], ["u"]),
        node("Squeeze", ["u", "a"], ["q"]),
        node("Identity", ["q"], ["i"]),
        node("Dropout", ["i"], ["y"]),
    ]
    shapes = {"x": ["N", 6, 1, 4]}
    check(nodes, {"x": x}, [("y", ["M", 4])], weights, shapes=shapes, steps=1)


def test_a_result_in_another_shape_is_written_where_it_belongs() -> None:
    x, w = normal(3, 1, 4), normal(4, 5)
    weights = {"w": w, "a": np.array([1], np.int64), "s": np.array([-1, 1, 5], np.int64)}
    nodes = [
        node("MatMul", ["x", "w"], ["p"]),
        node("Squeeze", ["p", "a"], ["y"]),
        node("Reshape", ["p", "s"], ["z"]),
        node("Relu", ["y"], ["r"]),
    ]
    shapes = {"x": ["N", 1, 4]}
    # The product, a copy for the second name, and what reads the first.
    check(nodes, {"x": x}, [("y", ["N", 5])], weights, shapes=shapes, steps=2, tolerance=1e-5)
    wanted = [("y", ["N", 5]), ("z", ["N", 1, 5]), ("r", ["N", 5])]
    check(nodes, {"x": x}, wanted, weights, shapes=shapes, steps=3, tolerance=1e-5)
    wanted = [("y", ["N", 5]), ("p", ["N", 1, 5])]
    check(nodes[:2], {"x": x}, wanted, weights, shapes=shapes, steps=2, tolerance=1e-5)


def test_a_reshape_by_a_computed_shape() -> None:
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Gather", ["s", "zero"], ["b"]),
        node("Concat", ["b", "rest"], ["t"], axis=0),
        node("Reshape", ["x", "t"], ["y"]),
    ]
    weights = {"zero": np.array([0], np.int64), "rest": np.array([-1, 4], np.int64)}
    shapes = {"x": ["B", "S", 8]}
    check(nodes[:], {"x": normal(2, 3, 8)}, [("y", ["B", "K", 4])], weights, shapes=shapes)


def test_a_reshape_that_only_running_can_prove() -> None:
    nodes = [node("Reshape", ["x", "s"], ["y"])]
    weights, shapes = {"s": np.array([2, 12], np.int64)}, {"x": ["B", 6]}
    program = check(nodes, {"x": normal(4, 6)}, [("y", [2, 12])], weights, shapes=shapes)
    (need,) = program.requirements
    assert {str(need.left), str(need.right)} == {"6*B", "24"}


def test_transposes_between_layouts_keep_the_memory() -> None:
    """A picture made of channels-last memory and brought back is never copied in between."""
    x = normal(2, 5, 7, 3 * LANES)
    nodes = [
        node("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2]),
        node("Identity", ["t"], ["i"]),
        node("Transpose", ["i"], ["y"], perm=[0, 2, 3, 1]),
    ]
    check(nodes, {"x": x}, [("y", x.shape)], shapes={"x": ["N", 5, 7, 3 * LANES]}, steps=1)


@pytest.mark.parametrize("channels", [LANES, 3, 2 * LANES + 1])
@pytest.mark.parametrize("perm", [(0, 2, 3, 1), (0, 2, 1, 3), (1, 0, 3, 2)])
def test_transpose_of_a_picture(channels: int, perm: tuple[int, ...]) -> None:
    """`t` is a picture where its channels are whole vectors."""
    x = normal(2, 5, 7, channels)
    shape = [(2, channels, 5, 7)[k] for k in perm]
    nodes = [
        node("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2]),
        node("Transpose", ["t"], ["y"], perm=perm),
    ]
    check(nodes, {"x": x}, [("y", shape)])


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_concat(axis: int) -> None:
    shapes = [[2, 3, 5], [2, 3, 5], [2, 3, 5]]
    for k, size in enumerate((1, 0, 4)):
        shapes[k][axis] = size
    feeds = {f"x{k}": normal(*shape, seed=k) for k, shape in enumerate(shapes)}
    out = [2, 3, 5]
    out[axis] = 5
    check([node("Concat", list(feeds), ["y"], axis=axis)], feeds, [("y", out)])


def test_concat_with_open_sizes() -> None:
    feeds = {"a": normal(2, 3, 4), "b": normal(2, 5, 4)}
    shapes = {"a": ["B", "S", 4], "b": ["B", "L", 4]}
    nodes = [node("Concat", ["a", "b"], ["y"], axis=1)]
    program = check(nodes, feeds, [("y", ["B", "T", 4])], shapes=shapes)
    assert not program.requirements
    shapes = {"a": ["B", 3, 4], "b": ["C", 5, 4]}
    program = check(nodes, feeds, [("y", ["B", 8, 4])], shapes=shapes)
    assert program.requirements


@pytest.mark.parametrize("counts", [(LANES, LANES), (LANES, 3, LANES), (5, 2), (2 * LANES, 7)])
def test_concat_of_pictures(counts: tuple[int, ...]) -> None:
    """Parts of whole vectors are written in place, others copied; the border is zero."""
    feeds = {f"x{k}": normal(2, 3, 4, c, seed=k) for k, c in enumerate(counts)}
    nodes = [
        node("Transpose", [name], [f"t_{name}"], perm=[0, 3, 1, 2], name=f"t{name}")
        for name in feeds
    ]
    nodes.append(node("Concat", [f"t_{name}" for name in feeds], ["c"], axis=1))
    nodes.append(node("Transpose", ["c"], ["y"], perm=[0, 2, 3, 1]))
    check(nodes, feeds, [("y", [2, 3, 4, sum(counts)])], borders={"c": 1})


def test_slice_and_split() -> None:
    x = normal(3, 8, 10)
    nodes = [
        node("Split", ["x"], ["p", "q"], axis=1, num_outputs=2),
        node("Slice", ["p", "starts", "ends", "axes", "steps"], ["y"]),
        node("Slice", ["q", "one", "far", "zero"], ["z"]),
    ]
    weights = {
        "starts": np.array([1, -1], np.int64),
        "ends": np.array([1 << 40, -(1 << 40)], np.int64),
        "axes": np.array([1, 2], np.int64),
        "steps": np.array([2, -3], np.int64),
        "one": np.array([-2], np.int64),
        "far": np.array([1 << 31], np.int64),
        "zero": np.array([0], np.int64),
    }
    for shape in ((3, 8, 10), ("A", 8, "C")):
        out: list[tuple[str, list[int | str]]] = [("y", ["a", 2, "c"]), ("z", ["d", 4, "e"])]
        check(nodes, {"x": x}, out, weights, shapes={"x": shape})


@pytest.mark.parametrize("start", [0, 2, -2, 5, -9])
def test_slice_of_an_open_axis(start: int) -> None:
    """Also where the axis is shorter than the start."""
    weights = {"s": np.array([start], np.int64), "e": np.array([1 << 40], np.int64)}
    nodes = [node("Slice", ["x", "s", "e"], ["y"])]
    for size in (0, 1, 3, 7):
        check(nodes, {"x": normal(size, 4)}, [("y", ["M", 4])], weights, shapes={"x": ["N", 4]})


def test_slices_of_leading_axes_are_views() -> None:
    weights = {"s": np.array([1], np.int64), "e": np.array([2], np.int64)}
    nodes = [node("Slice", ["x", "s", "e"], ["p"]), node("Reshape", ["p", "n"], ["y"])]
    weights["n"] = np.array([-1], np.int64)
    check(nodes, {"x": normal(3, 4, 5)}, [("y", [20])], weights, steps=1)


def test_split_of_a_picture_by_channels() -> None:
    x = normal(2, 3, 4, 2 * LANES + 3)
    nodes = [
        node("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2]),
        node("Split", ["t", "parts"], ["p", "q"], axis=1),
        node("Transpose", ["p"], ["y"], perm=[0, 2, 3, 1]),
        node("Transpose", ["q"], ["z"], perm=[0, 2, 3, 1]),
    ]
    parts = [LANES, LANES + 3]
    check(
        nodes,
        {"x": x},
        [("y", [2, 3, 4, parts[0]]), ("z", [2, 3, 4, parts[1]])],
        {"parts": np.array(parts, np.int64)},
    )


def test_windows_over_parts_of_pictures_copy_nothing() -> None:
    """Halves of a picture, one of them convolved, joined again: as detectors have them."""
    c = LANES
    weights = {
        "w": normal(2 * c, c, 1, 1) / 4,
        "u": normal(c, c, 3, 3) / 12,
        "v": normal(c, 3 * c, 3, 3) / 20,
        "s": np.array([c], np.int64),
        "e": np.array([2 * c], np.int64),
        "a": np.array([1], np.int64),
    }
    nodes = [
        node("Conv", ["x", "w"], ["m"]),
        node("Slice", ["m", "s", "e", "a"], ["p"]),
        node("Conv", ["p", "u"], ["q"], pads=[1, 1, 1, 1]),
        node("Concat", ["m", "q"], ["j"], axis=1),
        node("Conv", ["j", "v"], ["y"], pads=[1, 1, 1, 1]),
    ]
    x = normal(2, c, 6, 7)
    program = check(nodes, {"x": x}, [("y", [2, c, 6, 7])], weights, tolerance=2e-5)
    assert "ImageCopy" not in {type(step.kernel).__name__ for step in program.steps}


def test_a_list_that_grows_is_written_once() -> None:
    """Every join begins with the one before, as in DenseNet."""
    c = LANES
    nodes, names = [node("MaxPool", ["x"], ["f0"], kernel_shape=[2, 2])], ["f0"]
    for k in range(3):
        nodes.append(node("Concat", names, [f"j{k}"], axis=1))
        nodes.append(node("MaxPool", [f"j{k}"], [f"f{k + 1}"], kernel_shape=[1, 1]))
        names = [*names, f"f{k + 1}"]
    nodes.append(node("Concat", names, ["y"], axis=1))
    program = check(nodes, {"x": normal(2, c, 5, 5)}, [("y", [2, 8 * c, 4, 4])])
    assert "ImageCopy" not in {type(step.kernel).__name__ for step in program.steps}


@pytest.mark.parametrize(
    ("shape", "wanted"), [((3, 1), (2, 3, 4)), ((1,), (5,)), ((2, 1, 40), (2, 3, 40)), ((), (3, 2))]
)
def test_expand(shape: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    weights = {"s": np.array(wanted, np.int64)}
    check([node("Expand", ["x", "s"], ["y"])], {"x": normal(*shape)}, [("y", wanted)], weights)


def test_expand_to_an_open_size() -> None:
    """Only running tells whether the axis is repeated."""
    nodes = [node("Shape", ["z"], ["s"]), node("Expand", ["x", "s"], ["y"])]
    shapes = {"x": ["A", 4], "z": ["B", 4]}
    for size in (1, 3):
        feeds = {"x": normal(size, 4), "z": normal(3, 4)}
        check(nodes, feeds, [("y", ["M", 4])], shapes=shapes)


def test_tile_and_pad() -> None:
    weights = {
        "r": np.array([2, 1, 3], np.int64),
        "p": np.array([1, 0, -1, 0, 2, 3], np.int64),
        "v": np.array(2.5, np.float32),
    }
    nodes = [node("Tile", ["x", "r"], ["t"]), node("Pad", ["t", "p", "v"], ["y"])]
    out = [("y", ["a", "b", "c"])]
    check(nodes, {"x": normal(2, 3, 5)}, out, weights, shapes={"x": ["A", 3, "C"]})
    check([node("Pad", ["x", "p", "v"], ["y"])], {"x": normal(1, 1, 1)}, out, weights)


@pytest.mark.parametrize("mode", ["constant", "edge", "reflect", "wrap"])
@pytest.mark.parametrize("pads", [(1, 2, 3, 0), (0, 1, 2, 2), (2, -1, 0, 3)])
def test_padded_pictures(mode: str, pads: tuple[int, int, int, int]) -> None:
    """`t` is a picture; the result has a border of its own around the pads."""
    top, left, bottom, right = pads
    x = normal(2, 4, 5, LANES)
    x[0, 0, 0, 0] = np.inf
    weights = {"p": np.array([0, 0, top, left, 0, 0, bottom, right], np.int64)}
    nodes = [
        node("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2]),
        node("Pad", ["t", "p"], ["y"], mode=mode),
    ]
    check(nodes, {"x": x}, [("y", list("nchw"))], weights, borders={"y": 1})
    check(nodes[1:], {"t": normal(1, 3, 4, 5)}, [("y", list("nchw"))], weights)


def test_pads_without_a_kernel() -> None:
    weights = {"p": np.array([0, 1, 0, 1], np.int64)}
    with pytest.raises(NoKernel, match="no picture"):
        nodes = [node("Pad", ["x", "p"], ["y"], mode="edge")]
        check(nodes, {"x": normal(2, 3)}, [("y", [2, 5])], weights)


@pytest.mark.parametrize("upper", [0, 1])
@pytest.mark.parametrize("diagonal", [0, 2, -3, 1 << 40])
def test_triangles(upper: int, diagonal: int) -> None:
    weights = {"k": np.array(diagonal, np.int64)}
    nodes = [node("Trilu", ["x", "k"], ["y"], upper=upper)]
    shapes = {"x": ["N", "R", "C"]}
    for size in ((2, 4, 7), (1, 7, 4)):
        check(nodes, {"x": normal(*size)}, [("y", ["N", "R", "C"])], weights, shapes=shapes)


@pytest.mark.parametrize("op", ["DepthToSpace", "SpaceToDepth"])
@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_depth_and_space(op: str, mode: str) -> None:
    out = [2, 3, 8, 20] if op == "DepthToSpace" else [2, 48, 2, 5]
    nodes = [node(op, ["x"], ["y"], blocksize=2, mode=mode)]
    shapes = {"x": ["N", 12, 4, 10]}
    check(nodes, {"x": normal(2, 12, 4, 10)}, [("y", out)], shapes=shapes, opset=28)


def test_numbers_made_of_shapes() -> None:
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("ConstantOfShape", ["s"], ["y"]),
        node("Size", ["x"], ["n"]),
        node("Range", ["zero", "n", "two"], ["z"]),
        node("Range", ["a", "b", "c"], ["w"]),
    ]
    weights = {
        "zero": np.array(0, np.int64),
        "two": np.array(2, np.int64),
        "a": np.array(1.5, np.float32),
        "b": np.array(9, np.float32),
        "c": np.array(0.7, np.float32),
    }
    out = [("y", ["N", 3]), ("z", ["K"], I64), ("w", [11], F32)]
    check(nodes, {"x": normal(4, 3)}, out, weights, shapes={"x": ["N", 3]})


@pytest.mark.parametrize("isa", ISAS)
def test_code_for_every_processor(isa: str) -> None:
    for kind in KINDS:
        for size in (1, 4):
            assert compile_kernel(StridedCopy(size, 3, kind), "kernel", target_for(isa))


def test_a_view_is_read_before_its_memory_is_written_again() -> None:
    """The view becomes an array only where a reader wants one, after others read the source."""
    nodes = [
        node("Relu", ["x"], ["a"]),
        node("Transpose", ["a"], ["t"], perm=[0, 2, 1]),
        node("Softmax", ["a"], ["y"]),
        node("Slice", ["t", "one", "far", "one"], ["v"]),
        node("Softmax", ["v"], ["z"]),
    ]
    weights = {"one": np.array([1], np.int64), "far": np.array([1 << 40], np.int64)}
    data = model(
        nodes,
        [("x", ["N", 20, 33])],
        [("y", ["N", 20, 33]), ("z", ["N", 32, 20]), ("v", ["N", 32, 20])],
        weights,
    )
    feeds = {"x": normal(3, 20, 33)}
    expected = engine.load(data, device="reference").run(feeds)
    got = engine.load(data, device="cpu").run(feeds)
    for name in expected:
        np.testing.assert_allclose(got[name], expected[name], rtol=1e-6, atol=1e-7)
