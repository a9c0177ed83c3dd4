"""The native loop over a program's steps, for any target.

Every step's tasks are cut into one range per member of the gang. A member works through its own
range first, so that it finds in its cache what it wrote in the step before, then helps with those
of the others. The ranges of all steps, one after the other, are a member's queue; one counter says
how much of the queue is claimed, another how much of all queues is done. A step that needs earlier
ones waits until the latter has reached its own beginning. So nobody waits for a thread that has not
come yet or is not running: what it did not claim, the others do.

A group with items shares these instead: who claims an item runs all steps of the group on it alone.
Items that do not go round the gang are done by all members together.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import llvmlite.ir as ir

from engine.cpu.builder import I64, PTR, VOID, Builder, Value
from engine.cpu.kernel import PARAMETERS, Kernel
from engine.cpu.runtime.layout import (
    LOCAL,
    MAX_CORES,
    MAX_OPERANDS,
    STAMPS,
    WORD,
    ContextWord,
    GroupWord,
    Header,
    SlotWord,
    Status,
    StepWord,
)
from engine.cpu.runtime.queues import Queues
from engine.cpu.runtime.serving import emit_dismiss, emit_launch, emit_serve
from engine.cpu.runtime.words import WordFunction
from engine.cpu.target import Target

# Of what is left of a range, a member takes one part in so many: large pieces first, single tasks
# at the end, so that the members finish together.
PARTS: Final = 4
KERNEL: Final = ir.FunctionType(VOID, [type_ for _, type_ in PARAMETERS])
SPIN_TURNS: Final = 1000  # some tens of microseconds: a step's tail is shorter
YIELD_TURNS: Final = 1050
WALK, SERVE, DISMISS = 0, 1, 2  # what the entry function does


@dataclass(frozen=True)
class Walker(Kernel):
    """The native runtime: one function `(address, what) -> status`.

    WALK runs the context at the address on the caller's thread and its gang; SERVE makes the
    calling thread the worker of the slot at the address; DISMISS makes that worker return.
    """

    def emit(self, module: ir.Module, name: str, target: Target) -> None:
        """Write the runtime into the module."""
        stopped = _emit_stopped(module, target)
        wait = _emit_wait(module, target, stopped)
        compute = _emit_compute(module, target)
        whole = _emit_whole_step(module, target, compute)
        work = _emit_shared_step(module, target, stopped, wait, compute)
        alone = _emit_alone(module, target, stopped, whole)
        items = _emit_items(module, target, stopped, wait, whole)
        member = _emit_member(module, target, work, items)
        parts = {
            WALK: emit_launch(module, target, alone, member, wait),
            SERVE: emit_serve(module, target, member),
            DISMISS: emit_dismiss(module, target),
        }
        parameters = (("address", PTR), ("what", I64))
        entry = Builder(module, name, parameters, target, result=I64, internal=False)
        for what, function in parts.items():
            with entry.if_(entry.equals(entry.parameter("what"), what)):
                entry.ret(entry.call(function, entry.parameter("address")))
        entry.ret(I64(-1))


def _emit_stopped(module: ir.Module, target: Target) -> Any:
    """Whether the run shall stop; notes why in the status."""
    f = WordFunction(module, "stopped", target, "context")
    context = f.parameter("context")
    flag = f.read(context, ContextWord.CANCEL)
    with f.if_(f.not_zero(f.peek(context, ContextWord.STATUS, "monotonic"))):
        f.ret(I64(1))
    with f.if_(f.equals(flag, 0)):
        f.ret(I64(0))
    with f.if_(f.equals(f.peek(f.b.inttoptr(flag, PTR), 0), 0)):
        f.ret(I64(0))
    f.poke(context, ContextWord.STATUS, int(Status.CANCELLED))
    return f.ret(I64(1))


def _emit_wait(module: ir.Module, target: Target, stopped: Any) -> Any:
    """Wait until `need` positions are done: spin, then yield, then sleep; 1 if the run stops."""
    f = WordFunction(module, "wait", target, "context", "need")
    context, need = f.parameter("context"), f.parameter("need")
    turns = f.stack(WORD)
    f.write(turns, 0, 0)
    with f.again():
        with f.if_(f.at_least(f.peek(context, ContextWord.COMPLETED), need)):
            f.ret(I64(0))
        with f.if_(f.not_zero(f.call(stopped, context))):
            f.ret(I64(1))
        f.pause()
        turn = f.add(f.read(turns, 0), 1)
        f.write(turns, 0, turn)
        late = f.at_least(turn, YIELD_TURNS)
        with f.if_(f.at_least(turn, SPIN_TURNS)), f.if_else(late) as (sleep, give_way):
            with sleep:
                _sleep(f, context, need)
            with give_way:
                f.let_others_run()
    return f.function


def _sleep(f: WordFunction, context: Value, need: Value) -> None:
    """Sleep until somebody completes something; who completes looks at the count of waiters."""
    f.increase(context, ContextWord.WAITERS, 1)
    done = f.peek(context, ContextWord.COMPLETED, "seq_cst")
    with f.if_(f.less(done, need)):
        f.sleep_briefly_while(f.word(context, ContextWord.COMPLETED), done)
    f.increase(context, ContextWord.WAITERS, -1)


def _emit_compute(module: ir.Module, target: Target) -> Any:
    """Call a step's kernel on tasks [begin, end), with stamps where they are wanted."""
    f = WordFunction(
        module, "compute", target, "context", "step", "index", "pointers", "begin", "end", "scratch"
    )
    context, step = f.parameter("context"), f.parameter("step")
    address = f.read(step, StepWord.ADDRESS)
    kernel = f.b.inttoptr(address, ir.PointerType(KERNEL))
    arguments = [f.parameter("pointers"), f.pointer(step, StepWord.NUMBERS)]
    arguments += [f.parameter("begin"), f.parameter("end"), f.parameter("scratch")]
    stamps = f.read(context, ContextWord.STAMPS)
    with f.if_(f.equals(stamps, 0), likely=True):
        f.call(kernel, *arguments)
        f.ret(I64(0))
    begin = f.now_ns()
    f.call(kernel, *arguments)
    end = f.now_ns()
    row = f.word(f.b.inttoptr(stamps, PTR), f.mul(f.parameter("index"), STAMPS))
    f.b.atomic_rmw("min", f.word(row, 0), begin, "monotonic")
    f.b.atomic_rmw("max", f.word(row, 1), end, "monotonic")
    f.b.atomic_rmw("add", f.word(row, 2), f.sub(end, begin), "monotonic")
    return f.ret(I64(0))


