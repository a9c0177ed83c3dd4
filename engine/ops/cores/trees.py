"""Forests of decision trees over rows of features: which leaf every row reaches in every tree.

All rows and trees go down together, one level at a time: a level is a handful of gathers over
arrays. What has reached its leaf stays there, and drops out once it is much. Arrays are numpy's:
gathers by the number of a node leave a GPU little to win.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

# The comparisons of TreeEnsemble (ai.onnx.ml 5), by their numbers there.
LEQ, LT, GTE, GT, EQ, NEQ, MEMBER = range(7)
COMPARE: dict[int, Callable[[Any, Any], Any]] = {
    LEQ: np.less_equal,
    LT: np.less,
    GTE: np.greater_equal,
    GT: np.greater,
    EQ: np.equal,
    NEQ: np.not_equal,
}
CHUNK = 1 << 15  # pairs of a row and a tree that are followed at once: what caches hold
STILL_MANY = 0.6  # while so many pairs are on their way, the others are not worth sorting out


@dataclass(frozen=True, eq=False)
class _Steps:
    """The nodes' arrays with the leaves behind them: a leaf leads to itself, whatever it sees."""

    feature: np.ndarray
    split: np.ndarray
    mode: np.ndarray
    missing: np.ndarray
    children: np.ndarray


@dataclass(frozen=True, eq=False)
class Forest:
    """Inner nodes as parallel arrays; child numbers from `len(feature)` on are leaves.

    Attributes:
        feature: Which feature a node looks at.
        split: What it is compared with.
        mode: How, by the numbers above.
        missing: Whether NaN goes the way of true.
        children: Shape (nodes, 2): where false and true lead.
        roots: Where each tree starts; maybe a leaf at once.
        leaves: How many leaves there are.
        members: For each node of mode MEMBER, in order, the values that lead to true.
    """

    feature: np.ndarray
    split: np.ndarray
    mode: np.ndarray
    missing: np.ndarray
    children: np.ndarray
    roots: np.ndarray
    leaves: int
    members: Sequence[np.ndarray] = ()

    def check(self) -> None:
        """Raise `ValueError` unless these are trees: every path ends, and numbers fit."""
        if not len(self.roots):
            raise ValueError("there is no tree")
        nodes = len(self.feature)
        fields = (self.split, self.mode, self.missing, self.children)
        if any(len(each) != nodes for each in fields):
            raise ValueError(f"the nodes' attributes differ in length, expected {nodes} of each")
        for what, numbers, end in (
            ("a child", self.children, nodes + self.leaves),
            ("a root", self.roots, nodes + self.leaves),
            ("a mode", self.mode, MEMBER + 1),
            ("a feature", self.feature, np.iinfo(np.int64).max),
        ):
            if numbers.size and not 0 <= int(numbers.min()) <= int(numbers.max()) < end:
                raise ValueError(f"{what} is outside of 0 to {end - 1}")
        if np.count_nonzero(self.mode == MEMBER) != len(self.members):
            raise ValueError("membership values need one set per node of that mode")
        # Nobody has two parents and roots have none: so no path can come back to where it was.
        arrivals = np.bincount(
            np.concatenate([self.children.reshape(-1), self.roots]).astype(np.int64),
            minlength=nodes + self.leaves,
        )
        if (arrivals[:nodes] > 1).any():
            raise ValueError("a node is reached on two ways; expected trees")

    def reachable(self) -> int:
        """Return how many inner nodes some row could come to; only after `check`."""
        found, level = 0, self.roots
        while level.size:
            inner = level[level < len(self.feature)]
            found += len(inner)
            level = self.children[inner].reshape(-1)
        return found

    @property
    def features(self) -> int:
        """How many features a row must have at least."""
        return int(self.feature.max()) + 1 if len(self.feature) else 0

    def chunks(self, x: np.ndarray, per_pair: int = 1) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield (rows, leaf of each tree for these rows), a few rows at a time.

        Args:
            x: Shape (rows, features).
            per_pair: Numbers that the caller makes of each leaf.
        """
        if x.shape[1] < self.features:
            raise ValueError(f"rows of {x.shape[1]} features; the trees look at {self.features}")
        step = max(1, CHUNK // max(1, len(self.roots) * per_pair))
        for start in range(0, len(x), step):
            rows = slice(start, min(start + step, len(x)))
            yield rows, self._walk(np.ascontiguousarray(x[rows]))

    def _walk(self, x: np.ndarray) -> np.ndarray:
        """Return the leaf of every row in every tree, (rows, trees), counted from 0."""
        nodes, trees = len(self.feature), len(self.roots)
        if not nodes:  # every tree is a leaf; there may be no feature to look at
            return np.tile(self.roots, (len(x), 1))
        feature, child = self._steps.feature, self._steps.children.reshape(-1)
        flat, node = x.reshape(-1), np.tile(self.roots, len(x))
        start = np.repeat(np.arange(len(x)) * x.shape[1], trees)  # of each pair's row
        at, active = node, np.arange(len(node))
        while True:
            value = flat.take(start + feature.take(node))
            node = child.take(2 * node + self._goes_true(value, node))
            inside = node < nodes
            count = np.count_nonzero(inside)
            if count == 0 or count < STILL_MANY * len(node):
                at[active] = node
                if count == 0:
                    return at.reshape(len(x), trees) - nodes
                active, start = active[inside], start[inside]
                node = at[active]

    def _goes_true(self, value: np.ndarray, node: np.ndarray) -> np.ndarray:
        steps, modes = self._steps, self._modes
        if len(modes) == 1 and modes[0] != MEMBER:
            goes = COMPARE[modes[0]](value, steps.split.take(node))
        else:
            goes, mode = np.zeros(len(node), bool), steps.mode[node]
            for each in modes:
                here = mode == each
                if each == MEMBER:
                    goes[here] = self._contains(node[here], value[here])
                else:
                    goes[here] = COMPARE[each](value[here], steps.split[node[here]])
        if self._has_missing:
            goes = np.logical_or(goes, steps.missing[node] & np.isnan(value))
        return np.asarray(goes)

    @cached_property
    def _steps(self) -> _Steps:
        own = np.arange(len(self.feature), len(self.feature) + self.leaves)
        return _Steps(
            feature=np.concatenate([self.feature, np.zeros(self.leaves, np.int64)]),
            split=np.concatenate([self.split, np.zeros(self.leaves, self.split.dtype)]),
            mode=np.concatenate([self.mode, np.full(self.leaves, -1)]),
            missing=np.concatenate([self.missing, np.zeros(self.leaves, bool)]),
            children=np.concatenate([self.children, np.stack([own, own], axis=1)]),
        )

    @cached_property
    def _modes(self) -> list[int]:
        return [int(mode) for mode in np.unique(self.mode)]

    @cached_property
    def _has_missing(self) -> bool:
        return bool(self.missing.any())

    @cached_property
    def _sets(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """All values in order; pairs of set and value as sorted numbers; each node's set."""
        values = np.unique(np.concatenate(self.members)) if self.members else np.zeros(0)
        pairs = [
            number * len(values) + np.searchsorted(values, each)
            for number, each in enumerate(self.members)
        ]
        set_of = np.cumsum(self.mode == MEMBER) - 1
        return values, np.sort(np.concatenate(pairs)) if pairs else np.zeros(0, int), set_of

    def _contains(self, node: np.ndarray, value: np.ndarray) -> np.ndarray:
        values, pairs, set_of = self._sets
        if not len(values):
            return np.zeros(len(node), bool)
        place = np.minimum(np.searchsorted(values, value), len(values) - 1)
        wanted = set_of[node] * len(values) + place
        found = pairs[np.minimum(np.searchsorted(pairs, wanted), len(pairs) - 1)]
        return np.asarray((values[place] == value) & (found == wanted))


