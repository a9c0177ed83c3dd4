"""Native caches and attention over them, held to the operators' portable definitions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from engine.cpu.kernels.append_cache import AppendCache
from engine.cpu.kernels.indexed_attention import IndexedAttention, SourceAttention
from engine.cpu.kernels.row_attention import RowHeads
from engine.cpu.lower.rules import NoKernel
from engine.cpu.native import compile_kernel
from engine.cpu.target import ISAS, host_target, target_for
from engine.dtypes import DType
from tests.engine.cpu.harness import run_kernel
from tests.engine.cpu.programs import check
from tests.engine.onnx_models import node

RNG = np.random.default_rng(7)
OURS = {"millrace": 1}
LATER = 1 << 30  # what the history holds behind a row's position: nothing


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def feeds_of(n: int, r: int, t: int, width: int, value_width: int) -> dict[str, np.ndarray]:
    position = RNG.integers(0, t, n)
    slot = RNG.permutation(r)[:n]
    history = RNG.integers(0, r, (r, t)).astype(np.int32)
    for s, p in zip(slot, position, strict=True):
        history[s, p + 1 :] = LATER
    return {
        "q": normal(n, 1, width),
        "keys": normal(r, t, width),
        "values": normal(r, t, value_width),
        "history": history,
        "slot": slot,
        "position": position,
    }


def hold(op: str, feeds: Mapping[str, np.ndarray], shape: list[int], **attributes: float) -> None:
    """Sizes that differ from run to run are symbols."""
    names = {
        "q": ["N", 1, feeds["q"].shape[2]],
        "keys": ["R", "T", feeds["keys"].shape[2]],
        "values": ["R", "T", feeds["values"].shape[2]],
        "history": ["R", "T"],
        "source_length": ["R"],
        "bias": ["N" if feeds["q"].shape[0] > 1 and feeds.get("bias", normal(1)).shape[0] > 1
                 else 1, *feeds["bias"].shape[1:3], "T"] if "bias" in feeds else [],
    }  # fmt: skip
    shapes = {name: names.get(name, ["N"]) for name in feeds}
    nodes = [node(op, list(feeds), ["y"], domain="millrace", **attributes)]
    output = ("y", shape, helper.np_dtype_to_tensor_dtype(feeds["q"].dtype))
    check(nodes, feeds, [output], shapes=shapes, domains=OURS, tolerance=2e-5)


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(0, 5), t=st.sampled_from([1, 3, 15, 16, 17, 40]), data=st.data(),
    heads=st.sampled_from([(1, 4), (2, 16), (3, 5), (8, 32), (6, 24)]),
)  # fmt: skip
def test_indexed_attention(n: int, t: int, heads: tuple[int, int], data: st.DataObject) -> None:
    count, size = heads
    feeds = feeds_of(n, n + 2, t, count * size, count * size)
    lead = data.draw(st.sampled_from([None, (1, 1), (1, count), (n, count)]))
    if lead is not None and (n or lead[0]):
        feeds["bias"] = normal(*lead, 1, t)
    hold("IndexedAttention", feeds, [n, 1, count * size], heads=count, scale=0.3)


def test_many_positions_and_other_widths() -> None:
    """Blocks of positions are put together; values may be narrower than keys."""
    feeds = feeds_of(3, 4, 700, 64, 24)
    feeds["position"][:] = 699, 255, 256
    feeds["history"] %= 4
    feeds["q"] *= 6  # the largest score moves from block to block
    hold("IndexedAttention", feeds, [3, 1, 24], heads=4, scale=1.0)


def test_a_bias_for_more_positions_than_there_are() -> None:
    feeds = feeds_of(2, 2, 9, 6, 6)
    feeds["bias"] = normal(2, 3, 1, 30)
    shapes: dict[str, Sequence[int | str]]
    shapes = {"q": ["N", 1, 6], "slot": ["N"], "position": ["N"], "bias": ["N", 3, 1, 30]}
    shapes |= {"keys": ["R", "T", 6], "values": ["R", "T", 6], "history": ["R", "T"]}
    nodes = [node("IndexedAttention", list(feeds), ["y"], domain="millrace", heads=3)]
    check(nodes, feeds, [("y", [2, 1, 6])], shapes=shapes, domains=OURS, tolerance=2e-5)


def test_a_bias_that_hides_everything_gives_zeros() -> None:
    feeds = feeds_of(2, 2, 20, 32, 32)
    feeds["bias"] = np.full((1, 1, 1, 20), -np.inf, np.float32)
    hold("IndexedAttention", feeds, [2, 1, 32], heads=2, scale=0.5)


@settings(max_examples=15, deadline=None)
@given(
    n=st.integers(0, 6), s=st.integers(1, 4), m=st.sampled_from([1, 7, 16, 33, 300]),
    heads=st.sampled_from([(1, 3), (4, 16), (8, 32)]),
)  # fmt: skip
def test_source_attention(n: int, s: int, m: int, heads: tuple[int, int]) -> None:
    count, size = heads
    feeds = {
        "q": normal(n, 1, count * size),
        "keys": normal(s, m, count * size),
        "values": normal(s, m, count * size),
        "source": RNG.integers(0, s, n),
        "source_length": RNG.integers(0, m + 1, s),
    }
    hold("SourceAttention", feeds, [n, 1, count * size], heads=count, scale=0.25)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("n", [0, 1, 5])
def test_append_to_a_copy(n: int, dtype: type) -> None:
    feeds = {
        "cache": normal(7, 4, 6).astype(dtype),
        "new": normal(n, 1, 6).astype(dtype),
        "slot": RNG.permutation(7)[:n],
        "position": RNG.integers(0, 4, n),
    }
    shapes: dict[str, Sequence[int | str]]
    shapes = {"cache": ["R", "T", 6], "new": ["N", 1, 6], "slot": ["N"], "position": ["N"]}
    nodes = [node("AppendCache", list(feeds), ["y"], domain="millrace")]
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    check(nodes, feeds, [("y", [7, 4, 6], kind)], shapes=shapes, domains=OURS)


@pytest.mark.parametrize(
    ("name", "wrong"), [("slot", 9), ("slot", -1), ("position", 8), ("history", 4), ("history", -1)]
)
def test_an_index_out_of_range_is_told_of(name: str, wrong: int) -> None:
    feeds = feeds_of(3, 4, 8, 16, 16)
    feeds["position"][:] = 5
    feeds["history"] %= 4
    feeds[name].flat[0] = wrong
    feeds["slot"][1 if name == "slot" else 0] = 0
    with pytest.raises(IndexError, match="outside of"):
        hold("IndexedAttention", feeds, [3, 1, 16], heads=2)
    if name != "history":
        shapes = {"cache": [4, 8, 16], "new": [3, 1, 16], "slot": [3], "position": [3]}
        append = {
            "cache": feeds["keys"],
            "new": feeds["q"],
            **{k: feeds[k] for k in list(shapes)[2:]},
        }
        nodes = [node("AppendCache", list(append), ["y"], domain="millrace")]
        with pytest.raises(IndexError, match="outside of"):
            check(nodes, append, [("y", [4, 8, 16])], shapes=shapes, domains=OURS)


@pytest.mark.parametrize(("name", "wrong"), [("source", 3), ("source_length", 6), ("source", -1)])
def test_a_source_that_is_not_there_is_told_of(name: str, wrong: int) -> None:
    feeds = {
        "q": normal(2, 1, 8),
        "keys": normal(3, 5, 8),
        "values": normal(3, 5, 8),
        "source": np.array([0, 1]),
        "source_length": np.array([5, 1, 2]),
    }
    feeds[name][0] = wrong
    with pytest.raises(IndexError, match="outside of"):
        hold("SourceAttention", feeds, [2, 1, 8], heads=2)


def test_a_row_does_not_depend_on_the_others() -> None:
    heads = RowHeads(8, 32, 32, 0.2)
    feeds = feeds_of(6, 9, 50, 256, 256)
    kernel = IndexedAttention(heads, DType.INT32, DType.INT64, DType.INT64, bias=False)

    def run(rows: slice) -> np.ndarray:
        some = {k: v[rows] if k in ("q", "slot", "position") else v for k, v in feeds.items()}
        y, _ = run_kernel(
            kernel,
            [np.empty_like(some["q"]), np.zeros(1, np.int64), *some.values()],
            numbers=(9, 50),
            tasks=heads.tasks(host_target()) * len(some["slot"]),
            writes=2,
            pieces=2,
        )
        return y

    together = run(slice(None))
    alone = np.concatenate([run(slice(i, i + 1)) for i in range(6)])
    np.testing.assert_array_equal(together, alone)


def test_float64_is_left_to_the_definition() -> None:
    feeds = {k: v.astype(np.float64) if v.dtype == np.float32 else v
             for k, v in feeds_of(2, 2, 3, 4, 4).items()}  # fmt: skip
    with pytest.raises(NoKernel, match="float32"):
        hold("IndexedAttention", feeds, [2, 1, 4], heads=2)


@pytest.mark.parametrize("isa", ISAS)
def test_code_for_other_processors(isa: str) -> None:
    heads = RowHeads(8, 20, 32, 0.2)
    kernels = (
        AppendCache(DType.INT64, DType.INT32),
        IndexedAttention(heads, DType.INT32, DType.INT64, DType.INT64, bias=True),
        SourceAttention(heads, DType.INT64, DType.INT64),
    )
    for kernel in kernels:
        assert compile_kernel(kernel, "kernel", target_for(isa))
