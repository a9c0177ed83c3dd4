"""Times of day: which there are in a sentence, and whether its translation tells the same ones.

A time may change its form (15:30 Uhr, 3:30 pm, half past three), but not become another one. What
cannot be seen to be the same counts as lost, and the time is then copied.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from .languages import base_language

# With a colon, or with a word behind it: "12.03" alone may be a date, or a price.
UNIT = r"(?:Uhr|o'clock|h|[ap]\.?\s?m\b\.?)"
CLOCK = re.compile(
    r"(?<![\w.,:])(?P<hour>\d{1,2})"
    rf"(?:(?::(?P<minute>\d{{2}})|\.(?P<dotted>\d{{2}})(?=\s?{UNIT}\b)|(?=\s?{UNIT}\b))"
    rf"(?![\w:.,]*\d)(?P<unit>\s?{UNIT}(?!\w))?)",
    re.IGNORECASE,
)
FIGURES = re.compile(
    r"(?<![\w.,:])(?P<hour>\d{1,2})(?:\s?[.:h]\s?(?P<minute>\d{2}))?(?![\w:.,]*\d)"
    r"(?:\s?(?P<half>[ap])\.?\s?m\b)?",
    re.IGNORECASE,
)
# By the hour, of twelve.
HOURS = (
    *("twelve", "one", "two", "three", "four", "five"),
    *("six", "seven", "eight", "nine", "ten", "eleven"),
)
EXACT = {0: ("",), 15: ("quarter past ",), 30: ("half past ",), 45: ("quarter to ",)}
NAMED = {0: "midnight", 12: "noon", 24: "midnight"}


@dataclass(frozen=True, slots=True)
class Clock:
    """A time of day; `half` is "a" or "p" where it is of the first or second twelve hours."""

    hour: int
    minute: int
    half: str = ""

    def is_told_by(self, other: Clock) -> bool:
        """Say whether another one is the same time, in 24 hours or in twelve."""
        if self.minute != other.minute:
            return False
        if other.half and self.hour > 12 and other.half == "a":
            return False
        return other.hour == self.hour or (other.hour - self.hour) % 12 == 0

    @property
    def in_words(self) -> tuple[str, ...]:
        """How English tells it in words."""
        hour = self.hour + (self.minute == 45)
        told = tuple(before + HOURS[hour % 12] for before in EXACT.get(self.minute, ()))
        named = NAMED.get(self.hour) if not self.minute else None
        return (*told, named) if named else told


def clocks_of(text: str) -> list[re.Match[str]]:
    """Return the times of day in a text."""
    return list(CLOCK.finditer(text))


def is_clock(text: str) -> bool:
    """Return whether a text is a time of day and nothing more."""
    return CLOCK.fullmatch(text) is not None


def clocks_kept(source: str, text: str) -> bool:
    """Return whether a translation tells every time of day of its source, each once more."""
    wanted = [_clock(found) for found in clocks_of(source)]
    if not wanted:
        return True
    told = list(_figures(text))
    words = text.casefold()
    for clock in wanted:
        same = next((each for each in told if clock.is_told_by(each)), None)
        if same is not None:
            told.remove(same)
            continue
        said = next((each for each in clock.in_words if _has(each, words)), None)
        if said is None:
            return False
        words = words.replace(said, "", 1)
    return True


def clock_written(raw: str, target: str | None) -> str:
    """Return a time as it is written in the target language: "15.30 Uhr" as 15:30 elsewhere."""
    found = CLOCK.fullmatch(raw)
    if found is None or not target or base_language(target) == "de":
        return raw
    if (found["unit"] or "").strip().casefold() != "uhr":
        return raw
    return f"{found['hour']}:{found['minute'] or found['dotted'] or '00'}"


def _clock(found: re.Match[str]) -> Clock:
    minute = found["minute"] or found["dotted"] or "0"
    return Clock(int(found["hour"]), int(minute))


def _figures(text: str) -> Iterator[Clock]:
    for found in FIGURES.finditer(text):
        half = (found["half"] or "").lower()
        yield Clock(int(found["hour"]), int(found["minute"] or 0), half)


def _has(words: str, text: str) -> bool:
    return re.search(rf"(?<!\w){words}(?!\w)", text) is not None
