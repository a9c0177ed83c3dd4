from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import InvalidModel, ResourceLimit
from engine.ops.cores import regex
from engine.ops.cores.regex import Regex
from tests.engine.ops.single_node import NodeCase, check_node, check_rows

PATTERNS = r"""
a|b|ab|
a*
a+b?
(a|b)*c
(?:ab){2,3}
a{2}|b{3,}
a{,2}
a{x
[a-c]+
[^a-c]+
[]a]
[^]a]
[a\]-]+
[\w.]+@[\w.]+\.com
\d{3}-\d{4}
\D\S\W
\s+
[\s\d]*
[[:alpha:]_]+
[[:^alpha:]]+
[^[:space:]]+
\pL+
\p{Lu}\p{Ll}*
\P{L}+
[\pN\-]+
(?i)straße
(?i)[k-m]+
(?i:A)b
(?i-i:A)b
(?s).*
(?m)^a$\n^b$
.
^a*$
\Aab\z
\b\w+\b
\w+\b \b\w+
\Ba
a\B.
\Qa.b\E+
\x41\x{e9}\t\n\07
(?P<name>a)(?<other>b)
()
(|a)*
(?:)*
(a*)*
(a|aa)+$
x*?y+?z??
\_\.\-
(?U)a*
""".strip("\n").split("\n")
TEXTS = [
    "", "a", "b", "ab", "aa", "abab", "ababab", "abc", "aac", "bbb", "ccc", "]", "-a]", "a{,2}",
    "a{x", "me@home.com", "555-1234", " \t\n", "x y", "A", "Ab", "aB", "é", "Éa", "STRASSE",
    "STRAßE", "straße", "KLM", "a\nb", "\n", "a.b", "a.bb", "Aé\t\n\x07", "_.-", "xyz", "yz",
    "1-2", "٣", "日本", "😀", "a😀", "-", "a1!",
]  # fmt: skip


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns(pattern):
    x = np.array(TEXTS, object)
    check_node("RegexFullMatch", x, pattern=pattern, opset=20, atol=0, dims=("symbolic",))


BAD = r"""
a**
a{2}{3}
a++
x{1001}
a{2,1}
(a
a)
*
a|*
\Z
\1
(?=a)
(?!a)
(?<=a)
[a-\d]
[z-a]
[
[a
[[:nothing:]]
\8
\é
(?i
(?P<>a)
\p{Nothing}
\x{110000}
\xg0
""".strip("\n").split("\n")


@pytest.mark.parametrize("pattern", [*BAD, "\\", "(" * 200 + ")" * 200])
def test_what_re2_refuses_is_refused(pattern):
    case = NodeCase("RegexFullMatch", [np.array(["a"], object)], {"pattern": pattern}, opset=20)
    with pytest.raises(InvalidModel, match="regular expression"):
        case.graph()


@pytest.mark.parametrize("pattern", [r"\C", r"\p{Greek}"])
def test_what_is_not_supported_is_said(pattern):
    with pytest.raises(ValueError, match="not supported"):
        Regex(pattern)


def patterns() -> st.SearchStrategy[str]:
    """Patterns that mean the same to Python."""
    leaves = st.sampled_from(["a", "b", ".", "[ab]", "[^a]", r"\w", r"\b", "^", "$", "(?:)", "c"])

    def grow(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        group = inner.map(lambda p: f"(?:{p})")
        return st.one_of(
            st.lists(inner, min_size=1, max_size=3).map("".join),
            st.lists(inner, min_size=2, max_size=3).map(lambda ps: f"(?:{'|'.join(ps)})"),
            st.tuples(group, st.sampled_from(["*", "+", "?", "{2}", "{1,2}", "*?"])).map("".join),
        )

    return st.recursive(leaves, grow, max_leaves=8)


@settings(max_examples=150, deadline=None)
@given(patterns(), st.lists(st.text("abc -", max_size=6), max_size=4))
def test_generated_patterns(pattern, texts):
    ours = Regex(pattern)
    for text in texts:
        # Python's $ also matches before a last line break, of which there is none here.
        assert ours.matches(text) == bool(re.fullmatch(pattern, text, re.ASCII)), (pattern, text)


@settings(max_examples=100, deadline=None)
@given(patterns(), st.text("abc -", max_size=6))
def test_parts_of_a_text(pattern, text):
    """The leftmost longest: of all parts that match here, none starts earlier or goes further."""
    ours = Regex(pattern)

    def longest(start: int) -> int:
        """Python prefers the first alternative, so every end is tried by itself."""
        ends = range(len(text), start, -1)
        exact = (re.compile(f"(?:{pattern})(?<=^.{{{end}}})", re.ASCII | re.DOTALL) for end in ends)
        return next((m.end() for e in exact if (m := e.match(text, start)) is not None), -1)

    expected, at = [], 0
    while at < len(text):
        end = longest(at)
        if end > at:
            expected.append((at, end))
        at = max(end, at + 1)
    assert list(ours.find_all(text)) == expected, (pattern, text)


def test_time_stays_linear_where_others_explode():
    """A pattern that backtracks would take years for these."""
    assert not Regex(r"(a*)*b").matches("a" * 50_000)
    assert not Regex(r"(?:a|aa)+c").matches("a" * 50_000)
    assert Regex(r"(?:a?){100}a{100}").matches("a" * 100)


@pytest.mark.parametrize("pattern", ["(?:x{1000}){1000}", "(?:(?:(?:){1000}){1000}){1000}"])
def test_patterns_that_grow_too_large(pattern):
    with pytest.raises(ValueError, match=r"needs more|takes more"):
        Regex(pattern)


def test_work_is_bounded(monkeypatch):
    monkeypatch.setattr(regex, "MAX_VISITS", 1000)
    monkeypatch.setattr(regex, "MAX_REMEMBERED", 2)
    case = NodeCase(
        "RegexFullMatch",
        [np.array(["ab" * 500], object)],
        {"pattern": "(?:[ab]?){30}[ab]*"},
        opset=20,
    )
    with pytest.raises(ResourceLimit, match="RegexFullMatch"):
        case.run_engine()


def test_rows():
    case = NodeCase(
        "RegexFullMatch", [np.array(["a", "b", "ab"], object)], {"pattern": "a.?"}, opset=20
    )
    assert check_rows(case, (0,))[0].is_rows
