"""What must come out unchanged does, whatever the model makes of it."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from server.text.numbers import respelled
from tests.server.text.translating import Model, plan, sources, translated

VALUES = [
    "https://example.com/a?b=c&d=(e)", "www.example.org/x", "example.de", "a.b+c@example.org",
    "/usr/local/bin/x.sh", "C:\\Users\\x", "{name}", "{{ user.name }}", "${HOME}", "%s",
    "%(count)d", "%1$s", "$PATH", "`rm -rf /`", "@user_1", ":smile:", "2024-01-31", "12.03.2020",
    "+49 30 1234567", "AB-1234", "B2B", "snake_case", "1.2.3", "192.168.0.1", "deadbeef01",
    "<name>", "<0>",
]  # fmt: skip

NAMES = re.compile(r"\b(?:Tom|Mary|Boston|London|John|Paris|\d+)\b")
MODELS: dict[str, Model] = {
    "copies": lambda text: text,
    "shouts": str.upper,
    "drops names and numbers": lambda text: NAMES.sub("", text),
    "doubles names and numbers": lambda text: NAMES.sub(r"\g<0> \g<0>", text),
    "reverses words": lambda text: " ".join(reversed(text.split())),
    "declines names": lambda text: NAMES.sub(r"\g<0>s", text),
    "says nothing": lambda text: "",
    "says something else": lambda text: "Tom and Mary went home.",
    "glues words": lambda text: text.replace(" ", ""),
    "spells markup": lambda text: f"<b>{text}</b> &amp; {{name}}",
}


@pytest.mark.parametrize("model", sorted(MODELS))
@given(values=st.lists(st.sampled_from(VALUES), min_size=1, max_size=9), joint=st.data())
@settings(max_examples=25, deadline=None)
def test_values_survive_any_model(model: str, values: list[str], joint: st.DataObject) -> None:
    words = st.sampled_from(["Der Zug", "und", "liest im Park mit", "ein Junge"])
    text = "Bitte " + " ".join(f"{value} {joint.draw(words)}" for value in values) + "."
    done = translated(text, MODELS[model])
    for value in set(values):
        extra = model == "spells markup" and value == "{name}"
        assert extra or done.count(value) >= text.count(value), value
    if model != "spells markup":
        for value in set(values):
            assert done.count(value) <= text.count(value), value


@pytest.mark.parametrize("value", VALUES)
def test_values_travel_as_names_and_come_back(value: str) -> None:
    text = f"Ein Junge liest {value} im Park."
    (source,) = sources(text)
    assert re.fullmatch(r"Ein Junge liest \w+ im Park\.", source)
    assert translated(text, lambda text: text) == text
    turned = translated(text, lambda text: text.replace("Ein Junge liest ", "In the park "))
    assert turned == f"In the park {value} im Park."


@pytest.mark.parametrize(
    "text",
    [
        "Es kostet 50% mehr.",
        "Die 19-j\u00e4hrige Tochter kommt um 14:30 Uhr.",
        "Im Jahr 2024 waren es 3.500.000 Leute.",
        "Ich habe zwei (2) Kinder; das ist sch\u00f6n!",
        "Was soll das? 5 von 10 sagten: nein.",
        "Er ist 25 Jahre und/oder 1,5 Meter.",
    ],
)
def test_ordinary_text_is_left_to_the_model(text: str) -> None:
    assert " ".join(sources(text)) == text


# --- numbers


def test_numbers_that_the_model_loses_come_back() -> None:
    text = "Im Park lesen 1789 Kinder."
    assert translated(text, lambda text: text) == text
    careless = translated(text, lambda text: text.replace("1789", "178"))
    assert careless == text
    assert "1789" in translated(text, lambda text: re.sub(r"\d+", "many", text))


@pytest.mark.parametrize(
    ("number", "becomes"), [("3.500,75", "3,500.75"), ("1.000.000", "1,000,000"), ("2024", "2024")]
)
def test_numbers_may_be_written_in_another_way(number: str, becomes: str) -> None:
    done = translated(f"Es kostet {number} Euro.", lambda text: text.replace(number, becomes))
    assert done == f"Es kostet {becomes} Euro."


@pytest.mark.parametrize(
    ("text", "done"),
    [
        ("um 14:30 Uhr", "at half past two"),
        ("um 14 Uhr", "at 2 o'clock"),
        ("am 12.03.", "on March 12"),
        ("mit 12 Kindern", "with a dozen children"),
        ("das 15. Kind", "the 15th child"),
        ("von 50%", "of 50%"),
    ],
)
def test_times_change_and_short_numbers_may_become_words(text: str, done: str) -> None:
    assert translated(text, lambda _: done) == done


@pytest.mark.parametrize(("right", "wrong"), [("42", "4"), ("25", "20"), ("7", "77")])
def test_short_numbers_do_not_become_others(right: str, wrong: str) -> None:
    text = f"Ein Junge mit {right} im Park."
    assert translated(text, lambda text: text.replace(right, wrong)) == text
    assert translated(text, lambda text: re.sub(r"\d+", wrong, text)) == text


@pytest.mark.parametrize(
    ("number", "becomes"),
    [
        ("3.500,75", "3,500.75"),
        ("1.000.000", "1,000,000"),
        ("12,5", "12.5"),
        ("2024", "2024"),
        ("12,34,56", "12,34,56"),
    ],
)
def test_numbers_put_back_are_spelled_in_the_target_language(number: str, becomes: str) -> None:
    done = translated(f"Es kostet {number} Euro.", lambda text: text.replace(number, "1"))
    assert done == f"Es kostet {becomes} Euro."


def test_numbers_are_respelled_only_between_known_ways() -> None:
    assert respelled("3,500.75", "en", "de_DE") == "3.500,75"
    assert respelled("1.5", "eng_Latn", "de") == "1,5"
    assert respelled("3.500", "de", "fr") == "3.500"
    assert respelled("3.500", None, "en") == "3.500"
    assert respelled("1.5.2", "en", "de") == "1.5.2"


# --- tags


@pytest.mark.parametrize("markup", ["text", "html"])
@pytest.mark.parametrize("model", sorted(MODELS))
@given(
    texts=st.lists(st.sampled_from(["Der Zug", "rot", "im Park", ""]), min_size=2, max_size=5),
    tags=st.lists(
        st.sampled_from(["<b>", "</b>", "<i>", "</i>", "<a href='x'>", "</a>"]), max_size=5
    ),
)
@settings(max_examples=12, deadline=None)
def test_tags_survive_any_model(markup: str, model: str, texts: list[str], tags: list[str]) -> None:
    text = "".join(a + b for a, b in zip(texts, [*tags, *[" "] * 5], strict=False)) + " Ende."
    done = translated(text, MODELS[model], format=markup)
    extra = model == "spells markup" and markup == "text"
    assert (
        extra
        or re.findall("<[^>]*>", done) == re.findall("<[^>]*>", text)
        or (
            sorted(re.findall("<[^>]*>", done)) == sorted(re.findall("<[^>]*>", text))
            and well_nested(done)
        )
    )


def well_nested(text: str) -> bool:
    waiting: list[str] = []
    for closing, name in re.findall(r"<(/?)(\w+)[^>]*>", text):
        if not closing:
            waiting.append(name)
        elif not waiting or waiting.pop() != name:
            return False
    return not waiting


ENGLISH = {
    "Der rote Zug f\u00e4hrt heute.": "The red train runs today.",
    "rote Zug": "Red train.",
    "rote": "red",
    "heute": "today",
    "heute.": "Today.",
    "f\u00e4hrt": "goes",
}


def english(text: str) -> str:
    return ENGLISH.get(text, "?")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Der <b>rote</b> Zug f\u00e4hrt heute.", "The <b>red</b> train runs today."),
        (
            "Der <a href='x'><b>rote</b> Zug</a> f\u00e4hrt <i>heute</i>.",
            "The <a href='x'><b>red</b> train</a> runs <i>today</i>.",
        ),
        ("<p><b>Der rote Zug f\u00e4hrt heute.</b></p>", "<p><b>The red train runs today.</b></p>"),
        ("<b>Der rote Zug f\u00e4hrt heute.", "<b>The red train runs today."),
    ],
)
def test_tags_go_around_what_their_words_became(text: str, expected: str) -> None:
    assert translated(text, english, format="html") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # "goes" is not in it: as many words are in front of it as in the source.
        ("Der rote Zug <b>f\u00e4hrt</b> heute.", "The red train <b>runs</b> today."),
        ("<i>Der</i> rote <b>Zug f\u00e4hrt</b> heute.", "<i>The</i> red <b>train runs</b> today."),
        ("Der rote Zug <wbr><a id='x'></a>f\u00e4hrt heute.", None),
        ("Der <u>rote <s>Zug</u> f\u00e4hrt</s> heute.", "The <u>red <s>train</u> runs</s> today."),
    ],
)
def test_tags_whose_words_are_not_found_go_where_they_were(text: str, expected: str | None) -> None:
    if expected is None:
        expected = "The red train <a id='x'></a>runs today."
    done = translated(text, english, format="html")
    assert done.replace("<wbr>", "") == expected


def test_code_and_untranslated_elements_stay() -> None:
    text = "Der <code>x &lt; y</code> und <span translate=no>rote Zug</span> im Park."
    assert sources(text, format="html") == ["Der Tom und Mary im Park."]
    assert translated(text, lambda text: text, format="html") == text


# --- glossaries


def test_terms_become_what_the_caller_says() -> None:
    terms = {"Zug": "train set", "rote Zug": "Red Arrow"}
    assert translated("Der Zug.", lambda text: text, glossary=terms) == "Der train set."
    assert translated("Der rote  Zug.", lambda text: text, glossary=terms) == "Der Red Arrow."
    assert translated("Zugang, zug", lambda text: text, glossary=terms) == "Zugang, train set"
    assert translated("Zug", str.upper, glossary=terms) == "train set"
    assert translated("Der Zug.", str.upper, glossary=terms) == "DER train set."


@pytest.mark.parametrize("model", sorted(MODELS))
def test_terms_survive_any_model(model: str) -> None:
    done = translated(
        "Ein Zug und noch ein Zug im Park.", MODELS[model], glossary={"Zug": "Bahn & Co"}
    )
    assert len(re.findall("bahn & co", done, re.IGNORECASE)) >= 2
    html = translated(
        "Ein <b>Zug</b>.", MODELS[model], glossary={"Zug": "Bahn & Co"}, format="html"
    )
    assert "Bahn &amp; Co" in html


@given(
    term=st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8).filter(
        lambda term: term.strip() == term
    ),
    text=st.text(max_size=8),
)
@example(term="\u017fund", text="")  # its capital is an S, whose small letter is another one
@example(term="\u0130", text="i")
@settings(max_examples=100, deadline=None)
def test_any_term_is_a_term(term: str, text: str) -> None:
    terms = {term: "TERM"}
    for variant in (term, term.upper(), term.capitalize()):
        translated(f"Der {variant} {text}", MODELS["says nothing"], glossary=terms)
    done = translated(f"Zug\n{term}\nZug", MODELS["says nothing"], glossary=terms)
    kept = plan(term).join([""] * len(plan(term).sentences))
    assert done in ("\nTERM\n", f"\n{kept}\n")


# --- letters that the vocabulary lacks


def test_words_of_unknown_letters_travel_along() -> None:
    text = "Ein Junge liest mit \u0141ukasz im \u03a0ark, 3 \u2264 4."
    assert sources(text) == ["Ein Junge liest mit Tom im Mary, 3 Boston 4."]
    assert translated(text, lambda text: text) == text


def test_marks_that_the_vocabulary_lacks_become_simpler() -> None:
    assert sources("\u201eJa\u201c \u2013 sagte er\u2026") == ['"Ja" - sagte er...']


def test_text_in_other_letters_is_kept_and_counted() -> None:
    document = plan("\u4f60\u597d\u4e16\u754c\u3002 Der Zug. \u05e9\u05dc\u05d5\u05dd")
    assert [sentence.source for sentence in document.sentences] == ["Der Zug."]
    assert document.foreign == 9
    assert document.join(["X"]) == "\u4f60\u597d\u4e16\u754c\u3002 X \u05e9\u05dc\u05d5\u05dd"


def test_names_in_the_text_are_not_used_as_stand_ins() -> None:
    (source,) = sources("Tom liest {x} mit Mary.")
    assert source == "Tom liest Boston mit Mary."


def test_only_plain_sentences_stream() -> None:
    plain, value, number = plan("Der Zug. Der {x} Zug. Im Jahr 1789.").sentences
    assert plain.streamable
    assert not value.streamable
    assert not number.streamable
