"""Non-maximum suppression: the best box that is left, again and again.

The loop of Felzenszwalb et al. (2010), section 5, without sorting: one pass over the candidates
drops those that overlap the latest choice too much and finds the best of the others. A pass takes
whole vectors, and there are no more passes than boxes chosen.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import llvmlite.ir as ir

from engine.cpu.builder import I32, I64, Value
from engine.cpu.kernel import Kernel, KernelBuilder
from engine.cpu.target import Target
from engine.dtypes import DType

COLUMNS = 6  # of a candidate: low y and x, high y and x, area, score
NONE = 0x7FFFFFFF


@dataclass(frozen=True)
class Suppress(Kernel):
    """One task per image and class.

    operands: chosen boxes int64 (tasks, most), their counts int64 (tasks), memory for
    `candidate_bytes` of one task; corners float32 (images, 4, boxes), scores float32 (tasks,
    boxes), float32 (2): the overlap that a box may have, the score that it must exceed. numbers:
    boxes, classes, most. All scores are finite.
    """

    def emit(self, module: ir.Module, name: str, target: Target) -> None:
        f = KernelBuilder(module, name, target)
        boxes, classes, most = f.number(0), f.number(1), f.number(2)
        room = padded(f, boxes)
        best = _Best(f, room)
        with f.loop(f.low, f.high) as task:
            corners = f.at(f.operand(3), f.mul(f.mul(f.div(task.i, classes), boxes), 4))
            scores = f.at(f.operand(4), f.mul(task.i, boxes))
            count = best.gather(corners, scores, boxes)
            chosen = f.at(f.operand(0), f.mul(task.i, most), DType.INT64)
            kept = best.choose(chosen, count, most)
            f.b.store(kept, f.at(f.operand(1), task.i, DType.INT64), align=8)
        f.ret()


def padded(f: KernelBuilder, boxes: Value) -> Value:
    """Return how many candidates there is room for: whole vectors."""
    lanes = f.lanes
    return f.mul(f.div(f.add(boxes, lanes - 1), lanes), lanes)


def candidate_bytes(boxes: int, target: Target) -> int:
    """Return the bytes of memory that the candidates of one task take."""
    return (COLUMNS + 1) * target.whole_vectors(boxes) * DType.FLOAT32.itemsize


class _Best:
    """The candidates of one task in memory, column by column, and their numbers (int32)."""

    def __init__(self, f: KernelBuilder, room: Value) -> None:
        self.f = f
        base = f.operand(2)
        self.columns = [f.at(base, f.mul(room, k)) for k in range(COLUMNS)]
        self.numbers = f.at(base, f.mul(room, COLUMNS))
        limits = f.operand(5)
        self.overlap = f.load(limits, lanes=1)
        self.least = f.load(f.at(limits, 1), lanes=1)

    def gather(self, corners: Value, scores: Value, boxes: Value) -> Value:
        """Collect the boxes whose score exceeds the least; return their count."""
        f, b = self.f, self.f.b
        score_column = self.columns[5]
        with f.loop(0, boxes, carry=[I64(0)]) as box:
            (count,) = box.values
            score = f.load(f.at(scores, box.i), lanes=1)
            # Written whether it counts or not: a branch here would be guessed wrong too often.
            f.store(score, f.at(score_column, count))
            b.store(b.trunc(box.i, I32), f.at(self.numbers, count), align=4)
            is_more = b.fcmp_ordered(">", score, self.least)
            box.next = [f.add(count, b.zext(is_more, I64))]
        (count,) = box.result
        with f.loop(0, count) as k:
            number = b.zext(b.load(f.at(self.numbers, k.i), typ=I32, align=4), I64)
            sides = [
                f.load(f.at(corners, f.add(f.mul(boxes, c), number)), lanes=1) for c in range(4)
            ]
            area = b.fmul(b.fsub(sides[2], sides[0]), b.fsub(sides[3], sides[1]))
            for column, value in zip(self.columns, (*sides, area), strict=False):
                f.store(value, f.at(column, k.i))
        with f.loop(count, padded(f, count)) as k:
            for column in self.columns[:5]:
                f.store(f.floats(0.0, 1), f.at(column, k.i))
            f.store(f.floats(-inf, 1), f.at(score_column, k.i))
        return count

    def choose(self, chosen: Value, count: Value, most: Value) -> Value:
        """Choose up to `most` boxes, best first; return how many."""
        f, b = self.f, self.f.b
        start = [f.floats(0.0, 1)] * 5  # a box without an area overlaps nothing
        with f.loop(0, most, carry=[I64(0), ir.IntType(1)(1), *start]) as turn:
            kept, going, *box = turn.values
            before = b.block
            with f.if_(going):
                number, found = self._pass(box, count)
                where = b.zext(number, I64)
                place = f.choose(found, where, I64(0))
                original = b.zext(b.load(f.at(self.numbers, place), typ=I32, align=4), I64)
                with f.if_(found):
                    b.store(original, f.at(chosen, kept, DType.INT64), align=8)
                    f.store(f.floats(-inf, 1), f.at(self.columns[5], place))
                following = [f.load(f.at(column, place), lanes=1) for column in self.columns[:5]]
                more = f.add(kept, b.zext(found, I64))
                inside = b.block
            merged = []
            for old, new in zip((kept, going, *box), (more, found, *following), strict=True):
                phi = b.phi(old.type)
                phi.add_incoming(old, before)
                phi.add_incoming(new, inside)
                merged.append(phi)
            turn.next = merged
        return turn.result[0]

    def _pass(self, box: list[Value], count: Value) -> tuple[Value, Value]:
        """Drop what overlaps the box too much; return the best of the rest, and whether any is."""
        f, b = self.f, self.f.b
        wide = [f.splat(side) for side in box]
        lanes = f.lanes
        steps = ir.Constant(ir.VectorType(I32, lanes), list(range(lanes)))
        nothing, nobody = f.floats(-inf), f.integers(NONE)
        with f.loop(0, padded(f, count), lanes, carry=[nothing, nobody]) as k:
            scores = self._dropped(wide, k.i)
            f.store(scores, f.at(self.columns[5], k.i))
            top, number = k.values
            own = b.add(f.splat(b.trunc(k.i, I32)), steps)
            better = b.fcmp_ordered(">", scores, top)
            k.next = [f.choose(better, scores, top), f.choose(better, own, number)]
        top, number = k.result
        highest = f.max_lanes(top)
        equal = b.fcmp_ordered("==", top, f.splat(highest))
        first = f.choose(equal, number, nobody)
        least = f.intrinsic(f"llvm.vector.reduce.smin.v{lanes}i32", I32, [first.type])
        return b.call(least, [first]), b.fcmp_ordered(">", highest, f.floats(-inf, 1))

    def _dropped(self, box: list[Value], at: Value) -> Value:
        """Return a vector of scores, minus infinity where the candidate overlaps the box."""
        f, b = self.f, self.f.b
        y0, x0, y1, x1, area, scores = (f.load(f.at(column, at)) for column in self.columns)
        zero = f.floats(0.0)
        height = b.fsub(_least(f, y1, box[2]), _most(f, y0, box[0]))
        width = b.fsub(_least(f, x1, box[3]), _most(f, x0, box[1]))
        shared = b.fmul(_most(f, height, zero), _most(f, width, zero))
        union = b.fsub(b.fadd(box[4], area), shared)
        solid = b.and_(b.fcmp_ordered(">", area, zero), b.fcmp_ordered(">", box[4], zero))
        solid = b.and_(solid, b.fcmp_ordered(">", union, zero))
        over = b.fcmp_ordered(">", b.fdiv(shared, union), f.splat(self.overlap))
        return f.choose(b.and_(solid, over), f.floats(-inf), scores)


def _least(f: KernelBuilder, x: Value, y: Value) -> Value:
    return f.choose(f.b.fcmp_ordered("<", x, y), x, y)


def _most(f: KernelBuilder, x: Value, y: Value) -> Value:
    return f.choose(f.b.fcmp_ordered(">", x, y), x, y)
