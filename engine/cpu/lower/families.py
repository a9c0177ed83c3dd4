"""Imports every file of rules and converters, so that they register themselves."""

from engine.cpu.lower import conv, convert, indexing, joining, matmul, pooling, shape

__all__ = ["conv", "convert", "indexing", "joining", "matmul", "pooling", "shape"]
