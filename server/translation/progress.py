"""What of a translation is settled while it is still being made."""

from __future__ import annotations

from collections.abc import Callable

from server.text import Codec, Gap, Plan, TokenStream


class Progress:
    """Tells a listener the translation piece by piece, in the order of the text."""

    def __init__(self, plan: Plan, codec: Codec, on_text: Callable[[str], None]) -> None:
        """Start with nothing told."""
        self._pieces = plan.pieces
        self._place = 0  # of the first piece that is not told whole
        self._codec = codec
        self._on_text = on_text
        self._texts: dict[int, str] = {}  # of sentences that are done, and not told
        self._tokens: dict[int, list[int]] = {}  # of those that are under way
        self._current = 0  # the first sentence that is not told whole
        self._stream: TokenStream | None = None  # of that sentence
        self._told = 0  # characters of it

    def begin(self) -> None:
        """Tell what comes before the first sentence; of a text without any, all of it."""
        self._tell("".join(self._settled()))

    def token(self, index: int, token: int) -> None:
        """Take the next token of a sentence."""
        self._tokens.setdefault(index, []).append(token)
        if index == self._current:
            self._tell("".join(self._settled()))

    def done(self, index: int, text: str) -> None:
        """Take the text of a finished sentence."""
        self._texts[index] = text
        if index == self._current:
            self._tell("".join(self._settled()))

    def _settled(self) -> list[str]:
        """Return what has been settled since the last time."""
        found = []
        while self._place < len(self._pieces):
            piece = self._pieces[self._place]
            if isinstance(piece, Gap):
                found.append(piece.written)
            elif self._current in self._texts:
                found.append(self._texts.pop(self._current)[self._told :])
                self._tokens.pop(self._current, None)
                self._current, self._stream, self._told = self._current + 1, None, 0
            else:
                found.append(self._beginning())
                break
            self._place += 1
        return found

    def _beginning(self) -> str:
        """Return what is new of the sentence that is under way."""
        tokens = self._tokens.get(self._current)
        if not tokens:
            return ""
        if self._stream is None:
            self._stream = self._codec.stream()
        text = self._stream.push(tokens)
        new, self._told = text[self._told :], max(self._told, len(text))
        return new

    def _tell(self, text: str) -> None:
        if text:
            self._on_text(text)