@dataclass(frozen=True, eq=False)
class LeafWeights:
    """What leaves contribute: entries of (leaf, target, weight), sorted by leaf.

    Attributes:
        start: Shape (leaves + 1,): where each leaf's entries begin.
        target: Which target an entry goes to.
        weight: How much.
        targets: How many targets there are.
    """

    start: np.ndarray
    target: np.ndarray
    weight: np.ndarray
    targets: int

    @classmethod
    def of(
        cls, leaf: np.ndarray, target: np.ndarray, weight: np.ndarray, leaves: int, targets: int
    ) -> LeafWeights:
        """Sort entries by leaf, each leaf's in their order; `ValueError` for an unknown target."""
        if not len(leaf) == len(target) == len(weight):
            raise ValueError(f"{len(target)} targets and {len(weight)} weights for {len(leaf)}")
        if target.size and not 0 <= int(target.min()) <= int(target.max()) < targets:
            raise ValueError(f"a leaf's target is outside of 0 to {targets - 1}")
        order = np.argsort(leaf, kind="stable")
        start = np.zeros(leaves + 1, np.int64)
        np.cumsum(np.bincount(leaf, minlength=leaves), out=start[1:])
        return cls(start, target[order], weight[order], targets)

    @cached_property
    def most(self) -> int:
        """The most entries that one leaf has."""
        return int(np.diff(self.start).max()) if len(self.start) > 1 else 0

    @cached_property
    def _is_single(self) -> bool:
        """Whether every leaf gives one weight, and there is one target."""
        counts = np.diff(self.start)
        return self.targets == 1 and len(counts) > 0 and bool((counts == 1).all())

    def combine(self, leaf: np.ndarray, how: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the targets' values for leaves (rows, trees), and which targets got any.

        `how` is "SUM", "MIN" or "MAX". Sums are made tree by tree in the weights' own type, as
        other runtimes do, so that rows on the border between two classes end alike.
        """
        if self._is_single and how == "SUM":
            total = self.weight[leaf].cumsum(axis=1, dtype=self.weight.dtype)[:, -1:]
            return total, np.ones(total.shape, bool)
        entry, row = self._entries(leaf)
        place = row * self.targets + self.target[entry]
        size = len(leaf) * self.targets
        touched = np.bincount(place, minlength=size) > 0
        initial = {"SUM": 0, "MIN": np.inf, "MAX": -np.inf}[how]
        values = np.full(size, initial, self.weight.dtype)
        combine = {"SUM": np.add, "MIN": np.minimum, "MAX": np.maximum}[how]
        combine.at(values, place, self.weight[entry])
        values = np.where(touched, values, self.weight.dtype.type(0))
        return values.reshape(-1, self.targets), touched.reshape(-1, self.targets)

    def _entries(self, leaf: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the entries of leaves (rows, trees) one after the other, and their rows."""
        flat = leaf.reshape(-1)
        first, count = self.start[flat], self.start[flat + 1] - self.start[flat]
        ends = np.cumsum(count)
        total = int(ends[-1]) if len(ends) else 0
        entry = np.arange(total) + np.repeat(first - (ends - count), count)
        row = np.repeat(np.arange(len(leaf)), leaf.shape[1])
        return entry, np.repeat(row, count)
