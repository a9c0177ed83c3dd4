"""How a run gets its workers: mailboxes, one per core of the pool.

The caller puts the address of its context into the mailboxes of its gang and begins. A worker that
looks there takes the job; one that sleeps is woken, unless the program is so short that it would
come too late and no other run came just before. Jobs that nobody took when all is claimed are taken
back, so that a run ends when its work is done, whether or not a worker ever came.
"""

from __future__ import annotations

from typing import Any, Final

import llvmlite.ir as ir

from engine.cpu.builder import I64, Value
from engine.cpu.runtime.layout import QUEUE_WORDS, WORD, ContextWord, Header, Job, SlotWord
from engine.cpu.runtime.words import WordFunction
from engine.cpu.target import Target

# Waking a worker that sleeps costs about 50 us of the run, half of them the caller's own: what
# takes less than this alone is not shared with sleepers.
SHORT_NS: Final = 100_000
# Runs that follow each other this closely are worth a worker all the same: it is awake for the
# next ones.
CLOSE_NS: Final = 25_000
IDLE_PAUSES: Final = 8  # between two looks at the clock
LEAVING_TURNS: Final = 200  # looks at a worker that is about to leave, before yielding to it


def emit_launch(module: ir.Module, target: Target, alone: Any, member: Any, wait: Any) -> Any:
    """Run a context on the caller's thread and its gang; return the status."""
    f = WordFunction(module, "launch", target, "context")
    context = f.parameter("context")
    own = f.pointer(context, ContextWord.SLOTS)
    f.write(context, ContextWord.STATUS, 0)
    f.poke(own, SlotWord.CALLER, 1)
    gang = f.read(context, ContextWord.GANG)
    with f.if_else(f.less(1, gang)) as (many, one):
        with many:
            _run_gang(f, context, gang, _emit_post(module, target), member, wait)
        with one:
            f.call(alone, context, own)
    f.poke(own, SlotWord.CALLER, 0)
    return f.ret(f.peek(context, ContextWord.STATUS))


def _run_gang(
    f: WordFunction, context: Value, gang: Value, post: Any, member: Any, wait: Any
) -> None:
    f.write(context, ContextWord.COMPLETED, 0)
    f.write(context, ContextWord.WAITERS, 0)
    f.clear(f.pointer(context, ContextWord.QUEUES), f.mul(gang, QUEUE_WORDS * WORD))
    program = f.pointer(context, ContextWord.PROGRAM)
    last = f.peek(program, Header.LAST_NS, "monotonic")
    begin = f.now_ns()
    since = f.sub(begin, f.peek(program, Header.ENDED_NS, "monotonic"))
    is_long = f.b.or_(f.equals(last, 0), f.at_least(last, SHORT_NS))
    wake = f.b.or_(is_long, f.less(since, CLOSE_NS))
    with f.loop(1, gang, unroll=False) as other:
        f.call(post, context, other.i, f.b.zext(wake, I64))
    total = f.call(member, context, I64(0))
    with f.loop(1, gang, unroll=False) as other:
        slot = f.pointer(context, f.add(other.i, int(ContextWord.SLOTS)))
        f.swap(slot, SlotWord.JOB, f.b.ptrtoint(context, I64), int(Job.NONE))
    f.call(wait, context, total)
    with f.loop(1, gang, unroll=False) as other:
        _await_leaving(f, f.pointer(context, f.add(other.i, int(ContextWord.SLOTS))))
    end = f.now_ns()
    f.poke(program, Header.LAST_NS, f.sub(end, begin))
    f.poke(program, Header.ENDED_NS, end)


