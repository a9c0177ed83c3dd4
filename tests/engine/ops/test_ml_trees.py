from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import AttributeProto, helper, load_model_from_string, numpy_helper

from engine.errors import InvalidModel, RunFailed
from engine.frontend.onnx_importer import import_model
from engine.interpreter import GraphPlan
from engine.limits import Limits
from engine.ops import REGISTRY
from engine.ops.cores import trees
from tests.engine.ops.single_node import NodeCase, check_node, check_rows, row_states

DOMAIN = "ai.onnx.ml"
FEATURES = 4
BRANCHES = ["BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ"]
POSTS = ["NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO"]


def grow(
    rng: np.random.Generator,
    prefix: str,
    targets: Sequence[int],
    *,
    count: int = 5,
    depth: int = 4,
    modes: Sequence[str] = BRANCHES,
    missing: bool = True,
    positive: bool = False,
    every: bool = False,
) -> dict[str, Any]:
    """Attributes of random trees in the old form; leaves weigh one target, or `every` one."""
    names = ["treeids", "nodeids", "featureids", "values", "modes", "truenodeids", "falsenodeids"]
    nodes: dict[str, list[Any]] = {f"nodes_{name}": [] for name in names}
    tracks: list[int] = []
    leaves: dict[str, list[Any]] = {
        f"{prefix}_{n}": [] for n in ["treeids", "nodeids", "ids", "weights"]
    }

    def add(tree: int, node: int, level: int) -> int:
        """Add a node numbered `node` and what is below; return the next free number."""
        is_leaf = level == depth or (level > 0 and rng.random() < 0.25)
        place = len(tracks)
        mode = "LEAF" if is_leaf else str(rng.choice(list(modes)))
        row = [tree, node, int(rng.integers(FEATURES)), float(rng.integers(-2, 3)) / 2, mode, 0, 0]
        for values, value in zip(nodes.values(), row, strict=True):
            values.append(value)
        tracks.append(int(rng.integers(2)))
        if is_leaf:
            for target in targets if every else [int(rng.choice(list(targets)))]:
                weight = float(rng.random() if positive else rng.standard_normal())
                for values, value in zip(
                    leaves.values(), [tree, node, target, weight], strict=True
                ):
                    values.append(value)
            return node + 1
        free = node + 1
        for side in ("true", "false"):
            nodes[f"nodes_{side}nodeids"][place] = free
            free = add(tree, free, level + 1)
        return free

    for tree in range(count):
        add(tree, 0, 0)
    found: dict[str, Any] = {**nodes, **leaves}
    return {**found, "nodes_missing_value_tracks_true": tracks} if missing else found


def rows(rng: np.random.Generator, count: int = 40, dtype: Any = np.float32) -> np.ndarray:
    """Features that often equal a split; floats with a few NaN."""
    x = (rng.integers(-3, 4, (count, FEATURES)) / 2).astype(dtype)
    if x.dtype.kind == "f":
        x[rng.random(x.shape) < 0.1] = np.nan
    return x


def check(op: str, x: np.ndarray, outputs: int = 1, **attributes: Any) -> list[np.ndarray]:
    return check_node(
        op, x, outputs=outputs, domain=DOMAIN, domain_version=3, rtol=1e-4, atol=1e-5, **attributes
    )


# ---------------------------------------------------------------------- regressor


@pytest.mark.parametrize("targets", [1, 3])
@pytest.mark.parametrize("how", ["SUM", "AVERAGE", "MIN", "MAX"])
@pytest.mark.parametrize("base", [False, True])
def test_regressor(targets, how, base):
    rng = np.random.default_rng(targets)
    forest = grow(rng, "target", range(targets), every=targets == 3)
    forest |= {"n_targets": targets, "aggregate_function": how}
    if base:
        forest["base_values"] = [0.5 * (k + 1) for k in range(targets)]
    check("TreeEnsembleRegressor", rows(rng), **forest)


@pytest.mark.parametrize("post", [*POSTS, "PROBIT"])
@pytest.mark.parametrize("targets", [1, 2])
def test_regressor_post_transforms(post, targets):
    rng = np.random.default_rng(3)
    forest = grow(rng, "target", range(targets), every=True, positive=True, count=2)
    forest["target_weights"] = [w / 2 for w in forest["target_weights"]]
    forest |= {"n_targets": targets, "post_transform": post}
    check("TreeEnsembleRegressor", rows(rng), **forest)


