"""Attention, against the reference."""

from __future__ import annotations

import numpy as np
import pytest

from engine.cpu.kernels.attention import Attention
from engine.cpu.kernels.attention_parts import Heads, Operand
from engine.cpu.lower.rules import NoKernel
from engine.cpu.native import compile_kernel
from engine.cpu.target import ISAS, target_for
from engine.dtypes import DType
from tests.engine.cpu.programs import check
from tests.engine.onnx_models import node, normal

HEADS_INSIDE = {f"perm_{name}": [0, 2, 1, 3] for name in "qkvy"}
PLAIN = "x0:float32; 0.125:float32; mul #0 #1"
MASKED = "x0:float32; 0.125:float32; mul #0 #1; x1:float32; add #2 #3"
CHOSEN = "x0:float32; x1:bool; -inf:float32; select #1 #0 #2"
ERROR = 2e-6


def attend(
    feeds: dict[str, np.ndarray], scores: str, shapes: dict[str, list[int | str]], **more: object
) -> None:
    attributes = {"scores": scores, "domain": "millrace", **more}
    nodes = [node("Attention", list(feeds), ["y"], **attributes)]
    rank = next(iter(feeds.values())).ndim
    out = ["N", "P", "Q", "R"][:rank]
    domains = {"millrace": 1}
    check(nodes, feeds, [("y", out)], shapes=shapes, domains=domains, tolerance=ERROR)


@pytest.mark.parametrize(
    ("queries", "keys", "size", "values"),
    [
        *((128, 128, 64, 64), (1, 1100, 64, 64), (33, 600, 20, 33), (3, 600, 20, 33)),
        *((2, 7, 20, 33), (19, 3, 20, 33), (0, 4, 20, 33), (4, 0, 20, 33), (1, 0, 20, 33)),
    ],
)
def test_sizes(queries: int, keys: int, size: int, values: int) -> None:
    """Open lengths, heads inside of the rows, a mask for padding."""
    feeds = {
        "q": normal(2, queries, 3, size),
        "k": normal(2, keys, 3, size, seed=1),
        "v": normal(2, keys, 3, values, seed=2),
        "m": np.where(np.arange(keys) % 7 == 3, np.float32(-1e4), np.float32(0)).reshape(
            1, 1, 1, -1
        ),
    }
    feeds["m"] = np.repeat(feeds["m"], 2, axis=0)
    shapes = {
        "q": ["N", "S", 3, size],
        "k": ["N", "L", 3, size],
        "v": ["N", "L", 3, values],
        "m": ["N", 1, 1, "L"],
    }
    attend(feeds, MASKED, shapes, **HEADS_INSIDE)


@pytest.mark.parametrize("queries", [1, 40])
@pytest.mark.parametrize("lead", [(1, 1), (2, 3)])
def test_masks_of_queries_and_keys(queries: int, lead: tuple[int, int]) -> None:
    feeds = {
        "q": normal(2, 3, queries, 16),
        "k": normal(2, 3, 37, 16, seed=1),
        "v": normal(2, 3, 37, 16, seed=2),
        "m": normal(*lead, queries, 37, seed=3),
    }
    attend(feeds, MASKED, {"m": [*lead, "S", 37], "q": [2, 3, "S", 16]})
    feeds["m"] = feeds["m"] > 0.3
    attend(feeds, CHOSEN, {})


@pytest.mark.parametrize("queries", [1, 20])
@pytest.mark.parametrize("safe", [0, 1])
def test_queries_that_may_look_nowhere(queries: int, safe: int) -> None:
    """NaN, or zeros where the node says so; also after a block of hidden keys."""
    allowed = np.ones((queries, 300), bool)
    allowed[0] = False
    allowed[-1, :299] = False
    feeds = {
        "q": normal(queries, 16),
        "k": normal(300, 16, seed=1),
        "v": normal(300, 16, seed=2),
        "m": allowed,
    }
    attend(feeds, CHOSEN, {}, safe=safe)


def test_numbers_that_are_none() -> None:
    feeds = {"q": normal(1, 40, 16), "k": normal(1, 21, 16, seed=1), "v": normal(1, 21, 16, seed=2)}
    feeds["q"][0, 7, 2] = np.nan
    feeds["q"][0, 9, 2] = np.inf
    feeds["v"][0, 3, 5] = np.inf
    attend(feeds, PLAIN, {})
    attend({**feeds, "q": feeds["q"][:, 7:9]}, PLAIN, {})


def test_keys_that_lie_across_are_copied() -> None:
    feeds = {
        "q": normal(2, 3, 9, 16),
        "k": normal(2, 3, 16, 21, seed=1),
        "v": normal(21, 2, 3, 16, seed=2),
    }
    attend(feeds, PLAIN, {"v": ["L", "N", 3, 16]}, perm_k=[0, 1, 3, 2], perm_v=[1, 2, 0, 3])


def test_sequences_first_in_an_open_batch() -> None:
    """Rows as far from each other as there are items: copied on the way in and out."""
    names = "qkv"
    feeds = {n: normal(9, 2, 3, 16, seed=k) for k, n in enumerate(names)}
    shapes = {n: ["L", "N", 3, 16] for n in names}
    perms = {f"perm_{n}": [1, 2, 0, 3] for n in names}
    attend(feeds, PLAIN, shapes, **perms, perm_y=[2, 0, 1, 3])


def test_keys_that_all_heads_share() -> None:
    feeds = {
        "q": normal(2, 3, 9, 16),
        "k": normal(2, 1, 21, 16, seed=1),
        "v": normal(1, 1, 21, 16, seed=2),
    }
    attend(feeds, PLAIN, {})