def _await_leaving(f: WordFunction, slot: Value) -> None:
    """Wait until a worker has let go of the context."""
    turns = f.stack(WORD)
    f.write(turns, 0, 0)
    with f.forever() as end:
        busy = f.equals(f.peek(slot, SlotWord.JOB), int(Job.TAKEN))
        with f.if_(f.b.not_(busy)):
            f.b.branch(end)
        f.pause()
        turn = f.add(f.read(turns, 0), 1)
        f.write(turns, 0, turn)
        with f.if_(f.at_least(turn, LEAVING_TURNS)):
            f.let_others_run()


def _emit_post(module: ir.Module, target: Target) -> Any:
    """Put a context into the mailbox of a member; wake its worker if `wake`."""
    f = WordFunction(module, "post", target, "context", "member", "wake")
    context, member = f.parameter("context"), f.parameter("member")
    slot = f.pointer(context, f.add(member, int(ContextWord.SLOTS)))
    f.write(slot, SlotWord.MEMBER, member)
    f.poke(slot, SlotWord.JOB, f.b.ptrtoint(context, I64))
    asleep = f.not_zero(f.peek(slot, SlotWord.ASLEEP, "seq_cst"))
    with f.if_(f.b.and_(asleep, f.not_zero(f.parameter("wake")))):
        _wake_worker(f, slot)
    return f.ret(I64(0))


def _wake_worker(f: WordFunction, slot: Value) -> None:
    f.poke(slot, SlotWord.ASLEEP, 0)
    f.wake(f.word(slot, SlotWord.ASLEEP))


def emit_dismiss(module: ir.Module, target: Target) -> Any:
    """Tell the worker of a slot to return once it is idle."""
    f = WordFunction(module, "dismiss", target, "slot")
    slot = f.parameter("slot")
    f.poke(slot, SlotWord.STOP, 1)
    _wake_worker(f, slot)
    return f.ret(I64(0))


def emit_serve(module: ir.Module, target: Target, member: Any) -> Any:
    """Be the worker of a slot: take jobs, spin a while after each, then sleep."""
    f = WordFunction(module, "serve", target, "slot")
    slot = f.parameter("slot")
    deadline = f.stack(WORD)
    f.write(deadline, 0, f.add(f.now_ns(), f.read(slot, SlotWord.SPIN_NS)))
    with f.again():
        job = f.peek(slot, SlotWord.JOB)
        with f.if_else(f.not_zero(job)) as (busy, idle):
            with busy:
                _take(f, slot, job, member)
                f.write(deadline, 0, f.add(f.now_ns(), f.read(slot, SlotWord.SPIN_NS)))
            with idle:
                with f.if_(f.not_zero(f.peek(slot, SlotWord.STOP))):
                    f.ret(I64(0))
                _idle(f, slot, f.read(deadline, 0))
    return f.function


def _take(f: WordFunction, slot: Value, job: Value, member: Any) -> None:
    with f.if_(f.swap(slot, SlotWord.JOB, job, int(Job.TAKEN))):
        context = f.b.inttoptr(job, ir.PointerType())
        f.call(member, context, f.read(slot, SlotWord.MEMBER))
        f.poke(slot, SlotWord.JOB, int(Job.NONE))


def _idle(f: WordFunction, slot: Value, deadline: Value) -> None:
    """Spin for a moment if the core is free and the time not over, else sleep until woken."""
    needed = f.b.or_(f.peek(slot, SlotWord.CALLER), f.peek(slot, SlotWord.CROWDED))
    over = f.at_least(f.now_ns(), deadline)
    with f.if_else(f.b.or_(f.not_zero(needed), over)) as (sleep, spin):
        with sleep:
            f.poke(slot, SlotWord.ASLEEP, 1)
            job = f.peek(slot, SlotWord.JOB, "seq_cst")
            stop = f.peek(slot, SlotWord.STOP, "seq_cst")
            with f.if_(f.equals(f.b.or_(job, stop), 0)):
                f.sleep_while(f.word(slot, SlotWord.ASLEEP), I64(1))
            f.poke(slot, SlotWord.ASLEEP, 0)
        with spin:
            f.pause(IDLE_PAUSES)
