"""Attention: products of queries and keys, an expression, softmax, products with values.

One task is a block of queries of one head. Scores are computed with keys as rows and queries as
columns: numbers of keys are broadcast and the block's queries lie transposed in scratch memory, so
neither keys nor values are ever packed (but into pairs of bfloat16, `attention_pairs.py`), and the
softmax runs down the columns, all queries of a vector at once. Keys are taken in blocks; largest
score and sum are carried from block to block and earlier results rescaled (Milakov and Gimelshein,
"Online normalizer calculation for softmax", 2018; Dao et al., "FlashAttention", 2022), so the
memory does not grow with the length.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import llvmlite.ir as ir

from engine.cpu.builder import Number, Value
from engine.cpu.kernel import Kernel, KernelBuilder
from engine.cpu.kernels.attention_block import QueryBlock
from engine.cpu.kernels.attention_few import FewQueries
from engine.cpu.kernels.attention_pairs import PairBlock
from engine.cpu.kernels.attention_parts import Heads, Operand, Scratch, blocks_of, width_of
from engine.cpu.target import Target
from engine.dtypes import DType

FEW: Final = 2  # queries up to which each is taken by itself


@dataclass(frozen=True)
class Attention(Kernel):
    """operands: y, q, k, v, operands of the scores. numbers: queries, keys, the sizes of the
    leading axes, then their strides for every operand, in elements; for operands of kind "both"
    the elements from query to query behind them. Tasks: heads times the queries by `queries`.

    Attributes:
        heads: How the operands lie.
        scores: Expression of the product (x0) and the operands of the scores.
        operands: Those of the scores.
        zeros: Which queries give zeros, not NaN: "" for none, "blind" for those that may look
            nowhere, "none" for those too whose scores are NaN.
        products: What both sides of the products are rounded to, but for a few queries: FLOAT32, or
            BFLOAT16 taken in pairs. Sums and the softmax are float32.
    """

    heads: Heads
    scores: str
    operands: tuple[Operand, ...]
    zeros: str
    products: DType = DType.FLOAT32

    def scratch_bytes(self, target: Target) -> int:
        """Queries, scores, results and what is carried between blocks of keys."""
        return self._scratch(target).size_bytes

    def queries(self, target: Target) -> int:
        """Return how many queries one task takes at the most."""
        return width_of(target) * blocks_of(self.products)

    def _scratch(self, target: Target) -> Scratch:
        blocks, in_pairs = blocks_of(self.products), self.products is DType.BFLOAT16
        width = width_of(target)
        return Scratch(self.heads, self.operands, width, target.lanes, blocks, in_pairs)

    def emit(self, module: ir.Module, name: str, target: Target) -> None:
        """A few queries go row by row; others in blocks as wide as the register tile."""
        f = KernelBuilder(module, name, target)
        most, queries, keys = self.queries(target), f.number(0), f.number(1)
        parts = f.div(f.add(queries, most - 1), most)
        code = PairBlock if self.products is DType.BFLOAT16 else QueryBlock
        with f.loop(f.low, f.high, unroll=False) as task:
            head, part = f.divmod(task.i, parts)
            places, steps = self._places(f, head), self._steps(f)
            fixed = (f, self.heads, self.scores, self.operands, self.zeros, places, steps)
            with f.if_else(f.less(FEW, queries)) as (many, few):
                with many:
                    code(*fixed, self._scratch(target), queries, keys, part).run()
                with few:
                    FewQueries(*fixed).run(queries, keys)
        f.ret()

    def _places(self, f: KernelBuilder, head: Value) -> list[Value]:
        """Return where each operand's part for one head begins."""
        rank, count = self.heads.rank, 4 + len(self.operands)
        sizes = [f.number(2 + k) for k in range(rank)]
        offsets: list[Number] = [0] * count
        rest = head
        for axis in reversed(range(rank)):
            rest, i = f.divmod(rest, sizes[axis])
            for k in range(count):
                stride = f.number(2 + rank + k * rank + axis)
                offsets[k] = f.add(offsets[k], f.mul(i, stride))
        heads = self.heads
        dtypes = [heads.y_dtype, *[heads.dtype] * 3] + [o.dtype for o in self.operands]
        return [f.at(f.operand(k), offsets[k], dtypes[k]) for k in range(count)]

    def _steps(self, f: KernelBuilder) -> list[Value]:
        """Return the elements from query to query of each operand of the scores."""
        first = 2 + self.heads.rank * (5 + len(self.operands))
        return [f.number(first + k) for k in range(len(self.operands))]
