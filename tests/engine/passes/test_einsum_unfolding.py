"""Einsum becomes products and transpositions, and means the same."""

from __future__ import annotations

import numpy as np
import pytest

import engine
from tests.engine.onnx_models import model, node, normal
from tests.engine.passes.comparing import compiled, ops

SIZES = dict(zip("abcdhijklq", (2, 3, 4, 5, 2, 6, 3, 7, 4, 5), strict=True))
UNFOLDED = [
    "ij,jk->ik",
    "ij,kj->ki",
    "ji,jk",
    "bij,bjk->bik",
    "bhqd,bhkd->bhqk",
    "bqhd,bkhd->bhqk",
    "bhqk,bkhd->bqhd",
    "bld,dk->blk",
    "bld,dhk->bhlk",
    "bhlk,hkd->bld",
    "abij,cj->cabi",
    "bc,bc->b",
    "bi,bj->bij",
    "i,j->ij",
    "i,i->",
    "bij,b->bij",
    "bchq,c->bhq",
    "ijk->kji",
    "ij->ij",
    "...ij,...jk->...ik",
    "...i,ij->...j",
    "ij,ij->ij",
    "abcd,bdi->aci",
    "i,ijk->jk",
    "ab,cd->dbca",
]
KEPT = ["ii->i", "ij->i", "ij,jk->i", "ij,jk,kl->il", "iij,j->i"]


def shapes_of(equation: str) -> list[tuple[int, ...]]:
    terms = equation.split("->")[0].split(",")
    return [
        (4, 3)[: 2 if "." in term else 0] + tuple(SIZES[n] for n in term if n != ".")
        for term in terms
    ]


def net(equation: str, open_letters: str = "") -> bytes:
    terms = equation.split("->")[0].split(",")
    inputs = [
        (f"x{k}", [n if n in open_letters else size for n, size in _named(term, shape)])
        for k, (term, shape) in enumerate(zip(terms, shapes_of(equation), strict=True))
    ]
    made = node("Einsum", [name for name, _ in inputs], ["y"], equation=equation)
    return model([made], inputs, [("y", None)])


def _named(term: str, shape: tuple[int, ...]) -> list[tuple[str, int]]:
    letters = list(term.replace("...", "<>"))
    return list(zip(letters, shape, strict=True))


@pytest.mark.parametrize("equation", UNFOLDED)
@pytest.mark.parametrize("how", ["fixed", "open"])
def test_products_of_every_form(equation: str, how: str) -> None:
    # Sums and columns of several letters need numbers.
    data = net(equation, "" if how == "fixed" else "abl")
    if how == "fixed":
        assert "Einsum" not in ops(compiled(data, 2))
    xs = [normal(*shape, seed=k) for k, shape in enumerate(shapes_of(equation))]
    want = np.einsum(equation, *xs)
    for device in ("reference", "cpu"):
        with engine.load(data, device=device) as loaded:
            got = loaded.run({f"x{k}": x for k, x in enumerate(xs)})["y"]
            assert got.shape == want.shape
            np.testing.assert_allclose(got, want, 1e-4, 1e-5)


@pytest.mark.parametrize("equation", KEPT)
def test_what_stays(equation: str) -> None:
    assert "Einsum" in ops(compiled(net(equation), 2))


@pytest.mark.parametrize("equation", ["ij,jk->ikk", "...j,jk->......k", "ij,jk->iz"])
def test_results_that_no_subscripts_give_are_refused(equation: str) -> None:
    made = node("Einsum", ["x0", "x1"], ["y"], equation=equation)
    data = model([made], [("x0", [2, 3]), ("x1", [3, 4])], [("y", None)])
    with pytest.raises(engine.InvalidModel, match="of the output is"):
        engine.load(data, device="reference")


def test_sizes_that_may_differ_stay() -> None:
    nodes = [
        node("Einsum", ["x", "y"], ["z"], equation="aib,aib->ab"),
        node("Relu", ["z"], ["w"]),
    ]
    data = model(nodes, [("x", [2, 4, "N"]), ("y", [2, 4, "M"])], [("w", None)])
    assert "Einsum" in ops(compiled(data, 2))
    for device in ("reference", "cpu"):
        with engine.load(data, device=device) as loaded:
            for n, m in ((1, 3), (3, 1), (3, 3), (1, 1)):
                x, y = normal(2, 4, n), normal(2, 4, m, seed=1)
                want = (x * y).sum(1).clip(0)
                np.testing.assert_allclose(loaded.run({"x": x, "y": y})["w"], want, 1e-5, 1e-6)


def test_one_row_beside_many() -> None:
    made = node("Einsum", ["x", "y"], ["z"], equation="bi,bi->b")
    data = model([made], [("x", ["N", 4]), ("y", ["M", 4])], [("z", None)])
    with engine.load(data, device="cpu") as loaded:
        x, y = normal(1, 4), normal(3, 4, seed=1)
        want = (x * y).sum(1)
        np.testing.assert_allclose(loaded.run({"x": x, "y": y})["z"], want, 1e-5, 1e-6)


def test_no_entries() -> None:
    data = net("bld,dhk->bhlk", "bl")
    with engine.load(data, device="cpu") as loaded:
        feeds = {"x0": normal(0, 4, 5), "x1": normal(5, 2, 7)}
        assert loaded.run(feeds)["y"].shape == (0, 2, 4, 7)


@pytest.mark.parametrize("sizes", [(3, 0, 2), (0, 3, 2), (3, 2, 0), (0, 0, 0)])
def test_axes_without_entries(sizes: tuple[int, int, int]) -> None:
    a, b, c = sizes
    for equation, left in (("ab,abc->c", [a, b]), ("ka,abc->kbc", [2, a])):
        made = node("Einsum", ["x", "w"], ["y"], equation=equation)
        data = model([made], [("x", left), ("w", [a, b, c])], [("y", None)])
        feeds = {"x": normal(*left), "w": normal(a, b, c, seed=1)}
        want = np.einsum(equation, feeds["x"], feeds["w"])
        with engine.load(data, device="reference") as loaded:
            np.testing.assert_allclose(loaded.run(feeds)["y"], want, 1e-5, 1e-6)


def test_fixed_weights_are_packed_once() -> None:
    made = node("Einsum", ["x", "w"], ["y"], equation="bld,kd->blk")
    data = model([made], [("x", ["N", "L", 8])], [("y", None)], {"w": normal(6, 8)})
    assert ops(compiled(data, 2)) == ["MatMul"]
