"""Sets of characters that regular expressions name."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

LARGEST = 0x10FFFF

Ranges = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Chars:
    """One character out of a set."""

    ranges: Ranges
    categories: tuple[tuple[str, bool], ...] = ()  # Unicode's, and whether to be in it
    negated: bool = False
    ignore_case: bool = False

    def contains(self, char: str) -> bool:
        """Whether the set has this character, or it in another case."""
        forms = {char, char.lower(), char.upper()} if self.ignore_case else {char}
        return any(self._has(form) for form in forms if len(form) == 1) != self.negated

    def _has(self, char: str) -> bool:
        code = ord(char)
        if any(low <= code <= high for low, high in self.ranges):
            return True
        category = unicodedata.category(char) if self.categories else ""
        return any(category.startswith(name) == inside for name, inside in self.categories)


DIGITS: Ranges = ((0x30, 0x39),)
UPPER: Ranges = ((0x41, 0x5A),)
LOWER: Ranges = ((0x61, 0x7A),)
WORD: Ranges = (*DIGITS, *UPPER, (0x5F, 0x5F), *LOWER)
PERL: dict[str, Ranges] = {"d": DIGITS, "w": WORD, "s": ((9, 10), (12, 13), (32, 32))}
POSIX: dict[str, Ranges] = {
    "alnum": (*DIGITS, *UPPER, *LOWER),
    "alpha": (*UPPER, *LOWER),
    "ascii": ((0, 0x7F),),
    "blank": ((9, 9), (32, 32)),
    "cntrl": ((0, 0x1F), (0x7F, 0x7F)),
    "digit": DIGITS,
    "graph": ((0x21, 0x7E),),
    "lower": LOWER,
    "print": ((0x20, 0x7E),),
    "punct": ((0x21, 0x2F), (0x3A, 0x40), (0x5B, 0x60), (0x7B, 0x7E)),
    "space": ((9, 13), (32, 32)),
    "upper": UPPER,
    "word": WORD,
    "xdigit": (*DIGITS, (0x41, 0x46), (0x61, 0x66)),
}
CATEGORIES = frozenset(
    "C Cc Cf Cn Co Cs L Ll Lm Lo Lt Lu M Mc Me Mn N Nd Nl No P Pc Pd Pe Pf Pi Po Ps "  # noqa: SIM905  # reads better so
    "S Sc Sk Sm So Z Zl Zp Zs".split()
)
EVERYTHING: Ranges = ((0, LARGEST),)
NEW_LINE: Ranges = ((10, 10),)


WORD_CHARS = Chars(WORD)


def complement(ranges: Ranges) -> Ranges:
    """Return all other characters."""
    found: list[tuple[int, int]] = []
    start = 0
    for low, high in sorted(ranges):
        if start < low:
            found.append((start, low - 1))
        start = max(start, high + 1)
    return (*found, (start, LARGEST)) if start <= LARGEST else tuple(found)
