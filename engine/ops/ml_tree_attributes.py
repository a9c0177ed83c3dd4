"""Reads forests out of the attributes of the three tree operators, old form and new."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.ops.cores.trees import MEMBER, Forest, LeafWeights

MODES = ("BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ")
LEAF = "LEAF"
# Attributes of the nodes of TreeEnsembleClassifier and TreeEnsembleRegressor, with defaults.
OLD_NODES: dict[str, Any] = {
    "base_values": (),
    "base_values_as_tensor": None,
    "nodes_falsenodeids": (),
    "nodes_featureids": (),
    "nodes_hitrates": (),
    "nodes_hitrates_as_tensor": None,
    "nodes_missing_value_tracks_true": (),
    "nodes_modes": (),
    "nodes_nodeids": (),
    "nodes_treeids": (),
    "nodes_truenodeids": (),
    "nodes_values": (),
    "nodes_values_as_tensor": None,
    "post_transform": "NONE",
}


@dataclass(frozen=True, eq=False)
class Ensemble:
    """A forest, what its leaves contribute, and what is added in the end."""

    forest: Forest
    weights: LeafWeights
    base: np.ndarray


def numbers(attributes: Mapping[str, Any], name: str) -> np.ndarray:
    """Return the floats of `name`, or of the tensor that stands in for them."""
    tensor = attributes[f"{name}_as_tensor"]
    if tensor is not None and attributes[name]:
        raise ValueError(f"{name} is given twice, as floats and as a tensor")
    if tensor is None:
        return np.asarray(attributes[name], np.float32)
    return _floats(tensor, f"{name}_as_tensor")


def _floats(tensor: np.ndarray, name: str) -> np.ndarray:
    if tensor.dtype.kind != "f":
        raise ValueError(f"{name} holds {tensor.dtype}, expected floats")
    return tensor.reshape(-1)


def _integers(attributes: Mapping[str, Any], name: str) -> np.ndarray:
    return np.asarray(attributes[name], np.int64)


class _Places:
    """Finds nodes by the number of their tree and their number in it."""

    def __init__(self, trees: np.ndarray, nodes: np.ndarray) -> None:
        self._trees, tree = np.unique(trees, return_inverse=True)
        self._nodes, node = np.unique(nodes, return_inverse=True)
        key = tree * len(self._nodes) + node
        self._order = np.argsort(key, kind="stable")
        self._keys = key[self._order]
        if (self._keys[1:] == self._keys[:-1]).any():
            raise ValueError("a node's number is there twice in its tree")

    def find(self, trees: np.ndarray, nodes: np.ndarray) -> np.ndarray:
        """Return where these nodes stand; `ValueError` where there is none."""
        if not len(self._keys):
            raise ValueError("there are no nodes")
        tree = np.minimum(np.searchsorted(self._trees, trees), len(self._trees) - 1)
        node = np.minimum(np.searchsorted(self._nodes, nodes), len(self._nodes) - 1)
        key = tree * len(self._nodes) + node
        at = np.minimum(np.searchsorted(self._keys, key), len(self._keys) - 1)
        known = (self._trees[tree] == trees) & (self._nodes[node] == nodes)
        missing = np.flatnonzero(~(known & (self._keys[at] == key)))
        if missing.size:
            first = missing[0]
            raise ValueError(f"tree {trees[first]} has no node {nodes[first]}")
        return np.asarray(self._order[at])


def read_old(attributes: Mapping[str, Any], prefix: str, targets: int) -> Ensemble:
    """Read a TreeEnsembleClassifier ("class") or -Regressor ("target").

    Leaves are nodes of mode LEAF. Raises `ValueError` when these are no trees.
    """
    trees, ids = _integers(attributes, "nodes_treeids"), _integers(attributes, "nodes_nodeids")
    if len(trees) != len(ids):
        raise ValueError(f"{len(trees)} nodes_treeids for {len(ids)} nodes_nodeids")
    places = _Places(trees, ids)
    modes = _mode_numbers(attributes["nodes_modes"], len(ids))
    inner, leaf = np.flatnonzero(modes >= 0), np.flatnonzero(modes < 0)
    number = np.empty(len(ids), np.int64)  # of a node among the inner ones, leaves behind them
    number[inner], number[leaf] = np.arange(len(inner)), np.arange(len(leaf)) + len(inner)
    children = [
        number[places.find(trees[inner], _column(attributes, name, len(ids))[inner])]
        for name in ("nodes_falsenodeids", "nodes_truenodeids")
    ]
    has_parent = np.zeros(len(ids), bool)
    for each in children:
        has_parent[np.concatenate([inner, leaf])[each]] = True
    roots = np.flatnonzero(~has_parent)
    if len(roots) != len(np.unique(trees)) or len(np.unique(trees[roots])) != len(roots):
        raise ValueError("a tree must have exactly one node that is nobody's child")
    forest = Forest(
        feature=_column(attributes, "nodes_featureids", len(ids))[inner],
        split=_splits(attributes, len(ids))[inner],
        mode=modes[inner],
        missing=_missing(attributes, len(ids))[inner],
        children=np.stack(children, axis=1),
        roots=number[roots],
        leaves=len(leaf),
    )
    forest.check()
    if forest.reachable() != len(inner):
        raise ValueError("some nodes are below themselves; expected trees")
    weights = _old_weights(attributes, prefix, places, number - len(inner), len(leaf), targets)
    base = numbers(attributes, "base_values")
    return Ensemble(forest, weights, base.astype(weights.weight.dtype, copy=False))


def _old_weights(
    attributes: Mapping[str, Any],
    prefix: str,
    places: _Places,
    leaf_of: np.ndarray,
    leaves: int,
    targets: int,
) -> LeafWeights:
    """Read the leaves' entries; weights of inner nodes mean nothing and are left out."""
    trees = _integers(attributes, f"{prefix}_treeids")
    nodes = _integers(attributes, f"{prefix}_nodeids")
    target, weight = (
        _integers(attributes, f"{prefix}_ids"),
        numbers(attributes, f"{prefix}_weights"),
    )
    if not len(trees) == len(nodes) == len(target) == len(weight):
        raise ValueError(f"the attributes {prefix}_* differ in length")
    leaf = leaf_of[places.find(trees, nodes)]
    kept = leaf >= 0
    return LeafWeights.of(leaf[kept], target[kept], weight[kept], leaves, targets)


