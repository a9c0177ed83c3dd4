"""Operators that ONNX Runtime writes for one kind of processor only: refused with what to do.

At its highest level its optimizer brings channels and filters into blocks as wide as the vector
registers of the machine it runs on; only a machine like it can read the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from engine.ir.types import TensorType
from engine.ops.common import Array
from engine.ops.contexts import ComputeContext, InferContext
from engine.ops.registry import operator

BLOCKED = "com.microsoft.nchwc"
NAMES = (
    *("Conv", "MaxPool", "AveragePool", "GlobalMaxPool", "GlobalAveragePool"),
    *("ReorderInput", "ReorderOutput", "Upsample"),
)
HINT = "a layout of one kind of processor; let ONNX Runtime save the file at ORT_ENABLE_EXTENDED"


class Blocked:
    """Anything on blocked channels."""

    attributes = dict.fromkeys(
        (
            *("activation", "activation_params", "auto_pad", "ceil_mode", "channels"),
            *("channels_last", "coordinate_transformation_mode", "count_include_pad"),
            *("dilations", "group", "kernel_shape", "mode", "nearest_mode", "pads"),
            *("scales", "storage_order", "strides"),
        )
    )

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """Say what to do instead."""
        ctx.unsupported(HINT)

    @staticmethod
    def compute(ctx: ComputeContext, *inputs: Array | None) -> NoReturn:
        """Never reached: loading refuses the node."""
        raise NotImplementedError(HINT)


for name in NAMES:
    operator(name, since=1, domain=BLOCKED)(Blocked)
