"""Translation: what a request may ask of a model that turns text into text, and its result.

What happens in between (sentences, decoding) takes many runs of the model side by side and is not
a task's: see server/translation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from random import SystemRandom
from typing import Any, Literal

from server.errors import InvalidInput
from server.execution import Search

from .base import Parameters, wrong_parameter
from .parameters import Check, ParameterTable, boolean, one_of

MAX_LANGUAGE = 40  # characters of a code
MAX_GLOSSARY = 1000  # entries of one request
MAX_TERM = 200  # characters
AUTO = "auto"

Format = Literal["text", "html"]


@dataclass(frozen=True)
class TranslationOptions:
    """What one request asks for, complete.

    Attributes:
        search: How every sentence is searched.
        source: The language the text is in; None is the model's own, "auto" is to be found out.
        target: The language that is asked for; None is the model's own.
        format: "html" keeps tags and reads entities.
        glossary: Terms and what each must become.
        sentences: Whether the result lists the sentences.
        verbatim: Whether the model reads each text as one sentence, as it is.
    """

    search: Search
    source: str | None = None
    target: str | None = None
    format: Format = "text"
    glossary: Mapping[str, str] | None = None
    sentences: bool = False
    verbatim: bool = False


class TranslationTask:
    """Texts in, texts out."""

    name = "translation"

    def __init__(self, defaults: Search, *, rows: int, target_tokens: int) -> None:
        """Take the model's own way to search, and the size of its slots.

        Args:
            defaults: what a request leaves out.
            rows: most beams of a sentence.
            target_tokens: longest target, the start included.
        """
        self._defaults = defaults
        checks: dict[str, Check] = {
            "beams": integer(1, rows),
            "n_best": integer(1, rows),
            "length_penalty": number(-10.0, 10.0),
            "early_stopping": _early_stopping,
            "max_new_tokens": integer(1, target_tokens - 1),
            "min_new_tokens": integer(0, target_tokens - 1),
            "repetition_penalty": number(0.01, 100.0),
            "no_repeat_ngram": integer(0, 100),
            "sample": boolean,
            "temperature": number(0.01, 100.0),
            "top_k": integer(0, 2**31 - 1),
            "top_p": number(0.0001, 1.0),
            "seed": integer(0, 2**63 - 1),
            "log_probabilities": boolean,
            "alignment": boolean,
            "sentences": boolean,
            "verbatim": boolean,
            "source": language,
            "target": language,
            "format": one_of("text", "html"),
            "glossary": glossary,
        }
        self._table = ParameterTable(self.name, checks, {})

    def parameters(self, raw: Parameters) -> Parameters:
        """Check a request's parameters; what it leaves out stays out."""
        return self._table.check(raw)

    def options(self, parameters: Parameters) -> TranslationOptions:
        """Return the whole of what a request asks for.

        Raises:
            InvalidInput: a parameter is unknown, wrong, or contradicts another one.
        """
        given = dict(self._table.check(parameters))
        search = self._search({name: given[name] for name in given.keys() & _SEARCH})
        own = {name: given[name] for name in given.keys() - _SEARCH}
        details = own.pop("sentences", False) or search.log_probabilities or search.alignment
        return TranslationOptions(search, sentences=bool(details), **own)

    def _search(self, given: dict[str, Any]) -> Search:
        if "beams" not in given:
            # Asking for alternatives, or for chance, says something about the beams.
            least = given.get("n_best", 1)
            sampled = given.get("sample", self._defaults.sample)
            only_here = sampled and not self._defaults.sample
            given["beams"] = least if only_here else max(least, self._defaults.beams)
        search = replace(self._defaults, **given)
        if search.n_best > search.beams:
            raise InvalidInput(
                f"n_best = {search.n_best} needs as many beams, got beams = {search.beams}",
                field="parameters.n_best",
                expected=f"1..{search.beams}",
                got=search.n_best,
            )
        if search.min_new_tokens > search.max_new_tokens:
            raise InvalidInput(
                f"min_new_tokens = {search.min_new_tokens} is above max_new_tokens = "
                f"{search.max_new_tokens}",
                field="parameters.min_new_tokens",
                expected=f"0..{search.max_new_tokens}",
                got=search.min_new_tokens,
            )
        if search.sample and "seed" not in given:
            search = replace(search, seed=SystemRandom().randrange(2**31))
        return search


_SEARCH = {field.name for field in fields(Search)}


def integer(least: int, most: int) -> Check:
    """Return a check that accepts integers from `least` to `most`."""
    right = f"an integer from {least} to {most}"

    def check(name: str, value: Any) -> int:
        if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
            value = int(value)
        if type(value) is not int or not least <= value <= most:
            raise wrong_parameter(name, right, value)
        return value

    return check


def number(least: float, most: float) -> Check:
    """Return a check that accepts numbers from `least` to `most`."""
    right = f"a number from {least:g} to {most:g}"

    def check(name: str, value: Any) -> float:
        if isinstance(value, str) and len(value) < 40:
            try:
                value = float(value)
            except ValueError:
                raise wrong_parameter(name, right, value) from None
        if type(value) not in (int, float) or not least <= value <= most:
            raise wrong_parameter(name, right, value)
        return float(value)

    return check


def language(name: str, value: Any) -> str | None:
    """Accept the code of a language; nothing means the model's own."""
    if value is None or value == "":
        return None
    if not isinstance(value, str) or len(value) > MAX_LANGUAGE or not value.isprintable():
        raise wrong_parameter(name, "the code of a language, as `de`", value)
    return value


def glossary(name: str, value: Any) -> dict[str, str] | None:
    """Accept `{term: what it becomes}`; a list of terms keeps them as they are."""
    if value is None:
        return None
    if isinstance(value, list):
        value = {term: term for term in value if isinstance(term, str)} if _all_text(value) else 0
    right = f"an object of up to {MAX_GLOSSARY} terms, each up to {MAX_TERM} characters"
    if not isinstance(value, dict) or len(value) > MAX_GLOSSARY:
        raise wrong_parameter(name, right, value)
    words = [*value.keys(), *value.values()]
    if not _all_text(words) or any(len(word) > MAX_TERM for word in words) or "" in value:
        raise wrong_parameter(name, right, value)
    return value


def _all_text(values: list[Any]) -> bool:
    return all(isinstance(value, str) for value in values)


def _early_stopping(name: str, value: Any) -> bool | str:
    return "never" if value == "never" else boolean(name, value)
