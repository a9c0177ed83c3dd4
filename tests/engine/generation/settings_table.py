"""Settings under which searches are compared with Hugging Face's `generate`, by name."""

from __future__ import annotations

from typing import Any

from tests.engine.generation.toy import END, SECOND_END, START

Changes = dict[str, Any]


def for_tokens(changes: Changes, start: int, end: int) -> Changes:
    """Return settings for a model with other special tokens."""

    def other(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(other(each) for each in value)
        return {START: start, END: end}.get(value, value)

    tokens = ("end", "bad_words", "suppressed", "forced_first", "forced_last")
    return {name: other(value) if name in tokens else value for name, value in changes.items()}


GREEDY: dict[str, Changes] = {
    "greedy": {},
    "greedy short": {"max_new_tokens": 4},
    "greedy one": {"max_new_tokens": 1},
    "greedy least": {"min_new_tokens": 9},
    "greedy repetition": {"repetition_penalty": 1.7},
    "greedy repetition wanted": {"repetition_penalty": 0.6},
    "greedy no unigram twice": {"no_repeat_ngram": 1, "min_new_tokens": 12},
    "greedy no bigram twice": {"no_repeat_ngram": 2, "min_new_tokens": 15},
    "greedy no trigram twice": {"no_repeat_ngram": 3, "min_new_tokens": 15},
    "greedy bad words": {"bad_words": ((7,), (START, 9), (5, 6), (10, 11, 12), (END,))},
    "greedy suppressed": {"suppressed": (4, 5, 6, 7, 8)},
    "greedy forced first": {"forced_first": 11},
    "greedy forced last": {"forced_last": END, "max_new_tokens": 5},
    "greedy two ends": {"end": (END, SECOND_END)},
}
BEAMS: dict[str, Changes] = {
    **{
        f"beams {beams} length {penalty:g} early {early}": {
            "beams": beams,
            "n_best": beams,
            "length_penalty": penalty,
            "early_stopping": early,
        }
        for beams in (2, 4, 5)
        for penalty in (0.6, 1.0, 2.0)
        for early in (False, True, "never")
    },
    "beams length below 0": {"beams": 3, "n_best": 3, "length_penalty": -1.0},
    "beams length 0 never": {"beams": 3, "length_penalty": 0.0, "early_stopping": "never"},
    "beams short": {"beams": 4, "n_best": 4, "max_new_tokens": 3},
    "beams one": {"beams": 4, "n_best": 4, "max_new_tokens": 1},
    "beams least": {"beams": 4, "n_best": 2, "min_new_tokens": 9},
    "beams repetition": {"beams": 4, "n_best": 2, "repetition_penalty": 1.15},
    "beams no bigram twice": {"beams": 4, "no_repeat_ngram": 2, "min_new_tokens": 15},
    "beams bad words": {"beams": 3, "bad_words": ((7,), (START, 9), (5, 6), (10, 11, 12))},
    "beams suppressed": {"beams": 3, "suppressed": (4, 5, 6, 7, 8)},
    "beams forced first": {"beams": 4, "n_best": 4, "forced_first": 11},
    "beams forced last": {"beams": 4, "n_best": 4, "forced_last": END, "max_new_tokens": 5},
    "beams two ends": {"beams": 4, "n_best": 4, "end": (END, SECOND_END)},
    "beams everything": {
        "beams": 4,
        "n_best": 4,
        "repetition_penalty": 1.2,
        "no_repeat_ngram": 3,
        "bad_words": ((8,), (9, 10)),
        "suppressed": (13,),
        "forced_first": 12,
        "forced_last": END,
        "min_new_tokens": 4,
        "length_penalty": 0.8,
    },
}
SETTINGS: dict[str, Changes] = {**GREEDY, **BEAMS}
