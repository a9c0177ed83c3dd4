"""Documents come back whole: what is between sentences stays, in any input, in linear time."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from server.errors import InvalidInput, PayloadTooLarge
from server.text import Gap
from tests.server.text.tokenizers import plain_codec
from tests.server.text.translating import plan, sources, translated

# Pieces that mean something to some part of the machinery, beside any characters at all.
PARTS = st.sampled_from(
    [
        *(" ", "  ", "\n", "\r\n", "\t", "\x00", "\x1b", "\u2028", "\u00a0", "\u200b", "\u00ad"),
        *("- ", "* ", "1. ", "a) ", "[x] ", "> ", "# ", "\u2022 ", "...", ". ", "? ", "!", ", "),
        *("Der Zug", "f\u00e4hrt", "z. B. ", "Dr. ", "am 3. Mai", "im 19. Jahrhundert", "x" * 70),
        *(
            "https://example.com/a?b=c&d",
            "a.b@example.org",
            "{name}",
            "%s",
            "%(x)d",
            "`f()`",
            "A-12",
        ),
        *("<b>", "</b>", "<br>", "<p>", "</p>", "<i class='x'>", "</i>", "<!--", "-->", "<name>"),
        *("&amp;", "&uuml;", "&nbsp;", "&#0;", "&", "<", ">", "<code>", "</code>", "<script>"),
        *("</script>", "1.234,5", "12.03.2020", "+49 30 1234567", "2024", "\U0001f600", "\u4f60"),
        *(
            "\u0141ukasz",
            "\ud800",
            "\udfff",
            "\u202eabc\u202c",
            "e\u0301",
            "\u05e9\u05dc\u05d5\u05dd",
        ),
    ]
)
TEXTS = st.lists(st.one_of(PARTS, st.text(max_size=6)), max_size=14).map("".join)
SURROGATES = dict.fromkeys(range(55296, 57344), "�")


@pytest.mark.parametrize("markup", ["text", "html"])
@given(text=TEXTS, limit=st.sampled_from([12, 40, 256]))
@example(text="", limit=12)
@example(text=" \n\t ", limit=12)
@settings(max_examples=150, deadline=None)
def test_the_pieces_are_the_document(markup: str, text: str, limit: int) -> None:
    document = plan(text, format=markup, max_tokens=limit)
    written = text.translate(SURROGATES)
    assert "".join(piece.source for piece in document.pieces) == written
    for sentence in document.sentences:
        assert written[sentence.start :].startswith(sentence.source)
        assert sentence.source == sentence.source.strip()
    # Gaps come one at a time, and a document of gaps comes back as it is.
    kept = [piece for piece in document.pieces if isinstance(piece, Gap)]
    assert all(gap.written == gap.source for gap in kept)
    neighbours = pairwise(document.pieces)
    assert not any(
        isinstance(a, Gap) and isinstance(b, Gap) and not (a.foreign or b.foreign)
        for a, b in neighbours
    )


@pytest.mark.parametrize("markup", ["text", "html"])
@given(text=TEXTS, limit=st.sampled_from([12, 40, 256]))
@settings(max_examples=100, deadline=None)
def test_every_text_has_a_translation_that_can_be_written(
    markup: str, text: str, limit: int
) -> None:
    for model in (str.upper, lambda _: "", lambda source: source * 2):
        translated(text, model, format=markup, max_tokens=limit).encode()


@given(words=st.lists(st.sampled_from(["Zug", "Junge", "rot", "im Park"]), min_size=1, max_size=5))
@pytest.mark.parametrize(
    "between", [" ", "\n", "\r\n\r\n", "\n  - ", "\t", "\n\n1. ", " \U0001f600 ", "\n> > ", "\x00"]
)
@settings(max_examples=10, deadline=None)
def test_what_stands_between_sentences_stays(between: str, words: list[str]) -> None:
    text = between.join(f"{word}." for word in words)
    assert translated(text, lambda source: source) == text
    shouted = between.join(f"{word.upper()}." for word in words)
    assert translated(text, str.upper) == shouted


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "\n\n", "\u00a0\t", "https://example.com", "12345", "!!! ...", "\U0001f600"),
        *("a.b@example.org, c@example.org", "\x00\x01", "\u200b", "- \n- ", "<b></b>", "{x} %s"),
    ],
)
def test_texts_without_words_are_not_translated(text: str) -> None:
    document = plan(text)
    assert not document.sentences
    assert document.join([]) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Der Zug f\u00e4hrt. Er kommt.", ["Der Zug f\u00e4hrt.", "Er kommt."]),
        ("- eins\n- [ ] zwei", ["eins", "zwei"]),
        ("1. Zug\n2) Bus\na) Rad", ["Zug", "Bus", "Rad"]),
        ("3. Oktober ist frei", ["3. Oktober ist frei"]),
        ("z. B. der Zug", ["z. B. der Zug"]),
        ("Spalte\tZeile   Ende", ["Spalte", "Zeile", "Ende"]),
        ("Gro\u00ad\u00dfmutter \u200bliest", ["Gro\u00dfmutter liest"]),
        ("Zwei  Leerzeichen", ["Zwei Leerzeichen"]),
        ("\u202bDer Zug\u202c", ["Der Zug"]),
        ("ja \U0001f468\u200d\U0001f469\u200d\U0001f467 nein", ["ja", "nein"]),
    ],
)
def test_the_model_reads_clean_sentences(text: str, expected: list[str]) -> None:
    assert sources(text) == expected


def test_html_is_read_as_a_browser_shows_it() -> None:
    text = (
        "<p>F&uuml;r <b>alle</b>\n  Kinder &amp; Tiere.</p><!-- nicht -->"
        "<script>if (a < b) x();</script><ul><li>Zug<li>Bus</ul>"
        "<div translate='no'><p>nicht <div>das</div></p></div><br/>Ende"
    )
    assert sources(text, format="html") == [
        "F\u00fcr alle Kinder & Tiere.", "Zug", "Bus", "Ende",
    ]  # fmt: skip
    whole = translated(text, lambda source: source, format="html")
    assert whole == text.replace("&uuml;", "\u00fc").replace("\n  ", " ")


def test_html_is_written_escaped() -> None:
    assert (
        translated("<p>Zug</p>", lambda _: "<a> & b", format="html") == "<p>&lt;a&gt; &amp; b</p>"
    )
    assert translated("Zug", lambda _: "<a> & b") == "<a> & b"


# --- long sentences


@pytest.mark.parametrize("limit", [12, 30, 100])
@pytest.mark.parametrize(
    "text",
    [
        "Der Zug nach Hamburg f\u00e4hrt, weil es regnet, um acht Uhr ab; und wir fahren mit " * 9,
        "x" * 1500,
        "a\u00e4" * 700,
        "Zug-" * 300,
        "<b>Zug</b> {x} " * 60,
    ],
)
def test_long_sentences_are_cut_to_what_is_allowed(text: str, limit: int) -> None:
    codec = plain_codec()
    document = plan(text, max_tokens=limit)
    assert "".join(piece.source for piece in document.pieces) == text
    for sentence in document.sentences:
        for attempt in sentence.attempts():
            assert all(len(source.tokens) <= limit for source in attempt.sources)
            assert all(codec.encode(source.text) == source.tokens for source in attempt.sources)
    assert document.split == sum(sentence.split for sentence in document.sentences)
    assert document.split or document.foreign


def test_cuts_are_at_good_places() -> None:
    text = "Der Zug nach Hamburg f\u00e4hrt um acht Uhr ab, und meine Gro\u00dfmutter liest im Park"
    tokens = plain_codec().count(text)
    first, second = plan(text, max_tokens=tokens - 1).sentences
    assert first.source.endswith("ab,")
    assert second.source.startswith("und meine")
    assert first.split
    assert second.split
    (whole,) = plan(text, max_tokens=tokens).sentences
    assert not whole.split


# --- limits


def test_too_much_text_is_refused() -> None:
    with pytest.raises(PayloadTooLarge, match="has 11 characters, at most 10") as caught:
        plan("x" * 11, max_characters=10)
    assert caught.value.extra == {"field": "text", "expected": "at most 10 characters", "got": 11}
    with pytest.raises(PayloadTooLarge, match="at most 3 are translated at a time; send it in"):
        plan("Zug.\n" * 4, max_sentences=3)
    assert len(plan("Zug.\n" * 3, max_sentences=3).sentences) == 3
    with pytest.raises(PayloadTooLarge):  # much markup counts as more sentences
        plan("Der <b>Zug</b> " * 12, max_sentences=3)


@pytest.mark.parametrize(
    ("glossary", "complaint"),
    [
        ({"": "x"}, "1 to 200 characters"),
        ({"Zug": " "}, "1 to 200 characters"),
        ({"Zug": "x" * 201}, "1 to 200 characters"),
        ({"Zug": "a\nb"}, "control characters"),
        ({f"Zug{i}": "x" for i in range(1001)}, "at most 1000"),
    ],
)
def test_glossaries_that_cannot_be_are_refused(glossary: dict[str, str], complaint: str) -> None:
    with pytest.raises(InvalidInput, match=complaint):
        plan("Zug", glossary=glossary)


ATTACKS = {
    "text": [
        *(
            "a",
            "`",
            '<a "',
            "{",
            "%(",
            "x@",
            "/a",
            "A1-",
            "1,",
            "+4 ",
            ". ",
            "\n ",
            "a\u00ad",
            "\u200d",
        ),
        *("\u4f60\u597d\u3002", '"a." ', "$a", "[x] ", "http://", "www.("),
    ],
    "html": [
        "a ",
        "<!--",
        '<a "',
        "<b>",
        "<b>x</b>",
        "&amp;",
        "<code>",
        "<i translate=no>",
        "<a '\"",
    ],
}


@pytest.mark.parametrize("markup", ["text", "html"])
def test_hostile_texts_take_linear_time(markup: str) -> None:
    """Four times as much of each takes four times as long; what is quadratic takes sixteen."""
    for attack in ATTACKS[markup]:
        text = (attack * 20_000)[:20_000]
        assert _grows_linearly(text, markup), attack
        document = plan(text, format=markup, max_sentences=20_000)
        assert "".join(piece.source for piece in document.pieces) == text


def _grows_linearly(text: str, markup: str) -> bool:
    """Compare a text with a quarter of it.

    Regular expressions make no calls that could be counted, so it is by this thread's time; other
    work on the machine may blur that, hence many tries, of which one must do.
    """
    for _ in range(30):
        part_s, whole_s = (_seconds(text[:size], markup) for size in (len(text) // 4, len(text)))
        if whole_s < 9 * part_s + 0.005:
            return True
    return False


def _seconds(text: str, markup: str) -> float:
    began = time.thread_time()
    document = plan(text, format=markup, max_sentences=20_000)
    for sentence in document.sentences[:10]:
        for attempt in sentence.attempts():
            attempt.finish([source.text for source in attempt.sources])
    return time.thread_time() - began


def test_a_growing_answer_is_a_prefix_of_the_answer() -> None:
    document = plan("Der Zug. Der Bus.\n- Das Rad.\n")
    done = [sentence.source.upper() for sentence in document.sentences]
    whole = document.join(done)
    assert whole == "DER ZUG. DER BUS.\n- DAS RAD.\n"
    assert document.join_prefix(done) == whole
    assert document.join_prefix([]) == ""
    assert document.join_prefix(done[:1], "DER B") == "DER ZUG. DER B"
    assert document.join_prefix([done[0], None, done[2]]) == "DER ZUG. "


@pytest.mark.parametrize("markup", ["text", "html"])
def test_verbatim_text_is_one_sentence_as_it_is(markup: str) -> None:
    text = " - Der {x} Zug.  Er kostet <b>1789</b> \u4f60\u597d.\nJa \n"
    (sentence,) = plan(text, verbatim=True, format=markup).sentences
    (attempt,) = sentence.attempts()
    (source,) = attempt.sources
    assert source.text == "- Der {x} Zug. Er kostet <b>1789</b> \u4f60\u597d. Ja"
    assert source.tokens == plain_codec().encode(source.text)
    assert sentence.streamable
    assert translated(text, lambda _: "No!", verbatim=True) == " No! \n"
    assert translated("", lambda _: "No!", verbatim=True) == ""
    assert plan("Zug " * 50, verbatim=True, max_tokens=20).split > 1
