"""Terms whose translation the caller decides."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping

from server.errors import InvalidInput

from .atoms import Atom, Kind

MAX_TERMS = 1000
MAX_TERM_LENGTH = 200
NEVER = r"(?!)"  # a pattern that matches nothing


class Glossary:
    """Source term -> target term. A term is found as whole words; its first letter's case is free.

    Attributes:
        pattern: A regular expression that finds any of the terms, the longest first.
    """

    def __init__(self, terms: Mapping[str, str] | None = None) -> None:
        """Check the terms.

        Raises:
            InvalidInput: There are too many, or one is empty, too long, or has control characters.
        """
        terms = terms or {}
        if len(terms) > MAX_TERMS:
            raise InvalidInput(
                f"the glossary has {len(terms)} terms, at most {MAX_TERMS} are read",
                field="glossary",
                expected=f"at most {MAX_TERMS} terms",
                got=len(terms),
            )
        self._targets: dict[str, str] = {}
        for source, target in terms.items():
            self._targets[_key(_checked(source))] = _checked(target)
        ordered = sorted((source.strip() for source in terms), key=len, reverse=True)
        words = [_spelled(term) for term in ordered if term[0].isalnum()]
        others = [_spelled(term) for term in ordered if not term[0].isalnum()]
        # Words are looked for where one begins, and not at every character.
        parts = [rf"(?<!\w)(?:{'|'.join(words)})"] if words else []
        self.pattern = "|".join(parts + others) or NEVER

    @property
    def is_empty(self) -> bool:
        """Whether there are no terms."""
        return not self._targets

    def atom(self, raw: str) -> Atom:
        """Return what a found term becomes."""
        return Atom(Kind.TERM, raw, self._targets[_key(raw)])


def _checked(term: str) -> str:
    clean = term.strip()
    if not clean or len(clean) > MAX_TERM_LENGTH:
        raise InvalidInput(
            f"a glossary term must have 1 to {MAX_TERM_LENGTH} characters, got {len(clean)}",
            field="glossary",
            expected=f"1 to {MAX_TERM_LENGTH} characters",
            got=len(clean),
        )
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in clean):
        raise InvalidInput(
            "a glossary term has control characters; send one line of text",
            field="glossary",
            expected="one line of text",
            got=repr(clean[:40]),
        )
    return clean


def _key(term: str) -> str:
    words = " ".join(term.split())
    return words[:1].lower() + words[1:]


def _spelled(term: str) -> str:
    first, rest = term[0], term[1:]
    large, small = first.upper(), first.lower()
    start = re.escape(first)
    if len(large) == len(small) == 1 and large.lower() == small:
        start = f"[{re.escape(small)}{re.escape(large)}]"
    after = r"(?!\w)" if term[-1].isalnum() else ""
    return start + _spaced(rest) + after


def _spaced(rest: str) -> str:
    """Return a pattern for words with any white space between them."""
    lead = r"[^\S\n]+" if rest[:1].isspace() else ""
    return lead + r"[^\S\n]+".join(re.escape(word) for word in rest.split())