def _resolve(
    f: WordFunction, context: Value, step: Value, item: Value, local: Value, pointers: Value
) -> None:
    """Fill an array of pointers to a step's operands."""
    bases, triples = f.pointer(context, ContextWord.BASES), f.pointer(step, StepWord.OPERANDS)
    local_address = f.b.ptrtoint(local, I64)
    with f.loop(0, f.read(step, StepWord.OPERAND_COUNT), unroll=False) as turn:
        triple = f.word(triples, f.mul(turn.i, 3))
        number = f.read(triple, 0)
        base = f.choose(f.equals(number, LOCAL), local_address, f.read(bases, number))
        at = f.add(base, f.read(triple, 1), f.mul(item, f.read(triple, 2)))
        f.write(pointers, turn.i, at)


def _emit_whole_step(module: ir.Module, target: Target, compute: Any) -> Any:
    """Run all tasks of a step on one item."""
    names = ("context", "step", "index", "item", "scratch", "local")
    f = WordFunction(module, "whole_step", target, *names)
    context, step, index, item, scratch, local = map(f.parameter, names)
    tasks = f.read(step, StepWord.TASKS)
    with f.if_(f.at_least(0, tasks)):
        f.ret(I64(0))
    pointers = f.stack(MAX_OPERANDS * WORD)
    _resolve(f, context, step, item, local, pointers)
    return f.ret(f.call(compute, context, step, index, pointers, I64(0), tasks, scratch))