@pytest.mark.parametrize("mode", BRANCHES)
@pytest.mark.parametrize("missing", [False, True])
def test_every_comparison(mode, missing):
    rng = np.random.default_rng(5)
    forest = grow(rng, "target", [0], modes=[mode], missing=missing)
    check("TreeEnsembleRegressor", rows(rng), n_targets=1, **forest)


def test_regressor_of_doubles():
    rng = np.random.default_rng(7)
    forest = grow(rng, "target", [0, 1])
    for name in ("nodes_values", "target_weights"):
        tensor = numpy_helper.from_array(np.array(forest.pop(name), np.float64))
        forest[f"{name}_as_tensor"] = tensor
    check("TreeEnsembleRegressor", rows(rng, dtype=np.float64), n_targets=2, **forest)


def test_doubles_are_compared_as_doubles():
    forest = grow(np.random.default_rng(0), "target", [0], modes=["BRANCH_LEQ"], missing=False)
    split = np.full(len(forest.pop("nodes_values")), 0.1)
    forest["target_weights_as_tensor"] = numpy_helper.from_array(
        np.array(forest.pop("target_weights"), np.float64)
    )
    forest["nodes_values_as_tensor"] = numpy_helper.from_array(split)
    around = np.nextafter(0.1, [[0.0], [1.0]]).repeat(FEATURES, axis=1)
    result = check("TreeEnsembleRegressor", around, n_targets=1, **forest)
    assert result[0][0, 0] != result[0][1, 0]


def test_trees_that_are_one_leaf():
    forest = grow(np.random.default_rng(0), "target", [0], depth=0, count=3)
    check("TreeEnsembleRegressor", rows(np.random.default_rng(1)), n_targets=1, **forest)
    attributes = {**forest, "n_targets": 1}
    case = NodeCase(
        "TreeEnsembleRegressor", [np.zeros((2, 0), np.float32)], attributes, domain=DOMAIN
    )
    assert case.run_engine("symbolic")[0].shape == (2, 1)


# ---------------------------------------------------------------------- classifier


@pytest.mark.parametrize("strings", [False, True])
@pytest.mark.parametrize("post", POSTS)
@pytest.mark.parametrize("base", [False, True])
def test_classifier_of_many_classes(strings, post, base):
    rng = np.random.default_rng(11)
    forest = grow(rng, "class", range(3), every=post == "NONE")
    forest |= {"post_transform": post} | ({"base_values": [0.1, 0.3, -0.2]} if base else {})
    labels = (
        {"classlabels_strings": ["a", "b", "c"]} if strings else {"classlabels_int64s": [5, 7, 9]}
    )
    check("TreeEnsembleClassifier", rows(rng), outputs=2, **forest, **labels)


@pytest.mark.parametrize("strings", [False, True])
@pytest.mark.parametrize("post", POSTS)
@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("base", [False, True])
def test_classifier_by_one_score(strings, post, positive, base):
    rng = np.random.default_rng(13)
    forest = grow(rng, "class", [0], positive=positive, count=3)
    if positive:
        forest["class_weights"] = [w / 3 for w in forest["class_weights"]]
    forest |= {"post_transform": post} | ({"base_values": [0.1]} if base else {})
    labels = {"classlabels_strings": ["a", "b"]} if strings else {"classlabels_int64s": [5, 7]}
    check("TreeEnsembleClassifier", rows(rng), outputs=2, **forest, **labels)


@pytest.mark.parametrize("positive", [False, True])
def test_classifier_by_the_score_of_the_second_class(positive):
    rng = np.random.default_rng(17)
    forest = grow(rng, "class", [1], positive=positive, count=2)
    labels = {"classlabels_int64s": [5, 7]}
    for post in POSTS:
        check("TreeEnsembleClassifier", rows(rng), 2, post_transform=post, **forest, **labels)


def test_classifier_of_two_classes_that_both_have_weights():
    """ONNX Runtime gives labels 0 and 1 here, whatever the classes are called."""
    rng = np.random.default_rng(19)
    forest = grow(rng, "class", [0, 1], every=True)
    attributes = {**forest, "classlabels_int64s": [5, 7]}
    case = NodeCase(
        "TreeEnsembleClassifier",
        [rows(rng)],
        attributes,
        outputs=2,
        domain=DOMAIN,
        domain_version=3,
    )
    (labels, scores), (_, theirs) = case.run_engine(), case.run_runtime()
    np.testing.assert_allclose(scores, theirs, rtol=1e-4, atol=1e-5)
    assert labels.tolist() == np.array([5, 7])[scores.argmax(axis=1)].tolist()


