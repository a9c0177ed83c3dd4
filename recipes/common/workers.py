"""Gradients of one batch from several workers, each with one core and its own micro-batches.

Two cores that share every operation wait for each other at its end, and lose much when other
programs take a core away now and then. Workers take the next micro-batch when they are ready,
and meet only once per step.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue

import torch
from torch import Tensor, nn

MicroBatch = tuple[Tensor, Tensor]
Compute = Callable[[nn.Module, MicroBatch], tuple[float, int]]


class Workers:
    """Replicas of a model that share its parameters' values and sum their gradients."""

    def __init__(self, model: nn.Module, count: int, compute: Compute) -> None:
        """`compute` runs one micro-batch forward and backward; it returns loss and hits."""
        self.model, self.compute = model, compute
        self.replicas = [model, *(copy.deepcopy(model) for _ in range(count - 1))]
        for replica in self.replicas[1:]:
            for mine, shared in zip(replica.parameters(), model.parameters(), strict=True):
                mine.data = shared.data

    def freeze(self, choose: Callable[[nn.Module], Tensor]) -> None:
        """Compute no further gradients for one parameter, nor for what only leads to it."""
        for replica in self.replicas:
            choose(replica).requires_grad_(False)

    def gradients(self, parts: Sequence[MicroBatch]) -> tuple[float, int]:
        """Leave the gradients summed over `parts` in the model; return total loss and hits."""
        waiting: SimpleQueue[MicroBatch] = SimpleQueue()
        for part in parts:
            waiting.put(part)
        results: list[tuple[float, int]] = []
        threads = [
            threading.Thread(target=self._work, args=(replica, waiting, results))
            for replica in self.replicas
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if len(results) != len(parts):
            raise RuntimeError("a worker failed; its error is above")
        self._sum_gradients()
        return sum(loss for loss, _ in results), sum(right for _, right in results)

    def _work(
        self,
        replica: nn.Module,
        waiting: SimpleQueue[MicroBatch],
        results: list[tuple[float, int]],
    ) -> None:
        if len(self.replicas) > 1:
            torch.set_num_threads(1)
        replica.train()
        replica.zero_grad(set_to_none=True)      # the frozen ones' as well
        while True:
            try:
                part = waiting.get_nowait()
            except Empty:
                return
            results.append(self.compute(replica, part))

    @torch.no_grad()
    def _sum_gradients(self) -> None:
        for replica in self.replicas[1:]:
            for mine, main in zip(replica.parameters(), self.model.parameters(), strict=True):
                if mine.grad is None:
                    continue
                main.grad = mine.grad.clone() if main.grad is None else main.grad.add_(mine.grad)
