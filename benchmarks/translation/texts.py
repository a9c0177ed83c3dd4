"""German sentences of mixed lengths, made of captions."""

from __future__ import annotations

import gzip
import random
from collections.abc import Callable, Iterator
from pathlib import Path

SEED = 5


def captions(data: Path, name: str = "test_2016_flickr", language: str = "de") -> list[str]:
    """Read a split of Multi30k, one sentence a line."""
    inner = data / "parallel"  # where MILLRACE_TEST_DATA keeps sentence pairs
    home = inner if inner.is_dir() else data
    path = home / "multi30k" / f"{name}.{language}.gz"
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [line.rstrip("\n") for line in file]


def mixed(
    lines: list[str],
    count: int,
    shortest: int,
    longest: int,
    tokens_of: Callable[[str], int],
) -> list[str]:
    """Return distinct sentences whose lengths in tokens are spread evenly over a range.

    Each is the beginning of some captions in a row, joined by commas, cut where the length is
    reached, and ends with a full stop.
    """
    rng = random.Random(SEED)
    found: dict[str, None] = {}
    while len(found) < count:
        words = _words(lines, rng.randrange(len(lines)))
        wanted = rng.randint(shortest, longest)
        text = ""
        while tokens_of(text + ".") < wanted:
            text = f"{text} {next(words)}".lstrip()
        found[text.rstrip(",") + "."] = None
    return list(found)


def _words(lines: list[str], start: int) -> Iterator[str]:
    while True:
        line = lines[start % len(lines)].strip().rstrip(".!?")
        yield from (line + ",").split()
        start += 1