def _column(attributes: Mapping[str, Any], name: str, count: int) -> np.ndarray:
    column = _integers(attributes, name)
    if len(column) != count:
        raise ValueError(f"{name} has {len(column)} entries, expected one per node ({count})")
    return column


def _splits(attributes: Mapping[str, Any], count: int) -> np.ndarray:
    splits = numbers(attributes, "nodes_values")
    if len(splits) != count:
        raise ValueError(f"nodes_values has {len(splits)} entries, expected one per node ({count})")
    return splits


def _missing(attributes: Mapping[str, Any], count: int) -> np.ndarray:
    """Whether NaN goes the way of true; no node's does where the attribute is absent."""
    name = "nodes_missing_value_tracks_true"
    if not attributes[name]:
        return np.zeros(count, bool)
    return _column(attributes, name, count).astype(bool)


def _mode_numbers(names: Sequence[str], count: int) -> np.ndarray:
    """Return comparisons by number, -1 for leaves."""
    if len(names) != count:
        raise ValueError(f"nodes_modes has {len(names)} entries, expected one per node ({count})")
    known = {**{name: i for i, name in enumerate(MODES)}, LEAF: -1}
    unknown = set(names) - known.keys()
    if unknown:
        raise ValueError(f"nodes_modes holds {min(unknown)!r}; known are {', '.join(known)}")
    return np.array([known[name] for name in names], np.int64)


# ---------------------------------------------------------------------- TreeEnsemble


def read_new(attributes: Mapping[str, Any], targets: int) -> Ensemble:
    """Read a TreeEnsemble of ai.onnx.ml 5, whose leaves are numbered apart from the nodes."""
    feature = _integers(attributes, "nodes_featureids")
    count, leaves = len(feature), len(attributes["leaf_targetids"])
    mode = attributes["nodes_modes"].reshape(-1).astype(np.int64)
    sides = [_children(attributes, side, count, leaves) for side in ("false", "true")]
    forest = Forest(
        feature=feature,
        split=_floats(attributes["nodes_splits"], "nodes_splits"),
        mode=mode,
        missing=_missing(attributes, count),
        children=np.stack(sides, axis=1),
        roots=_roots(attributes, count),
        leaves=leaves,
        members=_members(attributes["membership_values"], int(np.sum(mode == MEMBER))),
    )
    forest.check()
    weights = _floats(attributes["leaf_weights"], "leaf_weights")
    if weights.dtype.itemsize < 4:  # half precision adds up in float32 and rounds once
        weights = weights.astype(np.float32)
    if len(weights) != leaves:
        raise ValueError(f"{len(weights)} leaf_weights for {leaves} leaf_targetids")
    target = _integers(attributes, "leaf_targetids")
    entries = LeafWeights.of(np.arange(leaves), target, weights, leaves, targets)
    return Ensemble(forest, entries, np.zeros(0, weights.dtype))


def _children(attributes: Mapping[str, Any], side: str, count: int, leaves: int) -> np.ndarray:
    ids = _column(attributes, f"nodes_{side}nodeids", count)
    is_leaf = _column(attributes, f"nodes_{side}leafs", count) != 0
    end = np.where(is_leaf, leaves, count)
    if ((ids < 0) | (ids >= end)).any():
        raise ValueError(f"nodes_{side}nodeids names a node or leaf that is not there")
    return np.where(is_leaf, ids + count, ids)


def _roots(attributes: Mapping[str, Any], count: int) -> np.ndarray:
    roots = _integers(attributes, "tree_roots")
    if roots.size and not 0 <= int(roots.min()) <= int(roots.max()) < count:
        raise ValueError("tree_roots names a node that is not there")
    return roots


def _members(values: np.ndarray | None, sets: int) -> list[np.ndarray]:
    """Split the values of all sets, which NaN delimits; the last set's may be left out."""
    if values is None:
        return []
    flat = _floats(values, "membership_values")
    found = [each[~np.isnan(each)] for each in np.split(flat, np.flatnonzero(np.isnan(flat)))]
    # What is split off behind the last delimiter is a set of its own only if it holds something.
    return found[:-1] if len(found) == sets + 1 and not found[-1].size else found