def _emit_shared_step(
    module: ir.Module, target: Target, stopped: Any, wait: Any, compute: Any
) -> Any:
    """Take part in a step; 1 if the run stops. `starts` are the queues' first positions in it."""
    names = ("context", "step", "index", "item", "starts", "need", "member", "scratch", "local")
    f = WordFunction(module, "shared_step", target, *names)
    context, step, index, item, starts, need, member, scratch, local = map(f.parameter, names)
    chunk = f.read(step, StepWord.CHUNK)
    resolved = f.stack(WORD)
    f.write(resolved, 0, 0)
    pointers = f.stack(MAX_OPERANDS * WORD)
    queues = Queues(f, context, starts, member, f.read(step, StepWord.TASKS))
    with queues.each() as queue, queue.claims() as claim:
        _leave_if_stopped(f, context, need, stopped, wait)
        left = f.sub(queue.end, claim.position)
        part = f.greatest(f.div(left, PARTS), 1)
        take = f.least(f.choose(f.equals(chunk, 0), part, chunk), left)
        with claim.take(take):
            with f.if_(f.equals(f.read(resolved, 0), 0)):
                _resolve(f, context, step, item, local, pointers)
                f.write(resolved, 0, 1)
            low = f.add(queue.low, f.sub(claim.position, queue.start))
            f.call(compute, context, step, index, pointers, low, f.add(low, take), scratch)
            _complete(f, context, take)
    return f.ret(I64(0))


def _leave_if_stopped(
    f: WordFunction, context: Value, need: Value, stopped: Any, wait: Any
) -> None:
    """Wait for what comes before; return 1 from the function if the run stops."""
    early = f.less(f.peek(context, ContextWord.COMPLETED), need)
    with f.if_(early), f.if_(f.not_zero(f.call(wait, context, need))):
        f.ret(I64(1))
    with f.if_(f.not_zero(f.call(stopped, context))):
        f.ret(I64(1))


def _complete(f: WordFunction, context: Value, count: Value) -> None:
    f.increase(context, ContextWord.COMPLETED, count)
    with f.if_(f.not_zero(f.peek(context, ContextWord.WAITERS, "seq_cst"))):
        f.wake(f.word(context, ContextWord.COMPLETED))


def _emit_alone(module: ir.Module, target: Target, stopped: Any, whole: Any) -> Any:
    """Run everything on the caller's thread, without sharing anything."""
    f = WordFunction(module, "alone", target, "context", "slot")
    context, slot = f.parameter("context"), f.parameter("slot")
    scratch, local = f.pointer(slot, SlotWord.SCRATCH), f.pointer(slot, SlotWord.LOCAL)
    with _groups(f, context) as (first, end, steps, items):
        turns = f.greatest(items, 1)
        with f.loop(0, turns, unroll=False) as item, f.loop(first, end, unroll=False) as step:
            at = f.word(steps, f.mul(step.i, StepWord.WORDS))
            with f.if_(f.not_zero(f.call(stopped, context))):
                f.ret(I64(1))
            f.call(whole, context, at, step.i, item.i, scratch, local)
    return f.ret(I64(0))


