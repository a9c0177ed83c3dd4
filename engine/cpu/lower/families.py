"""Imports every file of rules and converters, so that they register themselves."""

from engine.cpu.lower import convert

__all__ = ["convert"]
