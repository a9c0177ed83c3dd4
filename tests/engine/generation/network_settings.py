"""Sentences and settings under which searches over networks are compared with Hugging Face's."""

from __future__ import annotations

from tests.engine.generation.settings_table import Changes

# Several ends: networks with random weights would rarely come to a single one.
ENDS = (2, 11, 23, 37, 49)
SENTENCES = [
    [5, 9, 14, 2],
    [7, 2],
    [30, 31, 32, 33, 34, 35, 36, 37, 38, 2],
    [59, 3, 3, 8, 41, 2],
]
PADDING = 1  # if it came, M2M-100's positions would depend on whether there is a cache
LIMITS: Changes = {"end": ENDS, "max_new_tokens": 16, "suppressed": (PADDING,)}
NETWORK_SETTINGS: dict[str, Changes] = {
    name: {**LIMITS, **changes}
    for name, changes in {
        "greedy": {},
        "greedy repetition": {"repetition_penalty": 1.7},
        "greedy no bigram twice": {"no_repeat_ngram": 2, "min_new_tokens": 12},
        "greedy forced": {"forced_first": 20, "forced_last": 2, "min_new_tokens": 15},
        "beams 2": {"beams": 2, "n_best": 2},
        "beams 4": {"beams": 4},
        "beams 4 short": {"beams": 4, "length_penalty": 0.6, "early_stopping": True},
        "beams 5 long": {"beams": 5, "length_penalty": 2.0, "early_stopping": "never"},
        "beams 4 bans": {"beams": 4, "bad_words": ((6,), (7, 8)), "suppressed": (PADDING, 40)},
        "beams 3 penalties": {"beams": 3, "repetition_penalty": 1.3, "no_repeat_ngram": 3},
    }.items()
}
