"""Times of day: another form is fine, another time is not."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.text.clocks import clock_written, clocks_kept, clocks_of, is_clock
from tests.server.text.translating import sources, translated


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Der Zug f\u00e4hrt um 15:30 Uhr ab.", ["15:30 Uhr"]),
        ("Um 9.05 Uhr, sp\u00e4testens um 10 Uhr.", ["9.05 Uhr", "10 Uhr"]),
        ("gegen 23:15 nach Hause", ["23:15"]),
        ("at 3:30 pm, 4 p.m. or 5 o'clock", ["3:30 pm", "4 p.m.", "5 o'clock"]),
        ("12.03. oder 3.50 oder 1:2 oder 15:30:45 oder 100:30", []),
        ("10 Uhren, 5 Hunde, 3 mal", []),
    ],
)
def test_times_are_found(text: str, found: list[str]) -> None:
    assert [each[0] for each in clocks_of(text)] == found
    assert all(map(is_clock, found))


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("um 15:30 Uhr", "at 15:30"),
        ("um 15:30 Uhr", "at 15.30 o'clock"),
        ("um 15:30 Uhr", "at 3:30 pm"),
        ("um 15:30 Uhr", "at 3:30 p.m."),
        ("um 15:30 Uhr", "at 3:30 in the afternoon"),
        ("um 15:30 Uhr", "at half past three"),
        ("um 15:45 Uhr", "at quarter to four"),
        ("um 9:15 Uhr", "Quarter past nine, they said."),
        ("um 12 Uhr", "at noon"),
        ("um 0 Uhr", "at midnight"),
        ("um 0:30 Uhr", "at 12:30 am"),
        ("um 18 Uhr", "at six"),
        ("um 18 Uhr", "at 6:00"),
        ("um 18.00 Uhr", "at 18 o'clock"),
        ("von 8 Uhr bis 16:30 Uhr", "from 8 to 4:30"),
        ("at 3:30 pm", "um 15:30 Uhr"),
        ("heute", "at 15:30"),
    ],
)
def test_other_forms_are_the_same_time(source: str, text: str) -> None:
    assert clocks_kept(source, text)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("um 15:30 Uhr", "at 2:30"),
        ("um 15:30 Uhr", "at 3:30 am"),
        ("um 15:30 Uhr", "at fifteen o'clock"),
        ("um 15:30 Uhr", "in the afternoon"),
        ("um 15:30 Uhr", "at 1530"),
        ("um 9:05 Uhr", "at 95"),
        ("um 18 Uhr", "at 19 o'clock"),
        ("um 18 Uhr", "at seven"),
        ("um 10 Uhr", "often"),
        ("von 8 Uhr bis 8 Uhr", "at 8 o'clock"),
        ("von 8 Uhr bis 16:30 Uhr", "until 16:30"),
    ],
)
def test_other_times_are_lost(source: str, text: str) -> None:
    assert not clocks_kept(source, text)


@pytest.mark.parametrize(
    ("raw", "target", "written"),
    [
        ("15:30 Uhr", "en", "15:30"),
        ("15.30 Uhr", "eng_Latn", "15:30"),
        ("7 Uhr", "fr", "7:00"),
        ("15:30 Uhr", "de", "15:30 Uhr"),
        ("15:30 Uhr", None, "15:30 Uhr"),
        ("3:30 pm", "de", "3:30 pm"),
        ("23:15", "en", "23:15"),
        ("no time", "en", "no time"),
    ],
)
def test_times_are_copied_without_the_word(raw: str, target: str | None, written: str) -> None:
    assert clock_written(raw, target) == written


@pytest.mark.parametrize("wrong", ["8:30", "95", "", "3:30 am"])
def test_a_time_that_the_model_changes_is_copied(wrong: str) -> None:
    text = "Der Zug f\u00e4hrt um 15:30 Uhr ab."
    assert sources(text) == [text]
    done = translated(text, lambda read: re.sub(r"15:30 Uhr", wrong, read))
    assert done == "Der Zug f\u00e4hrt um 15:30 ab."


def test_a_time_is_copied_around_a_model_that_loses_all() -> None:
    text = "Bis 17.45 Uhr ist alles fertig."
    done = translated(text, lambda read: re.sub(r"\d|Tom|Mary", "", read))
    assert "17:45" in done


@given(hour=st.integers(0, 23), minute=st.integers(0, 59), careless=st.sampled_from(["", "7", "x"]))
@settings(max_examples=40, deadline=None)
def test_any_time_survives_any_model(hour: int, minute: int, careless: str) -> None:
    text = f"Wir kommen um {hour}:{minute:02} Uhr an."
    done = translated(text, lambda read: re.sub(r"\d+", careless, read))
    assert clocks_kept(text, done)
