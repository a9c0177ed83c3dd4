"""Imports every file of rules and converters, so that they register themselves."""

from engine.cpu.lower import (
    attention,
    conv,
    conv_transpose,
    convert,
    elementwise,
    indexing,
    int8_conv,
    int8_matmul,
    joining,
    matmul,
    normalization,
    pooling,
    recurrent,
    resize,
    shape,
    softmax,
)

__all__ = [
    "attention",
    "conv",
    "conv_transpose",
    "convert",
    "elementwise",
    "indexing",
    "int8_conv",
    "int8_matmul",
    "joining",
    "matmul",
    "normalization",
    "pooling",
    "recurrent",
    "resize",
    "shape",
    "softmax",
]
