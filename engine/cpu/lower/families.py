"""Imports every file of rules and converters, so that they register themselves."""

from engine.cpu.lower import convert, indexing, joining, pooling, shape

__all__ = ["convert", "indexing", "joining", "pooling", "shape"]
