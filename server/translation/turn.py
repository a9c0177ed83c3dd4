"""What one turn of a driver brought."""

from __future__ import annotations

from server.errors import ServerError
from server.translation.sentence import Sentence, SentenceResult


class Turn:
    """What one turn of the driver brought: to be told in this order."""

    __slots__ = ("outcomes", "tokens")

    def __init__(self) -> None:
        """Start with no news."""
        self.tokens: list[tuple[Sentence, int]] = []
        self.outcomes: list[tuple[Sentence, SentenceResult | ServerError]] = []

    def __bool__(self) -> bool:
        """Say whether there is anything to tell."""
        return bool(self.tokens or self.outcomes)
