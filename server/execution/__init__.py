"""Where work runs that must not run on the event loop, and how its faults are told.

The only place beside the repository's loader that knows the engine: its errors, and its words for
generation and for heads. It may not know batches, models or requests.
"""

from server.execution.faults import as_server_error
from server.execution.generation import (
    Decoder,
    Hypothesis,
    Search,
    Seq2Seq,
    SlotSizes,
    StepResult,
)
from server.execution.heads import append_classifier
from server.execution.mailbox import LoopMailbox
from server.execution.pool import WorkerPool
from server.execution.tuning import (
    give_way,
    keep_freed_memory,
    limit_blas_threads,
    lower_priority,
    set_switch_interval,
    settle_heap,
)

__all__ = [
    "Decoder",
    "Hypothesis",
    "LoopMailbox",
    "Search",
    "Seq2Seq",
    "SlotSizes",
    "StepResult",
    "WorkerPool",
    "append_classifier",
    "as_server_error",
    "give_way",
    "keep_freed_memory",
    "limit_blas_threads",
    "lower_priority",
    "set_switch_interval",
    "settle_heap",
]