@pytest.mark.parametrize("dtype", [np.int64, np.int32])
def test_classifier_of_integers(dtype):
    rng = np.random.default_rng(7)
    forest = grow(rng, "class", range(3))
    x = rows(rng, dtype=dtype)
    check("TreeEnsembleClassifier", x, 2, classlabels_int64s=[5, 7, 9], **forest)


def test_classifier_of_doubles():
    rng = np.random.default_rng(23)
    forest = grow(rng, "class", range(3))
    for name in ("nodes_values", "class_weights"):
        tensor = numpy_helper.from_array(np.array(forest.pop(name), np.float64))
        forest[f"{name}_as_tensor"] = tensor
    x = rows(rng, dtype=np.float64)
    check("TreeEnsembleClassifier", x, 2, classlabels_int64s=[5, 7, 9], **forest)


# ---------------------------------------------------------------------- TreeEnsemble


def to_new(old: dict[str, Any], dtype: Any = np.float32) -> dict[str, Any]:
    """The same forest in the form of ai.onnx.ml 5."""
    modes = old["nodes_modes"]
    places = {
        key: i for i, key in enumerate(zip(old["nodes_treeids"], old["nodes_nodeids"], strict=True))
    }
    inner = [i for i, mode in enumerate(modes) if mode != "LEAF"]
    leaves = [i for i, mode in enumerate(modes) if mode == "LEAF"]
    number = {i: k for group in (inner, leaves) for k, i in enumerate(group)}
    new: dict[str, Any] = {"tree_roots": [number[i] for i in inner if old["nodes_nodeids"][i] == 0]}
    for side in ("true", "false"):
        children = [places[old["nodes_treeids"][i], old[f"nodes_{side}nodeids"][i]] for i in inner]
        new[f"nodes_{side}nodeids"] = [number[i] for i in children]
        new[f"nodes_{side}leafs"] = [int(modes[i] == "LEAF") for i in children]
    new["nodes_featureids"] = [old["nodes_featureids"][i] for i in inner]
    new["nodes_missing_value_tracks_true"] = [
        old["nodes_missing_value_tracks_true"][i] for i in inner
    ]
    splits = np.array([old["nodes_values"][i] for i in inner], dtype)
    new["nodes_splits"] = numpy_helper.from_array(splits)
    kinds = np.array([BRANCHES.index(modes[i]) for i in inner], np.uint8)
    new["nodes_modes"] = numpy_helper.from_array(kinds)
    new["leaf_targetids"] = old["target_ids"]
    new["leaf_weights"] = numpy_helper.from_array(np.array(old["target_weights"], dtype))
    return new


@pytest.mark.parametrize("how", range(4))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_new_form(how, dtype):
    rng = np.random.default_rng(29)
    forest = to_new(grow(rng, "target", range(2)), dtype)
    x = rows(rng, dtype=dtype)
    check_node(
        "TreeEnsemble",
        x,
        domain=DOMAIN,
        domain_version=5,
        n_targets=2,
        aggregate_function=how,
        **forest,
    )


@pytest.mark.parametrize("targets", [1, 3])
def test_new_form_post_transforms(targets):
    """ONNX Runtime numbers LOGISTIC 1 and SOFTMAX 2, ONNX the other way round."""
    rng = np.random.default_rng(31)
    forest = to_new(grow(rng, "target", range(targets))) | {"n_targets": targets}
    x = rows(rng)
    for ours, theirs in enumerate((0, 2, 1, 3)):
        case, twin = (
            NodeCase(
                "TreeEnsemble",
                [x],
                forest | {"post_transform": number},
                domain=DOMAIN,
                domain_version=5,
            )
            for number in (ours, theirs)
        )
        np.testing.assert_allclose(
            case.run_engine()[0], twin.run_runtime()[0], rtol=1e-4, atol=1e-6
        )


def test_new_form_in_half_precision():
    rng = np.random.default_rng(37)
    forest = grow(rng, "target", [0])
    x = rows(rng)
    wide = NodeCase(
        "TreeEnsemble", [x], to_new(forest), domain=DOMAIN, domain_version=5
    ).run_engine()
    half = NodeCase(
        "TreeEnsemble",
        [x.astype(np.float16)],
        to_new(forest, np.float16),
        domain=DOMAIN,
        domain_version=5,
    ).run_engine()
    assert half[0].dtype == np.float16
    np.testing.assert_allclose(half[0].astype(np.float32), wide[0], rtol=1e-2, atol=1e-2)


