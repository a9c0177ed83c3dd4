"""Turns requests that come one by one into runs of many rows, and hands the answers back.

Knows tensors, rows and time. It may not know HTTP, tasks or the repository, and it meets the engine
only as a callable.
"""

from server.batching.batcher import Batcher, monotonic_us
from server.batching.policy import BatchLimits, Plan, form_batch
from server.batching.work import Work, WorkResult

__all__ = ["BatchLimits", "Batcher", "Plan", "Work", "WorkResult", "form_batch", "monotonic_us"]
