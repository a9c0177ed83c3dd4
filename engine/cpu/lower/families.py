"""Imports every file of rules and converters, so that they register themselves."""

from engine.cpu.lower import (
    attention,
    conv,
    conv_transpose,
    convert,
    elementwise,
    indexing,
    joining,
    matmul,
    pooling,
    recurrent,
    resize,
    shape,
)

__all__ = [
    "attention",
    "conv",
    "conv_transpose",
    "convert",
    "elementwise",
    "indexing",
    "joining",
    "matmul",
    "pooling",
    "recurrent",
    "resize",
    "shape",
]
