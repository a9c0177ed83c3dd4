"""One sentence on its way through a decoder, and what comes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from server.errors import ServerError
from server.execution import Hypothesis, Search


@dataclass(frozen=True, slots=True)
class SentenceResult:
    """What a search gave, and where the time went.

    Attributes:
        hypotheses: The best `n_best`, best first.
        looped: The search was ended because it repeated itself; the repetition is cut off.
        cached: The result was known before.
        queue_us: From the submission until the encoder took it.
        compute_us: From there to its end, beside all that ran with it.
    """

    hypotheses: tuple[Hypothesis, ...]
    looped: bool = False
    cached: bool = False
    queue_us: int = 0
    compute_us: int = 0


class Waiter(Protocol):
    """Whom the loop tells; called on the event loop."""

    @property
    def streaming(self) -> bool:
        """Whether it wants every token; read by the decoding thread."""

    def token(self, token: int) -> None:
        """Take the next token."""

    def done(self, outcome: SentenceResult | ServerError) -> None:
        """Take the result."""


class Sentence:
    """A search that waits or runs. Belongs to the decoding thread once it is submitted.

    Only `abandoned` and `deadline_us` are written by others, each in one assignment.
    """

    __slots__ = (
        *("abandoned", "alone", "arrived_us", "deadline_us", "first_step", "handle", "lane"),
        *(
            "rank",
            "rows",
            "search",
            "sent",
            "source",
            "source_tokens",
            "started_us",
            "tokens",
            "waiter",
        ),
    )

    def __init__(
        self,
        tokens: Sequence[int],
        search: Search,
        waiter: Waiter,
        *,
        arrived_us: int,
        deadline_us: int | None,
        rank: int,
    ) -> None:
        """Describe the search; times are on the loop's clock."""
        self.tokens = tokens
        self.search = search
        self.waiter = waiter
        self.rows = search.beams
        self.source_tokens = len(tokens)
        self.arrived_us = arrived_us
        self.deadline_us = deadline_us
        self.rank = rank
        self.abandoned = False
        self.alone = False
        self.lane = 0
        self.sent = 0  # tokens that were handed to a streaming waiter
        self.started_us = 0
        self.first_step = 0  # the number of steps that the decoder had done when it began
        self.handle = -1  # the decoder's words for it, while it runs
        self.source = -1
