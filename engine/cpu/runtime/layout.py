"""Where everything lies in the memory that Python and the native loop share, in 64-bit words.

A program and a context are arrays of int64 that start at a cache line. The program is written once
and only read while it runs; a context belongs to one run; a slot belongs to one core of the pool.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, Final

import numpy as np

WORD: Final = 8
CACHE_LINE: Final = 64
MAX_OPERANDS: Final = 256  # pointers that one step may name: they lie on the stack of every member
MAX_CORES: Final = 256
QUEUE_WORDS: Final = 16  # from one queue's counter to the next: lines that are fetched in pairs
LOCAL: Final = 0  # the number of the base that is the worker's own memory
STAMPS: Final = 3  # per step: when its first task began and its last one ended, and time spent

Words = np.ndarray[Any, np.dtype[np.int64]]


class Header(IntEnum):
    """The head of a program; groups and steps follow."""

    GROUPS = 0  # how many
    GROUP_TABLE = 1  # address
    STEP_TABLE = 2  # address
    LAST_NS = 3  # how long the latest run took; with the next, the words that runs write
    ENDED_NS = 4  # when it ended
    WORDS = 8


class GroupWord(IntEnum):
    """One group of steps."""

    FIRST = 0
    END = 1
    ITEMS = 2
    WORDS = 4


class StepWord(IntEnum):
    """One step."""

    ADDRESS = 0
    TASKS = 1
    CHUNK = 2
    BARRIER = 3
    OPERANDS = 4  # address of triples: base, offset, bytes per item
    OPERAND_COUNT = 5
    NUMBERS = 6  # address
    WORDS = 8


class ContextWord(IntEnum):
    """One run. What all members write lies on cache lines of their own."""

    PROGRAM = 0
    GANG = 1
    STAMPS = 2  # address, or 0
    CANCEL = 3  # address of a word that is not 0 once the run shall stop, or 0
    STATUS = 4
    BASES = 5  # address
    QUEUES = 6  # address: per member how many positions of its queue somebody has taken
    COMPLETED = 16  # positions of all queues
    WAITERS = 17
    SLOTS = 32  # addresses, the caller's own first; as many as the pool has
    WORDS = 32


class SlotWord(IntEnum):
    """One core of the pool: the mailbox of its worker, and memory for who computes there."""

    JOB = 0  # address of a context, or a `Job`
    MEMBER = 1  # which member of the gang the worker is to be
    ASLEEP = 2
    STOP = 3
    CALLER = 4  # 1 while a calling thread computes on this core: the worker must not spin
    CROWDED = 5  # 1 while runs wait for cores: likewise
    SPIN_NS = 6
    SCRATCH = 16  # address
    LOCAL = 17  # address
    WORDS = 24


class Job(IntEnum):
    """What a mailbox holds when it is not the address of a context."""

    NONE = 0
    TAKEN = 1


class Status(IntEnum):
    """How a run ended."""

    DONE = 0
    CANCELLED = 1


def aligned_words(count: int) -> Words:
    """Return zeroed words that start at a cache line."""
    spare = CACHE_LINE // WORD
    memory = np.zeros(count + spare, np.int64)
    skip = (-memory.ctypes.data % CACHE_LINE) // WORD
    return memory[skip : skip + count]
