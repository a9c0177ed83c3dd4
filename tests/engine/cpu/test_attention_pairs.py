"""Attention whose products take pairs of bfloat16: against numpy on rounded numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from onnx import helper

import engine
from engine.cpu.kernels.attention import Attention
from engine.cpu.kernels.attention_parts import KEYS, Heads, Operand, blocks_of, width_of
from engine.cpu.kernels.panels import to_bfloat16
from engine.cpu.target import host_target
from engine.dtypes import DType
from tests.engine.cpu.harness import run_kernel
from tests.engine.onnx_models import model

pytestmark = pytest.mark.skipif(
    not host_target().has_bf16_dot, reason="this processor has no dot products of bfloat16"
)
SCALED = "x0:float32; 0.25:float32; mul #0 #1"
CHOSEN = "x0:float32; x1:bool; -inf:float32; select #1 #0 #2"
ADDED = "x0:float32; x1:float32; add #0 #1"
BATCH, HEADS = 2, 3


def numbers(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def rounded(array: np.ndarray) -> np.ndarray:
    return (to_bfloat16(array).astype(np.uint32) << np.uint32(16)).view(np.float32)


def attend(
    arrays: Sequence[np.ndarray],
    scores: str = SCALED,
    mask: np.ndarray | None = None,
    *,
    zeros: str = "",
    products: DType = DType.BFLOAT16,
) -> np.ndarray:
    """The kernel's result; all of (batch, rows, heads, size), the mask of (queries, keys)."""
    q, k, v = arrays
    target, (queries, keys) = host_target(), (q.shape[1], k.shape[1])
    sizes = [a.shape[-1] for a in (v, q, k, v)]
    pitches = [HEADS * size for size in sizes]
    heads = Heads(2, sizes[1], sizes[0], pitches[1], pitches[2], pitches[3], pitches[0])
    operands = () if mask is None else (Operand("both", DType.from_numpy(mask.dtype)),)
    kernel = Attention(heads, scores, operands, zeros, products)
    values = [queries, keys, BATCH, HEADS]
    for rows, pitch, size in zip((queries, queries, keys, keys), pitches, sizes, strict=True):
        values += [rows * pitch, size]
    memory = [np.full((BATCH, queries, HEADS, sizes[0]), 7, np.float32), q, k, v]
    if mask is not None:
        memory.append(mask)
        values += [0, 0, keys]
    tasks = BATCH * HEADS * -(-queries // kernel.queries(target))
    (y,) = run_kernel(kernel, memory, numbers=values, tasks=tasks, pieces=3)
    return y


def expected(
    arrays: Sequence[np.ndarray], scale: float, mask: np.ndarray | None = None
) -> np.ndarray:
    """Products of rounded numbers, of rounded weights; the sum of weights is not rounded."""
    q, k, v = (rounded(a).astype(np.float64) for a in arrays)
    scores = np.einsum("bqhd,bkhd->bhqk", q, k) * scale
    if mask is not None:
        scores = np.where(mask, scores, -np.inf) if mask.dtype == bool else scores + mask
    with np.errstate(invalid="ignore"):
        weights = np.exp(scores - scores.max(-1, keepdims=True)).astype(np.float32)
        sums = weights.astype(np.float64).sum(-1)[..., None]
        shares = np.einsum("bhqk,bkhd->bhqd", rounded(weights).astype(np.float64), v) / sums
    return shares.transpose(0, 2, 1, 3).astype(np.float32)


def inputs(queries: int, keys: int, size: int, values: int) -> list[np.ndarray]:
    shapes = (queries, size), (keys, size), (keys, values)
    return [numbers(i, BATCH, rows, HEADS, width) for i, (rows, width) in enumerate(shapes)]


def edges() -> list[tuple[int, int, int, int]]:
    width = width_of(host_target())
    task = width * blocks_of(DType.BFLOAT16)
    return [
        (3, 5, 16, 16),
        (width - 1, 8, 20, 33),
        (task, KEYS, 64, 64),
        (task + 1, 9, 7, 5),
        (2 * task - 3, 37, 32, 48),
        (5, 1, 17, 16),
    ]


@pytest.mark.parametrize(("queries", "keys", "size", "values"), edges())
def test_sizes(queries: int, keys: int, size: int, values: int) -> None:
    """Blocks and tasks that are not full, odd keys, odd heads."""
    arrays = inputs(queries, keys, size, values)
    got, want = attend(arrays), expected(arrays, 0.25)
    # A last bit of a score may round a weight the other way.
    np.testing.assert_allclose(got, want, atol=2e-3)
    assert np.abs(got - want).mean() < 5e-5


@pytest.mark.parametrize("keys", [KEYS + 1, 2 * KEYS + 77])
def test_blocks_of_keys(keys: int) -> None:
    """Weights are rounded against the largest score so far: as far off as rounding makes them."""
    arrays = inputs(35, keys, 32, 32)
    arrays[1][:, -3:] *= 3  # the largest scores come last
    got, want = attend(arrays), expected(arrays, 0.25)
    np.testing.assert_allclose(got, want, atol=1e-2)
    assert np.abs(got - want).mean() < 1e-3


@pytest.mark.parametrize("kind", [bool, np.float32])
def test_masks(kind: type) -> None:
    arrays = inputs(41, 75, 32, 32)
    mask = numbers(7, 41, 75)
    given = mask > 0 if kind is bool else mask
    got = attend(arrays, CHOSEN if kind is bool else ADDED, given)
    np.testing.assert_allclose(got, expected(arrays, 1.0, given), atol=3e-3)


@pytest.mark.parametrize("zeros", ["", "blind", "none"])
def test_queries_that_may_look_nowhere(zeros: str) -> None:
    arrays = inputs(40, KEYS + 11, 16, 16)
    mask = np.ones((40, KEYS + 11), bool)
    mask[5] = False
    mask[6, :-1] = False
    got = attend(arrays, CHOSEN, mask, zeros=zeros)
    want = expected(arrays, 1.0, mask)
    want[:, 5] = 0 if zeros else np.nan
    np.testing.assert_allclose(got, want, atol=1e-2)
    assert (got[:, 6] == rounded(arrays[2])[:, -1]).all()


def test_hidden_keys_change_no_bit() -> None:
    """What is behind the last key that anyone looks at, be it padding, adds zeros."""
    arrays = inputs(40, 75, 32, 32)
    mask = np.zeros((40, 75), bool)
    mask[:, :51] = True
    first = attend(arrays, CHOSEN, mask)
    arrays[1][:, 51:] = 100
    arrays[2][:, 51:] = -100
    assert attend(arrays, CHOSEN, mask).tobytes() == first.tobytes()


def test_numbers_that_are_none() -> None:
    q, k, v = inputs(40, 21, 16, 16)
    q[0, 7, 1, 2] = np.nan
    q[0, 9, 1, 2] = np.inf
    v[1, 3, 0, 5] = np.inf
    got = attend([q, k, v])
    assert np.isnan(got[0, 7, 1]).all() and np.isnan(got[0, 9, 1]).all()
    assert np.isposinf(got[1, :, 0, 5]).all()
    touched = np.zeros(got.shape, bool)
    touched[0, [7, 9], 1] = touched[1, :, 0, 5] = True
    assert np.isfinite(got[~touched]).all()


@pytest.mark.parametrize("queries", [1, 2])
def test_few_queries_are_not_rounded(queries: int) -> None:
    arrays = inputs(queries, 30, 16, 16)
    assert attend(arrays).tobytes() == attend(arrays, products=DType.FLOAT32).tobytes()


def attention_network(size: int) -> bytes:
    """Attention of two heads over one projection each of queries, keys and values; keys masked."""
    make, width = helper.make_node, 2 * size
    nodes = []
    for i, name in enumerate("qkv"):
        nodes.append(make("MatMul", ["x", f"w{name}"], [name]))
        nodes.append(make("Reshape", [name, "split"], [f"{name}4"]))
        order = [0, 2, 3, 1] if i == 1 else [0, 2, 1, 3]
        nodes.append(make("Transpose", [f"{name}4"], [f"{name}h"], perm=order))
    nodes += [
        make("MatMul", ["qh", "kh"], ["products"]),
        make("Mul", ["products", "scale"], ["scaled"]),
        make("Add", ["scaled", "mask"], ["scores"]),
        make("Softmax", ["scores"], ["shares"], axis=-1),
        make("MatMul", ["shares", "vh"], ["heads"]),
        make("Transpose", ["heads"], ["turned"], perm=[0, 2, 1, 3]),
        make("Reshape", ["turned", "join"], ["y"]),
    ]
    fixed: dict[str, np.ndarray] = {
        "split": np.array([0, 0, 2, size]),
        "join": np.array([0, 0, width]),
        "scale": np.array(size**-0.5, np.float32),
        **{f"w{n}": numbers(i, width, width) / np.float32(width**0.5) for i, n in enumerate("qkv")},
    }
    given = [("x", ("N", "L", width)), ("mask", ("N", 1, 1, "L"))]
    return model(nodes, given, [("y", None)], fixed)


def attention_feeds(size: int, length: int) -> dict[str, np.ndarray]:
    """Three items, the first with padding."""
    mask = np.zeros((3, 1, 1, length), np.float32)
    mask[0, ..., 2 * length // 3 :] = -np.inf
    return {"x": numbers(5, 3, length, 2 * size), "mask": mask}


def test_a_row_alone_is_the_same_as_in_a_batch() -> None:
    source = attention_network(32)
    loaded = engine.load(source, device="cpu", precision="bf16", threads=2)
    feeds = attention_feeds(32, 70)
    x, mask = feeds["x"], feeds["mask"]
    x[1, 4] = np.nan
    whole = loaded.run(feeds)["y"]
    for i in range(3):
        alone = loaded.run({"x": x[i : i + 1], "mask": mask[i : i + 1]})["y"]
        assert alone.tobytes() == whole[i : i + 1].tobytes()
    want = engine.load(source, device="reference").run({"x": x[::2], "mask": mask[::2]})["y"]
    got = whole[::2].astype(np.float64)
    assert (got * want).sum() / np.sqrt((got**2).sum() * (want**2).sum()) > 0.9999


def test_the_rule_takes_pairs_with_bf16_only() -> None:
    kernels = {}
    for precision in ("fp32", "bf16"):
        loaded = engine.load(attention_network(32), device="cpu", precision=precision)
        (region,) = loaded._plan._regions  # type: ignore[union-attr]
        found = [s.kernel for s in region.program.steps if isinstance(s.kernel, Attention)]
        kernels[precision] = [kernel.products for kernel in found]
    assert kernels == {"fp32": [DType.FLOAT32], "bf16": [DType.BFLOAT16]}
