"""Convolutions of pictures."""

from __future__ import annotations

from engine.cpu.lower.conv_geometry import border_of

__all__ = ["border_of"]
