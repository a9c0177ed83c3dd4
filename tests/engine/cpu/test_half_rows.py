"""Arrays that lie as bfloat16 between products with fixed weights: against numpy, the reference."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import helper

import engine
from engine.cpu.buffers import Program
from engine.cpu.kernels.gemm import Gemm, GemmSchedule
from engine.cpu.kernels.normalize import Normalize
from engine.cpu.kernels.panels import Panels, pack_columns, pack_panels, to_bfloat16
from engine.cpu.kernels.recurrent import Recurrent
from engine.cpu.lower.context import Lowering
from engine.cpu.target import host_target
from engine.dtypes import DType
from tests.engine.cpu.harness import run_kernel
from tests.engine.onnx_models import model

pytestmark = pytest.mark.skipif(
    not host_target().has_bf16_dot, reason="this processor has no dot products of bfloat16"
)
RELU = "x0:float32; 0.0:float32; max #0 #1"


def numbers(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def wide(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def rounded(array: np.ndarray) -> np.ndarray:
    return wide(to_bfloat16(array))


@pytest.mark.parametrize("n", [64, 70])
@pytest.mark.parametrize("parts", [1, 2])
def test_products_of_rows_that_lie_as_bfloat16(n: int, parts: int) -> None:
    """Every number of rows up to three tiles: each is cut in its own way."""
    target, k, gap = host_target(), 24, 8
    panels, schedule = Panels.of(n, target), GemmSchedule(1, 2, parts)
    w, bias = numbers(2, k, n), numbers(3, n)
    kernel = Gemm(
        k,
        n,
        k + gap,
        n + gap,
        schedule,
        RELU,
        dtype=DType.BFLOAT16,
        x_dtype=DType.BFLOAT16,
        y_dtype=DType.BFLOAT16,
    )
    full = kernel.height(target)
    schedule = replace(schedule, block_rows=3 * full)
    kernel = replace(kernel, schedule=schedule)
    for rows in (0, *range(1, 3 * full + 2, 3)):
        x = numbers(rows, rows, k + gap)
        operands = [
            np.full((rows, n + gap), 7, np.uint16),
            to_bfloat16(x),
            pack_panels(w, panels, DType.BFLOAT16),
            pack_columns(bias, panels),
        ]
        tasks = -(-rows // schedule.block_rows) * -(-panels.count // schedule.group)
        (y,) = run_kernel(kernel, operands, numbers=[rows], tasks=tasks, pieces=2)
        expected = np.maximum(rounded(x[:, :k]).astype(np.float64) @ rounded(w) + bias, 0)
        np.testing.assert_allclose(wide(y[:, :n]), expected, rtol=5e-3, atol=1e-4)
        assert (y[:, n:] == 7).all()


def block(width: int, inner: int, *, first: bool, dim: int | str = "L") -> bytes:
    """A layer of a transformer: attention of two heads, then two products; with the normalizations
    before them, or after.
    """
    make, size = helper.make_node, width // 2
    before, after = ("n1", "s1") if first else ("x", "s1")
    nodes = [make("MatMul", [before, f"w{p}"], [p]) for p in "qkv"]
    for p in "qkv":
        nodes.append(make("Reshape", [p, "split"], [f"{p}4"]))
        order = [0, 2, 3, 1] if p == "k" else [0, 2, 1, 3]
        nodes.append(make("Transpose", [f"{p}4"], [f"{p}h"], perm=order))
    nodes += [
        make("MatMul", ["qh", "kh"], ["products"]),
        make("Mul", ["products", "scale"], ["scores"]),
        make("Softmax", ["scores"], ["shares"], axis=-1),
        make("MatMul", ["shares", "vh"], ["heads"]),
        make("Transpose", ["heads"], ["turned"], perm=[0, 2, 1, 3]),
        make("Reshape", ["turned", "join"], ["joined"]),
        make("MatMul", ["joined", "wo"], ["o"]),
        make("Add", ["o", "x"], ["s1"]),
    ]
    norms = [
        make("LayerNormalization", ["x" if first else "s1", "g1", "b1"], ["n1"], axis=-1),
        make("LayerNormalization", ["s1" if first else "s2", "g2", "b2"], ["n2"], axis=-1),
    ]
    entry = "n2" if first else "n1"
    tail = [
        make("MatMul", [entry, "wi"], ["i"]),
        make("Add", ["i", "bi"], ["j"]),
        make("Relu", ["j"], ["r"]),
        make("MatMul", ["r", "wj"], ["m"]),
        make("Add", ["m", after if first else "n1"], ["s2"]),
        make("Identity", ["s2" if first else "n2"], ["y"]),
    ]
    if first:
        nodes = [norms[0], *nodes, norms[1], *tail]
    else:
        nodes = [*nodes, norms[0], *tail[:-1], norms[1], tail[-1]]
    weights: dict[str, np.ndarray] = {
        "split": np.array([0, 0, 2, size]),
        "join": np.array([0, 0, width]),
        "scale": np.float32(size**-0.5),
        "wi": numbers(5, width, inner) * np.float32(width**-0.5),
        "wj": numbers(6, inner, width) * np.float32(inner**-0.5),
        "bi": numbers(7, inner) * np.float32(0.1),
    }
    for i, name in enumerate(("wq", "wk", "wv", "wo")):
        weights[name] = numbers(i, width, width) * np.float32(width**-0.5)
    for i, name in enumerate(("g1", "b1", "g2", "b2")):
        weights[name] = numbers(10 + i, width) * np.float32(0.1) + np.float32(name[0] == "g")
    return model(nodes, [("x", ("N", dim, width))], [("y", None)], weights)


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> list[Program]:
    """The programs that are made from now on, those of the survey included."""
    found: list[Program] = []
    finish = Lowering.finish

    def noted(self: Lowering) -> Program:
        found.append(finish(self))
        return found[-1]

    monkeypatch.setattr(Lowering, "finish", noted)
    return found


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize(("width", "inner"), [(64, 96), (64, 2048), (38, 50)])
def test_a_layer_of_a_transformer(
    programs: list[Program], first: bool, width: int, inner: int
) -> None:
    source, x = block(width, inner, first=first), numbers(20, 3, 19, width)
    half = engine.load(source, device="cpu", precision="bf16")
    program = max(programs, key=lambda p: len(p.steps))
    gemms = [step.kernel for step in program.steps if isinstance(step.kernel, Gemm)]
    norms = [step.kernel for step in program.steps if isinstance(step.kernel, Normalize)]
    assert len(gemms) == 6 and len(norms) == 2
    # Only what comes from outside, or from a sum, is rounded on the way into a product.
    assert sum(kernel.rounds for kernel in gemms) == (0 if first else 3)
    assert sum(kernel.y_dtype is DType.BFLOAT16 for kernel in gemms) == 1
    halves = [kernel.result if first else kernel.twin for kernel in norms]
    assert halves.count(DType.BFLOAT16) == (2 if first else 1)
    (y,) = half.run({"x": x}).values()
    (expected,) = engine.load(source, device="reference").run({"x": x}).values()
    error = float(np.abs(y - expected).max() / np.abs(expected).max())
    assert 1e-5 < error < 2e-2
    for i in range(3):
        (alone,) = half.run({"x": x[i : i + 1]}).values()
        assert alone.tobytes() == y[i : i + 1].tobytes()


def test_a_view_that_others_read_is_widened_from_what_lies_as_bfloat16() -> None:
    """A result that two products read, one of them as a matrix turned: that one wants float32."""
    make = helper.make_node
    nodes = [
        make("MatMul", ["x", "w"], ["a"]),
        make("Reshape", ["a", "shape"], ["b"]),
        make("MatMul", ["b", "u"], ["c"]),
        make("Gemm", ["a", "v"], ["d"], transA=1),
    ]
    weights = {
        "w": numbers(0, 16, 24),
        "u": numbers(1, 24, 8),
        "v": numbers(2, 6, 5),
        "shape": np.array([2, 3, 24]),
    }
    source = model(nodes, [("x", (6, 16))], [("c", None), ("d", None)], weights)
    x = numbers(3, 6, 16)
    found = engine.load(source, device="cpu", precision="bf16").run({"x": x})
    expected = engine.load(source, device="reference").run({"x": x})
    for name, value in expected.items():
        assert np.abs(found[name] - value).max() < 2e-2 * np.abs(value).max()


def recurrent(op: str, gates: int, hidden: int, direction: str) -> onnx.NodeProto:
    size = {"hidden_size": hidden, "direction": direction}
    more = {"linear_before_reset": 1} if op == "GRU" else {}
    names = ["y", "last", "memory"] if op == "LSTM" else ["y", "last"]
    return helper.make_node(op, ["x", "w", "r", "b"], names, **size, **more)


@pytest.mark.parametrize(
    ("op", "gates", "hidden"), [("LSTM", 4, 40), ("LSTM", 4, 64), ("GRU", 3, 33), ("RNN", 1, 5)]
)
def test_recurrent_layers(programs: list[Program], op: str, gates: int, hidden: int) -> None:
    weights = {
        "w": numbers(1, 2, gates * hidden, 12) * np.float32(0.3),
        "r": numbers(2, 2, gates * hidden, hidden) * np.float32(hidden**-0.5),
        "b": numbers(3, 2, 2 * gates * hidden) * np.float32(0.1),
    }
    node = recurrent(op, gates, hidden, "bidirectional")
    source = model([node], [("x", ("T", "N", 12))], [(n, None) for n in node.output], weights)
    x = numbers(4, 9, 6, 12)
    half = engine.load(source, device="cpu", precision="bf16")
    kernels = [step.kernel for p in programs for step in p.steps]
    steps = [kernel for kernel in kernels if isinstance(kernel, Recurrent)]
    assert steps and all(kernel.dtype is DType.BFLOAT16 for kernel in steps)
    found = half.run({"x": x})
    for name, expected in engine.load(source, device="reference").run({"x": x}).items():
        assert 1e-6 < np.abs(found[name] - expected).max() < 2e-2
    alone = half.run({"x": x[:, 2:3]})
    assert alone["y"].tobytes() == np.ascontiguousarray(found["y"][:, :, 2:3]).tobytes()
