"""What every definition shares: an exportable network, and weights under which signals stay alive.

Nothing is trained here. Speed hardly depends on weights, but denormal, constant or infinite
activations would change it, and they would make any comparison of outputs meaningless.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

# Of the last norm of a residual branch, as training leaves it: well below one (it is commonly begun
# at zero: Goyal et al., "Accurate, Large Minibatch SGD", 2017). With a gain of one, random networks
# magnify every rounding from block to block; trained ones do not.
RESIDUAL_GAIN = 0.3

Axes = Mapping[str, Mapping[int, str]]


@dataclass(frozen=True)
class Exportable:
    """A network with what the exporter needs to know.

    Attributes:
        module: In evaluation mode.
        example: Arguments of one call, with a batch of two so that no dim is 1 by chance.
        inputs: Names of the arguments.
        outputs: Names of the results.
        axes: Symbolic dims by tensor name and axis.
    """

    module: nn.Module
    example: tuple[Tensor, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    axes: Axes = field(default_factory=dict)


def end_residual(branch: nn.Module) -> None:
    """Give the last batch norm of a residual branch the gain that is usual there."""
    *_, last = (part for part in branch.modules() if isinstance(part, nn.BatchNorm2d))
    last.usual_gain = RESIDUAL_GAIN  # type: ignore[assignment]


def draw_weights(module: nn.Module, seed: int) -> None:
    """Fill all parameters: variance kept from layer to layer, small biases, gains around one, or
    around what `end_residual` set.
    """
    generator = torch.Generator().manual_seed(seed)
    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.ConvTranspose2d):
            # An output element sums this many products, whichever way the convolution goes.
            fan_in = part.in_channels * math.prod(part.kernel_size) / part.groups
            if isinstance(part, nn.ConvTranspose2d):
                fan_in /= math.prod(part.stride)
            _normal(part.weight, math.sqrt(2.0 / fan_in), generator)
            _normal(part.bias, 0.05, generator)
        elif isinstance(part, nn.Linear):
            _normal(part.weight, part.in_features**-0.5, generator)
            _normal(part.bias, 0.05, generator)
        elif isinstance(part, nn.Embedding):
            _normal(part.weight, part.embedding_dim**-0.5, generator)
        elif isinstance(part, nn.BatchNorm2d | nn.LayerNorm):
            gain = float(getattr(part, "usual_gain", 1.0))
            _normal(part.weight, 0.1 * gain, generator, mean=gain)
            _normal(part.bias, 0.1 * gain, generator)
        elif isinstance(part, nn.LSTM):
            for weight in part.parameters():
                _normal(weight, part.hidden_size**-0.5, generator)


def settle_statistics(module: nn.Module, *example: Tensor) -> None:
    """Give batch norms the statistics of `example`, then switch to evaluation."""
    norms = [part for part in module.modules() if isinstance(part, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch then averages over all calls
    module.train()
    with torch.no_grad():
        module(*example)
    module.eval()


def random_tensor(*shape: int, seed: int = 1) -> Tensor:
    """Return standard normal numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def batch_axis(*names: str) -> dict[str, dict[int, str]]:
    """Return axes for tensors whose only symbolic dim is the batch size."""
    return {name: {0: "N"} for name in names}


def _normal(
    tensor: Tensor | None, deviation: float, generator: torch.Generator, mean: float = 0.0
) -> None:
    if tensor is not None:
        with torch.no_grad():
            tensor.normal_(mean, deviation, generator=generator)
