"""Texts as the model reads them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from .codec import Codec

Write = Callable[[str], str]  # how text is written in the document: HTML escapes it


@dataclass(frozen=True)
class Source:
    """One text to be translated."""

    text: str
    codec: Codec

    @cached_property
    def tokens(self) -> tuple[int, ...]:
        """Return the ids that the encoder reads."""
        return self.codec.encode(self.text)


def squeezed(text: str) -> str:
    """Return text with single spaces and none around it."""
    return " ".join(text.split())
