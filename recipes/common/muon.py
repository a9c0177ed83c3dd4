"""Muon (K. Jordan, 2024): momentum whose step is replaced by the nearest orthogonal matrix."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

# A quintic iteration that drives every singular value towards one, fast rather than exactly.
QUINTIC = (3.4445, -4.7750, 2.0315)


def orthogonalized(matrix: Tensor, steps: int = 3) -> Tensor:
    """Return roughly U V^T for `matrix` = U S V^T."""
    a, b, c = QUINTIC
    x = matrix / (matrix.norm() + 1e-7)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x


class Muon(torch.optim.Optimizer):
    """Nesterov momentum on filters seen as matrices; each weight is kept at a fixed norm."""

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float,
        momentum: float,
        *,
        precision: torch.dtype = torch.float32,
    ) -> None:
        """`params` are convolution weights (out, in, height, width).

        `precision` is that of the iteration alone: it is rough by design, so bfloat16 serves it.
        """
        super().__init__(params, {"lr": lr, "momentum": momentum})
        self.precision = precision

    @torch.no_grad()
    def step(self) -> None:               # type: ignore[override]  # no closure
        """Take one step along the orthogonalized gradient."""
        for group in self.param_groups:
            for weight in group["params"]:
                self._update(weight, group["lr"], group["momentum"])

    def _update(self, weight: Tensor, lr: float, momentum: float) -> None:
        gradient, state = weight.grad, self.state[weight]
        if gradient is None:
            return
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(gradient)
        running = state["momentum"].mul_(momentum).add_(gradient)
        direction = gradient.add(running, alpha=momentum).flatten(1)     # (out, in * 9)
        weight.mul_(len(weight) ** 0.5 / weight.norm())
        step = orthogonalized(direction.to(self.precision)).to(weight.dtype)
        weight.add_(step.view_as(weight), alpha=-lr)
