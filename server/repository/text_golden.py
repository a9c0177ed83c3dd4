"""Golden samples of a translation model: texts with the translations that it must give.

    <version>/samples/*.json    {"text", "translation", "tokens"?, "parameters"?}

They are checked before a version serves anything, and they warm it up.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

from server.repository.golden import MAX_SAMPLES, GoldenMismatch
from server.repository.layout import SAMPLES_FOLDER

MAX_SAMPLE_BYTES = 1 << 20
KEYS = ("text", "translation", "tokens", "parameters")


@dataclass(frozen=True)
class TextSample:
    """One text and what must come of it.

    Attributes:
        name: Of its file.
        text: What is translated.
        translation: What must come out, to the letter.
        tokens: What must be generated, all sentences one after the other; None: not checked.
        parameters: As a request has them.
    """

    name: str
    text: str
    translation: str
    tokens: tuple[int, ...] | None = None
    parameters: dict[str, Any] = field(default_factory=dict)

    def check(self, translation: str, tokens: Sequence[int], similarity: float = 1.0) -> None:
        """Compare with what a model gave.

        Args:
            translation: what came out.
            tokens: what was generated.
            similarity: how much of the words must be as expected, in their order. Below 1, other
                tokens may lead there.

        Raises:
            GoldenMismatch: saying what was expected and what came.
        """
        where = f"{SAMPLES_FOLDER}/{self.name}"
        if similarity < 1.0:
            self._check_words(where, translation, similarity)
            return
        if self.tokens is not None and tuple(tokens) != self.tokens:
            pairs = zip(self.tokens, tokens, strict=False)
            place = next((i for i, (a, b) in enumerate(pairs) if a != b), None)
            at = min(len(self.tokens), len(tokens)) if place is None else place
            raise GoldenMismatch(
                f"{where}: tokens differ from place {at} on: expected "
                f"{list(self.tokens[at : at + 8])}, got {list(tokens[at : at + 8])}"
            )
        if translation != self.translation:
            raise GoldenMismatch(
                f"{where}: expected {self.translation[:200]!r}, got {translation[:200]!r}"
            )

    def _check_words(self, where: str, translation: str, similarity: float) -> None:
        expected, came = self.translation.split(), translation.split()
        ratio = SequenceMatcher(None, expected, came, autojunk=False).ratio()
        if ratio < similarity:
            raise GoldenMismatch(
                f"{where}: expected {self.translation[:200]!r}, got {translation[:200]!r}, "
                f"similar to {ratio:.2f}; golden.similarity is {similarity:g}"
            )


def read_text_samples(folder: Path) -> list[TextSample]:
    """Return the samples of a version folder, in the order of their names. Blocking.

    Raises:
        GoldenMismatch: a file cannot be read as a sample.
    """
    paths = sorted((folder / SAMPLES_FOLDER).glob("*.json"))
    return [_read(path) for path in paths[:MAX_SAMPLES] if not path.name.startswith(".")]


def _read(path: Path) -> TextSample:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_SAMPLE_BYTES + 1)
        if len(raw) > MAX_SAMPLE_BYTES:
            raise ValueError(f"longer than {MAX_SAMPLE_BYTES} bytes")
        return _parse(path.name, json.loads(raw))
    except (OSError, ValueError, RecursionError) as error:
        raise GoldenMismatch(f"{SAMPLES_FOLDER}/{path.name} cannot be used: {error}") from error


def _parse(name: str, body: Any) -> TextSample:
    if not isinstance(body, dict) or not {"text", "translation"} <= body.keys() <= set(KEYS):
        raise ValueError('expected {"text", "translation", "tokens"?, "parameters"?}')
    text, translation = body["text"], body["translation"]
    tokens, parameters = body.get("tokens"), body.get("parameters") or {}
    if not isinstance(text, str) or not isinstance(translation, str):
        raise ValueError("`text` and `translation` must be strings")
    if tokens is not None and not (isinstance(tokens, list) and all(map(_is_int, tokens))):
        raise ValueError("`tokens` must be a list of integers")
    if not isinstance(parameters, dict):
        raise ValueError("`parameters` must be an object")
    return TextSample(
        name, text, translation, None if tokens is None else tuple(tokens), parameters
    )


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
