"""Vocabularies of `tokenizer.json`, the file of the tokenizers library."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import tokenizers

from server.errors import LoadFailed

from .languages import language_of_token
from .reading import read_bytes

# Decoders that separate word pieces by spaces leave some in front of marks; T5's old files ask
# for this tidying.
TIDY = (" .", " ?", " !", " ,", " n't", " 'm", " 's", " 've", " 're")


class HubVocabulary:
    """The tokenizer of a `tokenizer.json`, without what it adds around a text."""

    def __init__(
        self, tokenizer: tokenizers.Tokenizer, *, unknown: int | None = None, tidy: bool = False
    ) -> None:
        """Take a tokenizer; special tokens that a text spells out become plain text."""
        tokenizer.no_padding()
        tokenizer.no_truncation()
        tokenizer.encode_special_tokens = True
        self._tokenizer = tokenizer
        self._tidy = tidy
        self.size = 1 + max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
        self.unknown = unknown
        added = tokenizer.get_added_tokens_decoder()
        special = {number for number, token in added.items() if token.special}
        self._special = frozenset(special - {unknown})

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        # Some vocabularies have special tokens among their ordinary pieces as well.
        special = self._special
        return ids if special.isdisjoint(ids) else [each for each in ids if each not in special]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids."""
        size = self.size
        known = [number for number in ids if 0 <= number < size]
        text: str = self._tokenizer.decode(known, skip_special_tokens=True)
        if self._tidy:
            for mark in TIDY:
                text = text.replace(mark, mark[1:])
        return text.strip()


def read_tokenizer(path: Path) -> tuple[tokenizers.Tokenizer, dict[str, Any]]:
    """Return the tokenizer of a file, and the file's own content.

    Raises:
        LoadFailed: It is no tokenizer.
    """
    data = read_bytes(path)
    try:
        text = data.decode()
        content = json.loads(text)
        return tokenizers.Tokenizer.from_str(text), content
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of the library is no Exception
        raise LoadFailed(f"{path.name} is not a tokenizer: {str(error)[:200]}") from error


def unknown_of(tokenizer: tokenizers.Tokenizer, content: dict[str, Any]) -> int | None:
    """Return the id of what the vocabulary lacks; None for one that spells out bytes instead."""
    model = content.get("model")
    if not isinstance(model, dict) or model.get("byte_fallback"):
        return None
    number, token = model.get("unk_id"), model.get("unk_token")
    if isinstance(token, str):
        number = tokenizer.token_to_id(token)
    return number if isinstance(number, int) else None


def frame_of(
    tokenizer: tokenizers.Tokenizer, content: dict[str, Any], languages: Iterable[str]
) -> tuple[list[int | None], list[int | None]]:
    """Return the ids that the file puts in front of and behind one text.

    Any language's token in it stands for the source language's: None.
    """
    spelled = set(languages)
    probe = "a"
    plain = tokenizer.encode(probe, add_special_tokens=False).ids
    whole = tokenizer.encode(probe, add_special_tokens=True).ids
    at = next((i for i in range(len(whole)) if whole[i : i + len(plain)] == plain), None)
    if at is None or not plain:
        raise LoadFailed("tokenizer.json changes the text itself when it adds special tokens")

    def language_or_id(number: int) -> int | None:
        token = tokenizer.id_to_token(number)
        return None if token in spelled else number

    lead = [language_or_id(number) for number in whole[:at]]
    return lead, [language_or_id(number) for number in whole[at + len(plain) :]]


def language_tokens(tokenizer: tokenizers.Tokenizer) -> dict[str, int]:
    """Return language -> id of the special tokens that name languages."""
    found = {}
    for number, token in sorted(tokenizer.get_added_tokens_decoder().items()):
        language = language_of_token(token.content) if token.special else None
        if language is not None:
            found[language] = number
    return found
