"""A model's tokenizer: one vocabulary, and the languages that it can be asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from server.errors import InvalidInput

from .codec import Codec, Vocabulary
from .languages import base_language, pick_language

SOURCE = None  # stands for the source language's token in a frame


@dataclass(frozen=True)
class Task:
    """What a model calls one pair of languages and wants in front of its text, as T5 has it."""

    source: str
    target: str
    prefix: str
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Tokenizer:
    """Read once per version of a model; `bind` makes the codec of one pair of languages.

    A model translates one declared pair, or between many languages each with a token of its own,
    or into several by a token in front of the source, or by tasks that are named in words.

    Attributes:
        vocabulary: Text to ids and back.
        lead: Ids in front of every source; SOURCE is replaced by the source language's.
        tail: Ids behind every source, likewise.
        tokens: Language -> its token, of models that have such tokens.
        target_in_source: Whether the target's token goes in front of the source (Marian), not in
            front of the target.
        tasks: The pairs of models that are told in words.
        default_source: The language that is meant where none is named, or None.
        default_target: Likewise.
        end: The id that ends sequences, or None where the files do not say.
        padding: The id of padding, or None.
    """

    vocabulary: Vocabulary
    lead: tuple[int | None, ...] = ()
    tail: tuple[int | None, ...] = ()
    tokens: Mapping[str, int] = field(default_factory=dict)
    target_in_source: bool = False
    tasks: tuple[Task, ...] = ()
    default_source: str | None = None
    default_target: str | None = None
    end: int | None = None
    padding: int | None = None

    @property
    def source_languages(self) -> tuple[str, ...]:
        """Return the short names of all source languages; empty if the files do not say."""
        if self.tasks:
            return _short(task.source for task in self.tasks)
        if self.tokens and not self.target_in_source:
            return _short(self.tokens)
        return _short([self.default_source] if self.default_source else [])

    @property
    def target_languages(self) -> tuple[str, ...]:
        """Return the short names of all target languages; empty if the files do not say."""
        if self.tasks:
            return _short(task.target for task in self.tasks)
        if self.tokens:
            return _short(self.tokens)
        return _short([self.default_target] if self.default_target else [])

    def bind(self, source: str | None = None, target: str | None = None) -> Codec:
        """Return the codec for a pair of languages; None means the model's default.

        Raises:
            InvalidInput: The model does not translate this pair.
        """
        if self.tasks:
            return self._bind_task(source, target)
        if self.tokens and self.target_in_source:
            return self._bind_target_in_source(source, target)
        if self.tokens:
            return self._bind_tokens(source, target)
        source = self._declared(source, self.default_source, "source")
        target = self._declared(target, self.default_target, "target")
        return Codec(
            self.vocabulary, _ids(self.lead), _ids(self.tail), source=source, target=target
        )

    def _bind_task(self, source: str | None, target: str | None) -> Codec:
        for task in self.tasks:
            if _same(source, task.source) and _same(target, task.target):
                return Codec(
                    self.vocabulary,
                    _ids(self.lead),
                    _ids(self.tail),
                    prefix=task.prefix,
                    source=task.source,
                    target=task.target,
                    settings=task.settings,
                )
        pairs = ", ".join(f"{task.source} to {task.target}" for task in self.tasks)
        raise InvalidInput(
            f"the model does not translate {source or 'any'} to {target or 'any'}; it has {pairs}",
            field="target",
            expected=pairs,
            got=f"{source} to {target}",
        )

    def _bind_target_in_source(self, source: str | None, target: str | None) -> Codec:
        source = self._declared(source, self.default_source, "source")
        target = self._token_language(target, self.default_target or next(iter(self.tokens)))
        lead = (self.tokens[target], *_ids(self.lead))
        return Codec(self.vocabulary, lead, _ids(self.tail), source=source, target=target)

    def _bind_tokens(self, source: str | None, target: str | None) -> Codec:
        source = self._token_language(source, self.default_source, "source")
        target = self._token_language(target, self.default_target, "target")
        token = self.tokens[source]
        return Codec(
            self.vocabulary,
            tuple(token if each is SOURCE else each for each in self.lead),
            tuple(token if each is SOURCE else each for each in self.tail),
            forced_first=self.tokens[target],
            source=source,
            target=target,
        )

    def _token_language(self, asked: str | None, default: str | None, side: str = "target") -> str:
        if asked is None and default is None:
            raise InvalidInput(
                f"the model translates between {len(self.tokens)} languages: name the {side} one",
                field=side,
                expected="a language",
                got=None,
            )
        found = pick_language(asked or str(default), self.tokens)
        if found is None:
            raise _unknown_language(str(asked or default), side, list(self.tokens))
        return found

    def _declared(self, asked: str | None, declared: str | None, side: str) -> str | None:
        """Return the language of a side that has only one; what is not declared is believed."""
        if asked is not None and declared is not None and not _same(asked, declared):
            raise _unknown_language(asked, side, [declared])
        return declared or asked


def _unknown_language(asked: str, side: str, known: list[str]) -> InvalidInput:
    shown = ", ".join(_short(known)[:20]) + (", ..." if len(_short(known)) > 20 else "")
    return InvalidInput(
        f"the model does not know {asked[:40]!r} as a {side} language; it has {shown}",
        field=side,
        expected=f"one of {shown}",
        got=asked[:40],
    )


def _same(asked: str | None, known: str) -> bool:
    return asked is None or base_language(asked) == base_language(known)


def _short(languages: Any) -> tuple[str, ...]:
    return tuple(dict.fromkeys(base_language(language) for language in languages))


def _ids(frame: tuple[int | None, ...]) -> tuple[int, ...]:
    return tuple(each for each in frame if each is not None)
