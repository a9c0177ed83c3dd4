"""The networks: what is expected of each beside ONNX Runtime's answers."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import engine

DEFAULT = 5e-5
EIGHT_BITS = 1.01 / 127  # a value on the border of two steps may fall to either side


@dataclass(frozen=True)
class Network:
    """What is expected of a network.

    Attributes:
        batch: Which inputs and outputs hold independent items.
        alone: Text of the reason why nothing may be batched, where `batch` is None.
        tolerance: How far answers may be from those on file, relative to their largest magnitude.
        open: Outputs with sizes that only values tell.
        pending: Text of the error that loading ends in, where the engine cannot run it yet.
    """

    batch: engine.BatchAxes | None = None
    alone: str = ""
    tolerance: float = DEFAULT
    open: frozenset[str] = field(default_factory=frozenset)
    pending: str = ""

    def within(self, tolerance: float) -> Network:
        """Return the same with another tolerance."""
        return replace(self, tolerance=tolerance)

    def opened(self, *outputs: str) -> Network:
        """Return the same with outputs whose sizes only values tell."""
        return replace(self, open=frozenset(outputs))

    def lacks(self, pending: str) -> Network:
        """Return the same as one that the engine cannot load yet."""
        return replace(self, pending=pending)


def rows(inputs: str, outputs: str) -> Network:
    """Return a network whose items are independent in all these inputs and outputs."""
    return Network(engine.BatchAxes(frozenset(inputs.split()), frozenset(outputs.split())))


def alone(reason: str) -> Network:
    """Return a network in which nothing may be batched."""
    return Network(alone=reason)


ONE = rows("x", "y")

NETWORKS: dict[str, Network] = {
    # classifiers
    "resnet": ONE,
    "resnet_bottleneck": ONE,
    "mobilenet_v2": ONE,
    "mobilenet_v3": ONE,
    "efficientnet": ONE,
    "densenet": ONE,
    "inception": ONE,
    "shufflenet": ONE,
    "squeezenet": ONE,
    "convnext": ONE,
    # pictures
    "unet": ONE,
    "unet_bilinear": ONE,
    "segmentation": ONE,
    "style_transfer": ONE,
    "super_resolution": ONE,
    "gan_generator": ONE,
}
