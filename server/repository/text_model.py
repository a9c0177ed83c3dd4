"""What a version that turns text into text is made of: graphs, a tokenizer, and settings."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from server.errors import ServerError
from server.execution import Search, Seq2Seq
from server.model_config import ModelConfig
from server.repository.config import (
    HF_CONFIG_FILE,
    HF_GENERATION_FILE,
    ConfigInvalid,
    read_json,
)
from server.repository.generation_settings import GenerationInvalid, generation_settings
from server.text import Codec, Tokenizer, has_tokenizer, load_tokenizer

LEAST_POSITIONS = 4  # fewer cannot be meant


@dataclass
class TextModel:
    """A loaded version of a translation model.

    Attributes:
        seq2seq: Tokens in, tokens out.
        tokenizer: Texts to tokens and back.
        defaults: How sentences are searched unless a request says otherwise.
        prefix: Put in front of every sentence; None: what the tokenizer does.
        notes: What is worth knowing about how it is served.
    """

    seq2seq: Seq2Seq
    tokenizer: Tokenizer
    defaults: Search
    prefix: str | None = None
    notes: tuple[str, ...] = ()

    def bind(self, source: str | None = None, target: str | None = None) -> Codec:
        """Return the codec for a pair of languages; None means the model's own.

        Raises:
            InvalidInput: the model does not translate this pair.
        """
        codec = self.tokenizer.bind(source, target)
        return codec if self.prefix is None else replace(codec, prefix=self.prefix)

    def languages(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the short codes of source and target languages; empty where nothing says."""
        return self.tokenizer.source_languages, self.tokenizer.target_languages

    def close(self) -> None:
        """Free the model."""
        self.seq2seq.close()


@dataclass(frozen=True)
class TextParts:
    """Everything of a `TextModel` but its graphs."""

    tokenizer: Tokenizer
    defaults: Search
    notes: tuple[str, ...]


def text_config(config: ModelConfig, folders: tuple[Path, ...]) -> ModelConfig:
    """Return the configuration of a translation model: no sentence longer than it has positions.

    Raises:
        ConfigInvalid: `config.json` cannot be used.
    """
    own = config.translation
    positions = (read_json(HF_CONFIG_FILE, *folders) or {}).get("max_position_embeddings")
    if isinstance(positions, int) and positions >= LEAST_POSITIONS:
        own = own.model_copy(
            update={
                "source_tokens": min(own.source_tokens, positions),
                "target_tokens": min(own.target_tokens, positions),
            }
        )
    return config.model_copy(update={"task": "translation", "translation": own})


def read_text_parts(config: ModelConfig, folders: tuple[Path, ...]) -> TextParts:
    """Read tokenizer and settings from a version's folders, the nearest first. Blocking.

    Raises:
        ConfigInvalid: a file is missing, or cannot be used.
    """
    own = config.translation
    try:
        tokenizer = load_tokenizer(_tokenizer_folder(folders), own.source, own.target)
        codec = tokenizer.bind() if _has_default(tokenizer) else None
    except (ServerError, ValueError) as error:
        raise ConfigInvalid(f"the tokenizer cannot be used: {error}") from error
    hf_config: dict[str, Any] = read_json(HF_CONFIG_FILE, *folders) or {}
    generation = read_json(HF_GENERATION_FILE, *folders)
    if codec is not None and codec.settings:  # of this pair, as T5's config.json has them
        generation = {**(hf_config if generation is None else generation), **codec.settings}
    try:
        settings = generation_settings(hf_config, generation, config.generation, own.target_tokens)
    except GenerationInvalid as error:
        raise ConfigInvalid(f"{HF_GENERATION_FILE} or {HF_CONFIG_FILE}: {error}") from error
    return TextParts(tokenizer, settings.search, settings.notes)


def check_vocabulary(parts: TextParts, size: int) -> None:
    """Check that tokenizer and settings speak of tokens that the graphs have.

    Raises:
        ConfigInvalid: they do not.
    """
    most = parts.tokenizer.vocabulary.size
    if most > size:
        raise ConfigInvalid(
            f"the tokenizer gives tokens up to {most - 1}, the graphs know {size}; they do not "
            "belong together"
        )
    search = parts.defaults
    named = {search.start, *search.end, *search.suppressed, search.forced_first or 0}
    wrong = sorted(token for token in named if token >= size)
    if wrong:
        raise ConfigInvalid(
            f"{HF_GENERATION_FILE} names token {wrong[0]}, the graphs know {size} tokens"
        )


def _has_default(tokenizer: Tokenizer) -> bool:
    """Say whether a request may leave the languages out."""
    many = bool(tokenizer.tokens) and not tokenizer.target_in_source
    return not many or None not in (tokenizer.default_source, tokenizer.default_target)


def _tokenizer_folder(folders: tuple[Path, ...]) -> Path:
    return next((folder for folder in folders if has_tokenizer(folder)), folders[0])
