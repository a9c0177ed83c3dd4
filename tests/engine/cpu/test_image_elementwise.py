"""Elementwise operators where operands lie as pictures, against the reference."""

from __future__ import annotations

import numpy as np
import pytest

from engine.cpu.buffers import Program
from engine.cpu.image_layout import ImageLayout
from engine.cpu.kernels.image_elementwise import ImageElementwise, ImageOperand
from engine.cpu.native import compile_kernel
from engine.cpu.target import ISAS, host_target, target_for
from engine.dtypes import DType
from tests.engine.cpu.harness import run_kernel
from tests.engine.cpu.pictures import empty_picture, from_picture, to_picture
from tests.engine.cpu.programs import check
from tests.engine.onnx_models import node, normal

LANES = host_target().lanes


def kernels(program: Program) -> list[ImageElementwise]:
    return [s.kernel for s in program.steps if isinstance(s.kernel, ImageElementwise)]


def as_picture(name: str, picture: str) -> object:
    """A pool of one pixel: gives its input as a picture."""
    return node("MaxPool", [name], [picture], kernel_shape=[1, 1])


@pytest.mark.parametrize("channels", [1, 5, LANES, 3 * LANES + 2, 10 * LANES])
@pytest.mark.parametrize("border", [0, 1])
def test_all_kinds_of_operands(channels: int, border: int) -> None:
    weights = {"c": normal(channels, 1, 1), "k": np.float32(0.37)}
    nodes = [
        as_picture("x", "p"),
        node("Mul", ["p", "c"], ["a"]),
        node("Div", ["a", "s"], ["b"]),
        node("Sub", ["k", "b"], ["d"]),
        node("Add", ["d", "z"], ["e"]),
        node("Exp", ["e"], ["y"]),
    ]
    feeds = {
        "x": normal(2, channels, 5, 7),
        "s": np.abs(normal(2, channels, 1, 1)) + 1,
        "z": normal(2, channels, 5, 7),
    }
    shapes = {"x": ["N", channels, 5, 7], "s": ["N", channels, 1, 1], "z": ["N", channels, 5, 7]}
    borders = {"p": border, "b": border, "y": border}
    y = [("y", ["N", channels, 5, 7])]
    program = check(nodes, feeds, y, weights, shapes=shapes, borders=borders, tolerance=1e-5)
    assert len(kernels(program)) == 5


def test_squeezed_and_excited() -> None:
    """What is per item and channel comes from a picture of one pixel, and chains stay pictures."""
    nodes = [
        as_picture("x", "p"),
        as_picture("s", "q"),
        node("Sigmoid", ["q"], ["g"]),
        node("Mul", ["p", "g"], ["y"]),
    ]
    for channels in (LANES, 20):
        feeds = {"x": normal(3, channels, 6, 6), "s": normal(3, channels, 1, 1)}
        program = check(nodes, feeds, [("y", [3, channels, 6, 6])], tolerance=1e-6)
        assert len(kernels(program)) == 2


@pytest.mark.parametrize(
    "shape", [(1, 8, 4, 4), (2, 1, 4, 4), (2, 8, 1, 4), (4,), (2, 8, 4, 1), (2, 1, 1, 1)], ids=str
)
def test_what_no_picture_takes_part_in_is_done_on_plain_arrays(shape: tuple[int, ...]) -> None:
    nodes = [as_picture("x", "p"), node("Add", ["p", "b"], ["y"])]
    feeds = {"x": normal(2, 8, 4, 4), "b": normal(*shape)}
    program = check(nodes, feeds, [("y", [2, 8, 4, 4])])
    assert not kernels(program)


def test_a_comparison_leaves_pictures() -> None:
    nodes = [
        as_picture("x", "p"),
        node("Greater", ["p", "x"], ["m"]),
        node("Cast", ["m"], ["y"], to=1),
    ]
    check(nodes, {"x": normal(1, 3, 4, 4)}, [("y", [1, 3, 4, 4])])


def test_parts_of_wider_pictures() -> None:
    """Only held channels are written, the border within them is cleared, rows are cut."""
    wide = ImageLayout(90, 9, 20, 32, 48, 1)
    other = ImageLayout(90, 9, 20, 32, 40, 2)
    kernel = ImageElementwise(
        "x0:float32; x1:float32; div #0 #1", wide, (ImageOperand(other), ImageOperand(wide))
    )
    a, b = normal(2, 20, 90, 9), np.abs(normal(2, 20, 90, 9)) + 1
    for pieces in (1, 5):
        (got,) = run_kernel(
            kernel,
            [empty_picture(2, wide), to_picture(a, other), to_picture(b, wide)],
            tasks=2 * kernel.parts,
            pieces=pieces,
        )
        np.testing.assert_array_equal(from_picture(got, wide), a / b)


def test_pictures_of_bfloat16() -> None:
    """Arithmetic is float32; the result rounds to what the target holds."""
    narrow = ImageLayout(6, 5, 20, 32, 32, 1, DType.BFLOAT16)
    wide = ImageLayout(6, 5, 20, 32, 32)
    kernel = ImageElementwise(
        "x0:float32; x1:float32; mul #0 #1", narrow, (ImageOperand(narrow), ImageOperand(wide))
    )
    a, b = normal(2, 20, 6, 5).astype(DType.BFLOAT16.numpy).astype(np.float32), normal(2, 20, 6, 5)
    source = to_picture(a, narrow, 0.0).astype(DType.BFLOAT16.numpy)
    out = empty_picture(2, narrow).astype(DType.BFLOAT16.numpy)
    (got,) = run_kernel(kernel, [out, source, to_picture(b, wide)], tasks=2 * kernel.parts)
    wanted = (a * b).astype(DType.BFLOAT16.numpy).astype(np.float32)
    np.testing.assert_array_equal(from_picture(got.astype(np.float32), narrow), wanted)


def test_dead_pictures_are_worked_on_in_place() -> None:
    nodes = [
        as_picture("x", "p"),
        node("Exp", ["p"], ["a"]),
        node("Add", ["a", "z"], ["y"]),
    ]
    feeds = {"x": normal(1, 20, 3, 3), "z": normal(1, 20, 3, 3)}
    program = check(nodes, feeds, [("y", [1, 20, 3, 3])], tolerance=1e-6)
    assert [s.in_place for s in program.steps if isinstance(s.kernel, ImageElementwise)] == [1, 1]


@pytest.mark.parametrize("isa", ISAS)
def test_code_for_every_processor(isa: str) -> None:
    target = target_for(isa)
    held = target.whole_vectors(70)
    layout = ImageLayout(9, 9, 70, held, held, 1)
    arguments = (ImageOperand(layout), ImageOperand(), ImageOperand(is_single=True))
    text = "x0:float32; x1:float32; mul #0 #1; x2:float32; add #2 #3; tanh #4"
    assert compile_kernel(ImageElementwise(text, layout, arguments), "kernel", target)
