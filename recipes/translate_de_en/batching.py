"""Training batches: pairs of similar length together, a bounded number of tokens in each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

IGNORED = -100                            # a label that counts in no loss


@dataclass(frozen=True)
class Example:
    """Token ids of one pair, ends included."""

    source: list[int]
    target: list[int]


@dataclass(frozen=True)
class Batch:
    """Padded ids of several pairs."""

    source: Tensor                        # (n, s) int64
    source_mask: Tensor                   # (n, s) int64: 1 for tokens, 0 for padding
    decoder_input: Tensor                 # (n, t) int64: the target shifted right
    labels: Tensor                        # (n, t) int64: the target, padding IGNORED


def plan_epoch(
    examples: Sequence[Example], max_tokens: int, generator: torch.Generator
) -> list[list[int]]:
    """Return rows of each batch of an epoch, in random order.

    Rows are sorted by length with noise, so that other pairs meet in each epoch; a batch holds at
    most `max_tokens` tokens on either side, padding included.
    """
    noise = torch.rand(len(examples), generator=generator).tolist()
    order = sorted(
        range(len(examples)),
        key=lambda row: (
            len(examples[row].target) + noise[row], len(examples[row].source), noise[row],
        ),
    )
    plan: list[list[int]] = [[]]
    longest = 0
    for row in order:
        longest = max(longest, len(examples[row].target), len(examples[row].source))
        if longest * (len(plan[-1]) + 1) > max_tokens:
            plan.append([])
            longest = max(len(examples[row].target), len(examples[row].source))
        plan[-1].append(row)
    shuffled = torch.randperm(len(plan), generator=generator).tolist()
    return [plan[k] for k in shuffled]


def collate(examples: Sequence[Example], padding: int) -> Batch:
    """Pad examples to one length on each side."""
    source = _padded([example.source for example in examples], padding)
    labels = _padded([example.target for example in examples], IGNORED)
    shifted = _padded([[padding, *example.target[:-1]] for example in examples], padding)
    mask = _padded([[1] * len(example.source) for example in examples], 0)
    return Batch(source, mask, shifted, labels)


def _padded(rows: Sequence[list[int]], filler: int) -> Tensor:
    width = max(len(row) for row in rows)
    return torch.tensor([row + [filler] * (width - len(row)) for row in rows])