def test_what_has_no_kernel() -> None:
    feeds = {"q": normal(9, 16), "k": normal(9, 16), "v": normal(9, 16), "m": normal(9, 1)}
    with pytest.raises(NoKernel, match="per query"):
        attend(feeds, MASKED, {})


@pytest.mark.parametrize("isa", ISAS)
def test_code_for_every_processor(isa: str) -> None:
    operands = (Operand("both", DType.BOOL), Operand("key", DType.FLOAT32))
    heads = Heads(2, 20, 36, 64, 64, 64, 64)
    text = "x0:float32; x1:bool; x2:float32; select #1 #0 #2"
    assert compile_kernel(Attention(heads, text, operands, "none"), "kernel", target_for(isa))


def test_heads_of_one_projection_are_never_copied() -> None:
    """As vision transformers have them: one product gives queries, keys and values."""
    weights = {"s": np.array([0, 0, 3, 2, 16], np.int64), "zero": np.array([0], np.int64)}
    nodes = [
        node("Reshape", ["x", "s"], ["r"]),
        node("Transpose", ["r"], ["t"], perm=[2, 0, 3, 1, 4]),
        node("Split", ["t"], ["a", "b", "c"], axis=0, num_outputs=3),
        *(node("Squeeze", [a, "zero"], [q]) for a, q in zip("abc", "qkv", strict=True)),
        node("Attention", ["q", "k", "v"], ["y"], scores=PLAIN, perm_y=[0, 2, 1, 3]),
    ]
    nodes[-1].domain = "millrace"
    program = check(
        nodes,
        {"x": normal(2, 37, 96)},
        [("y", ["N", "S", 2, 16])],
        weights,
        shapes={"x": ["N", "S", 96]},
        domains={"millrace": 1},
        tolerance=ERROR,
    )
    assert [type(step.kernel) for step in program.steps] == [Attention]


@pytest.mark.parametrize("queries", [2, 21])
@pytest.mark.parametrize(
    ("flat", "mask"),
    [(False, ""), (True, "bool"), (False, "bool"), (True, "float"), (False, "heads")],
)
def test_onnx_attention(flat: bool, mask: str, queries: int) -> None:
    """Four heads of queries share two of keys; a causal triangle where there is no mask."""
    heads = {"q_num_heads": 4, "kv_num_heads": 2} if flat else {}
    feeds = {
        "q": normal(2, queries, 64) if flat else normal(2, 4, queries, 16),
        "k": normal(2, 37, 32, seed=1) if flat else normal(2, 2, 37, 16, seed=1),
        "v": normal(2, 37, 48, seed=2) if flat else normal(2, 2, 37, 24, seed=2),
    }
    if mask:
        shape = {"bool": (queries, 37), "float": (2, 1, 1, 37), "heads": (4, queries, 37)}[mask]
        feeds["m"] = normal(*shape, seed=3)
        if mask == "bool":
            feeds["m"] = feeds["m"] > 0.3
            feeds["m"][0] = False
    nodes = [node("Attention", list(feeds), ["y"], **heads, is_causal=int(not mask), softcap=3.0)]
    out = ["N", "S", 96] if flat else ["N", 4, "S", 24]
    check(nodes, feeds, [("y", out)], opset=23, tolerance=ERROR)


@pytest.mark.parametrize("past", [0, 5])
@pytest.mark.parametrize("outputs", [["y"], ["y", "k2", "v2"]])
def test_onnx_attention_with_a_cache(past: int, outputs: list[str]) -> None:
    feeds = {
        "q": normal(2, 4, 3, 16),
        "k": normal(2, 2, 3, 16, seed=1),
        "v": normal(2, 2, 3, 24, seed=2),
        "pk": normal(2, 2, past, 16, seed=3),
        "pv": normal(2, 2, past, 24, seed=4),
    }
    shapes = {"pk": ["N", 2, "P", 16], "pv": ["N", 2, "P", 24], "q": ["N", 4, "S", 16]}
    shapes |= {"k": ["N", 2, "S", 16], "v": ["N", 2, "S", 24]}
    names = ["q", "k", "v", "", "pk", "pv"]
    nodes = [node("Attention", names, outputs, is_causal=1, scale=0.5, name="n")]
    out = [(name, ["N", "h", "L", "d"]) for name in outputs]
    check(nodes, feeds, out, shapes=shapes, opset=23, tolerance=ERROR)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("more", [{}, {"unidirectional": 1, "qkv_hidden_sizes": [32, 32, 48]}])
def test_attention_with_its_projection(masked: bool, more: dict[str, object]) -> None:
    """As ONNX Runtime's own optimizer leaves BERT and GPT-2."""
    columns = 112 if more else 96
    weights = {"w": normal(20, columns) / 4, "b": normal(columns, seed=1)}
    feeds = {"x": normal(2, 19, 20)}
    if masked:
        feeds["m"] = (np.arange(38).reshape(2, 19) % 5 > 0).astype(np.int32)
    names = ["x", "w", "b", *(["m"] if masked else [])]
    nodes = [node("Attention", names, ["y"], num_heads=4, domain="com.microsoft", **more)]
    check(
        nodes,
        feeds,
        [("y", ["N", "S", "V"])],
        weights,
        shapes={"x": ["N", "S", 20], "m": ["N", "S"]},
        domains={"com.microsoft": 1},
        tolerance=ERROR,
    )
