"""Pieces of a training loop: fixed seeds per epoch, progress on the terminal, evaluation."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch import Tensor, nn


class Stopwatch:
    """Time since it was made, on the wall and as used by all threads of the process."""

    def __init__(self) -> None:
        """Start."""
        self._start, self._cpu_start = time.perf_counter(), time.process_time()

    def seconds(self) -> float:
        """Return seconds on the wall."""
        return time.perf_counter() - self._start

    def cpu_seconds(self) -> float:
        """Return CPU-seconds of all threads."""
        return time.process_time() - self._cpu_start


def epoch_generator(seed: int, epoch: int) -> torch.Generator:
    """Return the random numbers of one epoch: the same after a resume as without a stop."""
    return torch.Generator().manual_seed(seed * 1_000_003 + epoch)


def batches(n: int, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield shuffled row numbers; what is left over at the end waits for another epoch."""
    order = torch.randperm(n, generator=generator)
    yield from order[: n - n % batch_size].split(batch_size)


@contextmanager
def progress_bar(title: str, total: int, done: int = 0) -> Iterator[ProgressBar]:
    """Show a bar over `total` epochs' steps, with the figures of the latest epoch."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns) as progress:
        task = progress.add_task(title, total=total, completed=done, note="")
        yield ProgressBar(progress, task)


class ProgressBar:
    """One bar of rich, narrowed to what a training says."""

    def __init__(self, progress: Progress, task: object) -> None:
        """Wrap a started bar."""
        self._progress, self._task = progress, task

    def advance(self, note: str | None = None) -> None:
        """One step is done."""
        fields = {} if note is None else {"note": note}
        self._progress.update(self._task, advance=1, **fields)  # type: ignore[arg-type]

    def say(self, line: str) -> None:
        """Print a line that stays, above the bar."""
        self._progress.console.print(line, highlight=False)


@torch.no_grad()
def predict(model: nn.Module, images: Tensor, batch_size: int = 500) -> Tensor:
    """Return the logits of all pictures."""
    model.eval()
    device = next(model.parameters()).device
    return torch.cat([model(part.to(device))[0].cpu() for part in images.split(batch_size)])


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Return the share of rows whose largest logit is the right one."""
    return (logits.argmax(1) == labels).float().mean().item()


def default_device() -> torch.device:
    """Return the GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def computes_in_bfloat16() -> bool:
    """Tell whether this machine computes convolutions in bfloat16 faster than in float32."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported())
