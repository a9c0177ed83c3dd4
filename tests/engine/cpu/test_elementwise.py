"""Elementwise operators as programs against the reference: broadcasting, types, chains."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto

import engine
from engine.cpu.kernels.elementwise import Elementwise, Operand
from engine.cpu.native import compile_kernel
from engine.cpu.target import ISAS, host_target, target_for
from engine.dtypes import FLOATS, DType
from engine.ir import expr
from tests.engine.cpu.harness import skip_where_missing
from tests.engine.cpu.programs import check
from tests.engine.cpu.test_plan import plan_of
from tests.engine.onnx_models import model, node, normal

LANES = host_target().lanes

BROADCASTS: list[tuple[tuple[int, ...], tuple[int, ...]]] = [
    ((), ()),
    ((1,), (2, 3)),
    ((0, 3), (1, 3)),
    ((2, 0), ()),
    ((3, 5, 7), (7,)),
    ((3, 5, 7), (5, 1)),
    ((4, 1, 6), (5, 1)),
    ((2, 3, 4, 5), (2, 1, 4, 1)),
    ((2, 1, 3, 1, 65), (7, 1, 2, 1)),
    ((3, LANES), (3, 1)),
    ((2, 20_001), (20_001,)),
    ((300, 70), (1, 70)),
]


@pytest.mark.parametrize(("left", "right"), BROADCASTS, ids=str)
@pytest.mark.parametrize("symbolic", [False, True])
def test_broadcasting(left: tuple[int, ...], right: tuple[int, ...], symbolic: bool) -> None:
    a, b = normal(*left), normal(*right)
    shapes: dict[str, list[int | str]] = {}
    if symbolic:
        shapes = {
            name: [d if d == 1 else f"{name}{i}" for i, d in enumerate(shape)]
            for name, shape in (("a", left), ("b", right))
        }
    y = np.broadcast_shapes(left, right)
    out = [f"y{i}" for i in range(len(y))]
    nodes = [node("Sub", ["a", "b"], ["y"])]
    check(nodes, {"a": a, "b": b}, [("y", out)], shapes=shapes, steps=None if symbolic else 1)


def test_a_symbol_may_turn_out_to_be_one() -> None:
    """The shapes leave open which side spreads; sizes that fit neither way are told."""
    nodes = [node("Add", ["a", "b"], ["y"])]
    shapes: dict[str, list[int | str]] = {"a": ["P", 5], "b": ["Q", "R"]}
    for left, right in (((4, 5), (1, 5)), ((4, 5), (4, 1)), ((1, 5), (6, 1)), ((1, 5), (1, 1))):
        feeds = {"a": normal(*left), "b": normal(*right)}
        check(nodes, feeds, [("y", ["S", 5])], shapes=shapes, steps=3)
    with pytest.raises(AssertionError, match="do not broadcast"):
        check(nodes, {"a": normal(4, 5), "b": normal(3, 5)}, [("y", ["S", 5])], shapes=shapes)


def test_sizes_of_two_names_are_one_row_where_they_agree() -> None:
    nodes = [node("Exp", ["a"], ["e"]), node("Mul", ["e", "b"], ["y"])]
    shapes: dict[str, list[int | str]] = {"a": ["N", 3, "L"], "b": ["N", 1, "M"]}
    for left, right in (((2, 3, 70), (2, 1, 70)), ((2, 3, 70), (2, 1, 1)), ((2, 3, 1), (2, 1, 70))):
        feeds = {"a": normal(*left), "b": normal(*right)}
        check(nodes, feeds, [("y", ["N", 3, "T"])], shapes=shapes, tolerance=1e-6)


def test_types_may_differ_within_a_chain() -> None:
    rng = np.random.default_rng(0)
    mask = rng.integers(0, 2, (3, 1, 37)).astype(bool)
    ids = rng.integers(-5, 5, (3, 4, 37))
    x = rng.standard_normal((4, 37)).astype(np.float16)
    nodes = [
        node("Cast", ["ids"], ["f"], to=TensorProto.FLOAT16),
        node("Mul", ["f", "x"], ["m"]),
        node("Where", ["mask", "m", "x"], ["w"]),
        node("Greater", ["w", "x"], ["y"]),
    ]
    outputs = [("w", [3, 4, 37], TensorProto.FLOAT16), ("y", [3, 4, 37], TensorProto.BOOL)]
    check(nodes, {"ids": ids, "mask": mask, "x": x}, outputs)


def test_results_take_the_memory_of_operands_that_die() -> None:
    nodes = [
        node("Exp", ["x"], ["a"]),
        node("Mul", ["a", "x"], ["b"]),
        node("Sum", ["b", "a", "b"], ["c"]),
        node("Cast", ["c"], ["d"], to=TensorProto.DOUBLE),
        node("Cast", ["d"], ["y"], to=TensorProto.FLOAT),
    ]
    program = check(nodes, {"x": normal(3, 1001)}, [("y", [3, 1001])], tolerance=1e-6)
    assert all(step.in_place for step in program.steps)


def test_simple_numbers_become_part_of_the_code_and_others_do_not() -> None:
    weights = {"six": np.float32(6), "pi": np.float32(3.14159), "two": np.array([2], np.float32)}
    nodes = [
        node("Min", ["x", "six"], ["a"]),
        node("Mul", ["a", "pi"], ["b"]),
        node("Pow", ["b", "two"], ["y"]),
    ]
    program = check(nodes, {"x": normal(5, 3)}, [("y", [5, 3])], weights, tolerance=1e-6)
    assert [len(step.reads) for step in program.steps] == [1, 2, 1]


def test_fused_chains() -> None:
    text = "x0:float32; x1:float32; add #0 #1; tanh #2; x2:bool; select #4 #3 #0"
    nodes = [node("Elementwise", ["x", "b", "m"], ["y"], domain="millrace", expression=text)]
    mask = np.arange(77) % 3 == 0
    feeds = {"x": normal(9, 77), "b": normal(9, 1), "m": mask}
    check(nodes, feeds, [("y", [9, 77])], domains={"millrace": 1}, tolerance=1e-6, steps=1)


@pytest.mark.parametrize("isa", ["avx2", "sse2", "neon"])
def test_scalar_ends_where_there_are_no_masks(isa: str) -> None:
    skip_where_missing(isa)
    nodes = [node("Sigmoid", ["x"], ["a"]), node("Mul", ["a", "b"], ["y"])]
    for width in (1, 7, 8, 29):
        feeds = {"x": normal(3, width), "b": normal(3, 1)}
        check(nodes, feeds, [("y", [3, width])], tolerance=1e-6, target=target_for(isa))


@pytest.mark.parametrize("isa", ISAS)
def test_code_for_every_processor(isa: str) -> None:
    types = (DType.BOOL, DType.INT8, DType.BFLOAT16, DType.INT64)
    for dtype in types:
        text = f"x0:{dtype}; float32 #0; exp #1; {dtype} #2"
        kernel = Elementwise(text, (Operand(dtype, False),), 2)
        assert compile_kernel(kernel, "kernel", target_for(isa))


def test_an_expression_that_a_user_brings_is_native() -> None:
    def soft_clip(x: expr.Expr, *, bound: float = 1.0) -> expr.Expr:
        return expr.tanh(x / bound) * bound

    mine = engine.make_elementwise(soft_clip, "SoftClip", 1, types=FLOATS, domain="my.domain")
    nodes = [node("SoftClip", ["x"], ["y"], domain="my.domain", bound=2.0)]
    data = model(nodes, [("x", ["N", 20])], [("y", ["N", 20])], domains={"my.domain": 1})
    x = normal(300, 20)
    with engine.load(data, device="cpu", ops=(mine,)) as net:
        np.testing.assert_allclose(net.run({"x": x})["y"], np.tanh(x / 2) * 2, rtol=1e-6)
        assert [c.reason for c in plan_of(net).coverage] == [None]


@pytest.mark.parametrize(
    "sizes", [(0, 1, 1), (1, 0, 0), (0, 1, 0), (1, 1, 0), (1, 3, 1), (3, 3, 3)]
)
def test_open_sizes_that_turn_out_as_none_and_one(sizes: tuple[int, int, int]) -> None:
    """None beside 1 broadcasts to none, which the larger of both is not."""
    nodes = [
        node("Add", ["x", "y"], ["s"]),
        node("Mul", ["s", "w"], ["p"]),
        node("ReduceSum", ["p"], ["z"], keepdims=0),
    ]
    inputs = [("x", (2, "A")), ("y", (2, "B")), ("w", (2, "C"))]
    source = model(nodes, inputs, [("p", None), ("z", None)])
    feeds = {n: np.ones((2, k), np.float32) for n, k in zip("xyw", sizes, strict=True)}
    found = engine.load(source, device="cpu").run(feeds)
    expected = (feeds["x"] + feeds["y"]) * feeds["w"]
    np.testing.assert_array_equal(found["p"], expected)
    np.testing.assert_array_equal(found["z"], expected.sum())
