"""Cross entropy over a large vocabulary without keeping all logits at once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

ROWS = 512                                # logits of so many tokens exist at a time


class _SmoothedCrossEntropy(torch.autograd.Function):
    """Computes the gradients already in the forward pass, block by block."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, smoothing: float
    ) -> Tensor:
        """`hidden` (n, d), `weight` (v, d), `labels` (n,); returns the mean loss."""
        n, v = len(hidden), len(weight)
        compute = torch.bfloat16 if torch.is_autocast_enabled("cpu") else hidden.dtype
        low = weight.to(compute)
        grad_hidden, grad_weight = torch.empty_like(hidden), torch.zeros_like(weight)
        total = torch.zeros(())
        for start in range(0, n, ROWS):
            rows = slice(start, start + ROWS)
            block, wanted = hidden[rows].to(compute), labels[rows, None]
            logits = (block @ low.T).float()                        # (rows, v)
            log_sum = logits.logsumexp(1, keepdim=True)
            right = logits.gather(1, wanted)
            mean = logits.mean(1, keepdim=True)
            total += (log_sum - (1 - smoothing) * right - smoothing * mean).sum()
            grad = logits.sub_(log_sum).exp_().sub_(smoothing / v)
            grad.scatter_add_(1, wanted, torch.full_like(right, smoothing - 1))
            grad = grad.mul_(1 / n).to(compute)
            grad_hidden[rows] = (grad @ low).to(hidden.dtype)
            grad_weight += (grad.T @ block).float()
        ctx.save_for_backward(grad_hidden, grad_weight)
        return total / n

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        """Scale the gradients that are there already."""
        grad_hidden, grad_weight = ctx.saved_tensors
        return grad_hidden * grads[0], grad_weight * grads[0], None, None


def smoothed_cross_entropy(
    hidden: Tensor, weight: Tensor, labels: Tensor, smoothing: float
) -> Tensor:
    """Return the mean cross entropy of `hidden @ weight.T` with label smoothing.

    A share `smoothing` of the target probability is spread evenly over the vocabulary
    (Szegedy et al. 2016).
    """
    loss: Tensor = _SmoothedCrossEntropy.apply(hidden, weight, labels, smoothing)
    return loss