MEMBER_CASE: dict[str, Any] = {
    "n_targets": 1,
    "nodes_featureids": [0, 1, 0],
    "nodes_splits": numpy_helper.from_array(np.zeros(3, np.float32)),
    "nodes_modes": numpy_helper.from_array(np.full(3, trees.MEMBER, np.uint8)),
    "nodes_truenodeids": [1, 0, 1],
    "nodes_trueleafs": [0, 1, 1],
    "nodes_falsenodeids": [2, 2, 3],
    "nodes_falseleafs": [0, 1, 1],
    "leaf_targetids": [0, 0, 0, 0],
    "leaf_weights": numpy_helper.from_array(np.array([1, 2, 3, 4], np.float32)),
    "tree_roots": [0],
}


@pytest.mark.parametrize("ending", [[np.nan], []])
def test_members_of_a_set(ending):
    sets = np.array([1, 2, 7, np.nan, 3, np.nan, 5, 4, *ending], np.float32)
    attributes = {**MEMBER_CASE, "membership_values": numpy_helper.from_array(sets)}
    x = np.array([[a, b] for a in (0, 1, 2, 4, 5, 7, np.nan) for b in (3, 1)], np.float32)
    (y,) = NodeCase("TreeEnsemble", [x], attributes, domain=DOMAIN, domain_version=5).run_engine()

    def expected(a: float, b: float) -> float:
        if a in (1, 2, 7):
            return 1.0 if b == 3 else 3.0
        return 2.0 if a in (5, 4) else 4.0

    assert y[:, 0].tolist() == [expected(a, b) for a, b in x.tolist()]


# ---------------------------------------------------------------------- rows, errors, size


def test_rows_stay_apart():
    rng = np.random.default_rng(41)
    forest = grow(rng, "class", range(3))
    attributes = {**forest, "classlabels_int64s": [5, 7, 9]}
    case = NodeCase("TreeEnsembleClassifier", [rows(rng, 3)], attributes, outputs=2, domain=DOMAIN)
    assert all(state.is_rows and state.axis == 0 for state in check_rows(case, (0,)))
    target = {**grow(rng, "target", [0]), "n_targets": 1}
    case = NodeCase("TreeEnsembleRegressor", [rows(rng, 3)], target, domain=DOMAIN)
    assert check_rows(case, (0,))[0].is_rows
    flat = NodeCase("TreeEnsembleRegressor", [rows(rng, 1)[0]], target, domain=DOMAIN)
    assert not row_states(flat, (0,))[0].is_rows


def test_chunks_join_to_the_whole(monkeypatch):
    rng = np.random.default_rng(43)
    attributes = {**grow(rng, "target", [0, 1], every=True), "n_targets": 2}
    case = NodeCase("TreeEnsembleRegressor", [rows(rng)], attributes, domain=DOMAIN)
    (whole,) = case.run_engine()
    monkeypatch.setattr(trees, "CHUNK", 30)
    np.testing.assert_array_equal(case.run_engine()[0], whole)


def test_no_rows_at_all():
    rng = np.random.default_rng(47)
    attributes = {**grow(rng, "class", range(3)), "classlabels_int64s": [5, 7, 9]}
    x = np.zeros((0, FEATURES), np.float32)
    case = NodeCase("TreeEnsembleClassifier", [x], attributes, outputs=2, domain=DOMAIN)
    assert [y.shape for y in case.run_engine("symbolic")] == [(0,), (0, 3)]


BROKEN: list[tuple[dict[str, Any], str]] = [
    ({"nodes_truenodeids": [0, 0, 0]}, "below themselves"),
    ({"nodes_truenodeids": [2, 0, 0]}, "child|two ways"),
    ({"nodes_truenodeids": [9, 0, 0]}, "no node 9"),
    ({"nodes_nodeids": [0, 1, 1]}, "twice"),
    ({"nodes_featureids": [-1, 0, 0]}, "feature"),
    ({"nodes_featureids": [0, 0]}, "featureids"),
    ({"nodes_featureids": [9, 0, 0]}, "feature 9"),
    ({"nodes_modes": ["BRANCH_LEQ", "LEAF", "BARE"]}, "BARE"),
    ({"nodes_values": [0.5]}, "nodes_values"),
    ({"target_ids": [0, 1]}, "target"),
    ({"target_ids": [0]}, "differ"),
    ({"target_nodeids": [1, 7]}, "no node 7"),
    ({"base_values": [1.0, 2.0]}, "base values"),
    ({"n_targets": 0}, "n_targets"),
    ({name: [] for name in ("nodes_treeids", "nodes_nodeids", "nodes_featureids")}, "nodes_modes"),
    ({"nodes_values_as_tensor": numpy_helper.from_array(np.zeros(3, np.int64))}, "twice|floats"),
    ({"aggregate_function": "MEDIAN"}, "MEDIAN"),
    ({"post_transform": "RELU"}, "RELU"),
]
STUMP: dict[str, Any] = {
    "nodes_treeids": [0, 0, 0],
    "nodes_nodeids": [0, 1, 2],
    "nodes_featureids": [0, 0, 0],
    "nodes_values": [0.5, 0.0, 0.0],
    "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF"],
    "nodes_truenodeids": [1, 0, 0],
    "nodes_falsenodeids": [2, 0, 0],
    "target_treeids": [0, 0],
    "target_nodeids": [1, 2],
    "target_ids": [0, 0],
    "target_weights": [1.0, 2.0],
    "n_targets": 1,
}


