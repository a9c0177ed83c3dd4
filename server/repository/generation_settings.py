"""Turn what a Hugging Face export says about generating text into a `Search`. Pure.

`generation_config.json` says it; models from before that file say it in `config.json`. Names and
defaults are those of transformers' `GenerationConfig`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from server.execution import Search
from server.model_config import GenerationConfig

Json = Mapping[str, Any]

DEFAULT_TOP_K = 50  # what transformers takes where the files say nothing

# Settings that change which tokens come out and that are not followed; value: no effect.
_NOT_FOLLOWED: dict[str, tuple[Any, ...]] = {
    "begin_suppress_tokens": (None, []),
    "diversity_penalty": (None, 0, 0.0),
    "num_beam_groups": (None, 1),
    "penalty_alpha": (None, 0, 0.0),
    "typical_p": (None, 1, 1.0),
    "min_p": (None, 0, 0.0),
    "epsilon_cutoff": (None, 0, 0.0),
    "eta_cutoff": (None, 0, 0.0),
    "encoder_repetition_penalty": (None, 1, 1.0),
    "encoder_no_repeat_ngram_size": (None, 0),
    "exponential_decay_length_penalty": (None,),
    "guidance_scale": (None, 1, 1.0),
    "sequence_bias": (None,),
    "constraints": (None,),
    "force_words_ids": (None,),
}


class GenerationInvalid(ValueError):
    """A file says something about generation that cannot be followed; the message names the key."""


@dataclass(frozen=True)
class GenerationSettings:
    """How a model generates unless a request says otherwise."""

    search: Search
    notes: tuple[str, ...] = ()  # what the files ask for and is not done


def generation_settings(
    config: Json, generation: Json | None, own: GenerationConfig, target_tokens: int
) -> GenerationSettings:
    """Put the settings together: `model.toml`, then `generation_config.json`, then `config.json`.

    Args:
        config: the contents of `config.json`.
        generation: those of `generation_config.json`, if there is one.
        own: `[generation]` of `model.toml`.
        target_tokens: longest target that the slots hold, the start included.

    Raises:
        GenerationInvalid: a key has a value that cannot be followed, or one is missing.
    """
    said = _Said(generation if generation is not None else config, config)
    search = _override(_search_of(said, target_tokens - 1), own)
    longest = target_tokens - 1
    if search.max_new_tokens > longest:
        search = replace(search, max_new_tokens=longest)
    if search.min_new_tokens > search.max_new_tokens:
        raise GenerationInvalid(
            f"min_new_tokens: expected at most max_new_tokens = {search.max_new_tokens}, "
            f"got {search.min_new_tokens}"
        )
    notes = [
        f"{key} = {said.own[key]!r} is not followed"[:200]
        for key, neutral in _NOT_FOLLOWED.items()
        if key in said.own and said.own[key] not in neutral
    ]
    return GenerationSettings(search, tuple(notes))


def _search_of(said: _Said, longest: int) -> Search:
    start = said.token("decoder_start_token_id")
    if start is None:
        start = said.token("bos_token_id")
    end = said.tokens("eos_token_id")
    if start is None:
        raise GenerationInvalid(
            "decoder_start_token_id: expected the token that a target begins with, in "
            "generation_config.json or config.json; it is in neither"
        )
    if not end:
        raise GenerationInvalid(
            "eos_token_id: expected the token that ends a target, in generation_config.json or "
            "config.json; it is in neither"
        )
    beams = said.integer("num_beams", 1, least=1)
    return Search(
        start=start,
        end=end,
        max_new_tokens=_most_new(said, longest),
        beams=beams,
        n_best=1,  # more answers than one are given when a request asks for them
        length_penalty=said.number("length_penalty", 1.0),
        early_stopping=said.early_stopping(),
        min_new_tokens=_least_new(said),
        repetition_penalty=said.number("repetition_penalty", 1.0, above=0.0),
        no_repeat_ngram=said.integer("no_repeat_ngram_size", 0, least=0),
        bad_words=said.words("bad_words_ids"),
        suppressed=said.tokens("suppress_tokens"),
        forced_first=said.token("forced_bos_token_id"),
        forced_last=next(iter(said.tokens("forced_eos_token_id")), None),
        sample=said.boolean("do_sample"),
        temperature=said.number("temperature", 1.0, above=0.0),
        top_k=said.integer("top_k", DEFAULT_TOP_K, least=0),
        top_p=said.number("top_p", 1.0, above=0.0),
    )


def _most_new(said: _Said, longest: int) -> int:
    new = said.integer("max_new_tokens", 0, least=1)
    if new:
        return new
    total = said.integer("max_length", 0, least=1)  # counts the start, too
    return max(1, total - 1) if total else longest


def _least_new(said: _Said) -> int:
    new = said.integer("min_new_tokens", 0, least=0)
    return new or max(0, said.integer("min_length", 0, least=0) - 1)


def _override(search: Search, own: GenerationConfig) -> Search:
    given = {name: value for name, value in own.model_dump().items() if value is not None}
    return replace(search, **given)


class _Said:
    """The values of a file, checked as they are read; `rest` is asked for what it leaves out."""

    def __init__(self, own: Json, rest: Json) -> None:
        self.own = own
        self._rest = rest

    def _get(self, key: str) -> Any:
        value = self.own.get(key)
        # Which tokens begin and end a target are facts about the model; the rest are choices.
        return self._rest.get(key) if value is None and key.endswith("_token_id") else value

    def token(self, key: str) -> int | None:
        """Return one token, or None."""
        value = self._get(key)
        return None if value is None else self._checked(key, value, "a token's number", _is_token)

    def tokens(self, key: str) -> tuple[int, ...]:
        """Return one or more tokens; none if the key is not there."""
        value = self._get(key)
        if value is None:
            return ()
        listed = value if isinstance(value, list) else [value]
        return tuple(self._checked(key, each, "tokens' numbers", _is_token) for each in listed)

    def words(self, key: str) -> tuple[tuple[int, ...], ...]:
        """Return sequences of tokens."""
        value = self._get(key)
        if value is None:
            return ()
        self._checked(key, value, "a list of lists of tokens", _is_words)
        return tuple(tuple(word) for word in value)

    def integer(self, key: str, default: int, *, least: int) -> int:
        """Return an integer of at least `least`."""
        value = self._get(key)
        if value is None:
            return default
        right = f"an integer of at least {least}"
        return int(self._checked(key, value, right, lambda v: _is_token(v) and v >= least))

    def number(self, key: str, default: float, *, above: float | None = None) -> float:
        """Return a finite number, above a bound if there is one."""
        value = self._get(key)
        if value is None:
            return default
        right = "a number" if above is None else f"a number above {above:g}"

        def is_right(value: Any) -> bool:
            number = isinstance(value, int | float) and not isinstance(value, bool)
            return number and abs(value) < 1e9 and (above is None or value > above)

        return float(self._checked(key, value, right, is_right))

    def boolean(self, key: str) -> bool:
        """Return true or false; false if the key is not there."""
        value = self._get(key)
        if value is None:
            return False
        return bool(self._checked(key, value, "true or false", lambda v: isinstance(v, bool)))

    def early_stopping(self) -> Any:
        """Return true, false or "never"."""
        value = self._get("early_stopping")
        right = 'true, false or "never"'
        known = (None, True, False, "never")
        return self._checked("early_stopping", value, right, lambda v: v in known) or False

    def _checked(self, key: str, value: Any, right: str, is_right: Callable[[Any], bool]) -> Any:
        if not is_right(value):
            raise GenerationInvalid(f"{key}: expected {right}, got {str(value)[:80]!r}")
        return value


def _is_token(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


def _is_words(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(word, list) and word and all(map(_is_token, word)) for word in value
    )
