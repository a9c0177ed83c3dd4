"""Matches texts against regular expressions; whole ones in time linear in the text.

The pattern becomes a nondeterministic automaton (K. Thompson, "Regular expression search
algorithm", 1968), all of whose states are followed at once; steps that were taken before are looked
up, so that it becomes deterministic where it is used. A pattern comes from a model file: its size
is bounded, and so is the work that a call may do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from engine.ops.cores import regex_syntax as syntax
from engine.ops.cores.regex_sets import WORD_CHARS, Chars

MAX_STATES = 5000
MAX_STEPS = 50_000  # of building, which repeats of nothing take too
MAX_REMEMBERED = 10_000  # transitions; beyond that, start over
MAX_VISITS = 20_000_000  # of states for one text


class TooMuchWork(Exception):
    """Matching would take unreasonably long."""


@dataclass
class _State:
    """Reads a character of `chars`, or checks a place, or goes on for nothing."""

    chars: Chars | None = None
    place: str | None = None
    out: list[int] = field(default_factory=list)


class Regex:
    """A pattern made ready. Not thread-safe: what it remembers is its own."""

    def __init__(self, pattern: str) -> None:
        """Build the automaton; `ValueError` says what is wrong with the pattern, or too large."""
        self._states: list[_State] = []
        self._steps = 0
        self._end = self._add(_State())
        self._start = self._build(syntax.parse(pattern), self._end)
        self._has_places = any(state.place for state in self._states)
        self._remembered: dict[tuple[frozenset[int], int, str], frozenset[int]] = {}
        self._accepting: dict[tuple[frozenset[int], int], bool] = {}
        self._visits = 0

    def matches(self, text: str) -> bool:
        """Whether the whole text matches; raises `TooMuchWork` when that cannot be said in time."""
        self._visits = 0
        current = frozenset((self._start,))
        before = ""
        for char in text:
            place = self._place(before, char) if self._has_places else 0
            key = (current, place, char)
            found = self._remembered.get(key)
            current = self._step(key, before) if found is None else found
            if not current:
                return False
            before = char
        return self._end in self._closed(current, before, "")

    def find_all(self, text: str) -> Iterator[tuple[int, int]]:
        """Yield where parts of the text match: the leftmost, of those the longest, none empty."""
        self._visits = at = 0
        while at < len(text):
            end = self._longest(text, at)
            if end > at:
                yield at, end
            at = max(end, at + 1)

    def _longest(self, text: str, start: int) -> int:
        """Return where the longest match from `start` on ends, -1 when there is none."""
        current, best = frozenset((self._start,)), -1
        before = text[start - 1] if start else ""
        for at in range(start, len(text) + 1):
            char = text[at] if at < len(text) else ""
            place = self._place(before, char) if self._has_places else 0
            if self._accepts(current, place, before, char):
                best = at
            if not char:
                break
            self._spend(1)
            key = (current, place, char)
            found = self._remembered.get(key)
            current = self._step(key, before) if found is None else found
            if not current:
                break
            before = char
        return best

    def _accepts(self, current: frozenset[int], place: int, before: str, after: str) -> bool:
        found = self._accepting.get((current, place))
        if found is None:
            if len(self._accepting) >= MAX_REMEMBERED:
                self._accepting.clear()
            found = self._end in self._closed(current, before, after)
            self._accepting[current, place] = found
        return found

    # ------------------------------------------------------------------ walking

    def _spend(self, visits: int) -> None:
        self._visits += visits
        if self._visits > MAX_VISITS:
            raise TooMuchWork(f"more than {MAX_VISITS} states visited for one text")

    @staticmethod
    def _place(before: str, after: str) -> int:
        """Return what places depend on, as a number."""
        kinds = (
            not before,
            not after,
            before == "\n",
            _is_word(before),
            after == "\n",
            _is_word(after),
        )
        return sum(1 << i for i, kind in enumerate(kinds) if kind)

    def _step(self, key: tuple[frozenset[int], int, str], before: str) -> frozenset[int]:
        current, _, char = key
        reached: set[int] = set()
        for number in self._closed(current, before, char):
            state = self._states[number]
            if state.chars is not None and state.chars.contains(char):
                reached.update(state.out)
        if len(self._remembered) >= MAX_REMEMBERED:
            self._remembered.clear()
        found = self._remembered[key] = frozenset(reached)
        return found

    def _closed(self, current: frozenset[int], before: str, after: str) -> set[int]:
        """Return the states that are reached without reading, between these two characters."""
        seen, pending = set(current), list(current)
        while pending:
            state = self._states[pending.pop()]
            if state.chars is not None or (
                state.place is not None and not _holds(state.place, before, after)
            ):
                continue
            for number in state.out:
                if number not in seen:
                    seen.add(number)
                    pending.append(number)
        self._spend(len(seen))
        return seen

    # ------------------------------------------------------------------ building

    def _add(self, state: _State) -> int:
        if len(self._states) >= MAX_STATES:
            raise ValueError(f"the regular expression needs more than {MAX_STATES} states")
        self._states.append(state)
        return len(self._states) - 1

    def _build(self, tree: syntax.Tree, following: int) -> int:
        """Add the states of a tree that lead on to `following`; return where it starts."""
        self._steps += 1
        if self._steps > MAX_STEPS:
            raise ValueError(f"the regular expression takes more than {MAX_STEPS} steps to build")
        match tree:
            case Chars():
                return self._add(_State(chars=tree, out=[following]))
            case syntax.Assertion():
                return self._add(_State(place=tree.place, out=[following]))
            case syntax.Choice():
                return self._add(_State(out=[self._build(t, following) for t in tree.items]))
            case syntax.Sequence():
                for item in reversed(tree.items):
                    following = self._build(item, following)
                return following
        return self._build_repeat(tree, following)

    def _build_repeat(self, tree: syntax.Repeat, following: int) -> int:
        start = following
        if tree.most is None:
            start = self._add(_State(out=[following]))
            self._states[start].out.append(self._build(tree.item, start))
        else:
            for _ in range(tree.most - tree.least):
                start = self._add(_State(out=[following, self._build(tree.item, start)]))
        for _ in range(tree.least):
            start = self._build(tree.item, start)
        return start


def _is_word(char: str) -> bool:
    return bool(char) and WORD_CHARS.contains(char)


def _holds(place: str, before: str, after: str) -> bool:
    match place:
        case "start":
            return not before
        case "end":
            return not after
        case "line_start":
            return before in ("", "\n")
        case "line_end":
            return after in ("", "\n")
    return (_is_word(before) != _is_word(after)) == (place == "boundary")
