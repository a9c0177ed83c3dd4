"""The text of a sequence that is still growing."""

from __future__ import annotations

from collections.abc import Callable, Sequence

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"  # what decoders give for bytes of an unfinished character


class TokenStream:
    """Decodes one growing sequence; what it has given once never changes.

    An unfinished character is held back until its last byte came. Where a later token changes what
    was given (a beam search that prefers another sequence, a decoder that tidies up), nothing more
    is given: the finished text says it all.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        """Start with an empty sequence."""
        self._decode = decode
        self._shown = ""

    def push(self, tokens: Sequence[int]) -> str:
        """Return the text that is settled once `tokens`, the whole sequence so far, are known."""
        settled = self._decode(tokens).rstrip(REPLACEMENT)
        if settled.startswith(self._shown):
            self._shown = settled
        return self._shown

    def finish(self, tokens: Sequence[int]) -> str:
        """Return the text of the finished sequence."""
        return self._decode(tokens)