def run_changed(op: str, x: np.ndarray, whole: dict[str, Any], change: dict[str, Any]) -> None:
    """Run a forest with some attributes changed; an empty list leaves one out, ."""
    attributes = {**whole, **change}
    for name, value in change.items():
        if isinstance(value, list) and not value:
            attributes[name] = helper.make_attribute(name, value, attr_type=AttributeProto.INTS)
    plain = {n: v for n, v in attributes.items() if not isinstance(v, AttributeProto)}
    case = NodeCase(op, [x], plain, domain=DOMAIN, domain_version=5 if op == "TreeEnsemble" else 3)
    model = load_model_from_string(case.model())
    model.graph.node[0].attribute.extend(
        v for v in attributes.values() if isinstance(v, AttributeProto)
    )
    graph = import_model(model.SerializeToString(), limits=Limits(), registry=REGISTRY)
    GraphPlan(graph).run(case.feeds())


@pytest.mark.parametrize(("change", "match"), BROKEN)
def test_what_is_no_forest(change, match):
    x = np.zeros((2, FEATURES), np.float32)
    with pytest.raises(InvalidModel, match=match):
        run_changed("TreeEnsembleRegressor", x, STUMP, change)


def test_too_few_features_when_it_runs():
    attributes = {**STUMP, "nodes_featureids": [2, 0, 0]}
    case = NodeCase(
        "TreeEnsembleRegressor", [np.zeros((2, 1), np.float32)], attributes, domain=DOMAIN
    )
    with pytest.raises(RunFailed, match="features"):
        case.run_engine("symbolic")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"nodes_truenodeids": [0, 0, 1]}, "two ways"),
        ({"nodes_truenodeids": [1, 9, 1]}, "not there"),
        ({"tree_roots": [3]}, "tree_roots"),
        ({"tree_roots": []}, "no tree"),
        ({"leaf_weights": numpy_helper.from_array(np.arange(4))}, "leaf_weights holds int64"),
        ({"tree_roots": [0, 1]}, "two ways"),
        ({"aggregate_function": 4}, "aggregate_function"),
        ({"leaf_targetids": [0, 0, 0, 1]}, "target"),
        ({"leaf_targetids": [0, 0, 0]}, "leaf"),
        ({"membership_values": numpy_helper.from_array(np.ones(1, np.float32))}, "one set"),
    ],
)
def test_what_is_no_forest_in_the_new_form(change, match):
    sets = numpy_helper.from_array(np.array([1, np.nan, 2, np.nan, 3], np.float32))
    attributes = {**MEMBER_CASE, "membership_values": sets}
    x = np.zeros((2, 2), np.float32)
    with pytest.raises(InvalidModel, match=match):
        run_changed("TreeEnsemble", x, attributes, change)


def test_a_node_below_itself_ends_as_an_error():
    """A circle of nodes that nothing leads into would be walked for ever."""
    forest = trees.Forest(
        feature=np.zeros(2, np.int64),
        split=np.zeros(2),
        mode=np.zeros(2, np.int64),
        missing=np.zeros(2, bool),
        children=np.array([[1, 1], [0, 0]]),
        roots=np.array([0]),
        leaves=1,
    )
    with pytest.raises(ValueError, match="two ways"):
        forest.check()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1 << 30), st.integers(1, 4), st.integers(1, 6), st.integers(0, 6))
def test_random_forests(seed, targets, count, depth):
    rng = np.random.default_rng(seed)
    forest = grow(rng, "target", range(targets), count=count, depth=depth, every=seed % 2 == 0)
    x = rows(rng, count=7)
    check_node(
        "TreeEnsembleRegressor", x, domain=DOMAIN, domain_version=3, dims=("symbolic",),
        n_targets=targets, rtol=1e-4, **forest,
    )  # fmt: skip
