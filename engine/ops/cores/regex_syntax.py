"""Reads regular expressions into a tree: RE2's syntax, https://github.com/google/re2/wiki/Syntax.

What cannot be matched in linear time is no part of that syntax: back references and looking around
are refused, as is what depends on bytes (`\\C`) and on scripts (`\\p{Greek}`). Greedy or not makes
no difference to whether a whole text matches.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NoReturn

from engine.ops.cores.regex_sets import (
    CATEGORIES,
    EVERYTHING,
    LARGEST,
    NEW_LINE,
    PERL,
    POSIX,
    Chars,
    complement,
)

MAX_REPEAT = 1000  # as RE2 has it
MAX_NESTING = 100
CONTROLS = {"a": 7, "f": 12, "t": 9, "n": 10, "r": 13, "v": 11}
PLACES = {"A": "start", "z": "end", "b": "boundary", "B": "inside"}


@dataclass(frozen=True)
class Sequence:
    """One thing after the other; nothing at all when empty."""

    items: tuple[Tree, ...]


@dataclass(frozen=True)
class Choice:
    """One thing or the other."""

    items: tuple[Tree, ...]


@dataclass(frozen=True)
class Repeat:
    """A thing `least` to `most` times; `most` of None is no limit."""

    item: Tree
    least: int
    most: int | None


@dataclass(frozen=True)
class Assertion:
    """A place in the text: `start`, `end`, `line_start`, `line_end`, `boundary`, `inside`."""

    place: str


Tree = Chars | Sequence | Choice | Repeat | Assertion


@dataclass(frozen=True)
class _Flags:
    ignore_case: bool = False
    lines: bool = False  # ^ and $ match at lines too
    dot_all: bool = False


def parse(pattern: str) -> Tree:
    """Return the tree of a pattern; `ValueError` says what is wrong with it, and where."""
    return _Parser(pattern).parse()


class _Parser:
    def __init__(self, pattern: str) -> None:
        self._text = pattern
        self._at = 0
        self._flags = _Flags()
        self._depth = 0

    def parse(self) -> Tree:
        tree = self._choice()
        if self._at < len(self._text):
            self._fail("a ) without its (")
        return tree

    def _fail(self, why: str) -> NoReturn:
        raise ValueError(f"regular expression {self._text!r} at {self._at}: {why}")

    def _peek(self, text: str) -> bool:
        return self._text.startswith(text, self._at)

    def _take(self, text: str) -> bool:
        found = self._peek(text)
        self._at += len(text) if found else 0
        return found

    def _next(self) -> str:
        if self._at >= len(self._text):
            self._fail("it ends too early")
        self._at += 1
        return self._text[self._at - 1]

    # ------------------------------------------------------------------ structure

    def _choice(self) -> Tree:
        options = [self._sequence()]
        while self._take("|"):
            options.append(self._sequence())
        return options[0] if len(options) == 1 else Choice(tuple(options))

    def _sequence(self) -> Tree:
        items: list[Tree] = []
        while self._at < len(self._text) and not (self._peek("|") or self._peek(")")):
            if self._take("\\Q"):
                items.extend(self._quoted())
                if not items:
                    continue
            else:
                items.append(self._item())
            items[-1] = self._repeated(items[-1])
        return items[0] if len(items) == 1 else Sequence(tuple(items))

    def _quoted(self) -> list[Tree]:
        end = self._text.find("\\E", self._at)
        text = self._text[self._at :] if end < 0 else self._text[self._at : end]
        self._at = len(self._text) if end < 0 else end + 2
        return [self._literal(ord(char)) for char in text]

    def _repeated(self, item: Tree) -> Tree:
        bounds = self._bounds()
        if bounds is None:
            return item
        least, most = bounds
        self._take("?")  # not greedy: the same for a whole text
        if self._bounds() is not None:
            self._fail("a repetition of a repetition; put the first one into ( )")
        return Repeat(item, least, most)

    def _bounds(self) -> tuple[int, int | None] | None:
        """Take a repetition operator; None when there is none here."""
        for symbol, bounds in (("*", (0, None)), ("+", (1, None)), ("?", (0, 1))):
            if self._take(symbol):
                return bounds
        end = self._text.find("}", self._at)
        if not self._peek("{") or end < 0:
            return None
        first, comma, last = self._text[self._at + 1 : end].partition(",")
        numbers = [first, *filter(None, [last])]
        if not all(n.isascii() and n.isdigit() and len(n) < 10 for n in numbers):
            return None  # then it is a brace like any other character
        least = int(first)
        most = (int(last) if last else None) if comma else least
        if max(least, most or 0) > MAX_REPEAT or (most is not None and most < least):
            self._fail(f"{{{first}{comma}{last}}} must count up, to {MAX_REPEAT} at most")
        self._at = end + 1
        return least, most

    def _item(self) -> Tree:
        char = self._next()
        match char:
            case "(":
                return self._group()
            case "[":
                return self._class()
            case ".":
                ranges = EVERYTHING if self._flags.dot_all else complement(NEW_LINE)
                return Chars(ranges)
            case "^":
                return Assertion("line_start" if self._flags.lines else "start")
            case "$":
                return Assertion("line_end" if self._flags.lines else "end")
            case "\\":
                return self._escape()
            case "*" | "+" | "?":
                self._fail(f"nothing to repeat before {char}")
        return self._literal(ord(char))

    def _literal(self, code: int) -> Chars:
        return Chars(((code, code),), ignore_case=self._flags.ignore_case)

    # ------------------------------------------------------------------ groups

    def _group(self) -> Tree:
        outer = self._flags
        if self._take("?") and not self._named() and not self._with_flags():
            return Sequence(())  # (?flags) holds until the group around it ends
        self._depth += 1
        if self._depth > MAX_NESTING:
            self._fail(f"more than {MAX_NESTING} groups inside of each other")
        tree = self._choice()
        if not self._take(")"):
            self._fail("a ( without its )")
        self._depth -= 1
        self._flags = outer
        return tree

    def _named(self) -> bool:
        for opening in ("P<", "<"):
            if self._peek(opening) and not self._peek("<=") and not self._peek("<!"):
                self._at += len(opening)
                end = self._text.find(">", self._at)
                name = self._text[self._at : end] if end > 0 else ""
                if not name or not name.replace("_", "a").isalnum():
                    self._fail("a group's name must be made of letters, digits and _")
                self._at = end + 1
                return True
        return False

    def _with_flags(self) -> bool:
        """Take flags; return whether a group follows them."""
        value = True
        while True:
            char = self._next()
            match char:
                case "i":
                    self._flags = replace(self._flags, ignore_case=value)
                case "m":
                    self._flags = replace(self._flags, lines=value)
                case "s":
                    self._flags = replace(self._flags, dot_all=value)
                case "U":
                    pass  # which repetition is greedy
                case "-":
                    value = False
                case ":" | ")":
                    return char == ":"
                case _:
                    self._fail(f"(?{char} is not supported: nothing may look around or refer back")

    # ------------------------------------------------------------------ classes and escapes

    def _escape(self) -> Tree:
        char = self._next()
        if char in PLACES:
            return Assertion(PLACES[char])
        found = self._set_escape(char)
        if found is not None:
            return replace(found, ignore_case=self._flags.ignore_case)
        return self._literal(self._code_escape(char))

    def _set_escape(self, char: str) -> Chars | None:
        """Return the set that an escape stands for, None when it is one character."""
        if char.lower() in PERL:
            ranges = PERL[char.lower()]
            return Chars(ranges if char.islower() else complement(ranges))
        if char not in "pP":
            return None
        name = self._next()
        if name == "{":
            end = self._text.find("}", self._at)
            name = self._text[self._at : end] if end > 0 else ""
            self._at = end + 1
        inside = (char == "p") != name.startswith("^")
        name = name.removeprefix("^")
        if name == "Any":
            return Chars(EVERYTHING if inside else ())
        if name not in CATEGORIES:
            self._fail(f"\\p{{{name}}} is no general category; scripts are not supported")
        return Chars((), ((name, inside),))

    def _code_escape(self, char: str) -> int:
        """Return the character that an escape stands for, as a number."""
        if char in CONTROLS:
            return CONTROLS[char]
        if char == "x":
            return self._hexadecimal()
        if char in "01234567" and (char == "0" or self._next_is_octal()):
            digits = char
            while len(digits) < 3 and self._next_is_octal():
                digits += self._next()
            return int(digits, 8)
        if not char.isascii() or char.isalnum():
            self._fail(f"\\{char} is not supported: no escape of RE2, or it refers back")
        return ord(char)

    def _next_is_octal(self) -> bool:
        return self._at < len(self._text) and self._text[self._at] in "01234567"

    def _hexadecimal(self) -> int:
        if self._take("{"):
            end = self._text.find("}", self._at)
            digits = self._text[self._at : end] if end > 0 else ""
            self._at = end + 1
        else:
            digits = self._text[self._at : self._at + 2]
            self._at += 2
        if not (0 < len(digits) < 7 and all(d in "0123456789abcdefABCDEF" for d in digits)):
            self._fail(r"\x needs two hexadecimal digits, or some in { }")
        code = int(digits, 16)
        if code > LARGEST:
            self._fail(f"no character has the number {digits}")
        return code

    def _class(self) -> Tree:
        negated = self._take("^")
        ranges: list[tuple[int, int]] = []
        categories: list[tuple[str, bool]] = []
        is_first = True
        while is_first or not self._peek("]"):
            is_first = False
            found = self._class_set()
            if found is not None:
                ranges.extend(found.ranges)
                categories.extend(found.categories)
            else:
                ranges.append(self._class_range())
        self._at += 1
        return Chars(tuple(ranges), tuple(categories), negated, self._flags.ignore_case)

    def _class_set(self) -> Chars | None:
        """Take a set inside of a class: `[:alpha:]`, an escape; None when it is a character."""
        if self._peek("[:"):
            end = self._text.find(":]", self._at + 2)
            name = self._text[self._at + 2 : end] if end > 0 else ""
            if name.removeprefix("^") not in POSIX:
                self._fail(f"[:{name}:] is no class")
            self._at = end + 2
            ranges = POSIX[name.removeprefix("^")]
            return Chars(complement(ranges) if name.startswith("^") else ranges)
        if not self._peek("\\"):
            return None
        before = self._at
        self._at += 1
        found = self._set_escape(self._next())
        if found is None:
            self._at = before
        return found

    def _class_range(self) -> tuple[int, int]:
        low = high = self._class_char()
        following = self._text[self._at : self._at + 2]
        if following.startswith("-") and following != "-]" and len(following) == 2:
            self._at += 1
            high = self._class_char()
        if high < low:
            self._fail("a range of characters must count up")
        return low, high

    def _class_char(self) -> int:
        char = self._next()
        return self._code_escape(self._next()) if char == "\\" else ord(char)
