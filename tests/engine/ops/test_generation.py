"""Attention over shared caches: each row held to plain attention over its own history alone."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import InvalidModel, ResourceLimit, RunFailed
from engine.inference import Scope, infer_context, type_of
from engine.interpreter import run_graph
from engine.ir.graph import Graph, Node, Value
from engine.limits import Limits
from engine.ops.registry import REGISTRY

RNG = np.random.default_rng(5)


def infer(op: str, feeds: Mapping[str, np.ndarray], **attributes: int | float) -> Graph:
    """Return a graph of one node, typed by the operator's own rule."""
    node = Node(op, tuple(feeds), ("y",), attributes, domain="millrace")
    scope = Scope(types={name: type_of(value) for name, value in feeds.items()})
    operator = REGISTRY.find(node)
    (kind,) = operator.infer(infer_context(operator, node, scope))
    inputs = tuple(Value(name, scope.types[name]) for name in feeds)
    types = {**scope.types, "y": kind}
    return Graph("g", inputs, (Value("y", kind),), (node,), types=types)


def run(op: str, feeds: Mapping[str, np.ndarray], **attributes: int | float) -> np.ndarray:
    graph = infer(op, feeds, **attributes)
    result: np.ndarray = run_graph(graph, feeds)["y"]
    assert type_of(result) == graph.types["y"]
    return result


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def attend(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, heads: int, scale: float, bias: np.ndarray
) -> np.ndarray:
    """Plain attention of one query (W) over keys and values (L, W); bias is (heads, L)."""
    parts = []
    for h, (a, b, c) in enumerate(
        zip(np.split(q, heads), np.split(k, heads, 1), np.split(v, heads, 1), strict=True)
    ):
        scores = (b @ a).astype(np.float64) * scale + bias[h]
        weights = np.exp(scores - scores.max())
        parts.append(weights / weights.sum() @ c)
    return np.concatenate(parts)


def history_feeds(n: int, r: int, t: int, w: int) -> dict[str, np.ndarray]:
    position = RNG.integers(0, t, n)
    history = RNG.integers(0, r, (r, t)).astype(np.int32)
    slot = RNG.permutation(r)[:n]
    for s, p in zip(slot, position, strict=True):
        history[s, p + 1 :] = 2**30  # what has not been written yet may be anything
    return {
        "q": normal(n, 1, w),
        "keys": normal(r, t, w),
        "values": normal(r, t, w),
        "history": history,
        "slot": slot.astype(np.int64),
        "position": position.astype(np.int64),
    }


@settings(max_examples=60, deadline=None)
@given(
    r=st.integers(1, 5), t=st.integers(1, 9), heads=st.integers(1, 3), d=st.integers(1, 5),
    data=st.data(),
)  # fmt: skip
def test_indexed_attention(r: int, t: int, heads: int, d: int, data: st.DataObject) -> None:
    n = data.draw(st.integers(0, r))
    x = history_feeds(n, r, t, heads * d)
    biased = data.draw(st.sampled_from([None, (1, 1), (1, heads), (n, 1), (n, heads)]))
    bias = np.zeros((n, heads, 1, t), np.float32)
    if biased is not None:
        x["bias"] = normal(*biased, 1, t + data.draw(st.integers(0, 2)))
        bias = np.broadcast_to(x["bias"][..., :t], bias.shape)
    found = run("IndexedAttention", x, heads=heads, scale=0.3)
    for i in range(n):
        s, length = x["slot"][i], x["position"][i] + 1
        rows = x["history"][s, :length]
        k, v = (x[name][rows, np.arange(length)] for name in ("keys", "values"))
        wanted = attend(x["q"][i, 0], k, v, heads, 0.3, bias[i, :, 0, :length])
        np.testing.assert_allclose(found[i, 0], wanted, rtol=1e-4, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(0, 4), s=st.integers(1, 4), m=st.integers(1, 6), heads=st.integers(1, 3),
    d=st.integers(1, 5),
)  # fmt: skip
def test_source_attention(n: int, s: int, m: int, heads: int, d: int) -> None:
    x = {
        "q": normal(n, 1, heads * d),
        "keys": normal(s, m, heads * d),
        "values": normal(s, m, heads * d),
        "source": RNG.integers(0, s, n),
        "source_length": RNG.integers(0, m + 1, s),
    }
    found = run("SourceAttention", x, heads=heads, scale=0.5)
    for i in range(n):
        source = x["source"][i]
        length = x["source_length"][source]
        if not length:
            assert not found[i].any()
            continue
        k, v = x["keys"][source, :length], x["values"][source, :length]
        wanted = attend(x["q"][i, 0], k, v, heads, 0.5, np.zeros((heads, length)))
        np.testing.assert_allclose(found[i, 0], wanted, rtol=1e-4, atol=1e-5)


def test_values_may_be_wider_than_keys() -> None:
    x = history_feeds(2, 3, 4, 6) | {"values": normal(3, 4, 10)}
    assert run("IndexedAttention", x, heads=2, scale=1.0).shape == (2, 1, 10)


def test_appending() -> None:
    x = {
        "cache": normal(4, 5, 3),
        "new": normal(2, 1, 3),
        "slot": np.array([3, 0]),
        "position": np.array([4, 1]),
    }
    found = run("AppendCache", x)
    wanted = x["cache"].copy()
    wanted[3, 4], wanted[0, 1] = x["new"][:, 0]
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("slot", np.array([0, 9]), "slot holds 0..9"),
        ("slot", np.array([-1, 0]), "slot holds -1..0"),
        ("position", np.array([4, 0]), "position holds 0..4"),
        ("history", np.full((3, 4), 3, np.int32), "history holds 3..3"),
    ],
)
def test_indices_out_of_range(name: str, value: np.ndarray, says: str) -> None:
    x = history_feeds(2, 3, 4, 6)
    x["position"][:] = 3
    x["history"][:] = 0
    with pytest.raises(RunFailed, match=says):
        run("IndexedAttention", x | {name: value}, heads=2)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("q", normal(2, 1, 8), "width of queries and keys must agree, got 8 and 6"),
        ("q", normal(2, 2, 6), "tokens per row, and 1 must agree"),
        ("keys", normal(3, 4, 6).astype(np.float64), "one float type"),
        ("values", normal(3, 5, 6), "positions of keys and values"),
        ("history", np.zeros((3, 5), np.int32), "positions of keys and history"),
        ("history", normal(3, 4), "expected int32 or int64"),
        ("slot", np.zeros(2), "expected int32 or int64"),
        ("bias", normal(2, 2, 1, 3), "a bias for 3 positions, there are 4"),
        ("bias", normal(2, 4), "bias must have rank 4"),
    ],
)
def test_what_does_not_fit_together(name: str, value: np.ndarray, says: str) -> None:
    with pytest.raises(InvalidModel, match=says):
        infer("IndexedAttention", history_feeds(2, 3, 4, 6) | {name: value}, heads=2)


@pytest.mark.parametrize("heads", [0, 4])
def test_heads_that_do_not_divide(heads: int) -> None:
    with pytest.raises(InvalidModel, match="heads"):
        infer("IndexedAttention", history_feeds(2, 3, 4, 6), heads=heads)


def test_limits_hold() -> None:
    x = history_feeds(2, 3, 64, 64)
    x["position"][:] = 63
    x["history"][:] = 0
    graph = infer("IndexedAttention", x, heads=2)
    with pytest.raises(ResourceLimit):
        run_graph(graph, x, limits=Limits(run_bytes=1000))
