"""Einsum of one or two operands becomes what it says: transpositions, one product, and the merging
of what is summed together.

Letters are of four kinds: in both operands and in the result (a batch), in both but not in the
result (summed), and in one operand and the result (rows of the left side, columns of the right).
Left alone: letters that one operand repeats, or that only one has and the result has not, sizes
that may differ or are none, and sums or columns of several letters whose sizes are not numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Final

import numpy as np

from engine.ir.graph import Graph, Node
from engine.ir.types import Dim, TensorType
from engine.ops.linalg import einsum_terms
from engine.passes.context import PassContext
from engine.passes.graph_draft import GraphDraft
from engine.passes.rewriting import tensor_type

VERSIONS: Final = {
    "Transpose": 13,
    "Unsqueeze": 13,
    "Squeeze": 13,
    "Reshape": 14,
    "MatMul": 13,
    "Mul": 14,
}
ONE: Final = "1"  # stands for an axis of a single entry, which no letter is called
ELLIPSIS: Final = "."


def unfold_einsum(graph: Graph, ctx: PassContext) -> Graph:
    """Replace what can be."""
    if not any(node.op == "Einsum" and not node.domain for node in graph.nodes):
        return graph
    work = _Rewrite(graph, ctx)
    for node in ctx.each(graph.nodes):
        if node.op != "Einsum" or node.domain or not work.replace(node):
            work.nodes.append(node)
    return work.result()


@dataclass
class _Value:
    """A value under construction, and what its axes are called."""

    name: str
    letters: list[str]


class _Rewrite(GraphDraft):
    """The new graph under construction."""

    def replace(self, node: Node) -> bool:
        """Write a node's parts; whether it has any."""
        found = self._read(node)
        if found is None:
            return False
        self._node, (terms, output) = node, found
        values = [_Value(n, term) for n, term in zip(node.inputs, terms, strict=True)]
        if len(values) == 1:
            if sorted(terms[0]) != sorted(output):
                return False
            result = values[0]
        elif set(terms[0]) & set(terms[1]) - set(output):
            product = self._product(values[0], values[1], output)
            if product is None:
                return False
            result = product
        else:
            result = self._outer(values[0], values[1], output)
        self._give(self._ordered(result, output))
        return True

    def _read(self, node: Node) -> tuple[list[list[str]], list[str]] | None:
        """Return the letters of each operand and of the result, and note their sizes."""
        kinds = [tensor_type(self.graph, name) for name in node.inputs]
        result = tensor_type(self.graph, node.outputs[0])
        if result is None or not result.dtype.is_float or result.shape is None:
            return None
        texts, target = einsum_terms(str(node.attributes["equation"]))
        if len(texts) != len(kinds) or len(kinds) > 2:
            return None
        sizes: dict[str, Dim] = {}
        self._dtype, self._sizes = result.dtype, sizes
        terms: list[list[str]] = []
        for text, kind in zip(texts, kinds, strict=True):
            if kind is None or kind.shape is None or kind.dtype is not result.dtype:
                return None
            letters = _spelled(text, len(kind.shape))
            if len(letters) != len(kind.shape) or len(set(letters)) < len(letters):
                return None
            for letter, dim in zip(letters, kind.shape, strict=True):
                if self._sizes.setdefault(letter, dim) != dim:
                    return None
            terms.append(letters)
        if 0 in sizes.values():  # a target of 0 means something else to Reshape
            return None
        output = _spelled(target, len(result.shape))
        everywhere = [set(term) for term in terms]
        alone = everywhere[0] ^ everywhere[-1] if len(terms) == 2 else everywhere[0]
        if len(output) != len(result.shape) or not alone <= set(output) <= set().union(*everywhere):
            return None
        return terms, output

    # ------------------------------------------------------------------ the product

    def _outer(self, x: _Value, y: _Value, output: list[str]) -> _Value:
        """Return the product of two values that share nothing that is summed."""
        left, right = (
            self._aligned(each, [n if n in each.letters else ONE for n in output])
            for each in (x, y)
        )
        return self._made("Mul", (left.name, right.name), output)

    def _product(self, x: _Value, y: _Value, output: list[str]) -> _Value | None:
        shared = set(x.letters) & set(y.letters)
        batch = [n for n in output if n in shared]
        summed = [n for n in x.letters if n in shared and n not in output]
        rows = [n for n in output if n in x.letters and n not in shared]
        columns = [n for n in output if n in y.letters and n not in shared]
        if len(columns) > 1 and len(rows) < len(columns):
            x, y, rows, columns = y, x, columns, rows
        merged = [group for group in (summed, columns) if len(group) > 1]
        if any(not isinstance(self._sizes[n], int) for group in merged for n in group):
            return None
        *more, row = rows or [ONE]
        # A right side without a batch stays a matrix: if it is fixed, it is packed once.
        ahead = [*batch, *(ONE for _ in more)] if batch else []
        left = self._aligned(x, [*batch, *more, row, *summed])
        right = self._aligned(y, [*ahead, *summed, *(columns or [ONE])])
        left = self._merge_tail(left, len(summed))
        right = self._merge_tail(right, len(columns))
        right = self._merge_sums(right, len(ahead), summed)
        letters = [*batch, *more, row, right.letters[-1]]
        made = self._made("MatMul", (left.name, right.name), letters)
        return self._split_tail(made, columns)

    # ------------------------------------------------------------------ axes

    def _aligned(self, value: _Value, letters: list[str]) -> _Value:
        """Return a value with its axes in this order, and further ones of a single entry."""
        value = self._ordered(value, [n for n in letters if n != ONE])
        axes = [k for k, n in enumerate(letters) if n == ONE]
        if not axes:
            return value
        return self._made("Unsqueeze", (value.name, self._axes(axes)), letters)

    def _ordered(self, value: _Value, letters: list[str]) -> _Value:
        """Return a value with these axes alone, in this order."""
        axes = [k for k, n in enumerate(value.letters) if n == ONE]
        if axes:
            kept = [n for n in value.letters if n != ONE]
            value = self._made("Squeeze", (value.name, self._axes(axes)), kept)
        if value.letters == letters:
            return value
        perm = tuple(value.letters.index(n) for n in letters)
        return self._made("Transpose", (value.name,), letters, perm=perm)

    def _merge_tail(self, value: _Value, count: int) -> _Value:
        """Return a value whose last axes are one."""
        if count < 2:
            return value
        *front, one = [*value.letters[:-count], self._together(value.letters[-count:])]
        return self._reshaped(value, [0] * len(front) + [self._sizes[one]], [*front, one])

    def _merge_sums(self, value: _Value, first: int, summed: list[str]) -> _Value:
        """Return a right side whose summed axes, from one on, are one."""
        if len(summed) < 2:
            return value
        front, last = value.letters[:first], value.letters[-1]
        one = self._together(summed)
        size: Dim = 1 if last == ONE else self._sizes[last]
        if isinstance(size, int):
            return self._reshaped(
                value, [0] * first + [self._sizes[one], size], [*front, one, last]
            )
        # Only axes in their old places keep their sizes, so that one has to be told by the rest.
        return self._reshaped(value, [0] * first + [self._sizes[one], -1], [*front, one, last])

    def _split_tail(self, value: _Value, columns: list[str]) -> _Value:
        if len(columns) < 2:
            return value
        front = value.letters[:-1]
        shape = [0] * len(front) + [self._sizes[n] for n in columns]
        return self._reshaped(value, shape, [*front, *columns])

    def _together(self, letters: list[str]) -> str:
        """Return a name for several axes in one."""
        name = "".join(letters)
        self._sizes[name] = prod(self._sizes[n] for n in letters)
        return name

    def _reshaped(self, value: _Value, shape: Sequence[Dim], letters: list[str]) -> _Value:
        target = self.constant(f"{self._node.outputs[0]}/shape", np.array(shape, np.int64))
        return self._made("Reshape", (value.name, target), letters)

    def _axes(self, axes: list[int]) -> str:
        return self.constant(f"{self._node.outputs[0]}/axes", np.array(axes, np.int64))

    # ------------------------------------------------------------------ nodes

    def _made(
        self, op: str, inputs: tuple[str, ...], letters: list[str], **attributes: tuple[int, ...]
    ) -> _Value:
        name = self.fresh(f"{self._node.outputs[0]}/{op}")
        shape = tuple(1 if n == ONE else self._sizes[n] for n in letters)
        self.types[name] = TensorType(self._dtype, shape)
        made = Node(op, inputs, (name,), attributes, version=VERSIONS[op], name=self._node.name)
        self.nodes.append(made)
        return _Value(name, letters)

    def _give(self, value: _Value) -> None:
        """Give the last node's value the name that readers know."""
        name = self._node.outputs[0]
        if value.name in self._node.inputs:  # nothing was to be done
            self._made(
                "Transpose", (value.name,), value.letters, perm=tuple(range(len(value.letters)))
            )
        last = self.nodes.pop()
        self.types[name] = self.types.pop(last.outputs[0])
        self.nodes.append(last.replace(outputs=(name,)))


def _spelled(text: str, rank: int) -> list[str]:
    """Return a letter per axis; those of an ellipsis are numbers from the right."""
    covered = rank - len(text.replace(ELLIPSIS, ""))
    letters: list[str] = []
    for letter in text:
        names = [f"<{k}>" for k in range(covered, 0, -1)] if letter == ELLIPSIS else [letter]
        letters += names
    return letters