def _emit_items(module: ir.Module, target: Target, stopped: Any, wait: Any, whole: Any) -> Any:
    """Share `total` items of a group, running all its steps on each; 1 if the run stops."""
    names = ("context", "slot", "first", "end", "total", "starts", "need", "member")
    f = WordFunction(module, "items", target, *names)
    context, slot, first, end, total, starts, need, member = map(f.parameter, names)
    scratch, local = f.pointer(slot, SlotWord.SCRATCH), f.pointer(slot, SlotWord.LOCAL)
    steps = f.pointer(f.pointer(context, ContextWord.PROGRAM), Header.STEP_TABLE)
    queues = Queues(f, context, starts, member, total)
    with queues.each() as queue, queue.claims() as claim:
        _leave_if_stopped(f, context, need, stopped, wait)
        with claim.take(I64(1)):
            item = f.add(queue.low, f.sub(claim.position, queue.start))
            with f.loop(first, end, unroll=False) as step:
                at = f.word(steps, f.mul(step.i, StepWord.WORDS))
                with f.if_(f.not_zero(f.call(stopped, context))):
                    f.ret(I64(1))
                f.call(whole, context, at, step.i, item, scratch, local)
            _complete(f, context, I64(1))
    return f.ret(I64(0))


def _emit_member(module: ir.Module, target: Target, work: Any, items_: Any) -> Any:
    """Be a member of the gang from the first group to the last; -1 if the run stops.

    Returns how many positions there are.
    """
    f = WordFunction(module, "member", target, "context", "member")
    context = f.parameter("context")
    slot = f.pointer(context, f.add(f.parameter("member"), int(ContextWord.SLOTS)))
    scratch = f.pointer(slot, SlotWord.SCRATCH)
    # What all members do together lies in the caller's local memory.
    shared = f.pointer(f.pointer(context, ContextWord.SLOTS), SlotWord.LOCAL)
    gang, member = f.read(context, ContextWord.GANG), f.parameter("member")
    starts = f.stack(MAX_CORES * WORD)
    f.clear(starts, f.mul(gang, WORD))
    at = f.stack(2 * WORD)  # the step's first position in all queues together; what it needs
    f.write(at, 0, 0)
    f.write(at, 1, 0)
    with _groups(f, context) as (first, end, steps, items):
        alone = f.sub(items, f.rem(items, gang))
        with f.if_(f.not_zero(items)):
            need = f.read(at, 0)
            f.write(at, 1, need)
            arguments = (context, slot, first, end, alone, starts, need, member)
            with f.if_(f.not_zero(f.call(items_, *arguments))):
                f.ret(I64(-1))
            f.write(at, 0, f.add(need, alone))
        # Items that are left, each behind a barrier; a group without items is one such turn.
        begin = f.choose(f.equals(items, 0), I64(0), alone)
        with f.loop(begin, f.greatest(items, 1), unroll=False) as item:
            with f.if_(f.not_zero(items)):
                f.write(at, 1, f.read(at, 0))
            with f.loop(first, end, unroll=False) as step:
                record = f.word(steps, f.mul(step.i, StepWord.WORDS))
                start = f.read(at, 0)
                with f.if_(f.not_zero(f.read(record, StepWord.BARRIER))):
                    f.write(at, 1, start)
                operands = (step.i, item.i, starts, f.read(at, 1), member, scratch, shared)
                with f.if_(f.not_zero(f.call(work, context, record, *operands))):
                    f.ret(I64(-1))
                f.write(at, 0, f.add(start, f.read(record, StepWord.TASKS)))
        with f.if_(f.not_zero(items)):
            f.write(at, 1, f.read(at, 0))
    return f.ret(f.read(at, 0))


@contextmanager
def _groups(f: WordFunction, context: Value) -> Iterator[tuple[Value, Value, Value, Value]]:
    """Loop over the groups: first step, end, table of steps, items."""
    program = f.pointer(context, ContextWord.PROGRAM)
    table, steps = f.pointer(program, Header.GROUP_TABLE), f.pointer(program, Header.STEP_TABLE)
    with f.loop(0, f.read(program, Header.GROUPS), unroll=False) as group:
        record = f.word(table, f.mul(group.i, GroupWord.WORDS))
        first, end = f.read(record, GroupWord.FIRST), f.read(record, GroupWord.END)
        yield first, end, steps, f.read(record, GroupWord.ITEMS)
