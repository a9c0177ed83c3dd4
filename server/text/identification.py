"""Which language a text is in. Works without a network; knows 139 languages."""

from __future__ import annotations

import threading
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from .languages import base_language

MAX_CHARACTERS = 4000  # more of a text says nothing new
NO_LANGUAGE = "zxx"  # how the library names numbers, codes and the like


@dataclass(frozen=True, slots=True)
class Detection:
    """A language that a text may be in, with a share of 1."""

    language: str
    confidence: float


class LanguageDetector:
    """Loads its model (some 100 MB of memory, under a second) when it is first asked."""

    def __init__(self) -> None:
        """Nothing is loaded yet."""
        self._identifier: Any = None
        self._lock = threading.Lock()

    def detect(self, text: str, among: Collection[str] | None = None) -> tuple[Detection, ...]:
        """Return languages, likeliest first; none for a text without letters.

        Args:
            text: Any text; a long one is judged by its beginning.
            among: Languages that come into question, by any of their names; None for all.
        """
        start = text[:MAX_CHARACTERS]
        if not any(character.isalpha() for character in start):
            return ()
        wanted = None if among is None else {base_language(name) for name in among}
        shares: dict[str, float] = {}
        for name, share in self._load().rank(start):
            language = base_language(name)
            if name != NO_LANGUAGE and (wanted is None or language in wanted):
                shares[language] = shares.get(language, 0.0) + share
        total = sum(shares.values())
        if wanted is not None:
            missing = sorted(wanted - shares.keys())
            shares.update(dict.fromkeys(missing, 0.0))
        ranked = sorted(shares.items(), key=lambda item: -item[1])
        return tuple(Detection(name, share / total if total else 0.0) for name, share in ranked)

    def _load(self) -> Any:
        with self._lock:
            if self._identifier is None:
                # Only here: reading the library's model takes most of a second.
                from py3langid.langid import MODEL_FILE, LanguageIdentifier

                self._identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
            return self._identifier
